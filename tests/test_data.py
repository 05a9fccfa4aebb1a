from __future__ import annotations

import numpy as np
import pytest
from split_cases import catalog_of, log_of

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.interactions import time_resolution
from llmrec.data.split import leave_one_out
from llmrec.errors import DataError


def test_shuffled_ties_depend_on_the_seed_only_and_keep_time_order():
    rows = [("a", f"i{n}", n // 10) for n in range(30)]
    log, catalog = log_of(rows), catalog_of(30)
    orders = [
        leave_one_out(log, catalog, dataset="x", ties="shuffle", seed=s).train.items.tolist()
        for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert [i // 10 for i in orders[0]] == sorted(i // 10 for i in orders[0])


def test_short_history_is_an_error_unless_allowed():
    rows = [("a", "i0", 1), ("b", "i0", 1), ("b", "i1", 2), ("b", "i2", 3)]
    with pytest.raises(DataError, match=r"example user 'a' with 1\..*short_histories to 'train'"):
        leave_one_out(log_of(rows), catalog_of(3), dataset="x")


def test_unknown_item_is_an_error():
    with pytest.raises(DataError, match=r"Item 'i9' is not in the catalogue of 3 items"):
        leave_one_out(log_of([("a", "i9", 1)] * 3), catalog_of(3), dataset="x")


def test_time_resolution():
    assert time_resolution(np.array([0, 86_400])) == 86_400
    assert time_resolution(np.array([0, 7_200])) == 3_600
    assert time_resolution(np.array([60])) == 60
    assert time_resolution(np.array([1, 60])) == 1


def test_histories_index_like_a_sequence():
    split = leave_one_out(
        log_of([(u, f"i{n}", n) for u in "ab" for n in range(4)]), catalog_of(4), dataset="x"
    )
    assert [h.user_id for h in split.train] == ["a", "b"]
    assert split.train[-1].user_id == "b"
    assert isinstance(split.train[np.array([1])], Histories)
    with pytest.raises(IndexError):
        split.train[2]


def test_catalogue_refuses_empty_titles_and_duplicate_ids():
    with pytest.raises(DataError, match="empty title, for example item 'b'"):
        Catalog(("a", "b"), ("x", "  "))
    with pytest.raises(DataError, match="lists item 'a' more than once"):
        Catalog(("a", "a"), ("x", "y"))
