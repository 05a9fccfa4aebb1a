"""The steps that need the whole log: unknown items, duplicates, repeats, bots and the k-core.

Shapes: E events, U users, I items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.cleaning.ledger import Ledger, Step
from llmrec.data.cleaning.rows import EncodedLog
from llmrec.data.order import by_user_and_time
from llmrec.errors import DataError, nearest
from llmrec.settings import Cleaning

__all__ = ["ENOUGH", "HOUR", "clean_events", "clean_log", "k_core"]

HOUR = 3600
ENOUGH = 20  # events of a user before a share of them says something

Mask = NDArray[np.bool_]


def clean_log(log: EncodedLog, item_of: pl.DataFrame, cleaning: Cleaning, ledger: Ledger) -> EncodedLog:
    """Do all steps; the log is then in the order of users, times and, among equal times, the source.

    Parameters
    ----------
    item_of
        For each id of the catalogue's table (item_id) its place in the catalogue (index: UInt32), by which the items of the
        log are replaced; null where it was left out.

    Raises
    ------
    DataError
        An item is not in the catalogue under ``unknown_items: error``, or no event is left.
    """
    log = clean_events(_known_items(log, item_of, cleaning, ledger), cleaning, ledger)
    for step, setting, rule in _rules_of_users_and_items(cleaning):
        log = _leave_out(log, step, setting, rule(log.frame), ledger)
    return log


def clean_events(log: EncodedLog, cleaning: Cleaning, ledger: Ledger) -> EncodedLog:
    """Do the steps that look at a user's events alone; the log is then in the order of users and times."""
    user, time = (log.frame[name].to_numpy() for name in ("user", "timestamp"))
    log = log.replace(log.frame[by_user_and_time(user, time)])
    for step, setting, rule in _rules_of_events(cleaning):
        log = _leave_out(log, step, setting, rule(log.frame), ledger)
    return log


def k_core(user: NDArray[np.integer], item: NDArray[np.integer], min_user: int, min_item: int) -> Mask:
    """Leave out users and items with too few events until none has (Seidman 1983); return which events are left [E].

    The result does not depend on what is left out first: it is the largest part of the log in which all have enough.
    """
    kept = np.ones(len(user), dtype=bool)
    columns, rows = [user, item], np.arange(len(user))
    before = -1
    while len(rows) != before:
        before = len(rows)
        for side, least in enumerate((min_user, min_item)):
            enough = (np.bincount(columns[side]) >= least)[columns[side]]
            if not enough.all():
                rows, columns = rows[enough], [column[enough] for column in columns]
    if len(rows) < len(user):
        kept[:] = False
        kept[rows] = True
    return kept


def _known_items(log: EncodedLog, item_of: pl.DataFrame, cleaning: Cleaning, ledger: Ledger) -> EncodedLog:
    ids = pl.DataFrame({"item_id": log.items}).join(item_of, on="item_id", how="left", maintain_order="left")
    index = ids["index"].gather(log.frame["item"])  # [E]
    unknown = index.is_null()
    if unknown.any() and cleaning.unknown_items == "error":
        first = str(log.texts(unknown.to_numpy() & (unknown.cum_sum() == 1).to_numpy())["item_id"][0])
        raise DataError(
            f"{int(unknown.sum()):,} of {len(unknown):,} events are of items that the catalogue does not have; the first is item "
            f"{first!r}{nearest(first, item_of['item_id'].to_list())}. Expected the item of every event among the catalogue's "
            f"{len(item_of):,}: complete it, check that both tables mean the same by an id, or set data.cleaning.unknown_items "
            "to drop."
        )
    listed = ids["item_id"].is_in(item_of["item_id"].implode())
    for step, lost in (
        ("items left out of the catalogue", ids["index"].is_null() & listed),
        ("items not in the catalogue", ~listed),
    ):
        wrong = lost.gather(log.frame["item"])  # [E]
        setting, note = f"cleaning.unknown_items: {cleaning.unknown_items}", _most_frequent(log, wrong)
        log = _leave_out(log, step, setting, wrong.to_numpy(), ledger, faulty=True, note=note)
    places = ids["index"].gather(log.frame["item"])
    item_of = item_of.drop_nulls()
    catalog_ids = item_of.unique("index", keep="first", maintain_order=True).sort("index")["item_id"]
    return EncodedLog(log.frame.with_columns(places.alias("item")), log.users, catalog_ids, log.origins)


def _most_frequent(log: EncodedLog, chosen: pl.Series) -> str:
    """Name the items that most of some events are of, with their numbers."""
    found = log.items.gather(log.frame["item"].filter(chosen)).value_counts(sort=True).head(3)
    return ", ".join(f"{count:,} of {item}" for item, count in found.iter_rows())


