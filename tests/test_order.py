"""The order of a log is that of numpy's sort by several keys, whatever the size of the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.data.order import by_user_and_time

TIMES = {"small": 5, "seconds": 2**31, "all": 2**63 - 1}


@given(seed=st.integers(0, 2**32 - 1), events=st.integers(0, 60), ties=st.booleans(), already=st.booleans())
@pytest.mark.parametrize("largest", TIMES.values(), ids=TIMES.keys())
def test_like_lexsort(largest: int, seed: int, events: int, ties: bool, already: bool) -> None:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 5, events).astype(np.uint32)
    time = rng.integers(-largest - 1, largest, events)
    if already:
        time.sort()
    tie = rng.permutation(events) if ties else None
    order = by_user_and_time(user, time, tie)
    assert order.dtype == np.uint32
    expected = np.lexsort((np.arange(events) if tie is None else tie, time, user))
    assert np.array_equal(order, expected)


def test_a_log_in_order_stays() -> None:
    user, time = np.array([0, 0, 1], dtype=np.uint32), np.array([5, 5, 2])
    assert by_user_and_time(user, time).tolist() == [0, 1, 2]
