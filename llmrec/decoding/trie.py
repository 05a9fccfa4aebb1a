"""The compiled trie: which tokens may follow which prefix, for a whole catalogue, in six flat arrays.

Nodes are numbered breadth first, the root is 0, and edge ``e`` leads to node ``e + 1``; so an edge needs no target.
Items are kept in the order of their sequences, which makes the items below any node one range.

Shapes: N items, M nodes, n queried nodes, c children of all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import TrieError

__all__ = ["CompiledTrie", "Edges"]

_PAD = -1


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges that leave some nodes, flat; those of the i-th node are ``offsets[i]:offsets[i + 1]``."""

    tokens: NDArray[np.int32]  # [c]
    nodes: NDArray[np.int64]  # [c] where they lead
    offsets: NDArray[np.int64]  # [n + 1]


@dataclass(frozen=True, eq=False)
class CompiledTrie:
    """A prefix tree over token sequences, as compressed sparse rows.

    Build it with :meth:`from_sequences`.
    """

    indptr: NDArray[np.int32]  # [M + 1] edges of node i are indptr[i]:indptr[i + 1]
    token: NDArray[np.int32]  # [M - 1] token of each edge, ascending within a node
    first: NDArray[np.int32]  # [M] items below node i are order[first[i]:stop[i]]
    stop: NDArray[np.int32]  # [M]
    order: NDArray[np.int32]  # [N] items sorted by their sequences
    leaf: NDArray[np.int32]  # [N] node at which each item's sequence ends
    depth: int  # longest sequence

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[Sequence[int]] | NDArray[np.integer], items: Sequence[int] | None = None
    ) -> CompiledTrie:
        """Compile token sequences.

        Parameters
        ----------
        sequences
            One per item: ragged lists, or an integer array [N, depth] padded with -1 at the end.
        items
            The item of each sequence; 0, 1, 2, ... if left out. Several items may share a sequence.

        Raises
        ------
        TrieError
            There is no sequence, one is empty, or one is a proper prefix of another (an end token avoids that).
        """
        table = _as_table(sequences)  # [N, depth]
        n, depth = table.shape
        names = np.arange(n) if items is None else np.asarray(items)
        if sorted(names.tolist()) != list(range(n)):
            raise TrieError(f"Expected the items to be the numbers 0 to {n - 1}, each once, in any order.")
        order = np.lexsort(table.T[::-1])
        table = table[order]
        lengths = (table != _PAD).sum(axis=1)

        node = np.zeros(n, dtype=np.int64)  # node of each sorted row at the current depth
        new = np.zeros(n, dtype=bool)  # whether a row's prefix differs from that of the row above
        new[0] = True
        tokens, parents = [], []
        first, stop = [np.zeros(1, np.int64)], [np.full(1, n)]
        leaf = np.zeros(n, dtype=np.int64)
        size = 1
        for level in range(depth):
            new[1:] |= table[1:, level] != table[:-1, level]
            alive = lengths > level
            borders = np.flatnonzero(new)
            starts = np.flatnonzero(new & alive)
            ends = np.append(borders[1:], n)[np.searchsorted(borders, starts)]
            tokens.append(table[starts, level])
            parents.append(node[starts])
            first.append(starts)
            stop.append(ends)
            node = np.where(alive, size - 1 + np.cumsum(new & alive), node)
            ended = lengths == level + 1
            leaf[ended] = node[ended]
            size += len(starts)

        parent = np.concatenate(parents)
        counts = np.bincount(parent, minlength=size)
        inner = np.flatnonzero(counts[leaf] > 0)
        if len(inner):
            row = int(inner[0])
            raise TrieError(
                f"The sequence of item {names[order[row]]}, {table[row][: lengths[row]].tolist()}, is the beginning "
                "of another one, so the model could not say where it ends. Expected an end token on every sequence."
            )
        by_item = np.empty(n, dtype=np.int32)
        by_item[names[order]] = leaf
        return cls(
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            token=np.concatenate(tokens).astype(np.int32),
            first=np.concatenate(first).astype(np.int32),
            stop=np.concatenate(stop).astype(np.int32),
            order=names[order].astype(np.int32),
            leaf=by_item,
            depth=depth,
        )

    @property
    def n_nodes(self) -> int:
        """Number of nodes M, the root included."""
        return len(self.first)

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.order)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(a.nbytes for a in (self.indptr, self.token, self.first, self.stop, self.order, self.leaf))

    def edges(self, nodes: NDArray[np.integer]) -> Edges:
        """Return all edges that leave ``nodes`` [n], node by node, tokens ascending."""
        nodes = np.asarray(nodes)
        starts = self.indptr[nodes].astype(np.int64)
        counts = self.indptr[nodes + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(counts)])
        edge = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        return Edges(self.token[edge], edge + 1, offsets)

    def children(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow ``nodes`` [n], flat [c], and their offsets [n + 1]."""
        edges = self.edges(nodes)
        return edges.tokens, edges.offsets

    def advance(self, nodes: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Follow one token from each node [n] and return the nodes reached [n].

        Raises
        ------
        TrieError
            A token is not allowed at its node.
        """
        nodes, tokens = np.asarray(nodes), np.asarray(tokens)
        edges = self.edges(nodes)
        owner = np.repeat(np.arange(len(nodes)), np.diff(edges.offsets))
        match = edges.tokens == tokens[owner]
        reached = np.zeros(len(nodes), dtype=np.int64)
        reached[owner[match]] = edges.nodes[match]
        if not reached.all():
            bad = int(np.flatnonzero(reached == 0)[0])
            allowed = edges.tokens[owner == bad]
            raise TrieError(
                f"Token {int(tokens[bad])} is not allowed at node {int(nodes[bad])}; expected one of "
                f"{allowed[:10].tolist()}{' ...' if len(allowed) > 10 else ''} ({len(allowed)} tokens)."
            )
        return reached

    def walk(self, prefix: Sequence[int]) -> int:
        """Follow a sequence of tokens from the root and return the node reached."""
        node = np.zeros(1, dtype=np.int64)
        for token in prefix:
            node = self.advance(node, np.asarray([token]))
        return int(node[0])

    def is_leaf(self, nodes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which nodes end an identifier."""
        leaf: NDArray[np.bool_] = self.indptr[nodes] == self.indptr[np.asarray(nodes) + 1]
        return leaf

    def items(self, node: int) -> NDArray[np.int32]:
        """Return all items at or below a node, in the order of their sequences."""
        return self.order[self.first[node] : self.stop[node]]

    def hidden_nodes(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return, ascending, every node that has only the given items below it.

        A decoder that skips these nodes can never produce one of the items, nor run into a dead end.
        """
        nodes, counts = np.unique(self.leaf[np.unique(items)].astype(np.int64), return_counts=True)
        hidden = []
        while len(nodes):
            full = counts == self.stop[nodes] - self.first[nodes]
            nodes, counts = nodes[full], counts[full]
            hidden.append(nodes)
            # A parent can be hidden only through hidden children. All leaves need not lie at one depth, so count
            # what is below each parent from its children instead of level by level.
            parents = np.unique(self.parent(nodes[nodes > 0]))
            known = np.unique(np.concatenate(hidden))
            edges = self.edges(parents)
            covered = np.isin(edges.nodes, known)
            below = np.where(covered, self.stop[edges.nodes] - self.first[edges.nodes], 0)
            nodes, counts = parents, np.add.reduceat(below, edges.offsets[:-1]) if len(parents) else parents
        return np.unique(np.concatenate([np.empty(0, np.int64), *hidden]))

    def parent(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the parent of each node; the root has none and must not be asked for."""
        return np.searchsorted(self.indptr, np.asarray(nodes) - 1, side="right") - 1


def _as_table(sequences: Sequence[Sequence[int]] | NDArray[np.integer]) -> NDArray[np.int32]:
    if isinstance(sequences, np.ndarray):
        table = sequences.astype(np.int32)
    else:
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        table = np.full((len(lengths), int(lengths.max(initial=0))), _PAD, dtype=np.int32)
        flat = np.fromiter((t for s in sequences for t in s), dtype=np.int32, count=int(lengths.sum()))
        table[np.arange(table.shape[1]) < lengths[:, None]] = flat
    if not table.size or (table[:, 0] == _PAD).any():
        raise TrieError("Expected at least one sequence and no empty ones.")
    if ((table[:, :-1] == _PAD) & (table[:, 1:] != _PAD)).any() or table.min() < _PAD:
        raise TrieError("Expected token ids from 0 up, padded with -1 at the end only.")
    return table
