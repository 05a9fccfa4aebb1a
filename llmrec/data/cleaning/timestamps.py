"""Timestamps of any usual form into whole seconds since 1970 (UTC)."""

from __future__ import annotations

import re
from typing import NamedTuple

import polars as pl

__all__ = ["TimestampParser"]

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Numbers below the first bound are seconds, below the second milliseconds ...: as seconds, 1e11 is the year 5138; as
# milliseconds it is 1973. Times between 1973 and 5138 can be told apart.
_BELOW = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": float("inf")}
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799  # dates are from the year 1 to the end of 9999


# Codes of a time of day, with or without a sign for its padding. %s is none: like every number it counts in UTC.
_CLOCK = re.compile("%[-_0]?[HIklTRXrc]")
_ZONE = re.compile(r"%[:#]?z|%\+")


class _Pattern(NamedTuple):
    text: str
    has_time: bool
    has_zone: bool


_ISO = (
    _Pattern("%Y-%m-%dT%H:%M:%S%.f%#z", True, True),
    _Pattern("%Y-%m-%d %H:%M:%S%.f%#z", True, True),
    _Pattern("%Y-%m-%dT%H:%M%#z", True, True),
    _Pattern("%Y-%m-%d %H:%M%#z", True, True),
    _Pattern("%Y-%m-%dT%H:%M:%S%.f", True, False),
    _Pattern("%Y-%m-%d %H:%M:%S%.f", True, False),
    _Pattern("%Y-%m-%dT%H:%M", True, False),
    _Pattern("%Y-%m-%d %H:%M", True, False),
    _Pattern("%Y-%m-%d", False, False),
    _Pattern("%Y%m%d", False, False),
)


class TimestampParser:
    """Reads a column in batches; what the numbers count is decided once, by the first batch.

    Parameters
    ----------
    form
        ``auto``, ``s``, ``ms``, ``us``, ``ns``, ``iso`` or a pattern with ``%``.
    timezone
        Of dates with a time of day that do not say. Dates without one are that day in UTC wherever they come from: a log of
        days stays one.
    """

    def __init__(self, form: str = "auto", timezone: str = "UTC") -> None:
        self.form = form
        self.timezone = timezone
        self.guessed = False
        self.dated = False  # whether a column had dates, of which there is nothing to decide

    def parse(self, column: pl.Series) -> pl.Series:
        """Return whole seconds [n], rounded down; null where nothing can be made of the value."""
        if column.dtype.is_temporal():
            self.dated = True
            return self._dates(column)
        if not column.dtype.is_numeric():
            column = column.cast(pl.String, strict=False).str.strip_chars()
        if self.form == "auto" and column.len() > column.null_count():
            self.form, self.guessed = self._guess(column), True
        if self.form in _PER_SECOND:
            return self._numbers(column)
        if self.form == "auto":  # nothing but nulls so far
            return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
        text = _dates_as_text(column)
        if self.form == "iso":
            return self._patterns(text, _ISO)
        pattern = _Pattern(self.form, bool(_CLOCK.search(self.form)), bool(_ZONE.search(self.form)))
        return self._patterns(text, (pattern,))

    def _guess(self, column: pl.Series) -> str:
        numbers = column.cast(pl.Float64, strict=False).drop_nulls().abs()
        numbers = numbers.filter(numbers.is_finite())
        # A date such as 20240131 is a number too, and as seconds one in August 1970.
        text = _dates_as_text(column).drop_nulls()
        day = text.str.contains(r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")
        if 2 * int(day.sum()) > len(text) or 2 * len(numbers) < len(text):
            return "iso"
        middle = float(numbers.median() or 0)  # type: ignore[arg-type]
        return next(unit for unit, bound in _BELOW.items() if middle < bound)

    def _numbers(self, column: pl.Series) -> pl.Series:
        per_second = _PER_SECOND[self.form]
        whole = column if column.dtype.is_integer() else column.cast(pl.Int64, strict=False)
        # Through floats only where there is a fraction: nanoseconds have more digits than a float.
        decimal = column.cast(pl.Float64, strict=False)
        decimal = decimal.set(~decimal.is_finite(), None).floor().cast(pl.Int64, strict=False)
        number = whole.cast(pl.Int64, strict=False).fill_null(decimal)
        seconds = number // per_second
        wrong = (seconds < _EARLIEST) | (seconds > _LATEST)
        if self.guessed:
            units = list(_BELOW)
            at = units.index(self.form)
            wrong |= number.abs() >= _BELOW[self.form]
            if at:  # another unit, not 1970
                wrong |= number.abs() < _BELOW[units[at - 1]]
        return seconds.set(wrong.fill_null(False), None).alias(column.name)

    def _patterns(self, text: pl.Series, patterns: tuple[_Pattern, ...]) -> pl.Series:
        found = pl.Series(text.name, [None] * len(text), dtype=pl.Int64)
        for pattern in patterns:
            open_ = found.is_null() & text.is_not_null()
            if not open_.any():
                break
            dates = text.set(~open_, None).str.to_datetime(
                pattern.text,
                strict=False,
                time_unit="us",
                time_zone="UTC" if pattern.has_zone else None,
            )
            found = found.fill_null(self._dates(dates, local=pattern.has_time))
        return found

    def _dates(self, column: pl.Series, *, local: bool = True) -> pl.Series:
        if column.dtype == pl.Date or not local:
            return column.cast(pl.Datetime("us")).dt.epoch("s")
        if column.dtype == pl.Time or column.dtype == pl.Duration:
            return pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
        zone = getattr(column.dtype, "time_zone", None)
        if zone is None and self.timezone != "UTC":
            # Where the clock is set back, an hour is there twice, and where it is set forward, one is not.
            column = column.dt.replace_time_zone(self.timezone, ambiguous="earliest", non_existent="null")
        return column.dt.epoch("s")


def _dates_as_text(column: pl.Series) -> pl.Series:
    """Return texts; 20240131 is one where pandas has made 20240131.0 of it, because another day is missing."""
    return column.cast(pl.String, strict=False).str.replace(r"^(\d{8})\.0+$", "$1")
