"""Beam search over a compiled trie with a vLLM engine: the search of :mod:`llmrec.decoding.beam`, scored in batches.

In every round the prefixes of all users go to ``LLM.generate`` together, each as a prompt that continues the user's, and
come back with the log-probabilities of the best tokens that the trie allows. Prompts are kept by prefix caching, so a
round costs little more than its new tokens. The engine is started by :func:`start_engine`.

Shapes: B users, W prefixes per user, n prefixes, K items wanted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.hypotheses import NOT_FED
from llmrec.decoding.search import BeamResult, Search, views_of
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, is_in
from llmrec.errors import ConfigError, LlmrecError

__all__ = ["prefix_cache_hit_rate", "start_engine", "stop_engine", "vllm_beam_search"]


def start_engine(
    model: str | Path,
    trie: Path,
    made_for: Mapping[str, str],
    *,
    k: int,
    width: int,
    until_certified: bool = False,
    **options: Any,
) -> Any:
    """Start a vLLM engine that knows a trie.

    Parameters
    ----------
    model
        A model directory or hub id.
    trie, made_for
        A file that ``CompiledTrie.save`` wrote, and what it was made for.
    k, width, until_certified
        Largest values of the searches to come.
    **options
        More for ``vllm.LLM``: ``dtype``, ``max_model_len``, ``enable_lora``, ...

    Returns
    -------
    vllm.LLM

    Raises
    ------
    ConfigError
        vLLM is not installed, or has not enough memory.
    TrieError
        The trie is damaged, or was made for something else.
    """
    compiled = CompiledTrie.load(trie, made_for)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM, EngineArgs
    except ImportError as error:
        raise ConfigError(
            f"The vLLM backend needs the package vllm, which cannot be imported: {error}. Expected it to be installed: pip "
            "install 'llmrec[gpu]' on a machine with a GPU; docs/vllm.md says how on a CPU."
        ) from error
    from vllm.platforms import current_platform

    from llmrec.decoding.vllm_processors import TRIE_KEY

    if current_platform.is_cpu():
        # vLLM's 0.92 is meant for a GPU of its own; of a machine's memory others use much, this process included.
        options.setdefault("gpu_memory_utilization", 0.4)
    settings: dict[str, Any] = {
        "model": str(model),
        "logprobs_mode": "processed_logits",
        "max_logprobs": int(
            _children_asked(compiled, np.arange(compiled.n_nodes), k, width, until_certified).max()
        ),
        "enable_prefix_caching": True,
        # Most requests are a single step; and the processors must see every token before the next.
        "async_scheduling": False,
        "disable_log_stats": False,
        "additional_config": {TRIE_KEY: {"path": str(trie), "made_for": dict(made_for)}},
        **options,
    }
    try:
        newer = EngineArgs(**settings).create_engine_config().use_v2_model_runner
        name = "TrieProcessorV2" if newer else "TrieProcessorV1"
        return LLM(**settings, logits_processors=[f"llmrec.decoding.vllm_processors:{name}"])
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"The vLLM engine did not start: {said} Expected a model that vLLM serves and memory for it and its cache: "
            "lower max_model_len, max_num_seqs or gpu_memory_utilization in decoding.vllm."
        ) from error


def stop_engine(engine: Any) -> None:
    """End the engine's processes and give its memory back."""
    engine.llm_engine.engine_core.shutdown()


def prefix_cache_hit_rate(engine: Any) -> float | None:
    """Return the share of prompt tokens that were in the prefix cache, since the engine was started."""
    counts = {m.name: getattr(m, "value", 0) for m in engine.get_metrics()}
    asked = counts.get("vllm:prefix_cache_queries", 0)
    return counts.get("vllm:prefix_cache_hits", 0) / asked if asked else None


