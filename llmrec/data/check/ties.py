"""Events of one user at one time: how many, and whether their order gives something away.

Where times are equal the order of the log decides which event is "the next". A log that was sorted by item on its way, as the
Amazon sets are, then tells a model that sees ids which of the tied items comes last.

Shapes: E events of all users together, N items of the catalogue, G groups of two or more tied events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories

__all__ = ["ALPHA", "SIZE", "Order", "Ties", "check_ties"]

ALPHA = 0.001  # a log whose ties are in random order is called ordered less often than this
SIZE = (
    0.6  # ... and only if at least this share of the neighbours go one way: less is of little use to a model
)


@dataclass(frozen=True)
class Order:
    """How tied neighbours are ordered by one property of items.

    The test's hypothesis is that every order of a group is equally likely. Of m different items in random order ascents minus
    descents has mean 0 and variance (m + 1) / 3 (those of Eulerian numbers); where values are equal the variance is smaller,
    so the test errs on the safe side.
    """

    by: str  # "item id", "place in the catalogue" or "popularity"
    pairs: int  # tied neighbours that differ in it
    ascending: float  # share of them that ascend; 0.5 by chance, NaN if there are none
    p: float  # two-sided, times the number of properties that are tested (Bonferroni)

    @property
    def artefact(self) -> bool:
        """Whether the order is none of chance, and strong enough to be exploited."""
        return self.p < ALPHA and max(self.ascending, 1 - self.ascending) >= SIZE


@dataclass(frozen=True)
class Ties:
    """Ties in the order of the source; shares are fractions of 1, NaN where there is nothing to have a share of."""

    neighbours: float  # share of a user's neighbouring events that have equal times
    last_two: float  # share of the users of two events or more whose last two have
    largest: int  # most events of one user at one time
    orders: tuple[Order, ...]
    last_is_extreme: float  # of the users whose last two are tied, share whose last event is the end of the strongest order
    extreme_by_chance: float  # the same if ties were in random order

    @property
    def strongest(self) -> Order | None:
        """The most one-sided of the orders that are artefacts."""
        found = [order for order in self.orders if order.artefact]
        return max(found, key=lambda order: abs(order.ascending - 0.5), default=None)


def check_ties(events: Histories, item_ids: Sequence[str]) -> Ties:
    """Measure ties in a log in the order of its source.

    Parameters
    ----------
    item_ids
        Of the catalogue [N]; numbers are compared as such.
    """
    times = events.timestamps
    tied = np.zeros(len(times), dtype=bool)  # [E] whether an event has the user and time of the one before it
    tied[1:] = times[1:] == times[:-1]
    tied[events.indptr[:-1][events.lengths > 0]] = False
    starts = np.flatnonzero(~tied)  # of groups, single events included
    sizes = np.diff(starts, append=len(times))
    several = events.lengths > 1
    last = events.indptr[1:][several] - 1  # [users of two events or more]
    neighbours = len(times) - int((events.lengths > 0).sum())
    keys = _keys(events, item_ids)
    spread = math.sqrt(float((sizes[sizes > 1] + 1).sum() / 3))
    orders = tuple(_order(name, key[events.items], tied, spread, len(keys)) for name, key in keys.items())
    ties = Ties(
        neighbours=float(tied.sum() / neighbours) if neighbours else math.nan,
        last_two=float(tied[last].mean()) if len(last) else math.nan,
        largest=int(sizes.max(initial=0)),
        orders=orders,
        last_is_extreme=math.nan,
        extreme_by_chance=math.nan,
    )
    strongest = ties.strongest
    last = last[tied[last]]
    if strongest is None or not len(last):
        return ties
    key = keys[strongest.by] * (1 if strongest.ascending > 0.5 else -1)
    ends = np.maximum.reduceat(key[events.items], starts)
    group = starts.searchsorted(last, side="right") - 1
    extreme = float(np.mean(key[events.items[last]] == ends[group]))
    return Ties(
        ties.neighbours, ties.last_two, ties.largest, orders, extreme, float(np.mean(1 / sizes[group]))
    )


def _keys(events: Histories, item_ids: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return what ties may be ordered by, as a number for each item [N]."""
    numeric = all(i.isascii() and i.isdigit() for i in item_ids)
    order = sorted(range(len(item_ids)), key=lambda i: (int(item_ids[i]) if numeric else 0, item_ids[i]))
    place = np.arange(len(item_ids))
    by_id = np.empty_like(place)
    by_id[order] = place
    keys = {"item id": by_id}
    if np.any(by_id != place):  # a catalogue in the order of ids says the same twice
        keys["place in the catalogue"] = place
    keys["popularity"] = np.bincount(events.items, minlength=len(item_ids))
    return keys


def _order(name: str, key: NDArray[np.int64], tied: NDArray[np.bool_], spread: float, tests: int) -> Order:
    """Test the order of events with a key each [E]; ``spread`` is the standard deviation of ascents minus descents."""
    up = int(((key[1:] > key[:-1]) & tied[1:]).sum())
    down = int(((key[1:] < key[:-1]) & tied[1:]).sum())
    if not up + down:
        return Order(name, 0, math.nan, 1.0)
    p = math.erfc(abs(up - down) / spread / math.sqrt(2))
    return Order(name, up + down, up / (up + down), min(1.0, tests * p))
