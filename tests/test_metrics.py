"""Metrics against hand-worked fractions and against ir-measures, with the parquet file in between."""

from __future__ import annotations

import importlib
import math
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, History, Holdout
from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import Recommendations, read_recommendations, write_recommendations
from llmrec.errors import ConfigError
from llmrec.eval import metrics
from llmrec.eval.metrics import hit_rate, mrr, ndcg, parse_metric, target_ranks


def catalogue(n: int) -> Catalog:
    return Catalog(tuple(f"i{i}" for i in range(n)), tuple(f"Title {i}" for i in range(n)))


def lists(items: list[list[int]], system: str = "s") -> Recommendations:
    array = np.array(items, dtype=np.int32)
    scores = np.where(array >= 0, -np.arange(array.shape[1], dtype=float), -np.inf)
    return Recommendations(system, tuple(f"u{u}" for u in range(len(array))), array, scores)


def holdout_of(targets: np.ndarray, history: tuple[int, ...] = (0,)) -> Holdout:
    """Users u0, u1, ... who all have the same history."""
    times = np.arange(len(history), dtype=np.int64)
    users = [History(f"u{u}", np.array(history, dtype=np.int32), times) for u in range(len(targets))]
    later = np.full(len(targets), len(history), dtype=np.int64)
    return Holdout(Histories.from_list(users), np.asarray(targets, dtype=np.int32), later)


