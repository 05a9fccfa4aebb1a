"""Beam search over a compiled trie, whatever computes the probabilities.

The score of a hypothesis is the sum of its tokens' log-probabilities, without length normalisation: that is the
log-probability of the item, and it makes a prefix's score a bound on everything below it. When all prefixes that
were cut off score below the k-th result, the result is certified to be the true top k.

Shapes: B users, W prefixes per user, n hypotheses, c children, K items wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.guidance import Guide
from llmrec.decoding.hypotheses import NOT_FED, Fed, Hypotheses
from llmrec.decoding.scores import check_normalisation
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, hidden_keys, is_in, nothing_left, place_within
from llmrec.errors import TrieError

__all__ = ["BeamResult", "Search", "views_of"]


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


class Search(ABC):
    """A beam search; a backend says how prefixes are scored.

    Parameters
    ----------
    views
        What each user may get [B], of one trie.
    k, width, normalisation, prune_like_transformers, guide
        See :func:`llmrec.decoding.beam.beam_search`.

    Raises
    ------
    TrieError
        ``width < k``, or an unknown normalisation.
    """

    fed_tokens = 0  # that went through the model after the prompts
    forward_passes = 0  # after the prompts

    def __init__(
        self,
        views: Sequence[TrieView],
        k: int,
        width: int,
        normalisation: str,
        prune_like_transformers: bool = False,
        guide: Guide | None = None,
    ) -> None:
        if not 1 <= k <= width:
            raise TrieError(
                f"The beam is {width} wide but {k} items are wanted. Expected 1 <= k <= beam_width."
            )
        check_normalisation(normalisation)
        self.views, self.trie = views, views[0].trie
        self.k, self.width, self.prune_like_transformers = k, width, prune_like_transformers
        self.guide = guide
        self.n_users = len(views)
        self.hidden = hidden_keys(views)
        self.fed = Fed(self.trie, normalisation)
        # Every user starts at the root.
        self.live = Hypotheses(
            user=np.arange(self.n_users),
            score=np.zeros(self.n_users) if guide is None else guide.start.copy(),
            node=np.zeros(self.n_users, np.int64),
            done=np.zeros(self.n_users, bool),
            fed=np.full(self.n_users, NOT_FED),
            parent=np.full(self.n_users, NOT_FED),
        )
        self.cut: list[Hypotheses] = []
        # Bounds on what a backend never showed: the best score among it, for each user [B].
        self.unseen = np.full(self.n_users, -np.inf)

    @abstractmethod
    def _feed(self) -> None:
        """Score what may follow each live prefix that has not been fed: add rows to ``fed`` and note them in ``live``."""

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
            fed=np.where(self.fed.next_node[parent] == nodes, parent + 1, NOT_FED),
            parent=parent,
        )
        if self.guide is not None:
            grown.score += self.guide.gain(user, nodes, open_.node[row])
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
        pool = pool.take(self._worth_sorting(pool))
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

    def _worth_sorting(self, pool: Hypotheses) -> NDArray[np.bool_]:
        """Say which hypotheses have not ended or can be among the k best that have [n].

        With one token an item the whole catalogue ends in one step, and sorting it took a quarter of the search.
        """
        worth = ~pool.done
        ended = np.flatnonzero(pool.done)
        ended = ended[np.argsort(pool.user[ended], kind="stable")]
        ends = np.bincount(pool.user[ended], minlength=self.n_users).cumsum()
        for own in np.split(ended, ends[:-1]):
            score = pool.score[own]
            worth[own] = score >= np.partition(score, -self.k)[-self.k] if len(own) > self.k else True
        return worth

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
        best_cut = self.unseen.copy()
        for cut in self.cut:
            np.maximum.at(best_cut, cut.user, cut.score)
        # An incomplete list is certified only if nothing was cut off.
        return BeamResult(items, scores, scores[:, -1] >= best_cut, self.fed_tokens, self.forward_passes)
