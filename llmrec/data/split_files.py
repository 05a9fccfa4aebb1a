"""A split as files: events.parquet, items.parquet and protocol.json.

events.parquet has the columns user_id, item_id, timestamp and part (train, context, valid or test), each user's events in
order; the history of a question is all that comes before its row. items.parquet is the catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.parts import PARTS, PartedLog
from llmrec.data.protocol import Protocol
from llmrec.data.split import Split, split_by_parts
from llmrec.errors import ArtefactError, DataError

__all__ = ["read_split", "write_split"]


def write_split(folder: Path, split: Split, catalog: Catalog) -> None:
    """Write a split that was made from a log into an existing folder."""
    if split.log is None:
        raise ValueError("the split was put together by hand and has no log to write")
    events = split.log.events
    table = {
        "user_id": pl.Series(split.log.owners.astype(np.uint32)).cat.to(pl.Enum(events.user_ids)),
        "item_id": pl.Series(events.items.astype(np.uint32)).cat.to(pl.Enum(catalog.item_ids)),
        "timestamp": events.timestamps,
        "part": pl.Series(split.log.parts).cast(pl.UInt32).cat.to(pl.Enum(PARTS)),
    }
    pl.DataFrame(table).write_parquet(folder / "events.parquet")
    items_frame = pl.DataFrame({"item_id": catalog.item_ids, "title": catalog.titles, **catalog.attributes})
    items_frame.write_parquet(folder / "items.parquet")
    (folder / "protocol.json").write_text(json.dumps(split.protocol.to_dict(), indent=2) + "\n")


def read_split(folder: Path) -> tuple[Split, Catalog]:
    """Read what :func:`write_split` wrote.

    Raises
    ------
    ArtefactError
        A file is missing or damaged, or has parts that make no split.
    """
    try:
        protocol = Protocol(**json.loads((folder / "protocol.json").read_text()))
        table = pl.read_parquet(folder / "items.parquet")
        texts = {name: tuple(table[name].to_list()) for name in table.columns}
        catalog = Catalog(texts.pop("item_id"), texts.pop("title"), texts)
        rows = pl.read_parquet(folder / "events.parquet")
        # "len" and "value" of each run of equal users
        runs = rows["user_id"].rle().struct.unnest().with_columns(pl.col("value").cast(pl.String))
        if runs["value"].n_unique() != len(runs):
            raise DataError("the events of a user do not follow each other")
        events = Histories(
            tuple(runs["value"].to_list()),
            np.concatenate([[0], np.cumsum(runs["len"].to_numpy().astype(np.int64))]),
            _indices(rows["item_id"], catalog),
            rows["timestamp"].to_numpy().astype(np.int64),
        )
        parts = rows["part"].cast(pl.String).cast(pl.Enum(PARTS)).to_physical().cast(pl.UInt8).to_numpy()
        return split_by_parts(PartedLog(events, parts), protocol), catalog
    except (OSError, ValueError, TypeError, KeyError, DataError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(
            f"The split in {str(folder)!r} cannot be read: {error}. Expected protocol.json, events.parquet and "
            "items.parquet as the prepare stage writes them: remove the folder and run again."
        ) from None


def _indices(column: pl.Series, catalog: Catalog) -> NDArray[np.int32]:
    """Return the catalogue index of each id [E]."""
    places = column.cast(pl.String).cast(pl.Enum(catalog.item_ids), strict=False).to_physical()
    if places.null_count():
        catalog.index(str(column.filter(places.is_null())[0]))  # raises, with the id
    return places.cast(pl.Int32).to_numpy()