def vllm_beam_search(
    engine: Any,
    trie: CompiledTrie,
    prompts: Sequence[NDArray[np.integer]],
    k: int,
    *,
    width: int,
    exclude: Sequence[NDArray[np.integer]] | Sequence[TrieView] | None = None,
    normalisation: str = "vocab",
    until_certified: bool = False,
    lora_request: Any = None,
) -> BeamResult:
    """Return the ``k`` most probable allowed items after each prompt; see :func:`llmrec.decoding.beam.beam_search`.

    Parameters
    ----------
    engine
        From :func:`start_engine`, with this trie.
    lora_request
        The adapter to serve, as ``vllm.lora.request.LoRARequest``.
    """
    views = views_of(trie, exclude, len(prompts))
    search = _VllmSearch(engine, prompts, views, k, width, normalisation, until_certified, lora_request)
    search.run(until_certified)
    return search.result()


def _generate(engine: Any, prompts: list[Any], params: list[Any], lora_request: Any) -> list[Any]:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        outputs: list[Any] = engine.generate(prompts, params, use_tqdm=False, lora_request=lora_request)
    except EngineDeadError as error:
        raise LlmrecError(
            "The vLLM engine died; what it said stands above. Expected it to run on: where memory ran out, lower "
            "max_num_seqs or gpu_memory_utilization in decoding.vllm, and the same command goes on from the last shard."
        ) from error
    except ValueError as error:
        raise LlmrecError(f"vLLM refused a request: {error} Set what it names in decoding.vllm.") from error
    return outputs


def _children_asked(
    trie: CompiledTrie, nodes: NDArray[np.int64], k: int, width: int, all_children: bool
) -> NDArray[np.int64]:
    """Return how many of the best children of each node to ask for, at least 1 [n].

    Where all children are whole items the best ``k`` are enough, and ``width`` where all are prefixes. Where they are mixed,
    as a title is among its sequels, a low item may still be kept beside better prefixes: all. And so where items share
    identifiers, since these are ranked by their share of the probability.
    """
    edges = trie.edges(nodes)
    leaves = np.add.reduceat(np.append(trie.is_leaf(edges.nodes), False).astype(np.int64), edges.offsets[:-1])
    children = np.diff(edges.offsets)
    leaves[children == 0] = 0  # reduceat gives an empty range its first value
    limit = np.where(leaves == children, k, np.where(leaves == 0, width, children))
    every = all_children or trie.shares_leaves
    return np.maximum(children if every else np.minimum(children, limit), 1)


