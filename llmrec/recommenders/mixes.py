"""Ways to fuse the comparable scores of several recommenders: which there are, what each makes of scores, and how good each is.

Shapes: P parts, U users, N items of the catalogue, C of them cold, G mixes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Holdout
from llmrec.recommenders.comparable import new_items

__all__ = ["Mix", "all_mixes", "mixed", "mixed_gains", "n_ways", "weight_grid"]

_COLD_FACTORS = (0.25, 0.5, 0.75, 1.0)
_MOST_WEIGHTS = 100  # points of the grid by default


class Mix(NamedTuple):
    """How parts are fused: weights in sum 1 [P], and those of cold items, in sum what their scores are multiplied with [P]."""

    weights: NDArray[np.float64]
    cold: NDArray[np.float64] | None  # None: as all other items


def weight_grid(parts: int, steps: int | None = None) -> NDArray[np.float64]:
    """Return all ways to divide 1 among ``parts`` in equal steps [G, P], those of single parts among them.

    If left out, the steps are tenths, or the finest that make no more than 100 ways.
    """
    if steps is None:
        steps = 10
        while steps > 1 and n_ways(parts, steps) > _MOST_WEIGHTS:
            steps -= 1

    def divide(rest: int, among: int) -> Iterator[list[int]]:
        if among == 1:
            yield [rest]
            return
        for first in range(rest, -1, -1):
            yield from ([first, *others] for others in divide(rest - first, among - 1))

    return np.array(list(divide(steps, parts))) / steps


def n_ways(parts: int, steps: int) -> int:
    """Return in how many ways so many steps can be divided among the parts."""
    return math.comb(steps + parts - 1, parts - 1)


def all_mixes(grid: NDArray[np.float64], knows: NDArray[np.bool_], factor: float | None = None) -> list[Mix]:
    """Return what there is to choose among: each of some weights [., P], with each way to judge cold items.

    They are judged as all other items, or by the parts that know something of them as these are weighted (evenly, where they have no
    weight), or by one of these alone, times .25, .5, .75 or 1. Mixes of equal weights stand together.

    Parameters
    ----------
    knows
        Which parts know something of cold items [P].
    factor
        If given, cold items are judged by all these parts, times it, and there is no choice.
    """
    mixes = []
    for weights in grid:
        together = np.where((weights * knows).any(), weights * knows, knows.astype(np.float64))
        if factor is not None:
            mixes.append(Mix(weights, factor * together / together.sum()))
            continue
        judges = [np.eye(len(knows))[p] for p in np.flatnonzero(knows)]
        if np.count_nonzero(together) > 1:
            judges.append(together / together.sum())
        mixes.append(Mix(weights, None))
        mixes += [Mix(weights, f * judge) for judge in judges for f in _COLD_FACTORS]
    return mixes


def mixed(mix: Mix, scores: NDArray[np.float64], is_cold: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the fused scores [U, N] of comparable ones [P, U, N]; ``is_cold`` says which items are [N]."""
    total = np.asarray(np.tensordot(mix.weights, scores, 1), dtype=np.float64)
    if mix.cold is not None:
        total[:, is_cold] = np.tensordot(mix.cold, scores[:, :, is_cold], 1)
    return total


def mixed_gains(
    mixes: Sequence[Mix],
    scores: NDArray[np.float64],
    holdout: Holdout,
    is_cold: NDArray[np.bool_],
    *,
    exclude_seen: bool,
) -> NDArray[np.float64]:
    """Return each user's NDCG@10 under each mix [G, U], as :func:`~llmrec.recommenders.holdout.holdout_gains` of what it makes of scores.

    Mixes that differ in how they judge cold items alone, and stand together, are little more work than one.
    """
    n_items, targets, users = scores.shape[2], holdout.target_items, np.arange(len(holdout))
    new = new_items(holdout.histories, n_items) if exclude_seen else np.ones(scores.shape[1:], dtype=bool)
    warm, cold = np.flatnonzero(~is_cold), np.flatnonzero(is_cold)
    of_cold, new_cold = scores[:, :, cold], new[:, cold]
    asked_cold = np.flatnonzero(is_cold[targets])
    place = np.searchsorted(cold, targets[asked_cold])
    gains = np.empty((len(mixes), len(holdout)))
    weights: NDArray[np.float64] | None = None
    for g, mix in enumerate(mixes):
        if mix.weights is not weights:
            weights = mix.weights
            plain = np.where(new, np.tensordot(weights, scores, 1), -np.inf)
            plain_own, plain_cold, plain_warm = plain[users, targets], plain[:, cold], plain[:, warm]
            ahead_warm = _ahead(plain_warm, plain_own, warm, targets)
        own, ahead, judged = plain_own, ahead_warm, plain_cold
        if mix.cold is not None:
            judged = np.where(new_cold, np.tensordot(mix.cold, of_cold, 1), -np.inf)
            own, ahead = plain_own.copy(), ahead_warm.copy()
            own[asked_cold] = judged[asked_cold, place]
            ahead[asked_cold] = _ahead(plain_warm[asked_cold], own[asked_cold], warm, targets[asked_cold])
        # From 1, since the target is not behind itself.
        rank = ahead + _ahead(judged, own, cold, targets)
        gains[g] = np.where((rank <= 10) & np.isfinite(own), 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)
    return gains


def _ahead(
    scores: NDArray[np.float64],
    own: NDArray[np.float64],
    items: NDArray[np.int64],
    targets: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Return how many of some items [n] are not behind each target [U], by their scores [U, n] and the targets' own [U].

    Of equal scores the first item of the catalogue is ahead. What is not behind counts as ahead, so that a target whose score is no
    number ranks last.
    """
    level = own[:, None]
    tied_behind = (scores == level) & (items > targets[:, None])
    ahead: NDArray[np.int64] = len(items) - (scores < level).sum(axis=1) - tied_behind.sum(axis=1)
    return ahead
