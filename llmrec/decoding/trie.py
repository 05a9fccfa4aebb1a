"""The compiled trie: which tokens may follow which prefix, for a whole catalogue, in five flat arrays.

Nodes are numbered breadth first, the root is 0, and edge ``e`` leads to node ``e + 1``: an edge needs no target, the
children of a node are neighbours, and so are all descendants of one depth.

Shapes: N items, M nodes, A distinct tokens, n queried nodes, c children of all of them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.compile import PAD, as_table, compile_table
from llmrec.decoding.walking import Walkable
from llmrec.errors import TrieError

if TYPE_CHECKING:
    from llmrec.decoding.view import TrieView

__all__ = ["CompiledTrie", "Edges", "flat_ranges"]

_FANOUT = 16  # children compared at once when a token is looked up
_PROBES = np.arange(1, _FANOUT)
_OFFSETS = np.arange(_FANOUT)


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges that leave some nodes, flat; those of the i-th node are ``offsets[i]:offsets[i + 1]``."""

    tokens: NDArray[np.int32]  # [c]
    nodes: NDArray[np.int64]  # [c] where they lead
    offsets: NDArray[np.int64]  # [n + 1]


@dataclass(frozen=True, eq=False)
class CompiledTrie(Walkable):
    """A prefix tree over token sequences, as compressed sparse rows.

    Build it with :meth:`from_sequences`, or :meth:`load` one that was saved.

    Raises
    ------
    TrieError
        From every method: a node that does not exist, a token that is not allowed.
    """

    alphabet: NDArray[np.int32]  # [A] token ids that occur, ascending
    code: NDArray[np.uint16] | NDArray[np.uint32]  # [M - 1] place in alphabet of each edge's token
    indptr: NDArray[np.int32]  # [I + 1] edges of node i are indptr[i]:indptr[i + 1]; from I on, leaves
    leaf: NDArray[np.int32]  # [N] node at which each item's sequence ends
    order: NDArray[np.int32]  # [N] items sorted by leaf

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
        table = as_table(sequences)
        if items is not None:
            names = np.asarray(items)
            if names.shape != (len(table),) or not (np.sort(names) == np.arange(len(table))).all():
                raise TrieError(
                    f"Expected the items to be the numbers 0 to {len(table) - 1}, each once, in any order."
                )
            sorted_by_item = np.empty_like(table)
            sorted_by_item[names] = table
            table = sorted_by_item
        return cls(**compile_table(table))

    def insert(self, sequences: Sequence[Sequence[int]] | NDArray[np.integer]) -> CompiledTrie:
        """Return a trie with further items, numbered from ``n_items`` up; this one stays as it is.

        Nothing is learned anew: the identifiers of old items are read from this trie. Node numbers change.
        """
        old, new = self.sequences(), as_table(sequences)
        depth = max(old.shape[1], new.shape[1])
        table = np.full((len(old) + len(new), depth), PAD, dtype=np.int64)
        table[: len(old), : old.shape[1]] = old
        table[len(old) :, : new.shape[1]] = new
        return type(self)(**compile_table(table))

    @property
    def n_nodes(self) -> int:
        """Number of nodes M, the root included."""
        return len(self.code) + 1

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.leaf)

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """First node of each depth, and M [depth + 2]: nodes of depth d are ``levels[d]:levels[d + 1]``."""
        borders = [0, 1]
        while borders[-1] < self.n_nodes:
            borders.append(int(self._bounds(borders[-1])) + 1)
        return np.asarray(borders)

    @cached_property
    def decided(self) -> NDArray[np.bool_]:
        """Whether all of a node's descendants have one child at most, so that its identifier is decided [M]."""
        decided = np.ones(self.n_nodes, dtype=bool)
        for level in range(self.depth - 1, -1, -1):
            nodes = np.arange(self.levels[level], self.levels[level + 1])
            starts, stops = self._edge_range(nodes)
            # Edge e leads to node e + 1.
            decided[nodes] = (stops - starts == 0) | (
                (stops - starts == 1) & decided[starts + 1 - (starts == stops)]
            )
        return decided

    @property
    def depth(self) -> int:
        """Length of the longest sequence."""
        return len(self.levels) - 2

    @property
    def nbytes(self) -> int:
        """Memory of all arrays in bytes."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[np.integer]]:
        """Return the arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: equal for equal sequences of equal items only."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def edges(self, nodes: NDArray[np.integer]) -> Edges:
        """Return all edges that leave ``nodes`` [n], node by node, tokens ascending."""
        edge, offsets = self._edges(nodes)
        return Edges(self._tokens(edge), edge + 1, offsets)

    def children(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow ``nodes`` [n], flat [c], and their offsets [n + 1]."""
        edge, offsets = self._edges(nodes)
        return self._tokens(edge), offsets

    def tokens_to(self, nodes: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the token that leads to each node [n]; none leads to the root, which must not be asked for."""
        return self._tokens(np.asarray(nodes) - 1)

    def n_children(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return how many tokens may follow each node [n]."""
        starts, stops = self._edge_range(nodes)
        return stops - starts

    def try_advance(self, nodes: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Follow one token from each node [n]; -1 where it is not allowed."""
        tokens = np.asarray(tokens)
        low, high = self._edge_range(nodes)
        if not low.size:
            return low
        # In int32, or numpy would convert the whole alphabet; a token too large for it differs in the last comparison.
        wanted = self.alphabet.searchsorted(tokens.astype(np.int32))
        known = self.alphabet.take(wanted, mode="clip") == tokens
        # Children are sorted by token: narrow each range down by comparing _FANOUT of them at a time instead of one, as
        # a binary search would, because a numpy call costs more than what it compares.
        wanted = wanted.astype(self.code.dtype)
        column = wanted[:, None]
        width = int((high - low).max())
        while width > _FANOUT:
            step = -(-width // _FANOUT)
            probe = low[:, None] + step * _PROBES
            not_past = self.code.take(probe, mode="clip") <= column
            not_past &= probe < high[:, None]
            low += step * np.add.reduce(not_past, axis=1)
            np.minimum(high, low + step, out=high)
            width = step
        probe = low[:, None] + _OFFSETS[:width]
        before = self.code.take(probe, mode="clip") < column
        before &= probe < high[:, None]
        low += np.add.reduce(before, axis=1)
        known &= low < high
        known &= self.code.take(low, mode="clip") == wanted
        low += 1
        low[~known] = -1
        return low

    def is_leaf(self, nodes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which nodes end an identifier [n]."""
        leaf: NDArray[np.bool_] = self.n_children(nodes) == 0
        return leaf

    def parent(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the parent of each node [n]; the root has none and must not be asked for."""
        return self.indptr.searchsorted(np.asarray(nodes, dtype=np.int32) - np.int32(1), side="right") - 1

    def items(self, node: int) -> NDArray[np.int32]:
        """Return all items at or below a node, shortest identifiers first."""
        self._edge_range(np.asarray([node]))  # raises where there is no such node
        found = []
        low, high = np.asarray([node]), np.asarray([node + 1])
        while low < high:
            found.append(self._items_between(low, high)[0])
            low, high = self._bounds(low) + 1, self._bounds(high) + 1
        return np.concatenate(found)

    def items_at(self, leaves: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the items whose identifiers end at the given nodes [n], flat, and their offsets [n + 1]."""
        leaves = np.asarray(leaves)
        return self._items_between(leaves, leaves + 1)

    @cached_property
    def shares_leaves(self) -> bool:
        """Whether any two items have the same sequence."""
        sorted_leaves = self.leaf[self.order]
        return bool((sorted_leaves[1:] == sorted_leaves[:-1]).any())

    def sequence(self, item: int) -> list[int]:
        """Return the token sequence of one item."""
        return [int(t) for t in self.sequences(np.asarray([item]))[0] if t != PAD]

    def sequences(self, items: NDArray[np.integer] | None = None) -> NDArray[np.int64]:
        """Return the token sequences of items (all if left out), padded with -1 at the end [n, depth]."""
        node = self.leaf[slice(None) if items is None else items].astype(np.int64)
        table = np.full((len(node), self.depth), PAD, dtype=np.int64)
        for level in range(self.depth, 0, -1):
            # All nodes of a depth are neighbours, so those at this depth are the ones from its first node on.
            here = np.flatnonzero(node >= self.levels[level])
            table[here, level - 1] = self._tokens(node[here] - 1)
            node[here] = self.parent(node[here])
        return table

    def exclude(self, items: NDArray[np.integer] | Sequence[int]) -> TrieView:
        """Return a view without some items and without every prefix that leads to such items only."""
        from llmrec.decoding.view import TrieView

        return TrieView.hiding(self, np.asarray(items, dtype=np.int64))

    def save(self, path: str | Path, made_for: Mapping[str, str]) -> None:
        """Write a file for :meth:`load`, atomically; see :func:`llmrec.decoding.trie_file.save_trie`."""
        from llmrec.decoding.trie_file import save_trie

        save_trie(self, Path(path), made_for)

    @classmethod
    def load(cls, path: str | Path, made_for: Mapping[str, str]) -> CompiledTrie:
        """Map a saved trie into memory; see :func:`llmrec.decoding.trie_file.load_trie`."""
        from llmrec.decoding.trie_file import load_trie

        return load_trie(Path(path), made_for)

    def _edges(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of all edges that leave ``nodes``, flat [c], and offsets [n + 1]."""
        starts, stops = self._edge_range(nodes)
        return flat_ranges(starts, stops - starts)

    def _tokens(self, edge: NDArray[np.integer]) -> NDArray[np.int32]:
        # "clip" only saves numpy a check: these numbers come from the trie itself.
        return self.alphabet.take(self.code.take(edge, mode="clip"), mode="clip")

    def _bounds(self, node: int | NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the number of edges that leave the nodes before each node."""
        return self.indptr.take(node, mode="clip")

    def _edge_range(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        nodes = np.asarray(nodes, dtype=np.int64)
        # One reduction for both ends: as an unsigned number, a negative one is huge.
        if nodes.size and nodes.view(np.uint64).max() >= self.n_nodes:
            bad = nodes[(nodes < 0) | (nodes >= self.n_nodes)][0]
            raise TrieError(f"Node {bad} does not exist. Expected a node from 0 to {self.n_nodes - 1}.")
        # Clipping is right here: nodes beyond the last entry are leaves, whose ranges are empty.
        return (
            self.indptr.take(nodes, mode="clip").astype(np.int64),
            self.indptr.take(nodes + 1, mode="clip").astype(np.int64),
        )

    def _items_between(
        self, low: NDArray[np.integer], high: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the items that end at nodes ``low[i]`` to ``high[i] - 1``, flat, and offsets."""
        starts = self.leaf.searchsorted(low.astype(np.int32), sorter=self.order)
        counts = self.leaf.searchsorted(high.astype(np.int32), sorter=self.order) - starts
        place, offsets = flat_ranges(starts, counts)
        return self.order[place], offsets


def flat_ranges(
    starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers ``starts[i], starts[i] + 1, ...`` of all ranges, flat, and their offsets [n + 1]."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    counts.cumsum(out=offsets[1:])
    flat = (starts - offsets[:-1]).repeat(counts)
    flat += np.arange(len(flat))
    return flat, offsets
