"""What another recommender holds for probable at each training event: the soft targets of a distillation.

Shapes: E events of the training histories, N items of the catalogue, K items kept for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SoftTargets"]


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A distribution over the items for each event; what the kept items leave of 1 is spread evenly over all N."""

    items: NDArray[np.int32]  # [E, K] catalogue indices; what has no probability may stand there twice
    probabilities: NDArray[np.float16]  # [E, K] that the event is of this item, by the events before it