def protocol_of(users: int, **changes: object) -> Protocol:
    fields: dict[str, object] = {
        "dataset": "toy",
        "dataset_sha256": "0123456789abcdef" * 4,
        "split": "leave-one-out",
        "ties": "source",
        "seed": 0,
        "exclude_seen": True,
        "users": users,
        "items": 40,
        "interactions": 20 * users,
        "time_resolution": 86_400,
        "tie_rate_last_two": 0.25,
        "tie_rate_neighbours": 0.125,
        "repeated_targets": 0,
        "short_histories": 0,
        "first_timestamp": 0,
        "last_timestamp": 86_400 * 400,
    }
    return Protocol(**(fields | changes))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_metrics_equal_ir_measures_after_the_file_round_trip(users: int, n: int, k: int, seed: int) -> None:
    rng, k = np.random.default_rng(seed), min(k, n)
    items = np.array([rng.permutation(n)[:k] for _ in range(users)], dtype=np.int32)
    scores = -np.sort(rng.exponential(size=(users, k)), axis=1)
    targets = rng.integers(0, n, users).astype(np.int32)
    catalog = catalogue(n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.parquet"
        write_recommendations(
            path, Recommendations("s", tuple(f"u{u}" for u in range(users)), items, scores), catalog
        )
        recs = read_recommendations(path, catalog)
    run = {
        user: {catalog.item_ids[i]: float(s) for i, s in zip(row, value, strict=True)}
        for user, row, value in zip(recs.user_ids, recs.items, recs.scores, strict=True)
    }
    qrels = {user: {catalog.item_ids[t]: 1} for user, t in zip(recs.user_ids, targets, strict=True)}
    ranks = target_ranks(recs, targets)
    for cutoff in (1, 5, 10, 20):
        ours = {nDCG @ cutoff: ndcg, RR @ cutoff: mrr, Success @ cutoff: hit_rate, R @ cutoff: hit_rate}
        found = list(ir_measures.iter_calc(list(ours), qrels, run))
        assert len(found) == 4 * users
        for theirs in found:
            value = ours[theirs.measure](ranks, cutoff)[recs.user_ids.index(theirs.query_id)]
            assert value == pytest.approx(theirs.value, abs=1e-9), theirs


def test_ranks_and_values_are_the_hand_worked_ones() -> None:
    # Targets at ranks 1, 3, none, 4 of lists of 4.
    recs = lists([[5, 1, 2, 3], [1, 2, 5, 3], [1, 2, 3, 4], [1, 2, 3, 5]])
    ranks = target_ranks(recs, np.full(4, 5, dtype=np.int32))
    assert ranks[:2].tolist() == [1, 3]
    assert np.isnan(ranks[2])
    assert ranks[3] == 4
    assert hit_rate(ranks, 3).tolist() == [1, 1, 0, 0]
    assert ndcg(ranks, 3).tolist() == [1, 1 / 2, 0, 0]  # 1 / log2(1 + 3) = 1/2
    assert mrr(ranks, 4) == pytest.approx([1, 1 / 3, 0, 1 / 4])


def test_a_repeated_item_counts_at_its_first_place() -> None:
    assert target_ranks(lists([[1, 5, 5]]), np.array([5], dtype=np.int32)).tolist() == [2]


def test_a_target_is_never_found_in_an_empty_list() -> None:
    empty = Recommendations("s", ("u",), np.empty((1, 0), np.int32), np.empty((1, 0)))
    assert np.isnan(target_ranks(empty, np.array([0], dtype=np.int32))).all()


def test_coverage_gini_and_popularity_are_the_hand_worked_ones() -> None:
    items = np.array([[0, 1], [0, 2], [0, -1]], dtype=np.int32)
    counts = np.array([10, 4, 1, 7])
    assert metrics.catalogue_coverage(items, 2, counts) == 3 / 4
    assert metrics.catalogue_coverage(items, 1, counts) == 1 / 4
    # exposures 0, 1, 1, 3: (-3*0 - 1*1 + 1*1 + 3*3) / (4 * 5) = 9/20
    assert metrics.gini(items, 2, counts) == pytest.approx(9 / 20)
    assert metrics.gini(np.array([[0], [1], [2], [3]], dtype=np.int32), 1, counts) == 0
    assert metrics.mean_popularity(items, 2, counts) == pytest.approx((10 + 4 + 10 + 1 + 10) / 5)


def test_rates_are_the_hand_worked_ones() -> None:
    # 7 is outside a catalogue of 4 items, -1 is an empty place; user 1 has seen item 2.
    items = np.array([[0, 0, 1, 7], [2, 3, -1, -1]], dtype=np.int32)
    histories = Histories.from_list(
        [
            History("a", np.array([3], np.int32), np.array([0], np.int64)),
            History("b", np.array([2, 2], np.int32), np.array([0, 1], np.int64)),
        ]
    )
    assert metrics.validity_rate(items, 4) == pytest.approx(5 / 6)
    assert metrics.duplicate_rate(items) == pytest.approx(1 / 6)
    assert metrics.seen_rate(items, histories, 4) == pytest.approx(1 / 6)
    assert metrics.filled_rate(items, np.array([4, 3])) == pytest.approx(6 / 7)


def test_undefined_is_nan_and_never_zero() -> None:
    nothing = np.full((2, 3), -1, dtype=np.int32)
    counts = np.array([1, 2])
    users = Histories.from_list([History(u, np.empty(0, np.int32), np.empty(0, np.int64)) for u in "ab"])
    assert math.isnan(metrics.gini(nothing, 3, counts))
    assert math.isnan(metrics.mean_popularity(nothing, 3, counts))
    assert math.isnan(metrics.validity_rate(nothing, 2))
    assert math.isnan(metrics.duplicate_rate(nothing))
    assert math.isnan(metrics.seen_rate(nothing, users, 2))
    assert math.isnan(metrics.filled_rate(nothing, np.array([0, 0])))
    assert math.isnan(metrics.catalogue_coverage(nothing, 3, np.empty(0, np.int64)))
    assert metrics.catalogue_coverage(nothing, 3, counts) == 0  # defined: of two items none is recommended
    assert metrics.seen_rate(np.array([[0], [1]], np.int32), users, 2) == 0  # defined: nothing was seen


def test_metric_names_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_metric("ndcg@10") == (ndcg, 10)
    (tmp_path / "mine.py").write_text("def top(ranks, k):\n    return (ranks <= k) * 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    function, k = parse_metric("mine.top@3")
    assert function is importlib.import_module("mine").top
    assert k == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", r"'ndgc' is not known \(did you mean 'ndcg'\?\)"),
        ("ndcg", "has no cutoff"),
        ("ndcg@0", "has no cutoff"),
        ("no.such.module@5", "cannot be imported"),
    ],
)
def test_a_bad_metric_name_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_metric(name)
