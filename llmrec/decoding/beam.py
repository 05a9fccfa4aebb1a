"""Beam search over a compiled trie, in torch.

The score of a hypothesis is the sum of its tokens' log-probabilities, without length normalisation: that is the
log-probability of the item, and it makes a prefix's score a bound on everything below it. When all prefixes that
were cut off score below the k-th result, the result is certified to be the true top k.

Tokens without an alternative are fed together with the one that leads to them while a forward pass has room, so that
the rest of a title costs one forward pass instead of one per token. They are scored in the step in which a beam would reach them: the search is the
one of ``generate(num_beams=width, length_penalty=0, early_stopping="never")``, except that no finished item is ever
dropped for a better prefix, which only improves the lists.

Shapes: B users, W prefixes per user, n hypotheses, c children, K items wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.hypotheses import NOT_FED, Fed, Hypotheses
from llmrec.decoding.packed import PackedPrompts, place_within
from llmrec.decoding.scores import check_normalisation
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, hidden_keys, is_in, nothing_left
from llmrec.errors import TrieError

__all__ = ["BeamResult", "beam_search", "views_of"]

_ROW_BEFORE = -2
# Tokens up to which a forward pass costs little more than one over a single token, so that tokens of prefixes that may
# be cut off later are as good as free. SmolLM2-135M on two cores: 100 ms and 2 ms per token.
_ROOM = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True, eq=False)
class BeamResult:
    """The best items of B users."""

    items: NDArray[
        np.int32
    ]  # [B, K] best first, equal scores by number; -1 where fewer than K items are allowed
    scores: NDArray[np.float64]  # [B, K] log-probability; -inf where there is no item
    certified: NDArray[np.bool_]  # [B] whether this is provably the model's exact top K
    beam_tokens: int  # tokens that went through the model after the prompts, filler included
    forward_passes: int  # after the prompts


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

    Raises
    ------
    TrieError
        ``width < k``, an unknown normalisation, or a user for whom every item is excluded.
    """
    if not 1 <= k <= width:
        raise TrieError(f"The beam is {width} wide but {k} items are wanted. Expected 1 <= k <= beam_width.")
    check_normalisation(normalisation)
    views = views_of(trie, exclude, len(prompts))
    search = _Search(PackedPrompts(model, prompts), views, k, width, normalisation, prune_like_transformers)
    search.run(until_certified)
    return search.result()


def views_of(
    trie: CompiledTrie, exclude: Sequence[NDArray[np.integer]] | Sequence[TrieView] | None, n_users: int
) -> list[TrieView]:
    """Return one view of the trie per user.

    Raises
    ------
    TrieError
        There is not one entry per user, a view is of another trie, or a user has nothing left.
    """
    if exclude is None:
        return [trie.exclude([])] * n_users
    if len(exclude) != n_users:
        raise TrieError(f"Got {len(exclude)} exclusions for {n_users} prompts. Expected one per prompt.")
    views = [e if isinstance(e, TrieView) else trie.exclude(e) for e in exclude]
    for row, view in enumerate(views):
        if view.trie is not trie:
            raise TrieError(
                f"The view of the user at position {row} is of another trie. Expected one of this trie."
            )
        if not view.n_items:
            raise nothing_left(row)
    return views


