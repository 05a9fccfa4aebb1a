"""Time in words: what the prompt says about when an event happened.

Nothing finer than the log's own resolution is ever said: a log of days has no hours to tell. All dates are UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

__all__ = ["TIME_STYLES", "verbalise_times"]

_HOUR, _DAY = 3600, 86400
# Calendar months and years differ in length; a verbal gap rounds anyway, so mean lengths serve.
_UNITS = (
    ("year", 31_556_952),
    ("month", 2_629_746),
    ("week", 7 * _DAY),
    ("day", _DAY),
    ("hour", _HOUR),
    ("minute", 60),
)
_BUCKETS = (
    (31_556_952, "years later"),
    (2_629_746, "months later"),
    (7 * _DAY, "weeks later"),
    (_DAY, "days later"),
    (_HOUR, "hours later"),
)

TIME_STYLES = {
    "none": "say nothing about time",
    "gap": "the time since the event before, e.g. '3 days later'",
    "bucket": "the same in classes: hours, days, weeks, months or years later",
    "date": "the date, whenever it differs from that of the event before, e.g. '20 September 1997'",
}


def verbalise_times(
    style: str, timestamps: NDArray[np.int64], *, resolution: int = 1, min_gap: int = _HOUR
) -> list[str]:
    """Return the text for each event of one history, ``""`` where there is nothing to say.

    Parameters
    ----------
    style
        One of :data:`TIME_STYLES`.
    timestamps
        Seconds since 1970 (UTC), oldest first [L].
    resolution
        Resolution of the log in seconds (see :func:`llmrec.data.interactions.time_resolution`).
    min_gap
        Gaps shorter than this many seconds go without saying: every word costs tokens.
    """
    if style == "none":
        return [""] * len(timestamps)
    if style == "date":
        dates = [datetime.fromtimestamp(int(t), UTC) for t in timestamps]
        days = [f"{d.day} {d:%B} {d.year}" for d in dates]
        return [day if i == 0 or day != days[i - 1] else "" for i, day in enumerate(days)]
    if style not in ("gap", "bucket"):
        raise ValueError(f"unknown time style {style!r}; expected one of {', '.join(TIME_STYLES)}")
    say = _gap if style == "gap" else _bucket
    gaps = np.diff(timestamps)
    return ["", *(say(int(g), resolution) if g >= max(min_gap, 1) else "" for g in gaps)][: len(timestamps)]


def _gap(seconds: int, resolution: int) -> str:
    for name, size in _UNITS:
        if seconds >= size and size >= resolution:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''} later"
    return ""


def _bucket(seconds: int, resolution: int) -> str:
    return next((text for size, text in _BUCKETS if seconds >= size and size >= resolution), "")
