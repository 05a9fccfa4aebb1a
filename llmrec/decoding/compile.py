"""Turn token sequences into the arrays of a compiled trie.

Shapes: N sequences, D longest sequence, A distinct tokens, M nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import TrieError

__all__ = ["PAD", "as_table", "compile_table"]

PAD = -1
_INT32_MAX = np.iinfo(np.int32).max


def as_table(sequences: Sequence[Sequence[int]] | NDArray[np.integer]) -> NDArray[np.integer]:
    """Return sequences as one array [N, D], padded with -1 at the end.

    Raises
    ------
    TrieError
        There is no sequence, one is empty, or a token id is not a whole number from 0 up.
    """
    if isinstance(sequences, np.ndarray):
        table = sequences
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise TrieError(
                f"Got an array of shape {table.shape} and type {table.dtype}. Expected token ids as integers [N, D]."
            )
    else:
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        table = np.full((len(lengths), int(lengths.max(initial=0))), PAD, dtype=np.int64)
        flat = np.asarray(list(chain.from_iterable(sequences)))
        if len(flat) and not np.issubdtype(flat.dtype, np.integer):
            raise TrieError(f"Got token ids of type {flat.dtype}. Expected whole numbers.")
        if len(flat) and flat.min() < 0:
            raise TrieError(f"Got token id {flat.min()}. Expected token ids from 0 up.")
        table[np.arange(table.shape[1]) < lengths[:, None]] = flat
    if not table.size or (table[:, 0] == PAD).any():
        raise TrieError("Expected at least one sequence and no empty ones.")
    if table.min() < PAD or table.max() > _INT32_MAX:
        raise TrieError(
            f"Got token ids from {table.min()} to {table.max()}. Expected 0 to {_INT32_MAX}, padded with -1 at the end."
        )
    padded = table == PAD
    if (padded[:, :-1] & ~padded[:, 1:]).any():
        raise TrieError("Got a sequence with -1 inside. Expected padding with -1 at the end only.")
    return table


def compile_table(table: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the trie over ``table`` [N, D], see :class:`~llmrec.decoding.trie.CompiledTrie`.

    Raises
    ------
    TrieError
        A sequence is a proper prefix of another.
    """
    n, depth = table.shape
    # Tokens become ranks among those that occur: two bytes instead of four, and a radix sort instead of a merge sort.
    occurs = np.zeros(int(table.max()) + 2, dtype=bool)
    occurs[table.ravel()] = True  # the padding, -1, marks the last entry
    occurs[-1] = False
    alphabet = np.flatnonzero(occurs).astype(np.int32)
    code_type = np.uint16 if len(alphabet) < np.iinfo(np.uint16).max else np.uint32
    rank = np.zeros(len(occurs), dtype=code_type)  # padding becomes 0 and sorts first, tokens count from 1
    rank[alphabet] = np.arange(1, len(alphabet) + 1)
    codes = rank[table]  # [N, D]
    order = np.lexsort(codes.T[::-1])
    codes = codes[order]
    lengths = (codes != 0).sum(axis=1)

    node = np.zeros(n, dtype=np.int32)  # node of each sorted row at the current depth
    new = np.zeros(n, dtype=bool)  # whether a row's prefix differs from that of the row above
    new[0] = True
    edge_codes, counts = [], [np.zeros(1, np.int32)]
    leaf = np.zeros(n, dtype=np.int32)
    size, first_of_level = 1, 0
    for level in range(depth):
        new[1:] |= codes[1:, level] != codes[:-1, level]
        alive = lengths > level
        starts = np.flatnonzero(new & alive)
        counts[-1] = np.bincount(node[starts] - first_of_level, minlength=size - first_of_level).astype(
            np.int32
        )
        counts.append(np.zeros(len(starts), np.int32))
        edge_codes.append(codes[starts, level] - code_type(1))
        node = np.where(alive, np.int32(size - 1) + np.cumsum(new & alive, dtype=np.int32), node)
        ended = lengths == level + 1
        leaf[ended] = node[ended]
        first_of_level, size = size, size + len(starts)

    all_counts = np.concatenate(counts)
    inner = np.flatnonzero(all_counts[leaf] > 0)
    if len(inner):
        row = int(order[inner[0]])
        sequence = [int(t) for t in table[row] if t != PAD]
        raise TrieError(
            f"Sequence number {row}, {sequence}, is the beginning of another one, so the model could not say where it "
            "ends. Expected an end token on every sequence."
        )
    n_inner = int(np.flatnonzero(all_counts)[-1]) + 1
    by_row = np.empty(n, dtype=np.int32)
    by_row[order] = leaf
    return {
        "alphabet": alphabet,
        "code": np.concatenate(edge_codes),
        "indptr": np.concatenate([[0], np.cumsum(all_counts[:n_inner])]).astype(np.int32),
        "leaf": by_row,
        "order": np.argsort(by_row, kind="stable").astype(np.int32),
    }
