"""What users do: repeats, bursts, suspects, and what each setting of data.cleaning would leave out.

Shapes: U users, E events of all of them together, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.check.counts import Pairs
from llmrec.data.cleaning.log import ENOUGH, HOUR, k_core
from llmrec.data.histories import Histories

__all__ = ["Activity", "LeftOut", "check_activity", "most_within_an_hour"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LeftOut:
    """What one setting would leave out of the log as it is, all others as they are."""

    setting: str  # of data.cleaning: "max_per_hour: 500"
    users: int
    items: int  # that would have no event any more
    events: int


@dataclass(frozen=True)
class Activity:
    """Repeats, the busiest users, and what settings would do about them."""

    duplicates: int  # events whose user, item, time and kind are those of an event before
    repeats: int  # events with an item that the user had before, duplicates included
    consecutive: int  # those whose item is that of the event just before
    most_within_an_hour: int  # events of one user
    busiest_within_an_hour: str  # that user
    most_events: int  # of one user
    busiest: str  # that user
    left_out: tuple[LeftOut, ...]

    def would_leave_out(self, setting: str) -> LeftOut:
        """Return the entry of a setting."""
        return next(entry for entry in self.left_out if entry.setting == setting)


def check_activity(
    events: Histories, n_items: int, pairs: Pairs, kinds: NDArray[np.integer] | None = None
) -> Activity:
    """Measure what the users of a log do.

    Parameters
    ----------
    kinds
        A number from 0 for each event's kind [E], -1 for none, where the log has kinds.
    """
    lengths = events.lengths
    within = most_within_an_hour(events)
    duplicates = _duplicates(events, n_items, kinds)
    consecutive = np.zeros(len(events.items), dtype=bool)
    consecutive[1:] = events.items[1:] == events.items[:-1]
    consecutive[events.indptr[:-1]] = False
    left_out = tuple(
        _left_out(setting, events, n_items, wrong)
        for setting, wrong in (
            ("duplicates: drop", duplicates),
            ("repeats: consecutive", consecutive),
            *_of_users(events, pairs, within),
            *_cores(events),
        )
    )
    return Activity(
        duplicates=int(duplicates.sum()),
        repeats=int(len(events.items) - len(pairs.counts)),
        consecutive=int(consecutive.sum()),
        most_within_an_hour=int(within.max()),
        busiest_within_an_hour=events.user_ids[int(within.argmax())],
        most_events=int(lengths.max()),
        busiest=events.user_ids[int(lengths.argmax())],
        left_out=left_out,
    )


def most_within_an_hour(events: Histories) -> NDArray[np.int64]:
    """Return the largest number of each user's events within any 3,600 seconds [U]; no user may be without events."""
    times = events.timestamps
    first = int(times.min())
    # One growing number for user and time: users lie so far apart that a window never reaches the one before.
    stride = int(times.max()) - first + HOUR
    keys = np.repeat(np.arange(len(events)) * stride, events.lengths) + (times - first)
    window = np.arange(1, len(times) + 1) - keys.searchsorted(keys - (HOUR - 1))
    most: NDArray[np.int64] = np.maximum.reduceat(window, events.indptr[:-1])
    return most


def _of_users(events: Histories, pairs: Pairs, within: NDArray[np.int64]) -> Iterator[tuple[str, Mask]]:
    """Yield settings that leave out users, and the events that go with them."""
    lengths = events.lengths
    favourite = np.zeros(len(events), dtype=np.int64)  # [U] events with a user's most frequent item
    np.maximum.at(favourite, pairs.users, pairs.counts)
    chosen = {f"max_per_hour: {most}": within > most for most in (100, 500, 1000)}
    chosen |= {f"max_per_user: {most}": lengths > most for most in (1000, 10_000)}
    chosen |= {
        f"max_repetition: {share}": (lengths >= ENOUGH) & (favourite > share * lengths)
        for share in (0.5, 0.9)
    }
    for setting, users in chosen.items():
        yield setting, np.repeat(users, lengths)


def _cores(events: Histories) -> Iterator[tuple[str, Mask]]:
    users = np.repeat(np.arange(len(events), dtype=np.int32), events.lengths)
    yield "min_user_events: 3", np.repeat(events.lengths < 3, events.lengths)
    for k in (5, 10):
        kept = k_core(users, events.items, k, k)
        yield f"min_user_events: {k}, min_item_events: {k}", ~kept


def _duplicates(events: Histories, n_items: int, kinds: NDArray[np.integer] | None) -> Mask:
    """Mark events that repeat user, time, item and kind of an earlier one [E]."""
    times = events.timestamps
    same = np.zeros(len(times), dtype=bool)
    same[1:] = times[1:] == times[:-1]
    same[events.indptr[:-1]] = False
    group = np.cumsum(~same)  # one number for each user and time
    same[:-1] |= same[1:]
    place = np.flatnonzero(same)  # [T] tied events
    keys = group[place] * n_items + events.items[place]
    if kinds is not None and len(place):
        keys = keys * (int(kinds.max()) + 2) + kinds[place] + 1  # none, -1, is a kind like any other
    order = np.argsort(keys, kind="stable")  # of equal ones the first stays first
    again = np.zeros(len(place), dtype=bool)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    wrong = np.zeros(len(times), dtype=bool)
    wrong[place[again]] = True
    return wrong


def _left_out(setting: str, events: Histories, n_items: int, wrong: Mask) -> LeftOut:
    kept = np.add.reduceat(~wrong, events.indptr[:-1], dtype=np.int64)
    before, after = (
        np.bincount(items, minlength=n_items) > 0 for items in (events.items, events.items[~wrong])
    )
    return LeftOut(setting, int((kept == 0).sum()), int((before & ~after).sum()), int(wrong.sum()))
