"""Item vectors for items that a system knows nothing of, borrowed from the items that other systems hold for alike.

Shapes: N items of the catalogue, D features of one system's vectors, M items without a vector, B of them at once, L lenders.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ranking import top_k

__all__ = ["borrowed"]

_LENDERS = 10
_AT_ONCE = 2**24  # cosines


def borrowed(vectors: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Return the item vectors of several systems, with fewer rows of 0.

    What a system has no vector for (0), for want of events say, gets the mean of its vectors of the ten items that the vectors of
    the others hold for the most alike, weighted by the square of their cosine, at length 1: imputation by nearest neighbours
    (Troyanskaya et al. 2001, "Missing value estimation methods for DNA microarrays"). So an item without events stands where items
    of like titles do, and not at 0, where whoever learns from these vectors has seen no item.

    Parameters
    ----------
    vectors
        Of each system, of length 1 or 0 [N, D]. An item that is not like any other stays at 0.
    """
    return [_lent(own, [other for other in vectors if other is not own]) for own in vectors]


def _lent(own: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return one system's vectors, those of 0 borrowed."""
    has = own.any(axis=1)
    lenders, missing = np.flatnonzero(has), np.flatnonzero(~has)
    if not (len(lenders) and len(missing) and others):
        return own
    filled = own.copy()
    known = np.concatenate(others, axis=1)
    known_lenders = known[lenders].T
    at_once = max(1, _AT_ONCE // len(lenders))
    for start in range(0, len(missing), at_once):
        rows = missing[start : start + at_once]  # [B]
        nearest, cosines = top_k(known[rows] @ known_lenders, _LENDERS)  # [B, L]
        weights = np.square(cosines.clip(min=0)).astype(np.float32)
        mean = np.einsum("bl,bld->bd", weights, own[lenders[nearest]])
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        filled[rows] = np.divide(mean, length, out=np.zeros_like(mean), where=length > 0)
    return filled
