"""Read a user's own files: a log with one row per event and a catalogue with one row per item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.interactions import Interactions
from llmrec.errors import DataError, nearest

__all__ = ["read_catalog", "read_interactions", "read_table"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (*_SEPARATORS, ".parquet")


def read_table(path: Path, setting: str) -> pl.DataFrame:
    """Read a .csv, .tsv or .parquet file; all columns of text files stay text.

    Raises
    ------
    DataError
        The file is missing, of another kind, empty, or broken.
    """
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise DataError(
            f"{setting} is {str(path)!r}, and there is no such file{near}. Expected the path of a {', '.join(_SUFFIXES)} "
            "file, relative to the working directory."
        )
    if path.suffix not in _SUFFIXES:
        raise DataError(
            f"{setting} is {str(path)!r}, a {path.suffix or 'file without suffix'}. Expected {', '.join(_SUFFIXES)}: "
            "rename or convert it."
        )
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        # infer_schema=False: ids such as 007 would lose their zeros if they were read as numbers.
        return pl.read_csv(path, separator=_SEPARATORS[path.suffix], infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(
            f"{setting} is {str(path)!r}, which cannot be read as {path.suffix[1:]}: {reason}. Expected UTF-8 text "
            "with a header and equally many fields in every row, or a valid parquet file."
        ) from None


def read_interactions(path: Path, columns: Mapping[str, str]) -> Interactions:
    """Read a log.

    Parameters
    ----------
    columns
        Our name -> name in the file, for user_id, item_id and timestamp.
    """
    table = read_table(path, "data.interactions")
    frame = _pick(table, {c: columns[c] for c in ("user_id", "item_id", "timestamp")}, path)
    return Interactions.from_frame(frame.with_columns(_seconds(frame["timestamp"])))


def read_histories(
    path: Path, columns: Mapping[str, str], catalog: Catalog, *, ties: str, seed: int
) -> tuple[Histories, dict[str, str]]:
    """Read the histories of a log for recommending, users in the order in which they first appear.

    Returns
    -------
    histories
        Of all users; events with items that the catalogue lacks are left out.
    unknown
        For each user of such an event the first such item.
    """
    frame = read_interactions(path, columns).sort(ties, seed).frame
    known = frame["item_id"].is_in(catalog.item_ids)
    lost = frame.filter(~known).unique("user_id", keep="first", maintain_order=True)
    unknown = dict(zip(lost["user_id"].to_list(), lost["item_id"].to_list(), strict=True))
    lengths = (
        frame.with_columns(known=known).group_by("user_id", maintain_order=True).agg(pl.col("known").sum())
    )
    kept = frame.filter(known)
    return Histories(
        tuple(lengths["user_id"].to_list()),
        np.concatenate([[0], np.cumsum(lengths["known"].to_numpy())]).astype(np.int64),
        catalog.indices(kept["item_id"].to_list()),
        kept["timestamp"].to_numpy().astype(np.int64),
    ), unknown


def read_catalog(path: Path, columns: Mapping[str, str], attributes: Sequence[str] = ()) -> Catalog:
    """Read a catalogue with ids, titles and further text columns."""
    table = read_table(path, "data.items")
    names = {"item_id": columns["item_id"], "title": columns["title"], **{a: a for a in attributes}}
    frame = _pick(table, names, path).with_columns(pl.all().cast(pl.String).fill_null(""))
    texts = {name: tuple(frame[name].to_list()) for name in frame.columns}
    return Catalog(texts["item_id"], texts["title"], {a: texts[a] for a in attributes})


def _pick(table: pl.DataFrame, names: Mapping[str, str], path: Path) -> pl.DataFrame:
    for ours, theirs in names.items():
        if theirs not in table.columns:
            setting = (
                f"data.columns.{ours}"
                if ours in ("user_id", "item_id", "timestamp", "title")
                else "data.columns.attributes"
            )
            raise DataError(
                f"{str(path)!r} has no column {theirs!r}{nearest(theirs, table.columns)}; it has "
                f"{', '.join(table.columns)}. Expected one for {ours}: correct the file's header, or name the right "
                f"column with {setting}."
            )
    return table.select(pl.col(theirs).alias(ours) for ours, theirs in names.items())


def _seconds(column: pl.Series) -> pl.Series:
    """Return whole seconds; a text that is no number becomes null, which from_frame reports with its row."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("s").alias("timestamp")
    numbers = column.cast(pl.Float64, strict=False).floor()
    bad = numbers.is_null() | ~numbers.is_finite()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{int(bad.sum()):,} of {len(column):,} timestamps are no numbers; the first is {column[row]!r} in data row "
            f"{row + 1}. Expected seconds since 1970, such as 874965758: convert dates, or name another column with "
            "data.columns.timestamp."
        )
    # Milliseconds read as seconds would put events 50,000 years into the future.
    newest = float(numbers.to_numpy().max(initial=0))
    if newest > 32_503_680_000:
        raise DataError(
            f"The largest timestamp is {newest:,.0f}, a date after the year 3000. Expected seconds since 1970; these "
            "look like milliseconds: divide them by 1000."
        )
    return numbers.cast(pl.Int64).alias("timestamp")
