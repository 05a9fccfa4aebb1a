"""Lists made by any tool: what is accepted, and how each fault is explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import (
    Recommendations,
    read_meta,
    read_recommendations,
    write_recommendations,
)
from llmrec.errors import DataError

CATALOG = Catalog(("a", "b", "c", "10"), ("A", "B", "C", "Ten"))
GOOD = {"user_id": ["u", "u", "v"], "rank": [1, 2, 1], "item_id": ["a", "b", "c"], "score": [0.9, 0.5, 0.1]}
RECS = Recommendations(
    "mine",
    ("u", "v"),
    np.array([[2, 0, 1], [3, -1, -1]], dtype=np.int32),
    np.array([[3.0, 2.0, 2.0], [1.0, -np.inf, -np.inf]]),
)


def write(path: Path, **columns: object) -> Path:
    pl.DataFrame(GOOD | columns).write_parquet(path)
    return path


def test_what_is_written_is_read_with_short_lists_and_meta(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "mine-1.5b.parquet"
    write_recommendations(path, RECS, CATALOG, {"seed": 1, "beam": {"width": 20}})
    again = read_recommendations(path, CATALOG, ["v", "u"])
    assert again.system == "mine-1.5b"
    assert again.user_ids == ("v", "u")
    assert np.array_equal(again.items, RECS.items[::-1])
    assert np.array_equal(again.scores, RECS.scores[::-1])
    assert read_meta(path) == {"seed": 1, "beam": {"width": 20}}
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays
    frame = pl.read_parquet(path)
    assert frame.schema == {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float64}
    assert frame["item_id"].to_list() == ["c", "a", "b", "10"]  # fillers are not written
    assert frame["rank"].to_list() == [1, 2, 3, 1]


def test_many_users_are_written_in_parts_and_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmrec.data.recommendations._ROWS_PER_GROUP", 10)
    rng = np.random.default_rng(0)
    items = np.array([rng.permutation(4)[:3] for _ in range(50)], dtype=np.int32)
    recs = Recommendations(
        "s", tuple(f"u{u}" for u in range(50)), items, -np.sort(rng.random((50, 3)), axis=1)
    )
    write_recommendations(tmp_path / "s.parquet", recs, CATALOG)
    again = read_recommendations(tmp_path / "s.parquet", CATALOG)
    assert pq.ParquetFile(tmp_path / "s.parquet").num_row_groups == 17  # three users fit into a part
    assert again.user_ids == recs.user_ids
    assert np.array_equal(again.items, items)
    assert np.array_equal(again.scores, recs.scores)


def test_files_of_others_may_have_any_row_order_integer_ids_and_no_meta(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    pl.DataFrame(GOOD).reverse().with_columns(extra=pl.lit(1)).write_parquet(path)
    found = read_recommendations(path, CATALOG, ["u", "v"])
    assert found.items.tolist() == [[0, 1], [2, -1]]
    assert read_meta(path) is None
    write(path, user_id=[7, 7, 8], item_id=[10, 10, 10], rank=[1, 2, 1]).exists()
    with pytest.raises(DataError, match=r"item '10' more than once to user '7'"):
        read_recommendations(path, CATALOG)
    table = pa.table({**GOOD, "user_id": pa.array(GOOD["user_id"]).dictionary_encode()})
    pq.write_table(table, path)
    assert read_recommendations(path, CATALOG).user_ids == ("u", "v")


def test_a_file_without_rows_holds_no_users(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    pl.DataFrame(GOOD).clear().write_parquet(path)
    assert len(read_recommendations(path, CATALOG)) == 0
    with pytest.raises(DataError, match="no list for 1 of the 1 users"):
        read_recommendations(path, CATALOG, ["u"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", "b", "cc"]}, r"1 items that are not in the catalogue of 4, in 1 rows; .*'cc'"),
        ({"rank": [1, 3, 1]}, r"ranks the 2 items of user 'u' as 1, 3\. Expected the ranks 1 to n"),
        ({"rank": [0, 1, 1]}, r"ranks the 2 items of user 'u' as 0, 1"),
        ({"rank": [1, 1, 1]}, r"ranks the 2 items of user 'u' as 1, 1"),
        ({"rank": [1, 2, 2]}, r"ranks the 1 items of user 'v' as 2"),
        ({"rank": ["1", "2", "1"]}, "ranks of type .*string.*Expected whole numbers"),
        ({"item_id": ["a", "a", "c"]}, r"item 'a' more than once to user 'u'"),
        ({"score": [0.1, 0.5, 0.1]}, r"user 'u' rank 2 has the score 0.5 and rank 1 the lower score 0.1"),
        ({"score": [float("nan"), 0.5, 0.1]}, r"not a finite number in the list of user 'u'"),
        ({"score": ["x", "y", "z"]}, "scores of type .*Expected numbers"),
        ({"item_id": ["a", None, "c"]}, "1 nulls in column 'item_id'"),
        ({"user_id": [1.0, 1.0, 2.0]}, "ids of type double"),
    ],
)
def test_each_fault_is_explained(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_recommendations(write(tmp_path / "x.parquet", **columns), CATALOG)


def test_misspelt_column_wrong_users_and_no_parquet_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame(GOOD).rename({"item_id": "itemid"}).write_parquet(path)
    with pytest.raises(DataError, match=r"lacks the column 'item_id' \(is it 'itemid'\?\)"):
        read_recommendations(path, CATALOG)
    write(path)
    with pytest.raises(
        DataError, match=r"no list for 1 of the 3 users to be evaluated, for example user 'w'"
    ):
        read_recommendations(path, CATALOG, ["u", "v", "w"])
    with pytest.raises(DataError, match=r"lists for 1 users that are not evaluated, for example user 'v'"):
        read_recommendations(path, CATALOG, ["u"])
    path.write_text("rank,item")
    for read in (lambda: read_recommendations(path, CATALOG), lambda: read_meta(path)):
        with pytest.raises(DataError, match="cannot be read as parquet"):
            read()
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_recommendations(tmp_path / "absent.parquet", CATALOG)


@pytest.mark.parametrize(
    ("users", "items", "scores", "message"),
    [
        (("u",), [[0, 0]], [[1.0, 0.5]], "more than once"),
        (("u",), [[-1, 0]], [[-np.inf, 0.5]], "a gap in the list of user 'u'"),
        (("u",), [[0, 4]], [[1.0, 0.5]], "not in the catalogue of 4 items"),
        (("u",), [[0, 1]], [[0.5, 1.0]], "contradicts itself"),
        (("u", "u"), [[0], [1]], [[0.5], [1.0]], "2 lists for 1 users"),
        (("u", "v"), [[0]], [[0.5]], r"shape \(1, 1\).* for 2 users"),
    ],
)
def test_lists_that_would_not_be_read_back_are_not_written(
    tmp_path: Path, users: tuple[str, ...], items: list[list[int]], scores: list[list[float]], message: str
) -> None:
    bad = Recommendations("x", users, np.array(items, dtype=np.int32), np.array(scores))
    with pytest.raises(DataError, match=message):
        write_recommendations(tmp_path / "x.parquet", bad, CATALOG)
    assert not list(tmp_path.iterdir())


def test_lists_of_some_users_are_picked_by_id() -> None:
    assert RECS.for_users(["v"]).items.tolist() == [[3, -1, -1]]
    with pytest.raises(
        DataError, match=r"'mine' has no recommendations for 1 of 2 users, for example user 'w'"
    ):
        RECS.for_users(["u", "w"])


def test_users_without_items_are_not_lost(tmp_path):
    catalog = Catalog(("a", "b"), ("A", "B"), {})
    recs = Recommendations(
        "s",
        ("nobody", "u", "no one"),
        np.array([[-1, -1], [1, -1], [-1, -1]], np.int32),
        np.array([[-np.inf] * 2, [-1.0, -np.inf], [-np.inf] * 2]),
    )
    write_recommendations(tmp_path / "s.parquet", recs, catalog)
    read = read_recommendations(tmp_path / "s.parquet", catalog, recs.user_ids)
    assert read.user_ids == recs.user_ids
    assert read.items.tolist() == [[-1], [1], [-1]]
    assert set(read_recommendations(tmp_path / "s.parquet", catalog).user_ids) == set(recs.user_ids)
    with pytest.raises(DataError, match="stranger"):
        read_recommendations(tmp_path / "s.parquet", catalog, ("nobody", "stranger"))
