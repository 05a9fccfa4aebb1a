"""Read the files of data sets as a stream and write their tables in batches: a log need not fit into memory."""

from __future__ import annotations

import ast
import csv
import gzip
import itertools
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.datasets.base import INTERACTIONS, ITEMS
from llmrec.data.sources.values import HALF_CHARACTER, has_half_character
from llmrec.errors import AssetError

__all__ = [
    "damaged",
    "identifier",
    "joined",
    "lines",
    "reading",
    "rows",
    "text",
    "write_items",
    "write_log",
    "write_ratings",
]

_BATCH = 200_000  # rows held as Python objects at a time: some 50 MB
_LOG = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "rating": pa.float64()}


def damaged(path: Path, what: str) -> AssetError:
    """Return the error for a file that is not what its home has."""
    return AssetError(
        f"{path.name} cannot be read: {what}. Expected the file as its home has it, whole. Get it again; a copy "
        "in the cache's downloads folder is used before any download, so replace that one."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the many errors of a broken file into one that says so; a full disk stays what it is."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise damaged(path, str(error) or type(error).__name__) from error
    except pl.exceptions.PolarsError as error:
        raise damaged(path, str(error).split("\n")[0]) from error


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not empty, of a plain or a .gz file."""
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        # Bytes are only split at line feeds, text also at characters that can be part of a title.
        for number, line in enumerate(file, 1):
            if text := line.decode(encoding).rstrip("\r\n"):
                yield number, text


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the record of each line, which is JSON or a Python literal.

    The older files of McAuley's group were written with ``repr``: ``{'asin': '0001', 'title': "It's"}``. Such a
    line is parsed as a literal and never evaluated.
    """
    for number, text in lines(path):
        try:
            try:
                record = json.loads(text)
            except json.JSONDecodeError:
                record = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            what = f"line {number} is neither JSON nor a Python literal: {_short(text)}"
            raise damaged(path, what) from error
        if not isinstance(record, dict):
            raise damaged(path, f"line {number} is no record but {_short(text)}")
        yield number, record


def rows(path: Path, row: Callable[[dict[str, Any]], tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield ``row(record)`` of each line; a record that lacks what every one must have, or has what no file can, is an error."""
    for number, record in records(path):
        try:
            made = row(record)
            if any(map(has_half_character, made)):
                raise ValueError(HALF_CHARACTER)
            yield made
        except (KeyError, TypeError, ValueError) as error:
            what = f"line {number}: {type(error).__name__} {error}"
            raise damaged(path, f"{what} in a record with {', '.join(map(str, record))}") from error


def text(value: object) -> str:
    """Return a field as text: ``""`` where there is none, numbers as Python writes them."""
    return "" if value is None else str(value).strip()


def joined(values: object, sep: str = ", ") -> str:
    """Return a field that is a list as one text; some records have one text in its place."""
    return sep.join(map(text, values)) if isinstance(values, (list, tuple)) else text(values)


def identifier(value: object) -> str:
    """Return an id as text; one that is missing raises :class:`ValueError`."""
    if not isinstance(value, (str, int)) or not text(value):
        raise ValueError(f"has {value!r} in place of an id")
    return str(value)


def write_ratings(
    path: Path, columns: Sequence[str], folder: Path, *, sep: str = ",", header: str = "", per_second: int = 1
) -> None:
    """Convert a table of numbers and ids in text form into ``interactions.parquet``, in the order of its rows.

    Parameters
    ----------
    columns
        What stands in the columns: user_id, item_id, rating and timestamp, and ``""`` for one to leave out.
    header
        The first line, word for word; ``""`` where the file begins with data.
    per_second
        1000 where timestamps are in milliseconds; they become whole seconds.
    """
    names = [name or f"unused_{i}" for i, name in enumerate(columns)]
    types = {"timestamp": pl.Int64, "rating": pl.Float64}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, reading(path):
        plain = path
        if path.suffix == ".gz":  # unpacked onto the disk, where polars can read it piece by piece
            plain = Path(scratch) / path.stem
            with gzip.open(path) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        if header:
            with plain.open("rb") as file:
                first = file.readline(1000).decode("utf-8", "replace").rstrip("\r\n")
            if first != header:
                raise damaged(path, f"it begins with {_short(first)}, not with the columns {header!r}")
        table = pl.scan_csv(
            plain,
            separator=sep,
            has_header=False,
            skip_rows=bool(header),
            schema={name: types.get(name, pl.String()) for name in names},
            quote_char=None,  # ids and numbers only
        )
        table.select("user_id", "item_id", pl.col("timestamp") // per_second, "rating").sink_parquet(
            folder / INTERACTIONS
        )
        lacking = pl.scan_parquet(folder / INTERACTIONS).null_count().collect().row(0, named=True)
    if any(lacking.values()):
        what = ", ".join(f"{n:,} without {column}" for column, n in lacking.items() if n)
        raise damaged(path, f"it has rows {what}")


def write_log(rows: Iterable[tuple[Any, ...]], folder: Path, *, rated: bool = True) -> None:
    """Write rows of user_id, item_id, timestamp and, where ``rated``, rating as ``interactions.parquet``."""
    schema = _LOG if rated else {c: t for c, t in _LOG.items() if c != "rating"}
    _write(rows, schema, folder / INTERACTIONS)


def write_items(
    rows: Iterable[tuple[str, ...]], columns: Sequence[str], folder: Path, name: str
) -> list[str]:
    """Write ``items.parquet``: one row per item, those of the log that ``rows`` lack included.

    Call this when ``interactions.parquet`` is written.

    Parameters
    ----------
    rows
        Texts by ``columns``, of which the first are item_id and title. Of several rows with one id the
        first is kept.
    name
        The file they are from, for the sentences that are returned.

    Returns
    -------
    notes
        What a user should know about them: repeated rows, items that are not in ``rows``, empty titles.
    """
    seen: set[str] = set()
    counts = dict.fromkeys(("repeated", "unlisted", "untitled"), 0)

    def each() -> Iterator[tuple[str, ...]]:
        for row in rows:
            if row[0] in seen:
                counts["repeated"] += 1
                continue
            seen.add(row[0])
            counts["untitled"] += not row[1]
            yield row
        ids = pl.scan_parquet(folder / INTERACTIONS).select(pl.col("item_id").unique(maintain_order=True))
        for item in ids.collect()["item_id"]:
            if item not in seen:
                counts["unlisted"] += 1
                yield (item, *itertools.repeat("", len(columns) - 1))

    _write(each(), dict.fromkeys(columns, pa.string()), folder / ITEMS)
    said = {
        "repeated": f"rows of {name} repeat the id of an earlier one and are left out",
        "untitled": f"items of {name} have no title",
        "unlisted": f"items of the log are not in {name}: they have no title",
    }
    return [f"{n:,} {said[what]}" for what, n in counts.items() if n]


def _write(rows: Iterable[tuple[Any, ...]], columns: Mapping[str, pa.DataType], path: Path) -> None:
    schema = pa.schema(list(columns.items()))
    left = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(left, _BATCH)):
            arrays = [pa.array(c, t) for c, t in zip(zip(*batch, strict=True), columns.values(), strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "...")
