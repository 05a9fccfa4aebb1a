"""The order of a log: users, then times, then whatever breaks ties."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["by_user_and_time"]


def by_user_and_time(
    user: NDArray[np.integer], time: NDArray[np.int64], tie: NDArray[np.integer] | None = None
) -> NDArray[np.uint32]:
    """Return the rows [E] in order of user and time; equal ones in order of ``tie``, or as they are.

    The result is the same whatever the number of threads.
    """
    count = len(user)
    tie = np.arange(count, dtype=np.uint32) if tie is None else tie
    if not count:
        return np.empty(0, np.uint32)
    first, last = int(time.min()), int(time.max())
    bits = (last - first).bit_length()
    keys = pl.DataFrame({"time": time, "tie": tie})
    if int(user.max()).bit_length() + bits < 63:  # one number for both halves the work
        key = (user.astype(np.int64) << bits) | (time - first)
        if not np.any(key[1:] < key[:-1]) and not np.any((key[1:] == key[:-1]) & (tie[1:] < tie[:-1])):
            return np.arange(count, dtype=np.uint32)
        keys = pl.DataFrame({"key": key, "tie": tie})
    else:
        keys = pl.DataFrame({"user": user, "time": time, "tie": tie})
    order = keys.select(pl.arg_sort_by(keys.columns)).to_series()
    return order.to_numpy()