def _leave_out(
    log: EncodedLog,
    step: str,
    setting: str,
    wrong: Mask,
    ledger: Ledger,
    *,
    faulty: bool = False,
    note: str = "",
) -> EncodedLog:
    removed = int(wrong.sum())
    if removed:
        ledger.reject("interactions", step, log.texts(wrong))
        log = log.replace(log.frame.filter(~wrong))
    ledger.add(Step(step, setting, "interactions", removed, left=len(log.frame), faulty=faulty, note=note))
    if log.frame.is_empty():
        raise DataError(
            f"No event is left after the step {step!r}, which left out {removed:,}. Expected some: check {setting} in data."
        )
    return log


Rules = list[tuple[str, str, Callable[[pl.DataFrame], Mask]]]
"""Steps that the settings ask for: name, setting, and what they leave out of a sorted log."""


def _rules_of_events(cleaning: Cleaning) -> Rules:
    c, rules = cleaning, Rules()
    if c.duplicates == "drop":
        rules.append(("duplicate events", "cleaning.duplicates: drop", _duplicates))
    if c.repeats == "consecutive":
        rules.append(("the same item again at once", "cleaning.repeats: consecutive", _consecutive))
    if c.repeats == "all":
        rules.append(("the same item again", "cleaning.repeats: all", _repeats))
    return rules


def _rules_of_users_and_items(cleaning: Cleaning) -> Rules:
    c, rules = cleaning, Rules()
    if (most := c.max_per_hour) is not None:
        rules.append(
            ("users with bursts", f"cleaning.max_per_hour: {most}", lambda frame: _bursts(frame, most))
        )
    if (limit := c.max_per_user) is not None:
        rules.append(
            (
                "users with too many events",
                f"cleaning.max_per_user: {limit}",
                lambda frame: _of_users(frame, _per_user(frame) > limit),
            )
        )
    if (share := c.max_repetition) is not None:
        rules.append(
            (
                "users who repeat one item",
                f"cleaning.max_repetition: {share:g}",
                lambda frame: _one_item(frame, share),
            )
        )
    if c.min_user_events > 1 or c.min_item_events > 1:
        rules.append(
            (
                "users and items with few events",
                f"cleaning.min_user_events: {c.min_user_events}, min_item_events: {c.min_item_events}",
                lambda frame: (
                    ~k_core(
                        frame["user"].to_numpy(),
                        frame["item"].to_numpy(),
                        c.min_user_events,
                        c.min_item_events,
                    )
                ),
            )
        )
    return rules


def _duplicates(frame: pl.DataFrame) -> Mask:
    """Mark rows that repeat user, time, item and kind of an earlier one."""
    user, time = frame["user"].to_numpy(), frame["timestamp"].to_numpy()
    tied = np.zeros(len(frame), dtype=bool)
    tied[1:] = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    tied[:-1] |= tied[1:]
    place = np.flatnonzero(tied)
    same = [c for c in ("user", "timestamp", "item", "event") if c in frame.columns]
    first = frame[place].select(pl.struct(same).is_first_distinct()).to_series()
    wrong = np.zeros(len(frame), dtype=bool)
    wrong[place[~first.to_numpy()]] = True
    return wrong


def _consecutive(frame: pl.DataFrame) -> Mask:
    user, item = frame["user"].to_numpy(), frame["item"].to_numpy()
    wrong = np.zeros(len(frame), dtype=bool)
    wrong[1:] = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    return wrong


def _repeats(frame: pl.DataFrame) -> Mask:
    pairs = frame["user"].cast(pl.UInt64) * (int(frame["item"].max()) + 1) + frame["item"]  # type: ignore[arg-type]
    again: Mask = ~pairs.is_first_distinct().to_numpy()
    return again


def _per_user(frame: pl.DataFrame) -> NDArray[np.int64]:
    return np.bincount(frame["user"].to_numpy())


def _of_users(frame: pl.DataFrame, chosen: Mask) -> Mask:
    """Return the events [E] of chosen users [U]."""
    events: Mask = chosen[frame["user"].to_numpy()]
    return events


def _bursts(frame: pl.DataFrame, most: int) -> Mask:
    user, time = frame["user"].to_numpy(), frame["timestamp"].to_numpy()
    chosen = np.zeros(len(_per_user(frame)), dtype=bool)
    # More than 'most' events lie within an hour where an event and the one 'most' events before it do.
    close = (user[most:] == user[:-most]) & (time[most:] - time[:-most] < HOUR)
    chosen[user[most:][close]] = True
    return _of_users(frame, chosen)


def _one_item(frame: pl.DataFrame, share: float) -> Mask:
    counts = (
        frame.group_by("user", "item")
        .len()
        .group_by("user")
        .agg(pl.col("len").max(), total=pl.col("len").sum())
    )
    found = counts.filter((pl.col("total") >= ENOUGH) & (pl.col("len") > share * pl.col("total")))
    chosen = np.isin(np.arange(len(_per_user(frame))), found["user"].to_numpy())
    return _of_users(frame, chosen)
