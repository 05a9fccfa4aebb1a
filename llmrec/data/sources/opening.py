"""Which source a setting means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from llmrec.data.sources.base import GrowingSource, Source, expand_variables
from llmrec.data.sources.files import FileSource
from llmrec.data.sources.store import MANIFEST, StoreSource
from llmrec.errors import DataError, nearest
from llmrec.settings.data import SourceSettings

__all__ = ["KINDS", "open_growing", "open_source", "pick_columns"]


def _sql(source: SourceSettings, setting: str) -> Source:
    from llmrec.data.sources.sql import SqlSource

    return SqlSource(source, setting)


def _http(source: SourceSettings, setting: str) -> Source:
    from llmrec.data.sources.http import HttpSource

    return HttpSource(source, setting)


def _datasets(source: SourceSettings, setting: str) -> Source:
    from llmrec.data.sources.hub import HubSource

    return HubSource(source, setting)


# Every kind of source, by its format; loaded when it is used, since some need packages that not everybody has.
KINDS: dict[str, Callable[[SourceSettings, str], Source]] = {
    "csv": FileSource,
    "tsv": FileSource,
    "jsonl": FileSource,
    "parquet": FileSource,
    "recbole": FileSource,
    "sql": _sql,
    "http": _http,
    "datasets": _datasets,
    "store": StoreSource,
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
    kind = _by_place(source, setting) if source.format == "auto" else source.format
    return KINDS[kind or "csv"](source, setting)


def open_growing(source: SourceSettings, setting: str, timestamp: str) -> GrowingSource:
    """Return the source that a setting describes, as one that can tell what is new.

    Parameters
    ----------
    timestamp
        The column by which databases are read where no cursor is named.

    Raises
    ------
    DataError
        As for :func:`open_source`, or it is of a kind that cannot tell.
    """
    if source.cursor is None:
        source = source.model_copy(update={"cursor": timestamp})
    opened = open_source(source, setting)
    if isinstance(opened, FileSource):
        from llmrec.data.sources.growing_files import GrowingFiles

        return GrowingFiles(source, setting, opened)
    if not hasattr(opened, "new_batches"):
        raise DataError(
            f"{setting} is {opened.name}, which cannot tell what is new. Expected files, a database or an endpoint for "
            "'llmrec data update'; without data.store it is read as a whole."
        )
    return opened  # type: ignore[return-value]


_FILES_ELSEWHERE = re.compile("abfss?|adl|az|dbfs|file|ftp|gcs|gs|hdfs|s3[an]?|sftp|wasbs?")


def _by_place(source: SourceSettings, setting: str) -> str | None:
    """Return the kind that a URL or a folder tells; ``None`` for files."""
    place = source.location[0]
    if re.fullmatch(r"\$\{\w+\}", place):
        place = expand_variables(place, setting)
    scheme, colon, _ = place.partition("://")
    if colon and _FILES_ELSEWHERE.fullmatch(scheme):
        raise DataError(
            f"{setting} is {source.location[0]}, and {scheme}:// is not read. Expected a path, a database, https:// or hf://: fetch the file first, or "
            "mount what it is in."
        )
    if colon:
        return {"hf": "datasets", "http": "http", "https": "http"}.get(scheme, "sql")

    # Not Path.is_file, which raises for a text that can be no path, such as one that is too long.
    def holds(name: str) -> bool:
        return os.path.isfile(os.path.join(place, name))

    if holds(MANIFEST):
        return "store"
    return "datasets" if holds("dataset_info.json") or holds("dataset_dict.json") else None


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
    missing = [name for _, name in wanted if name not in there]
    if missing and (further := getattr(source, "further_columns", None)):
        there = [*there, *further(missing)]
    for setting, name in wanted:
        if name not in there:
            raise DataError(
                f"{source.name!r} has no column {name!r}{nearest(name, there)}; it has {', '.join(there) or 'none'}. Expected "
                f"the one that {setting} names: correct the setting, or the table."
            )
    return list(dict.fromkeys(name for _, name in wanted))
