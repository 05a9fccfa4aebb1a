"""When things happened: span, resolution, events over time, gaps and moments with too many events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.interactions import time_resolution

__all__ = ["EARLY", "Gap", "Times", "check_times"]

EARLY = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp())  # no log of the kind is older
_DAY = 86_400
_LONG_GAP = 4 * _DAY  # longer than a weekend with holidays
_BUSY = 100  # events on either side, in as much time, that make a gap one of the log and not of its users


@dataclass(frozen=True)
class Gap:
    """A time without any event; seconds since 1970 (UTC) of the events before and after it."""

    before: int
    after: int

    @property
    def seconds(self) -> int:
        """Its length."""
        return self.after - self.before


@dataclass(frozen=True)
class Times:
    """Times are seconds since 1970 (UTC)."""

    first: int
    last: int
    resolution: int  # seconds: 1, 60, 3600 or 86400
    distinct: int  # different times
    unit: Literal["day", "week", "month", "year"]  # of the periods; a week begins on Monday
    periods: tuple[int, ...]  # when each begins; periods without events are there too
    events: tuple[int, ...]  # in each period
    early: int  # events before 1990
    busiest: int  # the time that most events have
    busiest_events: int
    usual_events: float  # median number of events that share a time
    gap: (
        Gap | None
    )  # the longest of 4 days or more with 100 events or more just before and after, in as much time each


def check_times(timestamps: NDArray[np.int64]) -> Times:
    """Measure the times [E] of a log's events, in any order."""
    ordered = np.sort(timestamps)
    first, last = int(ordered[0]), int(ordered[-1])
    starts = np.flatnonzero(np.diff(ordered, prepend=first - 1))
    together = np.diff(starts, append=len(ordered))
    most = int(together.argmax())
    days = (last - first) / _DAY
    unit: Literal["day", "week", "month", "year"] = (
        "day" if days <= 62 else "week" if days <= 731 else "month" if days <= 40 * 366 else "year"
    )
    periods = _periods(first, last, unit)
    counts = np.diff(ordered.searchsorted(periods), append=len(ordered))
    return Times(
        first=first,
        last=last,
        resolution=time_resolution(ordered),
        distinct=len(starts),
        unit=unit,
        periods=tuple(periods.tolist()),
        events=tuple(counts.tolist()),
        early=int(ordered.searchsorted(EARLY)),
        busiest=int(ordered[starts[most]]),
        busiest_events=int(together[most]),
        usual_events=float(np.median(together)),
        gap=_longest_gap(ordered),
    )


def _periods(first: int, last: int, unit: str) -> NDArray[np.int64]:
    every = {"day": "1d", "week": "1w", "month": "1mo", "year": "1y"}[unit]
    ends = pl.from_epoch(pl.Series([first, last]), "s").dt.truncate(every)
    return pl.datetime_range(ends[0], ends[1], every, eager=True).dt.epoch("s").to_numpy()


def _longest_gap(ordered: NDArray[np.int64]) -> Gap | None:
    lengths = np.diff(ordered)
    steps = lengths[lengths > 0]
    long = (
        max(_LONG_GAP, 10 * float(np.median(steps))) if len(steps) else np.inf
    )  # a log of months has gaps of months
    for place in np.flatnonzero(lengths >= long)[np.argsort(-lengths[lengths >= long], kind="stable")]:
        before, after = int(ordered[place]), int(ordered[place + 1])
        left = place + 1 - ordered.searchsorted(before - (after - before))
        right = ordered.searchsorted(after + (after - before), side="right") - place - 1
        if min(left, right) >= _BUSY:
            return Gap(before, after)
    return None
