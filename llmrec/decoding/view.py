"""A compiled trie as one user sees it: without the items that must not come out.

Shapes: n queried nodes, c children, H hidden nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.trie import CompiledTrie, Edges
from llmrec.decoding.walking import Walkable
from llmrec.errors import TrieError

__all__ = ["TrieView", "hidden_keys", "is_in", "nothing_left", "place_within"]


@dataclass(frozen=True, eq=False)
class TrieView(Walkable):
    """What is left of a trie when some items are hidden; made by :meth:`CompiledTrie.exclude`.

    The trie itself is shared, and the view costs memory for the hidden nodes alone. A walk can neither end at a hidden
    item nor run into a dead end.
    """

    trie: CompiledTrie
    excluded: NDArray[np.int64]  # items, ascending
    hidden: NDArray[np.int64]  # [H] nodes with only excluded items at or below them, ascending

    @classmethod
    def hiding(cls, trie: CompiledTrie, items: NDArray[np.int64]) -> TrieView:
        """Return a view without ``items``.

        Raises
        ------
        TrieError
            An item is not in the trie.
        """
        items = np.unique(items)
        if len(items) and (items[0] < 0 or items[-1] >= trie.n_items):
            bad = items[0] if items[0] < 0 else items[-1]
            raise TrieError(f"Item {bad} is not in the trie. Expected a number from 0 to {trie.n_items - 1}.")
        leaves, counts = np.unique(trie.leaf[items], return_counts=True)
        if trie.shares_leaves:
            leaves = leaves[counts == np.diff(trie.items_at(leaves)[1])]
        hidden = new = leaves.astype(np.int64)
        while len(new):
            # A node is hidden if all its children are. They are neighbours, and so are their places among the hidden.
            # The deepest child of a node may be found last, so a node is asked again whenever a child is found.
            parents = np.unique(trie.parent(new[new > 0]))
            start = trie.indptr[parents].astype(np.int64) + 1
            stop = trie.indptr[parents + 1].astype(np.int64) + 1
            full = hidden.searchsorted(stop) - hidden.searchsorted(start) == stop - start
            new = parents[full]
            hidden = np.union1d(hidden, new)
        return cls(trie, items, hidden)

    @property
    def n_items(self) -> int:
        """Number of items that are left."""
        return self.trie.n_items - len(self.excluded)

    def edges(self, nodes: NDArray[np.integer]) -> Edges:
        """Return the edges that leave ``nodes`` [n] and lead to items that are left."""
        edges = self.trie.edges(nodes)
        kept = ~is_in(self.hidden, edges.nodes)
        before = np.concatenate([[0], np.cumsum(kept)])
        return Edges(edges.tokens[kept], edges.nodes[kept], before[edges.offsets])

    def children(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow ``nodes`` [n], flat [c], and their offsets [n + 1]."""
        edges = self.edges(nodes)
        return edges.tokens, edges.offsets

    def try_advance(self, nodes: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Follow one token from each node [n]; -1 where it is not allowed."""
        reached = self.trie.try_advance(nodes, tokens)
        return np.where(is_in(self.hidden, reached), -1, reached)

    def is_leaf(self, nodes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which nodes end an identifier [n]."""
        return self.trie.is_leaf(nodes)

    def items(self, node: int) -> NDArray[np.int32]:
        """Return the items at or below a node that are left."""
        items = self.trie.items(node)
        return items[~is_in(self.excluded, items)]


def hidden_keys(views: Sequence[TrieView]) -> NDArray[np.int64]:
    """Return the keys ``user * M + node`` of all nodes that users must not enter, ascending."""
    keys = [view.hidden + user * view.trie.n_nodes for user, view in enumerate(views)]
    return np.concatenate([np.empty(0, np.int64), *keys])


def nothing_left(user: int) -> TrieError:
    """Return the error for a user for whom every item is excluded."""
    return TrieError(
        f"Every item of the catalogue is excluded for the user at position {user}, so there is nothing to recommend. "
        "Expected at least one item that the user has not seen."
    )


def is_in(sorted_values: NDArray[np.integer], values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say which of ``values`` are among ``sorted_values``, in logarithmic time each."""
    if not len(sorted_values):
        return np.zeros(len(values), dtype=bool)
    found: NDArray[np.bool_] = sorted_values.take(sorted_values.searchsorted(values), mode="clip") == values
    return found


def place_within(users: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return each entry's place within its user, from 0; ``users`` ascend [n]."""
    return np.arange(len(users)) - np.searchsorted(users, users)
