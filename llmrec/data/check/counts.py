"""How much there is: users, items, events, and how unevenly they are spread.

Shapes: U users, E events of all of them together, N items of the catalogue, P different pairs of a user and an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.check.spread import Histogram, Spread
from llmrec.data.histories import Histories

__all__ = ["UNKNOWN_KIND", "Counts", "Pairs", "count_log", "count_pairs", "gini"]

UNKNOWN_KIND = "(none)"  # of events that do not say


@dataclass(frozen=True, eq=False)
class Pairs:
    """The different pairs of a user and an item, in the order of users."""

    users: NDArray[np.int64]  # [P] rows
    counts: NDArray[np.int64]  # [P] events of each


@dataclass(frozen=True)
class Counts:
    """Sizes and shares; shares are fractions of 1."""

    users: int
    items: int  # of the catalogue
    items_with_events: int
    events: int
    pairs: int  # different pairs of a user and an item
    density: float  # share of all pairs of a user and an item of the catalogue that there are
    events_per_user: Spread
    users_by_events: Histogram
    events_per_item: Spread  # of the items that have any
    items_by_events: Histogram  # the same
    gini: float  # of the items that have events
    top_percent_share: float  # share of the events that the most popular 1% of these items have, rounded up
    top_item: int  # catalogue index of the most popular item
    top_item_share: float
    kinds: Mapping[str, int]  # kind of event: how many; empty where the log does not say
    ratings: Spread | None  # None where the log has none that is a number
    unrated: int  # events without a rating, or none that is a number, in a log with a column of them


def count_pairs(events: Histories, n_items: int) -> Pairs:
    """Count the events of each pair of a user and an item."""
    owners = events.owners
    keys: NDArray[np.int64] = owners * n_items + events.items
    keys.sort()
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return Pairs(keys[first] // n_items, np.diff(first, append=len(keys)))


def count_log(events: Histories, n_items: int, pairs: Pairs, frame: pl.DataFrame) -> Counts:
    """Count what a log has.

    Parameters
    ----------
    frame
        The log's table, for the columns event and rating, if it has them.
    """
    lengths = events.lengths
    per_item = np.bincount(events.items, minlength=n_items)
    popular = np.sort(per_item[per_item > 0])[::-1]
    total, top = len(events.items), int(per_item.argmax())
    kinds: dict[str, int] = {}
    if "event" in frame.columns:
        found = frame["event"].cast(pl.String).fill_null(UNKNOWN_KIND).value_counts(sort=True)
        kinds = dict(zip(found["event"].to_list(), found["count"].to_list(), strict=True))
    ratings, unrated = None, 0
    if "rating" in frame.columns:
        given = frame["rating"].drop_nulls().to_numpy()
        ratings, unrated = Spread.of(given) if len(given) else None, total - len(given)
    return Counts(
        users=len(events),
        items=n_items,
        items_with_events=len(popular),
        events=total,
        pairs=len(pairs.counts),
        density=len(pairs.counts) / (len(events) * n_items),
        events_per_user=Spread.of(lengths),
        users_by_events=Histogram.doubling(lengths),
        events_per_item=Spread.of(popular),
        items_by_events=Histogram.doubling(popular),
        gini=gini(popular),
        top_percent_share=float(popular[: math.ceil(len(popular) / 100)].sum() / total),
        top_item=top,
        top_item_share=float(per_item[top] / total),
        kinds=kinds,
        ratings=ratings,
        unrated=unrated,
    )


def gini(values: NDArray[np.integer]) -> float:
    """Return the Gini coefficient: 0 where all numbers are equal, near 1 where one has everything."""
    ordered = np.sort(values).astype(np.float64)
    n = len(ordered)
    return float(2 * (np.arange(1, n + 1) @ ordered) / (n * ordered.sum()) - (n + 1) / n)
