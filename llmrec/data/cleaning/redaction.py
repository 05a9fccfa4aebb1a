"""Personal data in texts about items: e-mail addresses and telephone numbers.

Patterns find what looks like one. They miss what is spelt out ("at", "dot") and names of people; columns that hold names are
left out with privacy.drop_attributes.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

__all__ = ["redact", "redact_all"]

_PATTERNS = {
    # The common part of RFC 5322: no quoted local parts, no addresses of hosts in brackets.
    "email": r"(?i)[a-z0-9][a-z0-9._%+\-]*@(?:[a-z0-9](?:[a-z0-9\-]*[a-z0-9])?\.)+[a-z]{2,}",
    # International with +, or groups of digits as numbers are written: 030 1234567, (555) 123-4567, 555-123-4567. A run of
    # digits without any sign of being a telephone number is more likely a product's.
    "phone": (
        r"\+\d{1,3}(?:[ .\-/]?\(?\d{1,4}\)?){2,6}\b"
        r"|\(\d{2,5}\)[ .\-/]?\d{3,4}(?:[ .\-/]?\d{2,6}){1,2}\b"
        r"|\b\d{3}[.\-]\d{3}[.\-]\d{4}\b"
        r"|\b0\d{2,4}[ /\-]\d{3,8}(?:[ \-]\d{2,6})?\b"
    ),
}


def redact(column: pl.Series, kind: str) -> pl.Series:
    """Replace what looks like an e-mail address (email) or a telephone number (phone) by its kind in brackets."""
    return column.str.replace_all(_PATTERNS[kind], f"[{kind}]")


def redact_all(column: pl.Series, kinds: Iterable[str]) -> pl.Series:
    """Replace what looks like one of several kinds, one after the other."""
    for kind in kinds:
        column = redact(column, kind)
    return column
