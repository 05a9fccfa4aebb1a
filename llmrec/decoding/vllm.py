"""Beam search over a compiled trie with a vLLM engine: the search of :mod:`llmrec.decoding.beam`, scored in batches.

In every round the prefixes of all users go to ``LLM.generate`` together, each as a prompt that continues the user's, and
come back with the log-probabilities of the best tokens that the trie allows. Prompts are kept by prefix caching, so a
round costs little more than its new tokens. The engine is started by :func:`llmrec.decoding.vllm_engine.start_engine`.

Shapes: B users, W prefixes per user, n prefixes, K items wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.free import Scored, Text, beam_of_texts
from llmrec.decoding.hypotheses import NOT_FED
from llmrec.decoding.search import BeamResult, Search, views_of
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, is_in
from llmrec.decoding.vllm_engine import children_asked, generate

__all__ = ["vllm_beam_search", "vllm_free_search"]


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
        From :func:`~llmrec.decoding.vllm_engine.start_engine`, with this trie.
    lora_request
        The adapter to serve, as ``vllm.lora.request.LoRARequest``.
    """
    views = views_of(trie, exclude, len(prompts))
    search = _VllmSearch(engine, prompts, views, k, width, normalisation, until_certified, lora_request)
    search.run(until_certified)
    return search.result()


def vllm_free_search(
    engine: Any,
    prompts: Sequence[NDArray[np.integer]],
    width: int,
    *,
    end_token_id: int | None,
    max_tokens: int,
    lora_request: Any = None,
) -> list[list[Scored]]:
    """Return the ``width`` most probable texts after each prompt; see :func:`llmrec.decoding.free.free_search`."""
    from vllm import SamplingParams

    from llmrec.decoding.vllm_processors import REQUEST_KEY

    asked = {REQUEST_KEY: {"node": -1, "hidden": [], "normalisation": "vocab"}}
    ids = [np.asarray(p).tolist() for p in prompts]

    def best_tokens(texts: list[tuple[int, Text]], n: int) -> list[dict[int, float]]:
        params = SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=n, ignore_eos=True, detokenize=False, extra_args=asked
        )
        requests = [{"prompt_token_ids": [*ids[user], *text]} for user, text in texts]
        outputs = generate(engine, requests, [params] * len(requests), lora_request)
        return [{t: entry.logprob for t, entry in o.outputs[0].logprobs[0].items()} for o in outputs]

    return beam_of_texts(best_tokens, len(ids), width, end_token_id=end_token_id, max_tokens=max_tokens)


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
        outputs = generate(self.engine, prompts, params, self.lora_request)
        return [o.outputs[0].logprobs for o in outputs]

    def _asked(self, node: int) -> int:
        nodes = np.array([node])
        return int(children_asked(self.trie, nodes, self.k, self.width, self.all_children)[0])

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
