"""Popularity: the same list for everyone, and the floor that any personalised system has to clear.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender

__all__ = ["Popularity"]

SECONDS_PER_DAY = 86_400


class Popularity(ScoringRecommender):
    """Scores an item by the number of its training events.

    Parameters
    ----------
    window_days
        Count only events within this many days before the newest training event (that event is always
        counted); ``None`` counts all of them. A short window follows trends, but leaves most of the
        catalogue tied at zero, in catalogue order.
    name
        The name under which its recommendations are stored.

    Notes
    -----
    Under leave-one-out the training events of *other* users may be later than a user's test event, so
    all-time counts look into the future a little. Every system trained on such a split does.
    """

    def __init__(self, *, window_days: float | None = None, name: str = "popularity") -> None:
        if window_days is not None and not window_days > 0:
            raise ConfigError(
                f"Popularity got window_days={window_days}. Expected a positive number of days, "
                "or none to count all training events."
            )
        self.name = name
        self.window_days = window_days
        self._counts: NDArray[np.float64] = np.empty(0)  # [N]

    def fit(self, split: Split) -> None:
        """Count the training events of each item."""
        items, times = split.train.items, split.train.timestamps
        if self.window_days is not None and len(items):
            items = items[times >= times.max() - self.window_days * SECONDS_PER_DAY]
        self._counts = np.bincount(items, minlength=split.n_items).astype(np.float64)

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the counts, once per user [U, N] (a read-only view)."""
        return np.broadcast_to(self._counts, (len(histories), len(self._counts)))
