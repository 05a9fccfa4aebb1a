"""Beam search over a compiled trie, in torch.

Tokens without an alternative are fed together with the one that leads to them while a forward pass has room, so that
the rest of a title costs one forward pass instead of one per token. They are scored in the step in which a beam would
reach them: the search is the one of ``generate(num_beams=width, length_penalty=0, early_stopping="never")``, except that
no finished item is ever dropped for a better prefix, which only improves the lists.

Shapes: B users, W prefixes per user, n hypotheses, c children, K items wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.guidance import Guide
from llmrec.decoding.hypotheses import NOT_FED
from llmrec.decoding.packed import PackedPrompts
from llmrec.decoding.search import BeamResult, Search, views_of
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, place_within
from llmrec.tensors import tokens_per_pass

__all__ = ["beam_search"]

_ROW_BEFORE = -2


@torch.inference_mode()
def beam_search(
    model: Any,
    trie: CompiledTrie,
    prompts: Sequence[NDArray[np.integer]],
    k: int,
    *,
    width: int,
    exclude: Sequence[NDArray[np.integer]] | Sequence[TrieView] | None = None,
    normalisation: str = "vocab",
    until_certified: bool = False,
    prune_like_transformers: bool = False,
    guide: Guide | None = None,
) -> BeamResult:
    """Return the ``k`` most probable allowed items after each prompt.

    An item's score is the log-probability of its identifier; items that share one share its probability equally.

    Parameters
    ----------
    model
        A causal language model of transformers with full attention (``sdpa`` or ``eager``).
    prompts
        Token ids of each user [B], unpadded; little is wasted where they have like lengths.
    k, width
        Items wanted and prefixes kept per user; ``width >= k``. With ``width >= N`` the result is exact.
    exclude
        Items that must not come out, per user [B]; or views of the trie without them.
    normalisation
        One of :data:`~llmrec.decoding.scores.NORMALISATIONS`.
    until_certified
        Go on with what was cut off, twice as wide each time, until nothing of it can beat the k-th item. Exact for
        every user, at a cost that depends on how sure the model is.
    prune_like_transformers
        Also drop items that ended in a step in which ``width`` other hypotheses scored higher, although they may have
        the higher score in the end. For comparisons with published results only.
    guide
        A second opinion on every item of the same users, added to the scores at every step.

    Raises
    ------
    TrieError
        ``width < k``, an unknown normalisation, or a user for whom every item is excluded.
    """
    views = views_of(trie, exclude, len(prompts))
    search = _TorchSearch(
        PackedPrompts(model, prompts), views, k, width, normalisation, prune_like_transformers, guide
    )
    search.run(until_certified)
    return search.result()


class _TorchSearch(Search):
    def __init__(
        self,
        packed: PackedPrompts,
        views: Sequence[TrieView],
        k: int,
        width: int,
        normalisation: str,
        prune_like_transformers: bool,
        guide: Guide | None,
    ) -> None:
        super().__init__(views, k, width, normalisation, prune_like_transformers, guide)
        self.packed = packed
        # Tokens of prefixes that may be cut off later are as good as free up to there.
        self.room = tokens_per_pass(packed.device)
        # The prompt's last position predicts the first token.
        self.live.fed = np.arange(self.n_users)
        self.fed.add(self.live.node, np.zeros(self.n_users, np.int64), packed.first_logits)

    def _feed(self) -> None:
        """Put the last token of each prefix through the model, and all that must follow it."""
        trie, live = self.trie, self.live
        need = np.flatnonzero(~live.done & (live.fed == NOT_FED))
        if not len(need):
            return
        # A chain is a prefix's last node and those that can only follow; the leaf at its end is not fed.
        node, user, chain = live.node[need], live.user[need], np.arange(len(need))
        nodes, users, chains, before = [node], [user], [chain], [self.fed.slot[live.parent[need]]]
        while True:
            only = trie.n_children(node) == 1
            edges = trie.edges(node[only])
            go_on = ~trie.is_leaf(edges.nodes)
            node, user, chain = edges.nodes[go_on], user[only][go_on], chain[only][go_on]
            if not len(node):
                break
            nodes.append(node)
            users.append(user)
            chains.append(chain)
            before.append(np.full(len(node), _ROW_BEFORE))
        order = np.lexsort((np.concatenate(chains), np.concatenate(users)))  # stable: a chain stays in order
        node, user, chain = (np.concatenate(parts)[order] for parts in (nodes, users, chains))
        parent = np.concatenate(before)[order]
        # Without an alternative nothing is left to be scored under `catalogue`, so a chain up to a leaf is not fed.
        sure = np.zeros(len(need), dtype=bool)
        if self.fed.normalisation == "catalogue":
            last = np.append(chain[1:] != chain[:-1], True)
            sure[chain[last]] = trie.n_children(node[last]) == 1
        keep = sure[chain] | (parent != _ROW_BEFORE) | self._worth_feeding(need, chain, sure)[chain]
        for rows, forward in ((keep & ~sure[chain], True), (keep & sure[chain], False)):
            if rows.any():
                heads = self._add(node[rows], user[rows], parent[rows], forward)
                live.fed[need[~sure if forward else sure]] = heads

    def _worth_feeding(
        self, need: NDArray[np.int64], chain: NDArray[np.int64], sure: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Say which chains to feed beyond their first token: the best prefixes' ones while there is room."""
        extra = np.where(sure, 0, np.bincount(chain) - 1)
        by_rank = np.argsort(place_within(self.live.user[need]), kind="stable")
        worth = np.empty(len(sure), dtype=bool)
        worth[by_rank] = np.count_nonzero(~sure) + np.cumsum(extra[by_rank]) <= self.room
        return worth

    def _add(
        self, node: NDArray[np.int64], user: NDArray[np.int64], parent: NDArray[np.int64], forward: bool
    ) -> NDArray[np.int64]:
        """Add chains to what has been fed and return the rows of their first nodes; _ROW_BEFORE is a parent."""
        inner = parent == _ROW_BEFORE
        if forward:
            parent = np.where(inner, self.packed.n_slots + place_within(user) - 1, parent)
            slots, logits = self.packed.append(user, parent, self.trie.tokens_to(node))
            self.fed_tokens = self.packed.fed_tokens
            self.forward_passes += 1
            first = self.fed.add(node, slots, logits)
        else:
            first = self.fed.add(node, np.full(len(node), NOT_FED), None)
        # The next node of a chain is the next row.
        self.fed.next_node[first : first + len(node) - 1] = np.where(inner[1:], node[1:], NOT_FED)
        return first + np.flatnonzero(~inner)
