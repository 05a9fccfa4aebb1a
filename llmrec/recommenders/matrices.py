"""Histories as sparse matrices, and the sparse part of similarities that is kept.

Shapes: U users, N items of the catalogue, E events, R rows, C columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from llmrec.data.histories import Histories
from llmrec.ranking import top_k

__all__ = ["best_of_rows", "decay_problems", "recency_matrix"]


def recency_matrix(histories: Histories, n_items: int, decay: float = 1.0) -> sparse.csr_array:
    """Return ``decay ** age`` of each user's items [U, N]; an item seen twice has its newest age.

    The newest event has age 0, the one before age 1, and so on. ``decay`` 1 gives the binary matrix of who saw what.
    """
    users = histories.owners  # [E]
    age = np.repeat(histories.indptr[1:], histories.lengths) - 1 - np.arange(len(users))  # [E]
    # np.unique returns the first occurrence, so it is asked for the events newest first.
    pair = (users * n_items + histories.items)[::-1]
    newest = len(pair) - 1 - np.unique(pair, return_index=True)[1]
    return sparse.csr_array(
        (float(decay) ** age[newest], (users[newest], histories.items[newest])),
        shape=(len(histories), n_items),
    )


def decay_problems(decay: float) -> list[str]:
    """Return what is wrong with the decay of a history, nothing if it is a weight above 0 and at most 1."""
    if 0 < decay <= 1:
        return []
    return [f"decay={decay}; expected a weight above 0 and at most 1 (1 is no decay)"]


def best_of_rows(values: NDArray[np.float64], k: int) -> sparse.csr_array:
    """Keep the ``k`` highest values of each row [R, C], none at ``-inf``; equal values by column order."""
    columns, best = top_k(values, k)
    kept = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return sparse.csr_array((best[kept], columns[kept], indptr), shape=values.shape)
