"""JSON lines. Every column is text: numbers as they are written, nested values as JSON."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from llmrec.data.sources.base import Batch, BrokenRow
from llmrec.data.sources.paths import DataFile
from llmrec.data.sources.problems import FormatError, lacking, shown
from llmrec.data.sources.text import LONGEST, TextBuffer, text_blocks, too_long
from llmrec.data.sources.values import HALF_CHARACTER, has_half_character
from llmrec.settings.data import SourceSettings

__all__ = ["JsonFile"]

_FIRST = 10_000  # records that show which columns there are
_AT_ONCE = 1 << 18
_MOST_KEYS = 50  # of records that a pattern is made for
_SHOWN = 200  # characters of a broken row
# "As written" for the JSON parser; NaN and Infinity are no JSON, but Python writes them.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_DECODER_OF_PAIRS = json.JSONDecoder(object_pairs_hook=list)
_BLANK = re.compile(r"[ \t\r]*")
# The same things for the pattern, which polars matches; \x22 is a quote.
_B = r"[ \t\r]*"
_LITERAL = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|NaN|-?Infinity"
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'


class JsonFile:
    """A file with a JSON object on each line; blank lines are none."""

    def __init__(self, file: DataFile, source: SourceSettings) -> None:
        self.file = file
        self.encoding = source.encoding

    def columns(self) -> list[str]:
        """Return the keys of the first 10,000 objects."""
        keys: dict[str, None] = {}
        any_object = False
        lines = (line for part in self._lines() for line in part)
        for line in itertools.islice(lines, _FIRST):
            try:
                keys.update(dict.fromkeys(_object(line)))
                any_object = True
            except ValueError:
                continue
        if not any_object:
            raise FormatError(
                "there is no JSON object in its first lines",
                'lines such as {"user_id": "u1", "item_id": "i7", "timestamp": 1714061700}',
            )
        return list(keys)

    def further_columns(self, wanted: Sequence[str]) -> list[str]:
        """Return those of some columns that any object has, however far down."""
        missing = set(wanted)
        spelt = [json.dumps(name, ensure_ascii=False) for name in wanted]
        for line in (line for part in self._lines() for line in part):
            # Parsing takes a hundred times as long as looking; a key may be written with escapes.
            if "\\" in line or any(name in line for name in spelt):
                try:
                    missing -= _object(line).keys()
                except ValueError:
                    continue
                if not missing:
                    break
        return [name for name in wanted if name not in missing]

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows; a key that an object lacks is null there, and lines that are no object are broken."""
        origin, row = shown(self.file.path), 1
        seen: set[str] = set()
        pattern = None
        for lines in self._lines():
            pattern = pattern or next(filter(None, (_pattern(line, columns) for line in lines[:10])), None)
            batch = _batch(lines, columns, pattern, row, origin, seen)
            row += len(lines)
            yield batch
        if missing := [c for c in columns if c not in seen]:
            raise lacking(missing, self.columns())

    def _lines(self) -> Iterator[list[str]]:
        """Yield the lines that are not blank, many at once."""
        buffer = TextBuffer(text_blocks(self.file, self.encoding))
        row = 1
        while not buffer.final:
            buffer.grow()
            end = len(buffer.text) if buffer.final else buffer.text.rfind(b"\n") + 1
            lines = [s for s in buffer.text[:end].decode().split("\n") if s and not s.isspace()]
            longest = max(map(len, lines), default=0) if end > LONGEST else 0
            if max(longest, len(buffer.text) - end) > LONGEST:
                raise too_long(row)
            buffer.skip(end)
            for start in range(0, len(lines), _AT_ONCE):
                yield lines[start : start + _AT_ONCE]
            row += len(lines)


