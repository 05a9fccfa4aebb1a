"""What can be wrong with a file, as one paragraph that names it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from llmrec.errors import DataError

__all__ = ["FormatError", "lacking", "shown", "telling", "unique"]


class FormatError(Exception):
    """A file is not of its format; :func:`telling` says which file.

    Parameters
    ----------
    got
        What is wrong, going on from "and": "row 7 is longer than 64 MiB".
    expected
        What was expected and what to do, going on from "Expected".
    """

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(got)
        self.got = got
        self.expected = expected


def lacking(missing: Sequence[str], there: Sequence[str]) -> FormatError:
    """Return the error for a file, perhaps one of many, without columns that are wanted."""
    return FormatError(
        f"it has no column {missing[0]!r}; it has {', '.join(there)[:1000] or 'none'}",
        "the columns that data.columns names, the same in all files of a table",
    )


def unique(names: list[str]) -> list[str]:
    """Return the names of columns, if they tell them apart; several may have none."""
    twice = {name for name in names if name and names.count(name) > 1} if len({*names}) < len(names) else ()
    if twice:
        raise FormatError(
            f"it has several columns {min(twice)!r}", "names that tell columns apart: rename or remove one"
        )
    return names


def shown(path: Path) -> str:
    """Return a path as text that can be written, even where the file system's names are no text."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@contextmanager
def telling(path: Path, setting: str) -> Iterator[None]:
    """Turn what reading a file raises into a :class:`DataError` that names the file and its setting."""
    whole = "the file as it was written, whole: copy, download or export it again"
    try:
        yield
    except FormatError as error:
        got, expected = error.got, error.expected
    except PermissionError:
        got, expected = "it may not be read", "the right to read it: change its permissions"
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        got, expected = f"it cannot be read to its end ({_reason(error)})", whole
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        got, expected = f"it cannot be read ({_reason(error)})", whole
    else:
        return
    raise DataError(f"{setting} reads {shown(path)!r}, and {got}. Expected {expected}.")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().split("\n")[0][:200].rstrip(".")
