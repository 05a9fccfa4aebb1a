"""Time in words: what the prompt says about when an event happened.

Nothing finer than the log's own resolution is ever said: a log of days has no hours to tell.

Shapes: L events of one history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from llmrec.data.time_features import local_zone
from llmrec.errors import ConfigError
from llmrec.settings import TIME_STYLES

__all__ = ["TimeWords"]

_HOUR, _DAY = 3600, 86400
# Calendar months and years differ in length; a verbal gap rounds anyway, so mean lengths serve.
_UNITS = (
    ("year", 31_556_952),
    ("month", 2_629_746),
    ("week", 7 * _DAY),
    ("day", _DAY),
    ("hour", _HOUR),
    ("minute", 60),
    ("second", 1),
)
_SEASONS = ("winter", "spring", "summer", "autumn")  # in the north from December, March, June and September
_PARTS_OF_DAY = ((22, "night"), (18, "evening"), (12, "afternoon"), (6, "morning"), (0, "night"))  # from hour


@dataclass(frozen=True)
class TimeWords:
    """Says when events happened.

    Parameters
    ----------
    style
        One of :data:`~llmrec.settings.TIME_STYLES`, or several joined by ``+``.
    resolution
        Resolution of the log in seconds (see :func:`llmrec.data.interactions.time_resolution`).
    min_gap
        Gaps and ages shorter than this many seconds go without saying, longer ones begin a session: every word costs tokens.
    timezone
        IANA name of the zone in which dates and hours are told; without effect in a log of days.
    hemisphere
        "north" or "south": where the seasons are.

    Raises
    ------
    ConfigError
        The log is too coarse for the style.
    """

    style: str = "gap"
    resolution: int = 1
    min_gap: int = _HOUR
    timezone: str = "UTC"
    hemisphere: str = "north"

    def __post_init__(self) -> None:
        for style in self.style.split("+"):
            if style not in TIME_STYLES:
                raise ValueError(f"unknown time style {style!r}; expected one of {', '.join(TIME_STYLES)}")
            if style in ("hour", "part_of_day") and self.resolution > _HOUR:
                raise ConfigError(
                    f"prompt.time has {style}, and this log knows days only: hours told from it would be made up. Expected "
                    "weekday, date or another style of days, or a log with the time of day."
                )
            if style == "session" and self.min_gap < self.resolution:
                raise ConfigError(
                    f"prompt.time has session and prompt.min_gap is {self.min_gap} seconds, and the times of this log are whole "
                    f"multiples of {self.resolution} seconds, which do not tell so short a pause. Expected prompt.min_gap of at "
                    f"least {self.resolution}."
                )

    def __call__(self, timestamps: NDArray[np.int64], now: int | None = None) -> list[str]:
        """Return the text for each event of one history [L], ``""`` where there is nothing to say.

        Parameters
        ----------
        timestamps
            Seconds since 1970 (UTC), oldest first [L].
        now
            What ages are relative to; the newest event if left out. Later events have none.
        """
        if not len(timestamps):
            return []
        now = int(timestamps[-1]) if now is None else now
        said = [self._say(style, timestamps, now) for style in self.style.split("+")]
        return [", ".join(filter(None, texts)) for texts in zip(*said, strict=True)]

    def _say(self, style: str, timestamps: NDArray[np.int64], now: int) -> list[str]:
        if style == "none":
            return [""] * len(timestamps)
        if style in ("gap", "bucket", "unit", "session"):
            return ["", *(self._pause(style, gap) for gap in np.diff(timestamps).tolist())]
        if style == "age":
            return _changes([self._ago(now - when) for when in timestamps.tolist()])
        say = _MOMENTS[style]
        local = [datetime.fromtimestamp(when, self._zone) for when in timestamps.tolist()]
        return _changes([say(moment, self.hemisphere) for moment in local])

    @cached_property
    def _zone(self) -> ZoneInfo:
        return local_zone(self.timezone, self.resolution)

    def _pause(self, style: str, seconds: int) -> str:
        if seconds < max(self.min_gap, 1):
            return ""
        if style == "session":
            return "new visit"
        unit, count = self._largest_unit(seconds)
        if style == "unit":
            return f"{unit}s" if unit else ""
        if style == "bucket":
            return f"{unit}s later" if unit not in ("", "minute", "second") else ""
        return f"{_counted(count, unit)} later" if unit else ""

    def _ago(self, seconds: int) -> str:
        unit, count = self._largest_unit(seconds) if seconds >= self.min_gap else ("", 0)
        return f"{_counted(count, unit)} ago" if unit else ""

    def _largest_unit(self, seconds: int) -> tuple[str, int]:
        """Return the largest unit that fits in and how often, ``""`` where none does that the log knows."""
        fits = ((u, seconds // size) for u, size in _UNITS if seconds >= size and size >= self.resolution)
        return next(fits, ("", 0))


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count > 1 else ''}"


def _changes(texts: list[str]) -> list[str]:
    """Return texts without those that repeat the one before."""
    return [text if i == 0 or text != texts[i - 1] else "" for i, text in enumerate(texts)]


def _date(moment: datetime, hemisphere: str) -> str:
    return f"{moment.day} {moment:%B} {moment.year}"


def _weekday(moment: datetime, hemisphere: str) -> str:
    return f"{moment:%A}"


def _part_of_day(moment: datetime, hemisphere: str) -> str:
    return next(part for begin, part in _PARTS_OF_DAY if moment.hour >= begin)


def _hour(moment: datetime, hemisphere: str) -> str:
    return f"{moment.hour % 12 or 12} {'am' if moment.hour < 12 else 'pm'}"


def _season(moment: datetime, hemisphere: str) -> str:
    return _SEASONS[(moment.month % 12 // 3 + (2 if hemisphere == "south" else 0)) % 4]


_MOMENTS: dict[str, Callable[[datetime, str], str]] = {
    "date": _date,
    "weekday": _weekday,
    "part_of_day": _part_of_day,
    "hour": _hour,
    "season": _season,
}