def _batch(
    lines: list[str], columns: Sequence[str], pattern: str | None, row: int, origin: str, seen: set[str]
) -> Batch:
    """Return the rows of some lines; columns that occur go into ``seen``."""
    schema = dict.fromkeys(columns, pl.String())
    fast = pl.DataFrame(schema=schema)
    matched = np.zeros(len(lines), bool)
    if pattern is not None:
        groups = pl.Series(lines).str.extract_groups(pattern).struct.unnest()
        matched = groups["all"].is_not_null().to_numpy()
        fast = groups.filter(matched).select(
            _column(name, place, groups) for place, name in enumerate(columns)
        )
        if matched.any():
            seen.update(name for place, name in enumerate(columns) if f"text{place}" in groups.columns)
    rows, broken, values = [], [], []
    for at in np.flatnonzero(~matched).tolist():
        try:
            record = _object(lines[at])
            seen.update(record.keys() & schema.keys())
            values.append(_texts(lines[at], record, columns))
            rows.append(at)
        except ValueError as error:
            broken.append(BrokenRow(row + at, lines[at][:_SHOWN], str(error)))
    places = np.concatenate([np.flatnonzero(matched), np.array(rows, np.int64)])
    if rows:
        frame = pl.concat([fast, pl.DataFrame(values, schema=schema, orient="row")])
        order = np.argsort(places)
        fast, places = frame[order], places[order]
    return Batch(fast, origin, row + places, tuple(broken))


# --- one line


def _object(line: str) -> dict[str, Any]:
    """Return the object of a line, numbers as texts.

    Raises
    ------
    ValueError
        It is none; the message is a few words.
    """
    try:
        record = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos + 1:,})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def _texts(line: str, record: dict[str, Any], columns: Sequence[str]) -> list[str | None]:
    values = [record.get(name) for name in columns]
    if any(value is not None and not isinstance(value, str) for value in values):
        written = _as_written(line)
        values = [
            v if v is None or isinstance(v, str) else written[c] for c, v in zip(columns, values, strict=True)
        ]
    if ("\\ud" in line or "\\uD" in line) and any(map(has_half_character, values)):
        raise ValueError(HALF_CHARACTER)
    return values


def _as_written(line: str) -> dict[str, str]:
    """Return the text of each value of an object that is known to be one."""
    texts = {}
    at = _blank(line, line.index("{") + 1)
    while line[at] != "}":
        key, at = _DECODER.raw_decode(line, at)
        start = _blank(line, _blank(line, at) + 1)  # behind the colon
        _, at = _DECODER.raw_decode(line, start)
        texts[key] = line[start:at]
        at = _blank(line, at)
        at = _blank(line, at + 1) if line[at] == "," else at
    return texts


def _blank(line: str, at: int) -> int:
    match = _BLANK.match(line, at)
    assert match is not None
    return match.end()


# --- many lines with the same keys in the same order, as logs have them


def _pattern(line: str, columns: Sequence[str]) -> str | None:
    """Return a pattern for lines with the keys of this one in the same order, if its values are plain.

    It matches only what the JSON parser takes, and then gives what that gives; texts with escapes are left to it.
    """
    try:
        pairs = _DECODER_OF_PAIRS.decode(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return None
    keys = [key for key, _ in pairs]
    if not keys or len(keys) > _MOST_KEYS or len({*keys}) < len(keys):
        return None
    if any(json.dumps(key, ensure_ascii=False) != f'"{key}"' for key in keys):
        return None
    if any(isinstance(value, list) for _, value in pairs):
        return None
    values = [
        rf'(?:"(?P<text{columns.index(key)}>[^"\\\x00-\x1f]*)"|(?P<literal{columns.index(key)}>{_LITERAL})|null)'
        if key in columns
        else rf"(?:{_STRING}|{_LITERAL}|null)"
        for key in keys
    ]
    members = f"{_B},{_B}".join(
        f'"{re.escape(key)}"{_B}:{_B}{value}' for key, value in zip(keys, values, strict=True)
    )
    return rf"^(?P<all>{_B}\{{{_B}){members}{_B}\}}{_B}$"


def _column(name: str, place: int, groups: pl.DataFrame) -> pl.Expr:
    if f"text{place}" not in groups.columns:
        return pl.repeat(None, pl.len(), dtype=pl.String).alias(name)  # of one row alone, were it a literal
    return pl.coalesce(f"text{place}", f"literal{place}").alias(name)
