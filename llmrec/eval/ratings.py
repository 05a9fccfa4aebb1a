"""How far predicted ratings are from the given ones, for systems that predict ratings.

Shapes: E events, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmrec.errors import DataError

__all__ = ["RatingErrors", "rating_errors"]

_METRICS = ("mse", "rmse", "mae", "accuracy")


@dataclass(frozen=True, eq=False)
class RatingErrors:
    """What a system's predictions miss the ratings by, event by event; :func:`rating_errors` makes it."""

    errors: NDArray[np.float64]  # [E] prediction minus rating
    exact: NDArray[np.bool_]  # [E] whether the rounded prediction is the rating

    def __len__(self) -> int:
        return len(self.errors)

    def means(self) -> dict[str, float]:
        """Return ``mse``, ``rmse``, ``mae`` and ``accuracy`` over all events; NaN without events."""
        return {name: float(v[0]) for name, v in self.by_user(np.zeros(len(self), np.int64), 1).items()}

    def by_user(self, users: NDArray[np.integer], n_users: int) -> dict[str, NDArray[np.float64]]:
        """Return the same four for each user [U]; NaN for a user without events.

        Their mean over users is not that over events: there, users with many events count more.

        Parameters
        ----------
        users
            Row of the user of each event [E], below ``n_users``.
        """
        events = np.bincount(users, minlength=n_users).astype(np.float64)
        events[events == 0] = np.nan

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(users, weights=values, minlength=n_users) / events

        mse = mean(self.errors**2)
        found = (mse, np.sqrt(mse), mean(np.abs(self.errors)), mean(self.exact.astype(np.float64)))
        return dict(zip(_METRICS, found, strict=True))


def rating_errors(predicted: ArrayLike, given: ArrayLike, step: float = 1.0) -> RatingErrors:
    """Compare predicted ratings with given ones, event by event.

    Parameters
    ----------
    predicted, given
        Ratings [E] in the same order and on the same scale.
    step
        Distance of neighbouring ratings of the scale, for the accuracy only: 1 for whole stars, 0.5 for half ones. A
        prediction is rounded to the nearest multiple, halves up, so one that lies beyond the scale by half a step or
        more matches no rating: clip predictions first if that is what the system does.

    Raises
    ------
    DataError
        Lengths differ, or a number is not finite: an event without a prediction cannot be left out silently.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (predicted, given))
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(
            f"There are predictions of shape {a.shape} for ratings of shape {b.shape}. Expected one prediction per rating, "
            "in the same order."
        )
    bad = ~(np.isfinite(a) & np.isfinite(b))
    if bad.any():
        raise DataError(
            f"{int(bad.sum()):,} of {len(a):,} events have no finite prediction or rating, the first at place "
            f"{int(bad.argmax())}. Expected numbers: predict a fallback, such as the mean rating, or compare all systems "
            "without these events."
        )
    rounded = np.floor(a / step + 0.5) * step
    return RatingErrors(a - b, np.isclose(rounded, b, rtol=0, atol=step / 1000))
