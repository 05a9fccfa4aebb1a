"""How sure a difference is: bootstrap intervals, a randomisation test, Holm's correction.

Ranking metrics take few different values (with cutoff 10, a user's NDCG is one of eleven numbers). A
bootstrap sample is then one draw from a multinomial over the *different* values, weighted by how many users
have each, and a sign flip of all users is one binomial per value: exactly the same distributions as
resampling users one by one, at a cost that does not grow with the number of users.

Shapes: U users, D different values, B resamples, S systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

__all__ = ["Difference", "Interval", "bootstrap_mean", "holm", "paired_difference", "sign_flip_p"]

Floats = NDArray[np.float64]
RESAMPLES = 10_000  # p-values are then known to about 0.004 around 0.05; the smallest is 1 in 10,001
_EXACT_UP_TO = 12  # differing users: 2**12 sign patterns are fewer than RESAMPLES, so list them all
_CELLS_AT_ONCE = 1 << 22  # B x D numbers drawn at once: bounds the memory


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap confidence interval.

    ``low`` and ``high`` are NaN where all users have the same value: resampling equal values says nothing
    about users who were not asked.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A system minus the baseline, user by user, on one metric."""

    mean: float  # in the metric's unit; above 0 the system is better
    low: float  # 95% paired bootstrap interval; NaN where all users differ equally
    high: float
    relative: float  # mean difference divided by the baseline's mean; NaN if that is 0
    effect_size: float  # mean difference divided by its standard deviation over users; NaN if that is 0
    p: float  # two-sided sign-flip randomisation test; never 0
    p_holm: float  # p corrected for the number of systems compared with the baseline on this metric

    def shown(self, alpha: float = 0.05) -> bool:
        """Return whether the difference is shown: the interval excludes 0 and the corrected p < alpha."""
        return bool((self.low > 0 or self.high < 0) and self.p_holm < alpha)


def bootstrap_mean(
    values: Floats, seed: int, *, confidence: float = 0.95, resamples: int = RESAMPLES, method: str = "bca"
) -> Interval:
    """Return the mean of ``values`` [U] with a bootstrap confidence interval.

    Parameters
    ----------
    values
        One number per user, no NaN.
    seed
        Fixes the resampling: equal input gives an equal interval.
    confidence
        Share of repetitions whose interval should hold the true mean.
    resamples
        B; more make the ends of the interval steadier.
    method
        ``"bca"`` (bias-corrected and accelerated: Efron, "Better bootstrap confidence intervals", JASA
        1987) or ``"percentile"``.

    Raises
    ------
    ValueError
        There are no values, a value is NaN, or the method is unknown.
    """
    if method not in ("bca", "percentile"):
        raise ValueError(f"bootstrap method {method!r} is not known; expected 'bca' or 'percentile'")
    different, counts = _tally(values)
    mean = float(np.mean(values))
    if len(different) == 1:
        return Interval(mean, np.nan, np.nan)
    means = _resampled_means(different, counts, np.random.default_rng(seed), resamples)  # [B]
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        tails = _bca_tails(tails, means, different, counts)
    low, high = np.quantile(means, tails)
    return Interval(mean, float(low), float(high))


def sign_flip_p(differences: Floats, seed: int, *, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the paired randomisation test on the mean of ``differences`` [U].

    Under the null hypothesis the two systems are exchangeable for each user, so each difference is as
    likely to have the other sign (Fisher 1935; Smucker, Allan and Carterette, "A comparison of statistical
    significance tests for information retrieval evaluation", CIKM 2007). With few differing users all sign
    patterns are listed and p is exact; else it is ``(1 + hits) / (1 + resamples)``, which is never 0 and
    keeps the test valid (Phipson and Smyth 2010).
    """
    size, counts = _tally(np.abs(np.asarray(differences, dtype=np.float64)))
    size, counts = size[size > 0], counts[size > 0]
    if len(size) == 0:
        return 1.0
    # Sums of equal parts may differ in their last bits, and one that should be 0 may not be.
    observed = abs(float(np.sum(differences))) - 1e-12 * float(size @ counts)
    total = int(counts.sum())
    if total <= _EXACT_UP_TO:
        flips = (np.arange(2**total)[:, None] >> np.arange(total)) & 1  # [2**n, n]
        sums = (2 * flips - 1) @ np.repeat(size, counts)
        return float((np.abs(sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for block in _blocks(resamples, len(size)):
        positive = rng.binomial(counts, 0.5, size=(block, len(size)))  # [b, D]
        hits += int((np.abs((2 * positive - counts) @ size) >= observed).sum())
    return (1 + hits) / (1 + resamples)


def paired_difference(
    values: Floats, baseline: Floats, seed: int, *, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Difference:
    """Return ``values - baseline``, both [U] for the same users in the same order; ``p_holm`` is ``p``."""
    delta = np.asarray(values, dtype=np.float64) - baseline
    interval = bootstrap_mean(delta, seed, confidence=confidence, resamples=resamples)
    base, spread = float(np.mean(baseline)), float(np.std(delta, ddof=1)) if len(delta) > 1 else 0.0
    p = sign_flip_p(delta, seed + 1, resamples=resamples)
    return Difference(
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        relative=interval.mean / base if base else np.nan,
        effect_size=interval.mean / spread if spread else np.nan,
        p=p,
        p_holm=p,
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected so that the chance of *any* false claim stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 1979: the i-th
    smallest of m is multiplied by ``m - i + 1``; a larger p never gets a smaller corrected one.
    """
    corrected: dict[str, float] = {}
    running = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, min(1.0, (len(p_values) - i) * p_values[name]))
        corrected[name] = running
    return {name: corrected[name] for name in p_values}


def _tally(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the different values [D], upwards, and how many users have each [D]."""
    if len(values) == 0 or np.isnan(values).any():
        raise ValueError(f"expected one number per user and no NaN; got {len(values)} values")
    # Differences of equal parts can differ in the last bit; without rounding D would grow for nothing.
    different, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), 12), return_counts=True)
    return different.astype(np.float64), counts.astype(np.int64)


def _blocks(resamples: int, width: int) -> list[int]:
    step = max(1, _CELLS_AT_ONCE // width)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


def _resampled_means(
    different: Floats, counts: NDArray[np.int64], rng: np.random.Generator, resamples: int
) -> Floats:
    n = int(counts.sum())
    parts = [
        rng.multinomial(n, counts / n, size=block) @ different for block in _blocks(resamples, len(different))
    ]
    return np.asarray(np.concatenate(parts) / n, dtype=np.float64)


def _bca_tails(tails: Floats, means: Floats, different: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return the quantiles of ``means`` [B] to take; ties count half, as the values are discrete."""
    n = counts.sum()
    mean = float(counts @ different) / n
    below = ((means < mean - 1e-12).mean() + (means <= mean + 1e-12).mean()) / 2
    if not 0 < below < 1:
        return tails
    bias = ndtri(below)
    # The jackknife mean without user i is (n m - x_i) / (n - 1), so its deviation is (x_i - m) / (n - 1)
    # with the sign turned, and the factor cancels in the ratio.
    deviation = different - mean
    variance = float(counts @ deviation**2)
    acceleration = float(counts @ deviation**3) / (6 * variance**1.5)
    z = bias + ndtri(tails)
    return np.asarray(ndtr(bias + z / (1 - acceleration * z)), dtype=np.float64)
