"""Records of delimited text (RFC 4180): found at once where quotes are where they belong, one by one where not.

R records, F fields of each; texts are UTF-8, separators and quotes one character of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.sources.base import BrokenRow
from llmrec.data.sources.problems import FormatError
from llmrec.data.sources.text import LONGEST, too_long

__all__ = [
    "BEHIND_QUOTE",
    "UNCLOSED",
    "Dialect",
    "Fields",
    "RecordReader",
    "Records",
    "regular_records",
    "wrong_width",
]

Fields = list[bytes | None]  # None where nothing stands, not even quotes

# Why a record may be broken that costs its first line alone.
UNCLOSED = "a quote that is not closed"
BEHIND_QUOTE = "text behind a closing quote"
_AT_ONCE = 1 << 18  # records, any of which may be broken and be held as objects
_MOST_STEPS = 5_000_000  # seconds of looking for the ends of quotes that have none
_SHOWN = 200  # bytes of a broken row
_CHARACTER = 4  # bytes that one has at most
_LF, _CR = 10, 13


@dataclass(frozen=True)
class Dialect:
    """What separates fields, and what encloses those that contain separators or line ends."""

    separator: bytes
    quote: bytes | None

    @property
    def regular(self) -> bool:
        """Whether both are one byte, which is what fast parsers know."""
        return len(self.separator) == 1 and (self.quote is None or len(self.quote) == 1)


@dataclass(frozen=True, eq=False)
class Records:
    """The records that a text begins with."""

    text: bytes  # those of the expected number of fields, each closed by a line feed
    rows: NDArray[np.int64]  # [R] their numbers
    broken: list[BrokenRow]  # the others
    count: int  # of both
    end: int  # where the text goes on


def regular_records(
    text: bytes, dialect: Dialect, width: int, first_row: int, *, final: bool
) -> Records | None:
    """Find the complete records of a text, if every quote opens or closes a field, or is doubled within one.

    Parameters
    ----------
    width
        Expected number of fields.
    first_row
        The number of the first record.
    final
        Whether the text ends here, and so its last record too.

    Returns
    -------
    records
        None where :class:`RecordReader` has to look at each.
    """
    codes = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(codes == _LF)
    separators = np.flatnonzero(codes == dialect.separator[0])
    quotes = np.empty(0, np.int64)
    if dialect.quote is not None and dialect.quote in text:
        quotes = np.flatnonzero(codes == dialect.quote[0])
        if not _well_placed(codes, quotes, dialect.separator[0]) or (final and len(quotes) % 2):
            return None
        # Outside is what has an even number of quotes before it.
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
    if final and len(text) and (not len(ends) or ends[-1] != len(text) - 1):
        text += b"\n"
        codes = np.frombuffer(text, np.uint8)
        ends = np.append(ends, len(text) - 1)
    ends = ends[:_AT_ONCE]
    if not len(ends):
        return Records(b"", np.empty(0, np.int64), [], 0, 0)
    starts = np.append(0, ends[:-1] + 1)
    stops = ends  # without carriage returns
    if b"\r" in text:
        returns = np.flatnonzero(codes == _CR)
        stops = ends - ((codes[ends - 1] == _CR) & (ends > starts))
        # Elsewhere parsers differ about them, quotes apart.
        returns = returns[returns < ends[-1]]
        elsewhere = returns[codes[returns + 1] != _LF]
        doubled = (codes[stops - 1] == _CR) & (stops > starts)
        if doubled.any() or (np.searchsorted(quotes, elsewhere) % 2 == 0).any():
            return None
    if (stops - starts).max() > LONGEST:
        return None
    filled = stops > starts
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    good = filled & (fields == width)
    row = np.cumsum(filled) - 1
    wrong = np.flatnonzero(filled & ~good)
    broken = [
        wrong_width(number, text[start : min(stop, start + _SHOWN)], found, width)
        for number, start, stop, found in zip(
            (first_row + row[wrong]).tolist(),
            starts[wrong].tolist(),
            stops[wrong].tolist(),
            fields[wrong].tolist(),
            strict=True,
        )
    ]
    end = int(ends[-1]) + 1
    if stops is ends and good.all():
        body = text[:end]
    else:
        change = np.zeros(end + 1, np.int8)  # +1 where what is left out begins, -1 behind it
        change[starts[~good]] += 1
        change[ends[~good] + 1] -= 1
        kept = np.cumsum(change[:end], dtype=np.int8) == 0
        kept[ends[stops < ends] - 1] = False
        body = codes[:end][kept].tobytes()
    return Records(body, first_row + row[good], broken, int(row[-1]) + 1, end)


def _well_placed(codes: NDArray[np.uint8], quotes: NDArray[np.int64], separator: int) -> bool:
    """Whether first, third ... quotes are at the beginning of fields and second, fourth ... at their ends."""
    opening, closing = quotes[::2], quotes[1::2]
    before = codes[opening - 1]
    begins = (before == separator) | (before == _LF) | (opening == 0)
    begins[1:] |= opening[1:] == closing[: len(opening) - 1] + 1  # a doubled quote: it closes and opens again
    if not begins.all():
        return False
    last = len(codes) - 1
    behind = codes[np.minimum(closing + 1, last)]
    behind_that = codes[np.minimum(closing + 2, last)]
    stops = (behind == separator) | (behind == _LF) | (closing == last)
    stops |= (behind == _CR) & ((behind_that == _LF) | (closing + 1 == last))
    stops[: len(opening) - 1] |= closing[: len(opening) - 1] + 1 == opening[1:]
    return bool(stops.all())


class RecordReader:
    """Reads records one by one; what is wrong with one costs its first line, and no more.

    A field is quoted if it begins with a quote; elsewhere a quote is a character like any other. A quoted field ends at the
    next quote that is not doubled, behind which the field must end. Where it does not, or no quote comes, the line
    on which the record began is broken, and the next one is read as a record.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.steps = 0  # for nothing

    def read(
        self, text: bytes, row: int, *, final: bool, most: int = _AT_ONCE
    ) -> tuple[list[Fields | BrokenRow], int]:
        """Return the records that a text begins with, and where it goes on: what may be incomplete is left for later.

        Parameters
        ----------
        row
            The number of the first.
        most
            How many are read.

        Raises
        ------
        FormatError
            A line is too long, or quotes match so badly that looking for their ends takes forever.
        """
        found: list[Fields | BrokenRow] = []
        separator, quote = self.dialect.separator, self.dialect.quote
        at = 0
        while at < len(text) and len(found) < most:
            stop = text.find(b"\n", at)
            if stop - at > LONGEST or (stop < 0 and len(text) - at > LONGEST):
                raise too_long(row + len(found))
            if stop < 0:
                if not final:
                    break
                stop = len(text)
            line = text[at:stop].rstrip(b"\r")
            following = stop + 1
            if quote is None or quote not in line:
                if line:
                    found.append([field or None for field in line.split(separator)])
            else:
                steps = self.steps
                try:
                    record = self._quoted(text, at, quote, final=final)
                    if record is None:
                        break
                    fields, following = record
                    found.append(fields)
                    self.steps = steps
                except ValueError as error:
                    found.append(_broken(row + len(found), line, str(error)))
                    if self.steps > _MOST_STEPS:
                        raise FormatError(
                            f"quotes do not match in many rows before row {row + len(found):,}",
                            "fields in quotes that are closed; where nothing is quoted, set quote to null",
                        ) from None
            at = following
        return found, min(at, len(text))

    def _quoted(self, text: bytes, start: int, quote: bytes, *, final: bool) -> tuple[Fields, int] | None:
        """Return the fields of a record and where the next begins; None if it goes on behind the text."""
        separator = self.dialect.separator
        fields: Fields = []
        at = start
        while True:
            if not text.startswith(quote, at):
                stop = text.find(b"\n", at)
                if stop < 0 and not final:
                    return None
                stop = stop if stop >= 0 else len(text)
                end = text.find(separator, at, stop)
                if end < 0:
                    fields.append(text[at:stop].rstrip(b"\r") or None)
                    return fields, stop + 1
                fields.append(text[at:end] or None)
                at = end + len(separator)
                continue
            close = at = at + len(quote)
            while True:
                close = text.find(quote, close)
                self.steps += 1
                if close - start > LONGEST or (close < 0 and (final or len(text) - start > LONGEST)):
                    raise ValueError(UNCLOSED)
                if close < 0:
                    return None
                if not text.startswith(quote, close + len(quote)):
                    break
                close += 2 * len(quote)
            fields.append(text[at:close].replace(2 * quote, quote))
            at = close + len(quote)
            if not final and len(text) - at < _CHARACTER:  # what follows may be half a character
                return None
            if text.startswith(separator, at):
                at += len(separator)
                continue
            while text.startswith(b"\r", at):
                at += 1
            if at == len(text):
                return (fields, at) if final else None
            if not text.startswith(b"\n", at):
                raise ValueError(BEHIND_QUOTE)
            return fields, at + 1


def wrong_width(row: int, text: bytes, fields: int, width: int) -> BrokenRow:
    """Return what to say about a record of too many or too few fields."""
    return _broken(row, text, f"{fields:,} field{'s' if fields > 1 else ''}, expected {width:,}")


def _broken(row: int, text: bytes, reason: str) -> BrokenRow:
    return BrokenRow(row, text[:_SHOWN].decode("utf-8", "replace"), reason)
