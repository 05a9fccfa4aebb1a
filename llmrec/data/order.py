"""The order of a log: users, then times, then whatever breaks ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_user_and_time"]


def by_user_and_time(
    user: NDArray[np.integer], time: NDArray[np.int64], tie: NDArray[np.integer] | None = None
) -> NDArray[np.uint32]:
    """Return the rows [E] in order of user and time; equal ones in order of ``tie``, or as they are.

    The last key first, by a stable sort each: a log in order of time, as most are, is only sorted by its users.
    """
    order: NDArray[np.uint32] | None = None  # as it is
    columns = [column for column in (user, time, tie) if column is not None]
    if not _in_order(columns):
        for column in reversed(columns):
            order = _stable(column, order)
    return np.arange(len(user), dtype=np.uint32) if order is None else order


def _in_order(columns: Sequence[NDArray[np.integer]]) -> bool:
    """Return whether no row comes before the one ahead of it, by the first column, then by the next."""
    tied: NDArray[np.bool_] | np.bool_ = np.True_
    for column in columns:
        if np.any((column[1:] < column[:-1]) & tied):
            return False
        tied = tied & (column[1:] == column[:-1])
    return True


def _stable(column: NDArray[np.integer], order: NDArray[np.uint32] | None) -> NDArray[np.uint32] | None:
    """Return ``order`` (``None``: that of the rows) sorted by a column; what is equal stays in the order it had."""
    values = column if order is None else column[order]
    if not np.any(values[1:] < values[:-1]):
        return order
    count, least = len(values), int(values.min())
    bits = (count - 1).bit_length()
    if (int(values.max()) - least).bit_length() + bits < 64:
        # Value and place in one number: numpy sorts numbers with vector instructions, several times faster than places.
        keys = np.subtract(values, least, dtype=np.int64) << bits
        keys |= np.arange(count)
        keys.sort()
        keys &= (1 << bits) - 1
        places: NDArray[np.uint32] = keys.astype(np.uint32)
    else:
        places = np.argsort(values, kind="stable").astype(np.uint32)
    return places if order is None else np.take(order, places)