class _Search:
    def __init__(
        self,
        packed: PackedPrompts,
        views: Sequence[TrieView],
        k: int,
        width: int,
        normalisation: str,
        prune_like_transformers: bool,
    ) -> None:
        self.packed, self.views, self.trie = packed, views, views[0].trie
        self.k, self.width, self.prune_like_transformers = k, width, prune_like_transformers
        self.n_users, self.forward_passes = len(views), 0
        self.room = _ROOM.get(packed.device.type, _ROOM["cuda"])
        self.hidden = hidden_keys(views)
        self.fed = Fed(self.trie, normalisation)
        self.live = Hypotheses(
            user=np.arange(self.n_users),
            score=np.zeros(self.n_users),
            node=np.zeros(self.n_users, np.int64),
            done=np.zeros(self.n_users, bool),
            fed=np.arange(self.n_users),
            parent=np.full(self.n_users, NOT_FED),
        )
        # Every user starts at the root; the prompt's last position predicts the first token.
        self.fed.add(self.live.node, np.zeros(self.n_users, np.int64), packed.first_logits)
        self.cut: list[Hypotheses] = []

    def run(self, until_certified: bool) -> None:
        """Search until every prefix that is kept has ended or cannot enter the top k any more."""
        while True:
            while not self.live.done.all():
                self._feed()
                self._grow()
            if not until_certified:
                return
            # Take up again what was cut off and could still beat the k-th item. Fewer than k finished items score above
            # the best of it, so at least that one is kept this time: the search comes to an end.
            cut = Hypotheses.concatenate(self.cut)
            open_ = cut.score > self._kth()[cut.user]
            if not open_.any():
                return
            self.cut = [cut.take(~open_)]
            self.width *= 2
            self._select(Hypotheses.concatenate([self.live, cut.take(open_)]))

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
            self.forward_passes += 1
            first = self.fed.add(node, slots, logits)
        else:
            first = self.fed.add(node, np.full(len(node), NOT_FED), None)
        # The next node of a chain is the next row.
        self.fed.has_next[first : first + len(node) - 1] = inner[1:]
        return first + np.flatnonzero(~inner)

    def _grow(self) -> None:
        """Replace all prefixes by their allowed children and keep the best."""
        open_ = self.live.take(~self.live.done)
        row, nodes, logp = self.fed.children(open_.fed)
        user = open_.user[row]
        allowed = ~is_in(self.hidden, user * self.trie.n_nodes + nodes)
        row, nodes, user, logp = row[allowed], nodes[allowed], user[allowed], logp[allowed]
        parent = open_.fed[row]
        grown = Hypotheses(
            user=user,
            score=open_.score[row] + logp,
            node=nodes,
            done=self.trie.is_leaf(nodes),
            fed=np.where(self.fed.has_next[parent], parent + 1, NOT_FED),
            parent=parent,
        )
        if self.trie.shares_leaves:
            leaves = np.flatnonzero(grown.done)
            grown.score[leaves] -= np.log(np.diff(self.trie.items_at(grown.node[leaves])[1]))
        if self.prune_like_transformers:
            grown = grown.take(np.lexsort((grown.node, -grown.score, grown.user)))
            rank = place_within(grown.user)
            kept = rank < np.where(grown.done, self.width, 2 * self.width)
            self.cut.append(grown.take(~kept))
            grown = grown.take(kept)
        self._select(Hypotheses.concatenate([self.live.take(self.live.done), grown]))

    def _select(self, pool: Hypotheses) -> None:
        """Keep the k best finished items and the ``width`` best prefixes of each user that can still beat them."""
        # The node decides between equal scores, so that the order never depends on how the search got there.
        pool = pool.take(np.lexsort((pool.node, -pool.score, pool.user)))
        done = pool.take(pool.done)
        done = done.take(place_within(done.user) < self.k)
        self.live = done
        going = pool.take(~pool.done)
        going = going.take(going.score >= self._kth()[going.user])
        kept = place_within(going.user) < self.width
        self.cut.append(going.take(~kept))
        self.live = Hypotheses.concatenate([done, going.take(kept)])

    def _kth(self) -> NDArray[np.float64]:
        """Return the score of the k-th finished item of each user, -inf where there are fewer [B]."""
        done = self.live.take(self.live.done)
        kth = np.full(self.n_users, -np.inf)
        last = place_within(done.user) == self.k - 1
        kth[done.user[last]] = done.score[last]
        return kth

    def result(self) -> BeamResult:
        """Return the items of the finished hypotheses."""
        done = self.live
        found, offsets = self.trie.items_at(done.node)
        row = np.repeat(np.arange(len(done.node)), np.diff(offsets))
        user, score = done.user[row], done.score[row]
        excluded = np.concatenate([v.excluded + u * self.trie.n_items for u, v in enumerate(self.views)])
        allowed = ~is_in(excluded, user * self.trie.n_items + found)
        found, user, score = found[allowed], user[allowed], score[allowed]
        order = np.lexsort((found, -score, user))
        order = order[place_within(user[order]) < self.k]
        rank = place_within(user[order])
        items = np.full((self.n_users, self.k), -1, dtype=np.int32)
        scores = np.full((self.n_users, self.k), -np.inf)
        items[user[order], rank] = found[order]
        scores[user[order], rank] = score[order]
        best_cut = np.full(self.n_users, -np.inf)
        for cut in self.cut:
            np.maximum.at(best_cut, cut.user, cut.score)
        # An incomplete list is certified only if nothing was cut off.
        return BeamResult(
            items, scores, scores[:, -1] >= best_cut, self.packed.fed_tokens, self.forward_passes
        )
