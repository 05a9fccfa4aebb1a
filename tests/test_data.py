from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from split_cases import catalog_of, log_of

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.interactions import time_resolution
from llmrec.data.sources import read_catalog, read_interactions
from llmrec.data.split import leave_one_out
from llmrec.errors import DataError

COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "time", "title": "title"}


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


# --- files of users


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_csv_tsv_and_parquet_alike_and_keeps_leading_zeros(tmp_path):
    frame = pl.DataFrame({"user": ["007", "8"], "item": ["01", "02"], "time": [5, 6]})
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    frame.write_parquet(tmp_path / "a.parquet")
    read = [read_interactions(tmp_path / f"a.{kind}", COLUMNS).frame for kind in ("csv", "tsv", "parquet")]
    assert read[0].equals(read[1])
    assert read[0].equals(read[2])
    assert read[0]["user_id"].to_list() == ["007", "8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,tim\na,b,1\n", r"no column 'time' \(did you mean 'tim'\?\)"),
        (
            "user,item,time\na,b,yesterday\n",
            "timestamps are no numbers; the first is 'yesterday' in data row 1",
        ),
        ("user,item,time\na,b,\n", "timestamps are no numbers"),
        ("user,item,time\na,b,874965758000\n", "look like milliseconds"),
        ("user,item,time\n,b,1\n", "no usable 'user_id'"),
        ("user,item,time\n", "log is empty"),
        ("", "cannot be read as csv"),
    ],
)
def test_bad_logs_say_what_to_do(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_interactions(write(tmp_path / "log.csv", text), COLUMNS)


def test_missing_file_and_wrong_kind(tmp_path):
    write(tmp_path / "log.csv", "")
    with pytest.raises(DataError, match=r"no such file \(did you mean 'log.csv'\?\)"):
        read_interactions(tmp_path / "lag.csv", COLUMNS)
    with pytest.raises(DataError, match=r"Expected .csv, .tsv, .parquet"):
        read_interactions(write(tmp_path / "log.xlsx", ""), COLUMNS)


def test_catalogue_with_an_empty_title(tmp_path):
    path = write(tmp_path / "items.csv", "item,title\n1,A\n2,\n")
    with pytest.raises(DataError, match="empty title, for example item '2'"):
        read_catalog(path, COLUMNS)
