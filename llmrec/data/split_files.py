"""A split as files: events.parquet, items.parquet and protocol.json.

events.parquet has the columns user_id, item_id, timestamp and part (train, valid or test), each user's events in order;
the history asked for the test is all that comes before its row. items.parquet is the catalogue.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.protocol import Protocol
from llmrec.data.split import Split, hold_out_last
from llmrec.errors import ArtefactError

__all__ = ["read_split", "write_split"]


def write_split(folder: Path, split: Split, catalog: Catalog) -> None:
    """Write a split into an existing folder."""
    held = {user: row for row, user in enumerate(split.test.histories.user_ids)}
    frames = []
    for history in split.train:
        items, times = list(history.items), list(history.timestamps)
        parts = ["train"] * len(items)
        row = held.get(history.user_id)
        if row is not None:
            for part, holdout in (("valid", split.valid), ("test", split.test)):
                items.append(holdout.target_items[row])
                times.append(holdout.target_timestamps[row])
                parts.append(part)
        frames.append(([history.user_id] * len(items), catalog.ids(items), times, parts))
    columns = ("user_id", "item_id", "timestamp", "part")
    events = {name: [v for f in frames for v in f[i]] for i, name in enumerate(columns)}
    pl.DataFrame(events, schema_overrides={"timestamp": pl.Int64}).write_parquet(folder / "events.parquet")
    items_frame = pl.DataFrame({"item_id": catalog.item_ids, "title": catalog.titles, **catalog.attributes})
    items_frame.write_parquet(folder / "items.parquet")
    (folder / "protocol.json").write_text(json.dumps(split.protocol.to_dict(), indent=2) + "\n")


def read_split(folder: Path) -> tuple[Split, Catalog]:
    """Read what :func:`write_split` wrote.

    Raises
    ------
    ArtefactError
        A file is missing or damaged.
    """
    try:
        protocol = Protocol(**json.loads((folder / "protocol.json").read_text()))
        table = pl.read_parquet(folder / "items.parquet")
        events = pl.read_parquet(folder / "events.parquet")
    except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(
            f"The split in {str(folder)!r} cannot be read: {error}. Expected protocol.json, events.parquet and "
            "items.parquet as the prepare stage writes them: remove the folder and run again."
        ) from None
    texts = {name: tuple(table[name].to_list()) for name in table.columns}
    catalog = Catalog(texts.pop("item_id"), texts.pop("title"), texts)
    counts = events.group_by("user_id", maintain_order=True).len()
    indptr = np.concatenate([[0], np.cumsum(counts["len"].to_numpy().astype(np.int64))])
    everything = Histories(
        tuple(counts["user_id"].to_list()),
        indptr,
        catalog.indices(events["item_id"].to_list()),
        events["timestamp"].to_numpy().astype(np.int64),
    )
    held = np.flatnonzero(events["part"].to_numpy()[indptr[1:] - 1] == "test")
    return hold_out_last(everything, held, protocol), catalog
