"""Histories as they were not: the same events in another order, or at other times.

A variant changes the newest events of each history alone, and always keeps the items that occur and times that ascend. So
a system that reads this many events or more sees the same items in every variant, and the same items are ruled out as
seen: what changes in its lists is due to order, or to time.

Shapes: n newest events of a history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories

__all__ = ["ORDER", "TIME", "Change", "vary"]

Items = NDArray[np.int32]
Times = NDArray[np.int64]
Change = Callable[[Items, Times, np.random.Generator], tuple[Items, Times]]
"""(items [n], timestamps [n], source of chance) -> the same, changed."""


def shuffled(items: Items, times: Times, rng: np.random.Generator) -> tuple[Items, Times]:
    """Draw the order of the items at random; the times stay where they are."""
    return rng.permutation(items), times


def shuffled_before_last(items: Items, times: Times, rng: np.random.Generator) -> tuple[Items, Times]:
    """Draw the order of all items but the newest, which is what a system that only looks at the last event needs."""
    return np.concatenate([rng.permutation(items[:-1]), items[-1:]]), times


def reversed_order(items: Items, times: Times, rng: np.random.Generator) -> tuple[Items, Times]:
    """Put the newest item first: what a system that goes by recency is misled by most."""
    return items[::-1].copy(), times


def shuffled_gaps(items: Items, times: Times, rng: np.random.Generator) -> tuple[Items, Times]:
    """Draw the order of the times between events; items, gaps, and the first and the last time stay."""
    return items, np.cumsum(np.concatenate([times[:1], rng.permutation(np.diff(times))]))


def no_gaps(items: Items, times: Times, rng: np.random.Generator) -> tuple[Items, Times]:
    """Put all events at the time of the newest, so that there is no gap to speak of."""
    return items, np.repeat(times[-1:], len(times))


ORDER: dict[str, Change] = {
    "shuffled": shuffled,
    "shuffled but for the last event": shuffled_before_last,
    "reversed": reversed_order,
}
"""Changes of order: what a system that does not use it cannot notice."""

TIME: dict[str, Change] = {"gaps shuffled": shuffled_gaps, "no gaps": no_gaps}
"""Changes of times: what a system that does not read them cannot notice."""


def vary(histories: Histories, change: Change, window: int, seed: int) -> Histories:
    """Return histories whose newest ``window`` events are changed, and older ones are not.

    Parameters
    ----------
    window
        In events. At most what the shortest-sighted of the systems under comparison reads: were more events shuffled,
        older items would come into its view, and a change of *what* it sees would be taken for one of order.
    seed
        Decides the change: equal input gives equal output.
    """
    rng = np.random.default_rng(seed)
    items, times = histories.items.copy(), histories.timestamps.copy()
    for start, stop in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
        newest = slice(max(start, stop - window), stop)
        items[newest], times[newest] = change(items[newest], times[newest], rng)
    return replace(histories, items=items, timestamps=times)
