"""A log and a catalogue from their sources, read and cleaned, with the ledger of what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from llmrec import cache
from llmrec.data.catalog import Catalog
from llmrec.data.cleaning.ledger import Ledger, Step
from llmrec.data.cleaning.log import clean_events, clean_log
from llmrec.data.cleaning.rows import EncodedLog, encode_log
from llmrec.data.cleaning.titles import clean_catalog
from llmrec.data.histories import Histories
from llmrec.data.interactions import Interactions
from llmrec.data.sources import Source, open_source
from llmrec.data.sources.opening import pick_columns
from llmrec.data.sources.store import StoreSource
from llmrec.errors import ConfigError, DataError, nearest
from llmrec.settings.data import Columns, Data, SourceSettings

__all__ = [
    "Loaded",
    "check_faults",
    "load_catalog",
    "load_data",
    "log_columns",
    "open_items",
    "open_log",
    "read_histories",
    "read_log",
]

_RATING = "rating"  # what the column is called in named data sets


@dataclass(frozen=True, eq=False)
class Loaded:
    """Clean data, and how it came to be."""

    interactions: Interactions
    catalog: Catalog
    ledger: Ledger
    provenance: tuple[str, ...]  # lines for people


def load_data(
    data: Data,
    *,
    rejects: Path | None = None,
    ledger: Ledger | None = None,
    notify: Callable[[str], None] = print,
) -> Loaded:
    """Read and clean the log and the catalogue.

    Parameters
    ----------
    rejects
        File for the rows that are left out; see :class:`~llmrec.data.cleaning.ledger.Ledger`.
    ledger
        An empty one in the place of ``rejects``, for a caller who wants to see what was done before an error.
    notify
        Takes the line that says where a named data set came from.

    Raises
    ------
    DataError
        A source cannot be read to its end, too many rows are unusable, or nothing is left.
    """
    log, items, columns, provenance = _sources(data, notify)
    ledger = Ledger(rejects) if ledger is None else ledger
    with ledger.open():
        catalog, item_of = _read_items(items, columns, data, ledger)
        encoded = read_log(log, columns, data, ledger)
        encoded = clean_log(encoded, item_of, data.cleaning, ledger)
        check_faults("interactions", log.name, data, ledger)
        catalog, encoded = _used_items(catalog, encoded, data, ledger)
    return Loaded(_interactions(encoded), catalog, ledger, provenance)


def load_catalog(data: Data, notify: Callable[[str], None] = print) -> Catalog:
    """Read and clean the catalogue alone; without the log, items that have no event are in it whatever the settings."""
    _, items, columns, _ = _sources(data, notify)
    return _read_items(items, columns, data, Ledger())[0]


def read_histories(
    source: SourceSettings, data: Data, catalog: Catalog, *, ties: str, seed: int
) -> tuple[Histories, dict[str, str], int]:
    """Read the histories of a log for recommending, users in the order of their ids.

    Rows are read and left out as those of ``data.interactions`` are, and items of one title are one where they are in training;
    steps that choose users or items are not done.

    Returns
    -------
    histories
        Of all users; events with items that the catalogue lacks are left out.
    unknown
        For each user of such an event the first such item; under ``cleaning.unknown_items: drop`` for users of no other event.
    left_out
        How many such events there are.

    Raises
    ------
    DataError
        The log cannot be read to its end, too many rows are unusable, or a column that decides is not there.
    """
    ledger = Ledger()
    log = open_source(source, "--histories")
    encoded = read_log(log, _columns_of_histories(log, data), data, ledger)
    check_faults("interactions", log.name, data, ledger)
    if data.cleaning.duplicate_titles == "merge":
        encoded = _merged(encoded, data)
    encoded = clean_events(encoded, data.cleaning, ledger)
    frame = _interactions(encoded).sort(ties, seed).frame
    known = frame["item_id"].cast(pl.String).is_in(catalog.item_ids)
    lost = frame.filter(~known).unique("user_id", keep="first", maintain_order=True)
    unknown = dict(zip(lost["user_id"].to_list(), lost["item_id"].to_list(), strict=True))
    lengths = (
        frame.with_columns(known=known).group_by("user_id", maintain_order=True).agg(pl.col("known").sum())
    )
    kept = Interactions(frame.filter(known))
    if data.cleaning.unknown_items == "drop":
        empty = set(lengths.filter(pl.col("known") == 0)["user_id"].to_list())
        unknown = {user: item for user, item in unknown.items() if user in empty}
    histories = Histories(
        tuple(lengths["user_id"].to_list()),
        np.concatenate([[0], np.cumsum(lengths["known"].to_numpy())]).astype(np.int64),
        kept.items_in(catalog),
        kept.frame["timestamp"].to_numpy(),
    )
    return histories, unknown, int((~known).sum())


def _columns_of_histories(log: Source, data: Data) -> Columns:
    """Return the names of the columns of a log for recommending: for a named data set those of its own, its ratings if they decide."""
    if data.dataset is None or data.cleaning.min_rating is None:
        return data.columns
    if _RATING not in log.columns():
        raise DataError(
            f"data.cleaning.min_rating is set, so the model has learned from events with ratings of {data.dataset}, and {log.name!r} has no "
            f"column {_RATING!r}. Expected it there, with the rating of each event: add it to the file."
        )
    return Columns(rating=_RATING)


def _merged(log: EncodedLog, data: Data) -> EncodedLog:
    """Return a log with the item that all of its title are in the place of each; unknown ones stay."""
    # Without the log of the training, which need not be there.
    items, columns = (
        (open_items(data), data.columns) if data.dataset is None else _sources(data, _silent)[1:3]
    )
    catalog, item_of = _read_items(items, columns, data, Ledger())
    item_of = item_of.drop_nulls()
    kept = pl.Series(catalog.item_ids, dtype=pl.String).gather(item_of["index"])
    renamed = log.items.replace(item_of["item_id"], kept)
    ids = renamed.unique().sort()
    place = ids.search_sorted(renamed).cast(pl.UInt32)
    frame = log.frame.with_columns(place.gather(log.frame["item"]).alias("item"))
    return EncodedLog(frame, log.users, ids, log.origins)


def _silent(line: str) -> None:
    """Take no notice."""


def open_log(data: Data) -> Source:
    """Return the source of the log: the copy in ``data.store``, where there is to be one."""
    if data.store is not None:
        return StoreSource(SourceSettings(location=(str(data.store),), format="store"), "data.store")
    assert data.interactions is not None
    return open_source(data.interactions, "data.interactions")


def open_items(data: Data) -> Source:
    """Return the source of the catalogue."""
    assert data.items is not None
    return open_source(data.items, "data.items")


def log_columns(columns: Columns) -> list[tuple[str, str]]:
    """Return the settings that name columns of the log, and the names they have."""
    names = ["user_id", "item_id", "timestamp"]
    names += [name for name in ("event", "rating") if getattr(columns, name) is not None]
    return [(f"data.columns.{name}", getattr(columns, name)) for name in names]


def read_log(log: Source, columns: Columns, data: Data, ledger: Ledger) -> EncodedLog:
    """Read a log as the settings say, up to the steps that need all of it."""
    picked = pick_columns(log, log_columns(columns))
    privacy = data.privacy
    if isinstance(log, StoreSource) and log.manifest.users is not None:
        privacy = privacy.model_copy(update={"hash_users": False})  # they are hashed already
    return encode_log(log.batches(picked), columns, data.cleaning, privacy, ledger)


def _sources(data: Data, notify: Callable[[str], None]) -> tuple[Source, Source, Columns, tuple[str, ...]]:
    """Return both tables, the names of their columns, and lines that say where they come from."""
    if data.dataset is None:
        log, items = open_log(data), open_items(data)
        return log, items, data.columns, (f"interactions from {log.name}, items from {items.name}",)
    from llmrec.data.datasets import dataset_folder
    from llmrec.data.datasets.base import INTERACTIONS, ITEMS

    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        notify(line)

    folder = dataset_folder(data.dataset, note)
    log, items = (
        open_source(SourceSettings.model_validate(str(folder / name)), "data.dataset")
        for name in (INTERACTIONS, ITEMS)
    )
    rating = _RATING if _RATING in log.columns() else None
    if rating is None and data.cleaning.min_rating is not None:
        raise ConfigError(
            f"data.cleaning.min_rating is set, and {data.dataset} has no ratings. Expected null."
        )
    attributes = tuple(c for c in items.columns() if c not in ("item_id", "title"))
    about = (*lines[-1:], *cache.manifest(folder).get("notes", ()))  # not the progress before
    return log, items, Columns(rating=rating, attributes=attributes), about


def _read_items(items: Source, columns: Columns, data: Data, ledger: Ledger) -> tuple[Catalog, pl.DataFrame]:
    for name in data.privacy.drop_attributes:
        if name not in columns.attributes:
            raise ConfigError(
                f"data.privacy.drop_attributes names {name!r}{nearest(name, columns.attributes)}, which is no attribute. Expected some "
                f"of {', '.join(columns.attributes) or 'none: there are none'}."
            )
    wanted = [(f"data.columns.{name}", getattr(columns, name)) for name in ("item_id", "title")]
    wanted += [
        ("data.columns.attributes", a) for a in columns.attributes if a not in data.privacy.drop_attributes
    ]
    picked = pick_columns(items, wanted)
    read = clean_catalog(items.batches(picked), columns, data.cleaning, data.privacy, ledger)
    check_faults("items", items.name, data, ledger)
    return read


def check_faults(table: Literal["interactions", "items"], name: str, data: Data, ledger: Ledger) -> None:
    """Stop where so much is unusable that something else is likely to be wrong.

    Parameters
    ----------
    name
        Of the table's source, for the message.

    Raises
    ------
    DataError
        More of the table's rows than ``cleaning.max_rejected`` were unusable.
    """
    steps = [s for s in ledger.steps if s.table == table]
    faulty = [s for s in steps if s.faulty and s.removed]
    count = sum(s.removed for s in faulty)
    total = steps[0].left + steps[0].removed
    if count > data.cleaning.max_rejected * total:
        reasons = ", ".join(f"{s.removed:,} {s.step}" for s in sorted(faulty, key=lambda s: -s.removed))
        ledger.finish()
        where = f" (they are in {ledger.rejects})" if ledger.rejects is not None else ""
        raise DataError(
            f"{count:,} of {total:,} rows of {name} cannot be used: {reasons}{where}. Expected at most "
            f"{data.cleaning.max_rejected:.0%}: check the names in data.columns and the formats, which 'llmrec data check' "
            "shows; or, if so much is really to be left out, raise data.cleaning.max_rejected."
        )


def _used_items(catalog: Catalog, log: EncodedLog, data: Data, ledger: Ledger) -> tuple[Catalog, EncodedLog]:
    used = np.bincount(log.frame["item"].to_numpy(), minlength=len(catalog)) > 0
    unused = int((~used).sum())
    setting = f"cleaning.unused_items: {data.cleaning.unused_items}"
    if data.cleaning.unused_items == "keep":
        note = f"{unused:,} have no event and stay candidates" if unused else ""
        ledger.add(Step("items without an event", setting, "items", left=len(catalog), note=note))
        return catalog, log
    places = np.flatnonzero(used)
    gone = [catalog.item_ids[i] for i in np.flatnonzero(~used)]
    ledger.reject(
        "items", "items without an event", pl.DataFrame({"item_id": gone}, schema={"item_id": pl.String})
    )
    ledger.add(Step("items without an event", setting, "items", unused, left=len(places)))
    rank = np.cumsum(used, dtype=np.uint32) - 1
    smaller = Catalog(
        tuple(catalog.item_ids[i] for i in places),
        tuple(catalog.titles[i] for i in places),
        {name: tuple(values[i] for i in places) for name, values in catalog.attributes.items()},
    )
    frame = log.frame.with_columns(pl.Series("item", rank[log.frame["item"].to_numpy()]))
    return smaller, EncodedLog(frame, log.users, pl.Series(smaller.item_ids), log.origins)


def _interactions(log: EncodedLog) -> Interactions:
    """Return the log with its users numbered without gaps."""
    frame = log.frame
    present = np.bincount(frame["user"].to_numpy(), minlength=len(log.users)) > 0
    rank = np.cumsum(present, dtype=np.uint32) - 1
    users = pl.Series(rank[frame["user"].to_numpy()])
    more: Sequence[str] = [c for c in ("rating", "event") if c in frame.columns]
    return Interactions(
        pl.DataFrame(
            {
                "user_id": users.cat.to(pl.Enum(log.users.filter(pl.Series(present)))),
                "item_id": frame["item"].cat.to(pl.Enum(log.items)),
                "timestamp": frame["timestamp"],
                **{name: frame[name] for name in more},
            }
        )
    )
