"""Recommendations: ranked items per user, in memory and as the parquet file that stages exchange.

The file has the columns ``user_id`` (string), ``rank`` (int, from 1), ``item_id`` (string) and ``score``
(float), so lists made by any other tool can be put in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recommendations"]


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The top-K lists of one system.

    A list shorter than K is filled with item ``-1`` and score ``-inf`` at its end.
    """

    system: str
    user_ids: tuple[str, ...]  # [U]
    items: NDArray[np.int32]  # [U, K] catalogue indices, best first
    scores: NDArray[np.float64]  # [U, K] descending within a row

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.items.shape[1])
