"""Scores of different systems on one scale, user by user.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from llmrec.data.histories import Histories

__all__ = ["Fusion", "cached_rows", "comparable", "new_items"]

Fusion = Literal["zscore", "rank", "logprob"]

RANK_CONSTANT = 60  # of reciprocal rank fusion, as its authors chose it

_AT_ONCE = 100_000  # scores whose arrays fit into a cache: z-scores are four times as fast as of a thousand users at once


def new_items(histories: Histories, n_items: int) -> NDArray[np.bool_]:
    """Return which items are not in each history [U, N]."""
    new = np.ones((len(histories), n_items), dtype=bool)
    new[histories.owners, histories.items] = False
    return new


def cached_rows(scores: NDArray[np.float64]) -> Iterator[slice]:
    """Yield rows of scores [U, N], so many that what is made of them on the way stays in a core's cache."""
    rows = max(1, _AT_ONCE // scores.shape[1])
    for start in range(0, len(scores), rows):
        yield slice(start, start + rows)


def comparable(scores: NDArray[np.float64], new: NDArray[np.bool_], fusion: Fusion) -> NDArray[np.float64]:
    """Return scores that can be added to those of another system [U, N].

    Parameters
    ----------
    scores
        Of one system [U, N].
    new
        Which items decide how scores are mapped [U, N]; the others are mapped alike.
    fusion
        zscore: (score - mean) / standard deviation. Where all new items have the same score, all of them are 0.

        rank: 1 / (60 + rank), with the number of new items of a higher score + 1 as the rank, so that equal scores stay
        equal (reciprocal rank fusion, Cormack et al. 2009).

        logprob: the log of the softmax over the new items. Its weighted sum is the log of a product of the systems'
        distributions, but for a constant per user, and so ranks as the weighted sum of the scores themselves.
    """
    if fusion == "rank":
        ahead = [
            row[mask].size - np.searchsorted(np.sort(row[mask]), row, side="right")
            for row, mask in zip(scores, new, strict=True)
        ]
        reciprocal: NDArray[np.float64] = 1.0 / (RANK_CONSTANT + 1.0 + np.stack(ahead))
        return reciprocal
    count = np.maximum(new.sum(axis=1, keepdims=True), 1)  # [U, 1] 1 where everything was seen
    if fusion == "logprob":
        hidden = np.where(new, scores, -np.inf)
        total = logsumexp(hidden, axis=1, keepdims=True)
        return scores - np.asarray(np.where(np.isfinite(total), total, 0.0), dtype=np.float64)
    standard = np.empty(scores.shape)
    for part in cached_rows(scores):
        standard[part] = _standard(scores[part], new[part], count[part])
    return standard


def _standard(
    scores: NDArray[np.float64], new: NDArray[np.bool_], count: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return z-scores [U, N]; ``count`` is how many items they are over [U, 1]."""
    mean = np.where(new, scores, 0.0).sum(axis=1, keepdims=True) / count
    centred = scores - mean
    deviation = np.sqrt(np.where(new, centred**2, 0.0).sum(axis=1, keepdims=True) / count)
    lowest = np.where(new, scores, np.inf).min(axis=1, keepdims=True)
    # Asked of the scores, since the deviation of equal ones need not be 0 to the last bit.
    differ = np.where(new, scores, -np.inf).max(axis=1, keepdims=True) > lowest
    return np.where(differ, centred / np.where(differ, deviation, 1.0), 0.0)
