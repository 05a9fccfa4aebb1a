"""The first and the last moment of a log, as cleaning.earliest and cleaning.latest say them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

__all__ = ["Bound", "earliest_moment", "latest_moment"]

_DAY = 86_400


class Bound(NamedTuple):
    """What times of events are compared with, in seconds since 1970.

    Events that are days are at midnight UTC wherever the log comes from, so what is at midnight UTC has a bound of its own. 31 January
    begins at 5:00 UTC in New York, and a purchase "on 31 January" is not before it.
    """

    moment: int
    day: int

    def beside(self, times: pl.Series) -> pl.Series:
        """Return the bound that each time has."""
        days = times % _DAY == 0
        return pl.select(pl.when(days).then(self.day).otherwise(self.moment)).to_series()


def earliest_moment(date: str, timezone: str) -> Bound:
    """Return a moment, or the first second of a day."""
    return _bound(datetime.fromisoformat(date), timezone)


def latest_moment(date: str, timezone: str) -> Bound:
    """Return a moment, the last second of a day, or now."""
    if date == "now":
        now = datetime.now(ZoneInfo(timezone))
        # East of Greenwich a day is there before it is in UTC. A log elsewhere may have its days in UTC all the same.
        day = max(now, now.replace(tzinfo=UTC))
        return Bound(int(now.timestamp()), int(day.timestamp()))
    when = datetime.fromisoformat(date)
    if re.fullmatch(r"\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d-?\d", date):
        # The second one, where clocks are set back at midnight.
        when = (when + timedelta(seconds=_DAY - 1)).replace(fold=1)
    return _bound(when, timezone)


def _bound(when: datetime, timezone: str) -> Bound:
    zones = (when.tzinfo, when.tzinfo) if when.tzinfo else (ZoneInfo(timezone), UTC)
    return Bound(*(int(when.replace(tzinfo=zone).timestamp()) for zone in zones))
