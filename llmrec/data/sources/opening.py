"""Which source a setting means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmrec.data.sources.base import Source
from llmrec.data.sources.files import FileSource
from llmrec.errors import DataError, nearest
from llmrec.settings.data import SourceSettings

__all__ = ["KINDS", "open_source", "pick_columns"]

# Every kind of source, by its format; loaded when it is used, since some need packages that not everybody has.
KINDS: dict[str, Callable[[SourceSettings, str], Source]] = {
    "csv": FileSource,
    "tsv": FileSource,
    "jsonl": FileSource,
    "parquet": FileSource,
    "recbole": FileSource,
}


def open_source(source: SourceSettings, setting: str) -> Source:
    """Return the source that a setting describes; nothing is read yet.

    Parameters
    ----------
    setting
        Its dotted name, for messages: data.interactions.

    Raises
    ------
    DataError
        Nothing is there, or it is of no kind that can be read.
    """
    return KINDS["csv"](source, setting)


def pick_columns(source: Source, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Check that a source has columns, and return their names.

    Parameters
    ----------
    wanted
        Settings and the names they have: ``("data.columns.user_id", "customer")``.

    Raises
    ------
    DataError
        One is not there.
    """
    there = source.columns()
    for setting, name in wanted:
        if name not in there:
            raise DataError(
                f"{source.name!r} has no column {name!r}{nearest(name, there)}; it has {', '.join(there) or 'none'}. Expected "
                f"the one that {setting} names: correct the setting, or the table."
            )
    return list(dict.fromkeys(name for _, name in wanted))
