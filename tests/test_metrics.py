"""Ranking metrics against hand-worked fractions and against ir-measures, with the parquet file in between."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, History, Holdout
from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import Recommendations, read_recommendations, write_recommendations
from llmrec.errors import ConfigError
from llmrec.eval.metrics import (
    RANK_METRICS,
    average_precision,
    hit_rate,
    mrr,
    ndcg,
    parse_metric,
    precision,
    target_ranks,
)


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
    for cutoff in (1, 5, 10, 20, 50):
        ours = {
            nDCG @ cutoff: ndcg,
            RR @ cutoff: mrr,
            Success @ cutoff: hit_rate,
            R @ cutoff: hit_rate,
            AP @ cutoff: average_precision,
            P @ cutoff: precision,
        }
        assert set(ours.values()) == set(RANK_METRICS.values())
        found = list(ir_measures.iter_calc(list(ours), qrels, run))
        assert len(found) == 6 * users
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
    assert average_precision(ranks, 4) == pytest.approx([1, 1 / 3, 0, 1 / 4])
    assert precision(ranks, 3).tolist() == [1 / 3, 1 / 3, 0, 0]


def test_a_repeated_item_counts_at_its_first_place() -> None:
    assert target_ranks(lists([[1, 5, 5]]), np.array([5], dtype=np.int32)).tolist() == [2]


def test_a_target_is_never_found_in_an_empty_list() -> None:
    empty = Recommendations("s", ("u",), np.empty((1, 0), np.int32), np.empty((1, 0)))
    assert np.isnan(target_ranks(empty, np.array([0], dtype=np.int32))).all()


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
