"""How numbers are distributed: quantiles and histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "Spread"]


@dataclass(frozen=True)
class Spread:
    """Mean and quantiles of some numbers; each quantile is one of the numbers. All NaN where there are none."""

    mean: float
    smallest: float
    p10: float
    p25: float
    median: float
    p75: float
    p90: float
    p99: float
    largest: float

    @classmethod
    def of(cls, values: NDArray[np.number]) -> Spread:
        """Measure numbers [n]."""
        if not len(values):
            return cls(*[math.nan] * 9)
        # The smallest number that at least this share of all does not exceed: no halves of events.
        shares = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
        return cls(
            float(np.mean(values)), *np.quantile(values, shares, method="inverted_cdf").astype(float).tolist()
        )


@dataclass(frozen=True)
class Histogram:
    """Counts of whole numbers in ranges; ranges without any are there too."""

    lowest: tuple[int, ...]  # first number of each range
    highest: tuple[int, ...]  # last number of each range
    counts: tuple[int, ...]

    @classmethod
    def doubling(cls, values: NDArray[np.integer]) -> Histogram:
        """Count positive numbers in the ranges 1, 2, 3-4, 5-8, ..."""
        exponents = np.ceil(np.log2(np.maximum(values, 1))).astype(np.int64)
        counts = np.bincount(exponents)
        highest = [2**e for e in range(len(counts))]
        return cls((1, *(h + 1 for h in highest[:-1])), tuple(highest), tuple(counts.tolist()))

    @classmethod
    def even(cls, values: NDArray[np.integer], ranges: int = 25) -> Histogram:
        """Count positive numbers in about as many ranges of equal width; all above the 99.5% quantile share the last one."""
        top = int(np.quantile(values, 0.995, method="inverted_cdf")) if len(values) else 1
        width = max(1, -(-top // ranges))
        last = (top - 1) // width
        counts = np.bincount(np.minimum((values - 1) // width, last), minlength=last + 1)
        highest = [width * (k + 1) for k in range(last + 1)]
        highest[-1] = max(highest[-1], int(values.max(initial=0)))
        return cls(tuple(width * k + 1 for k in range(last + 1)), tuple(highest), tuple(counts.tolist()))
