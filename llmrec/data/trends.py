"""What was in fashion when: how often each item occurs in the training events of a window that ends at a moment.

Only training events count, and of these only those strictly before the moment, so that a question is told nothing that
happened at its own time or later.

Shapes: E training events, N items of the catalogue, Q questions of one item and one moment each, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.errors import ConfigError

__all__ = ["SECONDS_PER_DAY", "ItemTimes", "end_of"]

SECONDS_PER_DAY = 86_400
_AT_ONCE = 1_000_000  # questions answered together, so that what is computed on the way stays small


def end_of(train: Histories) -> int:
    """Return the first second behind all training events; 0 where there are none.

    Windows of later moments end here: nothing that came after was learned from, and an empty window would say of every item
    alike that it is out of fashion.
    """
    return int(train.timestamps.max()) + 1 if len(train.timestamps) else 0


class ItemTimes:
    """The times of each item's training events, to be asked how many lie before a moment.

    Parameters
    ----------
    train
        The training histories.
    n_items
        Size of the catalogue.

    Notes
    -----
    Item and time are one number, item x span + time, in one sorted array of 8 bytes an event. So a question about any item
    is one binary search, and many questions are one call.
    """

    def __init__(self, train: Histories, n_items: int) -> None:
        times = train.timestamps
        self.end = end_of(train)
        self._begin = int(times.min()) if len(times) else 0
        self._span = self.end - self._begin + 1  # times of 0 (the first event) to span - 1 (behind the last)
        self._keys = train.items.astype(np.int64) * self._span + (times - self._begin)  # [E]
        self._keys.sort()
        self._indptr = self._keys.searchsorted(np.arange(n_items + 1) * self._span)  # [N + 1]

    def features(
        self, items: NDArray[np.integer], moments: NDArray[np.integer], windows: Sequence[float]
    ) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Describe how each item [Q] fared until its moment [Q].

        Parameters
        ----------
        items
            Catalogue indices; -1 for none, of which all is NaN.
        moments
            Seconds since 1970, UTC. Windows of moments later than all training events end behind the last of these.
        windows
            Lengths in days, ascending.

        Returns
        -------
        The names of the columns, and the columns [Q, W + 4]:

        ``item_events_<days>d``
            Training events within so many days before the moment, one column per window.
        ``item_events``
            All training events before the moment.
        ``item_growth``
            Events per day in the shortest window over those in the longest: above 1 the item is on the rise. NaN where
            the longest has none.
        ``item_age_days``
            Days from the item's first training event to the moment; NaN where none lies before it.
        ``item_idle_days``
            Days from its newest training event before the moment to the moment, or to the end of the training events
            where that is earlier; NaN likewise.

        Raises
        ------
        ConfigError
            A window is not positive, or they do not ascend.
        """
        windows = [float(days) for days in windows]
        if not windows or not all(a < b for a, b in zip([0.0, *windows], windows, strict=False)):
            raise ConfigError(
                f"The trend windows are {windows}. Expected one or more positive numbers of days in ascending order."
            )
        names = (*(f"item_events_{days:g}d" for days in windows),
                 "item_events", "item_growth", "item_age_days", "item_idle_days")  # fmt: skip
        found = np.empty((len(items), len(names)), dtype=np.float32)
        for start in range(0, len(items), _AT_ONCE):
            # In the order of items neighbouring searches end near each other, in what the processor's cache still holds.
            rows = start + np.argsort(items[start : start + _AT_ONCE])
            found[rows] = self._features(items[rows], moments[rows], windows)
        return names, found

    def _features(
        self, items: NDArray[np.integer], moments: NDArray[np.integer], windows: list[float]
    ) -> NDArray[np.float64]:
        known = items >= 0
        items, ends = np.where(known, items, 0), np.minimum(moments, self.end)
        place, first = self._place(items, ends), self._indptr[items]
        counts = [place - self._place(items, ends - round(w * SECONDS_PER_DAY)) for w in windows]
        total = place - first
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = (counts[0] / windows[0]) / (counts[-1] / windows[-1])
        age = (moments - self._time(first, total > 0)) / SECONDS_PER_DAY
        idle = (ends - self._time(place - 1, total > 0)) / SECONDS_PER_DAY
        columns = np.column_stack([*counts, total, growth, age, idle])
        columns[~known] = np.nan
        return columns

    def _place(self, items: NDArray[np.integer], moments: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return where in the keys the first event of an item at its moment or later is, or would be."""
        since = np.clip(moments - self._begin, 0, self._span - 1)
        found: NDArray[np.int64] = self._keys.searchsorted(items * np.int64(self._span) + since)
        return found

    def _time(self, place: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the time of the events at some places of the keys, NaN where there is none."""
        times = np.full(len(place), np.nan)
        times[there] = self._keys[place[there]] % self._span + self._begin
        return times