class _VllmSearch(Search):
    def __init__(
        self,
        engine: Any,
        prompts: Sequence[NDArray[np.integer]],
        views: Sequence[TrieView],
        k: int,
        width: int,
        normalisation: str,
        all_children: bool,
        lora_request: Any,
    ) -> None:
        super().__init__(views, k, width, normalisation)
        self.engine, self.all_children, self.lora_request = engine, all_children, lora_request
        self.prompts = [np.asarray(p).tolist() for p in prompts]

    def _feed(self) -> None:
        live, trie = self.live, self.trie
        need = np.flatnonzero(~live.done & (live.fed == NOT_FED))
        if not len(need):
            return
        requests: list[tuple[int, list[int]]] = []  # user, and the nodes after which a token is generated
        chains: list[list[int]] = []  # nodes that get a row each, per prefix
        for user, node in zip(live.user[need].tolist(), live.node[need].tolist(), strict=True):
            chain = [node]
            while trie.n_children(np.array([chain[-1]]))[0] == 1:
                following = int(trie.edges(np.array([chain[-1]])).nodes[0])
                if trie.is_leaf(np.array([following]))[0]:
                    break
                chain.append(following)
            chains.append(chain)
            if self.fed.normalisation == "vocab":
                requests.append((user, chain))
            elif trie.n_children(np.array([chain[-1]]))[0] > 1:
                requests.append((user, chain[-1:]))  # what is certain is part of the prompt
        answers = iter(self._generate(requests))
        children: list[NDArray[np.int64]] = []  # of each row
        logp: list[NDArray[np.float64]] = []
        heads, going_on = [], []
        for at, chain in zip(need.tolist(), chains, strict=True):
            nodes = [trie.edges(np.array([n])).nodes for n in chain]
            there_are = len(nodes[-1])
            scores = [np.zeros(len(c)) for c in nodes]
            if self.fed.normalisation == "vocab":
                nodes, scores = self._read(chain, next(answers))
            elif len(nodes[-1]) > 1:
                nodes[-1:], scores[-1:] = self._read(chain[-1:], next(answers))
            user = int(live.user[at])
            if len(nodes[-1]) < there_are - len(self._hidden_below(user, chain[-1])):
                bound = live.score[at] + sum(float(p[0]) for p in scores[:-1]) + float(scores[-1].min())
                self.unseen[user] = max(self.unseen[user], bound)
            heads.append(len(children))
            going_on += [True] * (len(chain) - 1) + [False]
            children += nodes
            logp += scores
        offsets = np.concatenate([[0], np.cumsum([len(c) for c in children])])
        unfed = np.full(len(children), NOT_FED)
        first = self.fed.append(unfed, offsets, np.concatenate(children), np.concatenate(logp))
        self.fed.has_next[first:] = going_on
        live.fed[need] = first + np.array(heads)

    def _generate(self, requests: list[tuple[int, list[int]]]) -> list[Any]:
        """Return vLLM's log-probabilities of each request: a mapping from tokens for each token generated."""
        if not requests:
            return []
        from vllm import SamplingParams

        from llmrec.decoding.vllm_processors import REQUEST_KEY

        prompts, params = [], []
        for user, chain in requests:
            path = self._tokens_from_root(chain[0])
            prompts.append({"prompt_token_ids": [*self.prompts[user], *path]})
            params.append(
                SamplingParams(
                    max_tokens=len(chain),
                    temperature=0.0,
                    logprobs=self._asked(chain[-1]),
                    ignore_eos=True,
                    detokenize=False,
                    extra_args={
                        REQUEST_KEY: {
                            "node": chain[0],
                            "hidden": self._hidden_below(user, chain[-1]).tolist(),
                            "normalisation": self.fed.normalisation,
                        }
                    },
                )
            )
            self.fed_tokens += len(path) + len(chain) - 1
        self.forward_passes += 1
        outputs = _generate(self.engine, prompts, params, self.lora_request)
        return [o.outputs[0].logprobs for o in outputs]

    def _asked(self, node: int) -> int:
        nodes = np.array([node])
        return int(_children_asked(self.trie, nodes, self.k, self.width, self.all_children)[0])

    def _hidden_below(self, user: int, node: int) -> NDArray[np.int64]:
        """Return the children of a node that are hidden from a user."""
        nodes = self.trie.edges(np.array([node])).nodes
        hidden: NDArray[np.int64] = nodes[is_in(self.views[user].hidden, nodes)]
        return hidden

    def _read(
        self, chain: list[int], answer: Sequence[Mapping[int, Any]]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]]]:
        """Return the nodes and log-probabilities of what may follow each node of a chain."""
        children, logp = [], []
        for node, step in zip(chain, answer, strict=True):
            tokens = np.fromiter(step.keys(), np.int64, len(step))
            values = np.array([entry.logprob for entry in step.values()], dtype=np.float64)
            nodes = self.trie.try_advance(np.full(len(tokens), node), tokens)
            kept = (nodes >= 0) & np.isfinite(values)
            children.append(nodes[kept])
            logp.append(np.minimum(values[kept], 0.0))
        return children, logp

    def _tokens_from_root(self, node: int) -> list[int]:
        path: list[int] = []
        while node > 0:
            path.append(int(self.trie.tokens_to(np.array([node]))[0]))
            node = int(self.trie.parent(np.array([node]))[0])
        return path[::-1]
