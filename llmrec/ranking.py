"""The best of many scores, in an order that does not depend on how they are sorted.

Shapes: U users, N items of the catalogue, K places of a list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["top_k"]


def top_k(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the ``k`` best columns of each row and their scores, both [U, k].

    Equal scores keep column order, so the result does not depend on the sorting algorithm. Columns at
    ``-inf`` are not recommended: the list is filled with ``-1`` instead.
    """
    k = min(k, scores.shape[1])
    # argpartition alone picks arbitrarily among ties at the border, so ask it for the border *value*,
    # keep all columns above it and fill up with the first columns that equal it.
    border = np.partition(scores, -k, axis=1)[:, -k][:, None]  # [U, 1]
    above, equal = scores > border, scores == border
    keep = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(keep)[1].reshape(len(scores), k)
    values = np.take_along_axis(scores, columns, axis=1).astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    items = np.take_along_axis(columns, order, axis=1).astype(np.int32)
    return np.where(np.isneginf(values), np.int32(-1), items), values
