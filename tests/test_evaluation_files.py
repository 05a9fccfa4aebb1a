"""What an evaluation measures and refuses, and that its two files hold exactly that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csc_array, csr_matrix
from test_metrics import catalogue, holdout_of, lists, protocol_of

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, History, Holdout
from llmrec.data.recommendations import Recommendations, replacing
from llmrec.errors import ArtefactError, DataError
from llmrec.eval.evaluate import Cost, Evaluation, evaluate, train_counts
from llmrec.eval.files import read_evaluation, write_evaluation
from llmrec.eval.slices import popularity_bands, user_slices

CATALOG = catalogue(8)
COUNTS = np.array([5, 4, 3, 2, 1, 1, 0, 0])
HOLDOUT = holdout_of(np.array([1, 2, 7]), history=(0, 0))
RECS = lists([[1, 2, 3], [1, 2, 3], [1, 2, 3]])  # ranks 1, 2 and none


def evaluated(recs: Recommendations = RECS, ks: tuple[int, ...] = (1, 3), **changes: object) -> Evaluation:
    cost = Cost(fit_seconds=2.5, recommend_seconds=0.5, recommend_users=250, device="a test")
    return evaluate(recs, HOLDOUT, COUNTS, CATALOG, protocol_of(3, items=8, **changes), ks, cost, {"beam": 3})


def test_means_and_checks_are_the_hand_worked_ones() -> None:
    e = evaluated()
    assert e.means["hr@1"] == pytest.approx(1 / 3)
    assert e.means["hr@3"] == pytest.approx(2 / 3)
    assert e.means["mrr@3"] == pytest.approx((1 + 1 / 2) / 3)
    assert e.means["ndcg@3"] == pytest.approx((1 + 1 / np.log2(3)) / 3)
    assert e.means["coverage@3"] == 3 / 8
    assert e.means["popularity@3"] == 3  # items 1, 2, 3 have 4, 3 and 2 events
    assert e.counts == {"users": 3, "in_list": 2, "unreachable": 0}
    assert e.checks == {"validity": 1, "duplicates": 0, "seen": 0, "filled": 1}
    assert e.cost.seconds_per_1000_users == 2
    assert np.isnan(Cost().seconds_per_1000_users)


def test_users_are_matched_by_id_not_by_place() -> None:
    shuffled = Recommendations("s", ("u2", "u0", "u1"), RECS.items[[2, 0, 1]], RECS.scores[[2, 0, 1]])
    assert evaluated(shuffled).user_ids == HOLDOUT.histories.user_ids
    assert np.array_equal(evaluated(shuffled).target_ranks, evaluated().target_ranks, equal_nan=True)


def test_a_target_seen_before_counts_as_unreachable_only_where_the_protocol_forbids_it() -> None:
    seen = holdout_of(np.array([0, 1, 2]))
    for exclude_seen, unreachable in ((True, 1), (False, 0)):
        e = evaluate(RECS, seen, COUNTS, CATALOG, protocol_of(3, exclude_seen=exclude_seen), (3,))
        assert e.counts["unreachable"] == unreachable


def test_training_events_are_counted_per_item() -> None:
    train = Histories.from_list([History("u", np.array([1, 1, 3], np.int32), np.arange(3, dtype=np.int64))])
    assert train_counts(train, 5).tolist() == [0, 2, 0, 1, 0]


def test_other_users_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"has lists for 1 users that are not evaluated, for example user 'u3'"
    ):
        evaluated(lists([[1, 2, 3]] * 4))
    with pytest.raises(DataError, match=r"no recommendations for 1 of 3 users, for example user 'u2'"):
        evaluated(lists([[1, 2, 3]] * 2))
    with pytest.raises(DataError, match="no test users"):
        evaluate(RECS, holdout_of(np.array([], dtype=np.int32)), COUNTS, CATALOG, protocol_of(0))


def test_a_list_that_ends_too_early_is_refused_unless_nothing_is_left() -> None:
    short = lists([[1, 2, 3], [1, 2, -1], [1, 2, 3]])
    with pytest.raises(DataError, match=r"too few items to 1 of 3 users: user 'u1' gets 2, and 3 are needed"):
        evaluated(short)
    three = Catalog(("a", "b", "c"), ("A", "B", "C"))  # one is seen: two candidates are left
    full = Recommendations("s", ("u0",), np.array([[1, 2]], np.int32), np.array([[2.0, 1.0]]))
    e = evaluate(full, holdout_of(np.array([2])), np.ones(3, int), three, protocol_of(1, items=3), (1, 10))
    assert e.means["hr@10"] == 1
    assert e.k_max == 10
    with pytest.raises(DataError, match="too few items"):  # without exclusion the third is a candidate too
        evaluate(
            full, holdout_of(np.array([2])), np.ones(3, int), three, protocol_of(1, exclude_seen=False), (10,)
        )


def test_a_metric_beyond_the_lists_is_undefined_not_zero() -> None:
    assert evaluated().values("hr@3").tolist() == [1, 1, 0]
    with pytest.raises(DataError, match=r"ndcg@4 is undefined for 's': its lists end at rank 3"):
        evaluated().values("ndcg@4")


def test_the_files_hold_everything(tmp_path: Path) -> None:
    e = evaluated(repeated_targets=2)
    write_evaluation(tmp_path / "evaluation", e)
    again = read_evaluation(tmp_path / "evaluation", "s")
    assert np.array_equal(again.target_ranks, e.target_ranks, equal_nan=True)
    for name in (
        "system",
        "user_ids",
        "target_items",
        "k_max",
        "ks",
        "protocol",
        "means",
        "counts",
        "checks",
    ):
        assert getattr(again, name) == getattr(e, name), name
    assert (again.cost, again.meta) == (e.cost, e.meta)
    table = pl.read_parquet(tmp_path / "evaluation" / "s.parquet")
    assert table.select("user_id", "target_item", "target_rank").to_dict(as_series=False) == {
        "user_id": ["u0", "u1", "u2"],
        "target_item": ["i1", "i2", "i7"],
        "target_rank": [1, 2, None],
    }
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == ["s.json", "s.parquet"]


def test_nan_is_null_on_disk_and_nan_again_in_memory(tmp_path: Path) -> None:
    e = evaluated()
    write_evaluation(tmp_path, replace(e, means={**e.means, "gini@1": float("nan")}))
    assert json.loads((tmp_path / "s.json").read_text())["means"]["gini@1"] is None
    assert np.isnan(read_evaluation(tmp_path, "s").means["gini@1"])


def test_damaged_or_missing_files_are_explained(tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluated())
    with pytest.raises(ArtefactError, match=r"no evaluation of 'ss' .*did you mean 's'"):
        read_evaluation(tmp_path, "ss")
    facts, table = tmp_path / "s.json", tmp_path / "s.parquet"
    good = pl.read_parquet(table)
    for frame, message in (
        (good.head(2), "holds 2 users"),
        (good.with_columns(pl.col("target_rank") - 1), "outside 1 to 8"),
        (good.drop("target_item"), "Expected user_id and target_item as strings"),
    ):
        frame.write_parquet(table)
        with pytest.raises(ArtefactError, match=message):
            read_evaluation(tmp_path, "s")
    table.write_text("no parquet")
    with pytest.raises(ArtefactError, match="cannot be read as parquet"):
        read_evaluation(tmp_path, "s")
    facts.write_text(facts.read_text().replace('"k_max"', '"kmax"'))
    with pytest.raises(ArtefactError, match=r"is no evaluation of 's' \('k_max'\)"):
        read_evaluation(tmp_path, "s")
    facts.write_text("{")
    with pytest.raises(ArtefactError, match=r"is no evaluation of 's'"):
        read_evaluation(tmp_path, "s")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_popularity_bands_hold_a_third_of_the_events_each() -> None:
    # 18 events: 6 | 3 + 3 | 3 + 2 + 1, and one item without any.
    assert popularity_bands(np.array([3, 6, 1, 3, 0, 3, 2])).tolist() == [
        "mid", "head", "tail", "mid", "cold", "tail", "tail",
    ]  # fmt: skip


def test_slices_label_every_user_once() -> None:
    slices = user_slices(HOLDOUT, COUNTS)
    popularity = slices.groups["Popularity of the next item"]
    # 16 events: item 0 holds 5, item 1 starts before a third is full, item 2 starts after 9 of 16.
    assert popularity.tolist() == [
        "Head: 2 items with 4 to 5 events each",
        "Mid: 1 item with 3 events each",
        "Cold: 2 items with no training event",
    ]
    assert set(slices.groups["Length of the history"]) == {"2 events"}
    for title, labels in slices.groups.items():
        assert set(labels) == set(slices.order[title])


def asked_after(gaps: list[int], start: int) -> Holdout:
    """Users whose last event is at ``start`` and whose next item comes after each of the gaps."""
    asked = holdout_of(np.zeros(len(gaps), np.int32))
    times = np.full(len(asked.histories.timestamps), start)
    return Holdout(
        replace(asked.histories, timestamps=times), asked.target_items, start + np.array(gaps, np.int64)
    )


def test_time_since_the_last_event_is_in_bands_that_the_data_can_tell_apart() -> None:
    day = 86400
    gaps = [0, 1, 3600, 3601, day, day + 1, 7 * day, 30 * day, 30 * day + 1]
    slices = user_slices(asked_after(gaps, 12_345), COUNTS)
    hour, within_day, week = "Within an hour", "Within a day", "Within a week"
    assert slices.groups["Time since the last event"].tolist() == [
        "The same second", hour, hour, within_day, within_day, week, week, "Within 30 days", "Longer",
    ]  # fmt: skip
    # Only whole days are known: no hours are invented, and empty bands are not shown.
    slices = user_slices(asked_after([0, day, 40 * day, 0], 20 * day), COUNTS)
    assert slices.order["Time since the last event"] == ("The same day", within_day, "Longer")


def test_a_user_without_history_has_a_group_of_time_too() -> None:
    slices = user_slices(holdout_of(np.array([1, 2]), history=()), COUNTS)
    assert set(slices.groups["Time since the last event"]) == {"No history"}


def test_the_values_of_users_are_kept_and_columns_of_others_are_not_needed(tmp_path: Path) -> None:
    genres = Catalog(CATALOG.item_ids, CATALOG.titles, {"genres": ("A", "A|B", "B", "", "A", "", "", "")})
    e = evaluate(RECS, HOLDOUT, COUNTS, genres, protocol_of(3, items=8), (1, 3))
    names = ("popularity", "novelty", "diversity", "miscalibration")
    assert list(e.per_user) == [f"{name}@{k}" for name in names for k in (1, 3)]
    write_evaluation(tmp_path, e)
    again = read_evaluation(tmp_path, "s")
    for name, values in e.per_user.items():
        assert np.array_equal(again.per_user[name], values, equal_nan=True)
        defined = values[~np.isnan(values)]
        assert e.means[name] == pytest.approx(defined.mean() if len(defined) else np.nan, nan_ok=True)
    path = tmp_path / "s.parquet"
    table = pl.read_parquet(path)
    assert table["diversity@1"].null_count() == 3  # one item has no pair
    table.select("user_id", "target_item", "target_rank").with_columns(note=pl.lit("mine")).write_parquet(
        path
    )
    assert read_evaluation(tmp_path, "s").per_user == {}


def test_users_are_taken_with_all_that_is_theirs() -> None:
    e = evaluated()
    taken = e.take(np.array([2, 0]))
    assert taken.user_ids == ("u2", "u0")
    assert taken.target_items == ("i7", "i1")
    assert np.array_equal(taken.target_ranks, [np.nan, 1], equal_nan=True)
    assert taken.per_user["novelty@3"].tolist() == e.per_user["novelty@3"][[2, 0]].tolist()


def test_features_of_other_items_are_refused() -> None:
    with pytest.raises(DataError, match="describe 7 items, and the catalogue has 8"):
        evaluate(RECS, HOLDOUT, COUNTS, CATALOG, protocol_of(3, items=8), (1,), features=np.ones((7, 2)))
    for bad in (-1.0, np.nan):
        with pytest.raises(DataError, match="negative or missing"):
            evaluate(
                RECS, HOLDOUT, COUNTS, CATALOG, protocol_of(3, items=8), (1,), features=np.full((8, 2), bad)
            )


def test_features_may_be_dense_or_sparse_of_any_kind() -> None:
    features = np.random.default_rng(0).integers(0, 2, (8, 3)).astype(np.float32)
    found = [
        evaluate(RECS, HOLDOUT, COUNTS, CATALOG, protocol_of(3, items=8), (3,), features=f).means
        for f in (features, csr_matrix(features), csc_array(features))
    ]
    assert found[0] == pytest.approx(found[1], nan_ok=True)
    assert found[0] == pytest.approx(found[2], nan_ok=True)


def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    recs = lists([rng.permutation(8)[:4].tolist() for _ in range(50)])
    asked = holdout_of(rng.integers(0, 8, 50), history=(3, 3, 5))
    arguments = (asked, COUNTS, CATALOG, protocol_of(50, exclude_seen=False), (1, 3))
    features = rng.integers(0, 2, (8, 3)).astype(np.float32)
    whole = evaluate(recs, *arguments, features=features)
    monkeypatch.setattr("llmrec.eval.evaluate._BLOCK_BYTES", 4 * 6 * 7)  # seven users
    monkeypatch.setattr("llmrec.eval.evaluate._BLOCK_USERS", 1)
    parts = evaluate(recs, *arguments, features=features)
    assert parts.means == pytest.approx(whole.means, nan_ok=True)
    assert (parts.checks, parts.counts) == (whole.checks, whole.counts)
    for name, values in whole.per_user.items():
        assert np.array_equal(parts.per_user[name], values, equal_nan=True)
