"""Values as databases and JSON give them, into columns with the types they have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

__all__ = ["HALF_CHARACTER", "column_of", "digest_of", "has_half_character", "keyed", "text_of"]

# Why a row is broken: JSON can have the half of an emoji, and no file can.
HALF_CHARACTER = "half a character (a surrogate without its other half)"
_TYPES: dict[type, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    date: pl.Date(),
    datetime: pl.Datetime("us"),
}
_EXACT = 1 << 53  # above it floats skip whole numbers


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """Return a column: whole numbers, floats, text, booleans, dates or times where all values are such, else text."""
    kinds = {type(value) for value in values if value is not None}
    if Decimal in kinds:
        values = [_plain(value) if isinstance(value, Decimal) else value for value in values]
        kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float} and all(abs(v) < _EXACT for v in values if isinstance(v, int)):
        values = [None if value is None else float(value) for value in values]
        kinds = {float}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    kind = next(iter(kinds))
    if len(kinds) == 1 and kind in _TYPES:
        dtype = _TYPES[kind]
        zones = (
            {value.tzinfo is not None for value in values if value is not None} if kind is datetime else ()
        )
        if len(zones) < 2:
            if True in zones:
                dtype = pl.Datetime("us", "UTC")
                values = [None if value is None else value.astimezone(UTC) for value in values]
            try:
                return pl.Series(name, values, dtype=dtype)
            except (OverflowError, TypeError, pl.exceptions.PolarsError):
                pass  # whole numbers of more than 64 bits
    return pl.Series(name, [None if value is None else text_of(value) for value in values], dtype=pl.String)


def text_of(value: Any) -> str:
    """Return a value as text; equal values of a type give equal texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, Decimal):
        return str(_plain(value))
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo is not None else value).isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=text_of)
    return str(value)


def has_half_character(value: Any) -> bool:
    """Tell whether a value has text that no encoding has."""
    if not isinstance(value, (str, dict, list)):
        return False
    try:
        text_of(value).encode()
    except UnicodeEncodeError:
        return True
    return False


def _plain(value: Decimal) -> int | str:
    """Return a decimal as a whole number, or as text without needless zeros: 17.00 is item 17."""
    if not value.is_finite():
        return str(value)
    return int(value) if value == value.to_integral_value() else format(value.normalize(), "f")


def digest_of(values: Sequence[Any], key: bytes | None = None) -> str:
    """Return a digest of a row or a page, 128 bits as 32 digits: equal ones have equal digests."""
    content = json.dumps([None if value is None else text_of(value) for value in values])
    return keyed(hashlib.blake2b(content.encode(), digest_size=16).hexdigest(), key)


def keyed(digest: str, key: bytes | None) -> str:
    """Return a digest by which nobody without the key can try out what it is of; itself where there is no key."""
    if key is None:
        return digest
    short = hashlib.blake2b(key, digest_size=32).digest()  # keys have at most 64 bytes
    return hashlib.blake2b(digest.encode(), key=short, digest_size=16).hexdigest()
