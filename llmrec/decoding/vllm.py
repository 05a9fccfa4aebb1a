"""Beam search over a compiled trie with a vLLM engine: the search of :mod:`llmrec.decoding.beam`, scored in batches.

In every round the prefixes of all users go to ``LLM.generate`` together, each as a prompt that continues the user's, and
come back with the log-probabilities of the best tokens that the trie allows. Prompts are kept by prefix caching, so a
round costs little more than its new tokens. The engine is started by :func:`llmrec.decoding.vllm_engine.start_engine`.

Shapes: B users, W prefixes per user, n prefixes, K items wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.free import Scored, Text, beam_of_texts
from llmrec.decoding.hypotheses import NOT_FED
from llmrec.decoding.search import BeamResult, Search, views_of
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, is_in
from llmrec.decoding.vllm_engine import children_asked, generate, walk_is_over

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

    asked = {REQUEST_KEY: {"node": -1, "hidden": b"", "normalisation": "vocab"}}
    ids = [np.asarray(p).tolist() for p in prompts]

    def best_tokens(texts: list[tuple[int, Text]], n: int) -> list[dict[int, float]]:
        params = SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=n, ignore_eos=True, detokenize=False, extra_args=asked
        )
        requests = [{"prompt_token_ids": [*ids[user], *text]} for user, text in texts]
        outputs = generate(engine, requests, [params] * len(requests), lora_request)
        return [{t: entry.logprob for t, entry in o.outputs[0].logprobs[0].items()} for o in outputs]

    return beam_of_texts(best_tokens, len(ids), width, end_token_id=end_token_id, max_tokens=max_tokens)


_Row = tuple[
    NDArray[np.int64], NDArray[np.float64]
]  # children of a node that were told, and their log-probabilities


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
        self.engine, self.lora_request = engine, lora_request
        self.prompts = [np.asarray(p).tolist() for p in prompts]
        self.asked = _asked_at(self.trie, k, width, all_children)
        self.packed_hidden = [view.hidden.astype(np.int32).tobytes() for view in views]
        unused = np.setdiff1d(np.arange(engine.model_config.get_vocab_size()), self.trie.alphabet)
        self.stop = unused[:1].tolist()  # generated where a walk ends, so that its request does

    def _feed(self) -> None:
        """Ask for what may follow each prefix, and on along its best continuation, which is likely to be wanted next.

        A further token of a request costs one token; a request of its own costs the prompt's end again, up to a block of
        the prefix cache.
        """
        live = self.live
        need = np.flatnonzero(~live.done & (live.fed == NOT_FED))
        if not len(need):
            return
        users, certain = live.user[need].tolist(), [self._certain(n) for n in live.node[need].tolist()]
        # What is certain is part of the prompt, and an identifier whose rest is certain needs no request.
        asking = [at for at, chain in enumerate(certain) if not self._is_over(chain[-1])]
        answers = dict(zip(asking, self._ask([(users[at], certain[at][-1]) for at in asking]), strict=True))
        rows: list[_Row] = []
        next_node: list[int] = []
        heads = []
        for at, (user, chain) in enumerate(zip(users, certain, strict=True)):
            heads.append(len(rows))
            nodes = chain[:-1] if at in answers else chain
            rows += [(self.trie.edges(np.array([node])).nodes, np.zeros(1)) for node in nodes]
            if at in answers:
                told = self._read(user, chain[-1], float(live.score[need[at]]), answers[at])
                nodes = nodes + [node for node, _ in told]
                rows += [row for _, row in told]
            next_node += [*nodes[1:], NOT_FED]
        offsets = np.concatenate([[0], np.cumsum([len(children) for children, _ in rows])])
        children, scores = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        first = self.fed.append(np.full(len(rows), NOT_FED), offsets, children, scores)
        self.fed.next_node[first:] = next_node
        live.fed[need] = first + np.array(heads)

    def _certain(self, node: int) -> list[int]:
        """Return a node and what must follow it without a score, down to a choice or to the last before a leaf."""
        chain = [node]
        while self.fed.normalisation == "catalogue":
            children = self.trie.edges(np.array(chain[-1:])).nodes
            if len(children) != 1 or self.trie.is_leaf(children)[0]:
                break
            chain.append(int(children[0]))
        return chain

    def _ask(self, starts: list[tuple[int, int]]) -> list[Any]:
        """Return the engine's outputs for walks that begin at a node, for a user each."""
        if not starts:
            return []
        from vllm import SamplingParams

        from llmrec.decoding.vllm_processors import REQUEST_KEY

        prompts, params = [], []
        for user, node in starts:
            path = self._tokens_from_root(node)
            prompts.append({"prompt_token_ids": [*self.prompts[user], *path]})
            walk = {
                "node": node,
                "hidden": self.packed_hidden[user],
                "normalisation": self.fed.normalisation,
                "stop": self.stop[0] if self.stop else 0,
            }
            params.append(
                SamplingParams(
                    max_tokens=self.trie.depth - len(path),
                    temperature=0.0,
                    logprobs=int(self.asked[node]),
                    flat_logprobs=True,
                    stop_token_ids=self.stop,
                    ignore_eos=True,
                    detokenize=False,
                    extra_args={REQUEST_KEY: walk},
                )
            )
            self.fed_tokens += len(path)
        self.forward_passes += 1
        outputs = [o.outputs[0] for o in generate(self.engine, prompts, params, self.lora_request)]
        self.fed_tokens += sum(len(output.token_ids) - 1 for output in outputs)
        return outputs

    def _read(self, user: int, node: int, score: float, output: Any) -> list[tuple[int, _Row]]:
        """Return the nodes that a walk passed, with what it told of their children."""
        told, found = output.logprobs, list[tuple[int, _Row]]()
        for start, end, best in zip(told.start_indices, told.end_indices, output.token_ids, strict=True):
            # The best token comes twice: as the one that was generated, and among the best.
            tokens, place = np.unique(np.array(told.token_ids[start:end]), return_index=True)
            values = np.minimum(np.array(told.logprobs[start:end])[place], 0.0)
            children = self.trie.try_advance(np.full(len(tokens), node), tokens)
            shown = (children >= 0) & np.isfinite(values)
            row = children[shown], values[shown]
            there_are = self.trie.edges(np.array([node])).nodes
            allowed = len(there_are) - int(is_in(self.views[user].hidden, there_are).sum())
            if len(row[0]) < min(allowed, self.asked[node]):
                break  # further on more may be wanted than where the walk began
            if len(row[0]) < allowed:
                self.unseen[user] = max(self.unseen[user], score + float(row[1].min()))
            found.append((node, row))
            chosen = tokens == best
            score += float(values[chosen][0])
            node = int(children[chosen][0])
            if self._is_over(node):
                break
        return found

    def _is_over(self, node: int) -> bool:
        return bool(walk_is_over(self.trie, np.array([node]), self.fed.normalisation)[0])

    def _tokens_from_root(self, node: int) -> list[int]:
        path: list[int] = []
        while node > 0:
            path.append(int(self.trie.tokens_to(np.array([node]))[0]))
            node = int(self.trie.parent(np.array([node]))[0])
        return path[::-1]


@lru_cache(maxsize=4)
def _asked_at(trie: CompiledTrie, k: int, width: int, all_children: bool) -> NDArray[np.int64]:
    """Return how many of the best children each node is asked for [M]."""
    return children_asked(trie, np.arange(trie.n_nodes), k, width, all_children)
