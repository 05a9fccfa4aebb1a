"""Which events a split may ask for.

Shapes: U users, E events of all of them together.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.errors import DataError, nearest

__all__ = ["can_be_targets", "last_of_each_user", "last_two"]


def can_be_targets(frame: pl.DataFrame, kind: str | None) -> NDArray[np.bool_]:
    """Return which events [E] are of a kind; all of them if there is none to be.

    Raises
    ------
    DataError
        The log does not say what kind its events are, or has none of this kind.
    """
    if kind is None:
        return np.ones(len(frame), dtype=bool)
    if "event" not in frame.columns:
        raise DataError(
            f"The split got target_event={kind!r}, and the log does not say what kind its events are. Expected a column for it: "
            "name it with data.columns.event."
        )
    found: NDArray[np.bool_] = (frame["event"].cast(pl.String) == kind).fill_null(False).to_numpy()
    if not found.any():
        kinds = sorted(frame["event"].cast(pl.String).drop_nulls().unique().to_list())
        raise DataError(
            f"The split got target_event={kind!r}, and no event is of that kind{nearest(kind, kinds)}. Expected one of "
            f"{', '.join(kinds) or 'the kinds in the log, of which there are none'}."
        )
    return found


def last_two(events: Histories, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of each user's last chosen event and the chosen one before it [U]; -1 where there is none."""
    place = np.flatnonzero(chosen)
    start, stop = place.searchsorted(events.indptr[:-1]), place.searchsorted(events.indptr[1:])
    padded = np.concatenate([place, [-1]])
    last = np.where(stop > start, padded[stop - 1], -1)
    return last, np.where(stop > start + 1, padded[stop - 2], -1)


def last_of_each_user(events: Histories, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places of the last chosen event of each user who has any."""
    place = np.flatnonzero(chosen)
    owner = events.indptr.searchsorted(place, side="right")
    last: NDArray[np.int64] = place[np.diff(owner, append=-1) != 0]
    return last
