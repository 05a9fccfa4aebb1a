"""Metrics of what is recommended against hand-worked fractions and plain loops; the checks likewise."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from llmrec.data.catalog import Catalog
from llmrec.eval import lists
from llmrec.eval.checks import Checks, owned_items
from llmrec.eval.lists import Tops

COUNTS = np.array([10, 4, 1, 7])


def owned_of(histories: list[list[int]], n: int) -> csr_array:
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    return owned_items(items, indptr, n)


def with_genres(*texts: str) -> Catalog:
    names = tuple(map(str, range(len(texts))))
    return Catalog(names, names, {"genres": texts})


def test_coverage_gini_and_popularity_are_the_hand_worked_ones() -> None:
    items = np.array([[0, 1], [0, 2], [0, -1]], dtype=np.int32)
    tops = Tops.cut(items, (2, 1), 4)  # cutoffs in any order
    two, one = tops.exposures()
    assert two.tolist() == [3, 1, 1, 0]
    assert one.tolist() == [3, 0, 0, 0]
    assert lists.catalogue_coverage(two) == 3 / 4
    assert lists.catalogue_coverage(one) == 1 / 4
    # exposures 0, 1, 1, 3: (-3*0 - 1*1 + 1*1 + 3*3) / (4 * 5) = 9/20
    assert lists.gini(two) == pytest.approx(9 / 20)
    assert lists.gini(np.ones(4, int)) == 0
    assert lists.mean_popularity(tops, COUNTS).tolist() == [[7, 5.5, 10], [10, 10, 10]]


def test_novelty_is_the_self_information_of_the_items() -> None:
    items = np.array([[0, 1], [2, 3], [-1, -1]], dtype=np.int32)
    counts = np.array([8, 4, 4, 0])  # shares 1/2, 1/4, 1/4, and 1/16 for the item without events
    found = lists.novelty(Tops.cut(items, (1, 2), 4), counts)
    assert found[:, :2].tolist() == [[1, 2], [(1 + 2) / 2, (2 + 4) / 2]]
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(lists.novelty(Tops.cut(items, (1,), 4), np.zeros(4, int))).all()


def test_genres_are_read_from_text() -> None:
    films = lists.genre_matrix(with_genres("Comedy, Drama", "", "Drama, Drama"))
    assert films is not None
    assert films.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    bars = lists.genre_matrix(with_genres("Sword, Sorcery|War", "War", "(no genres listed)"))
    assert bars is not None
    assert bars.toarray().tolist() == [[1, 1], [0, 1], [0, 0]]
    assert lists.genre_matrix(with_genres("", "")) is None
    assert lists.genre_matrix(Catalog(("a",), ("A",))) is None


def test_diversity_is_the_hand_worked_one() -> None:
    genres = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    items = np.array([[0, 1, 2], [0, 3, 4], [4, 0, -1]], dtype=np.int32)
    found = lists.diversity(Tops.cut(items, (1, 2, 3), 5), genres)
    assert np.isnan(found[0]).all()  # one item is no pair
    assert found[1:, 0] == pytest.approx([0, 2 / 3])
    assert found[1:, 1] == pytest.approx([1 - math.sqrt(1 / 2)] * 2)  # item 4 has no genre
    assert np.isnan(found[1:, 2]).all()


def test_miscalibration_is_the_hand_worked_one() -> None:
    genres = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    owned = owned_of([[0, 0, 2, 3], [1], [3], []], 4)  # 5/6 and 1/6; 0 and 1; undefined twice
    items = np.array([[2, 3], [0, 1], [0, 1], [0, 1]], dtype=np.int32)
    found = lists.miscalibration(Tops.cut(items, (1, 2), 4), owned, genres)
    q = [0.99 / 2 + 0.01 * 5 / 6, 0.99 / 2 + 0.01 / 6]
    first = 5 / 6 * math.log(5 / 6 / q[0]) + 1 / 6 * math.log(1 / 6 / q[1])
    assert found[:, 0] == pytest.approx([first, first], abs=1e-6)
    assert found[:, 1] == pytest.approx([math.log(100), math.log(1 / (0.99 / 2 + 0.01))], abs=1e-6)
    assert np.isnan(found[:, 2:]).all()
    same = lists.miscalibration(Tops.cut(np.array([[0, 0, 2]] * 4, np.int32), (3,), 4), owned, genres)
    assert same[0, 0] == pytest.approx(0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_values_of_users_equal_plain_loops(users: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genres = (rng.random((n, 4)) < 0.4).astype(np.float32)
    items = rng.integers(-1, n + 1, (users, 6)).astype(np.int32)  # n is outside the catalogue
    histories = [rng.integers(0, n, rng.integers(0, 5)).tolist() for _ in range(users)]
    counts = rng.integers(0, 9, n)
    ks = (3, 1, 8)
    for features in (genres, csr_array(genres)):
        found = lists.user_values(Tops.cut(items, ks, n), counts, owned_of(histories, n), features)
        for c, k in enumerate(ks):
            for u in range(users):
                held = [i for i in items[u, :k].tolist() if 0 <= i < n]
                expected = by_hand(held, histories[u], counts, genres)
                for name, value in expected.items():
                    assert found[name][c, u] == pytest.approx(value, abs=2e-5, nan_ok=True), name


def by_hand(held: list[int], history: list[int], counts: np.ndarray, genres: np.ndarray) -> dict[str, float]:
    nan = math.nan
    total = counts.sum()
    bits = [-math.log2(max(counts[i], 1) / total) if total else nan for i in held]
    rich = [genres[i].astype(float) for i in held if genres[i].any()]
    pairs = [1 - a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in combinations(rich, 2)]
    told = [genres[i].astype(float) for i in history if genres[i].any()]
    divergence = nan
    if rich and told:
        q, p = (np.mean([g / g.sum() for g in of], axis=0) for of in (rich, told))
        terms = [a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q, strict=True) if a > 0]
        divergence = sum(terms)
    return {
        "popularity": float(np.mean(counts[held])) if held else nan,
        "novelty": float(np.mean(bits)) if held else nan,
        "diversity": float(np.mean(pairs)) if pairs else nan,
        "miscalibration": divergence,
    }


def test_rates_are_the_hand_worked_ones() -> None:
    # 7 is outside a catalogue of 4 items, -1 is an empty place; user 1 has seen item 2.
    items = np.array([[0, 0, 1, 7], [2, 3, -1, -1]], dtype=np.int32)
    checks = Checks()
    checks.add(items, owned_of([[3], [2, 2]], 4), np.array([4, 3]))
    rates = {"validity": 5 / 6, "duplicates": 1 / 6, "seen": 1 / 6, "filled": 6 / 7}
    assert checks.rates() == pytest.approx(rates)
    checks.add(items, owned_of([[0], []], 4), np.array([4, 3]))  # the same item twice is seen twice
    assert checks.rates() == pytest.approx(rates | {"seen": 3 / 12})


def test_undefined_is_nan_and_never_zero() -> None:
    nothing = np.full((2, 3), -1, dtype=np.int32)
    counts = np.array([1, 2])
    exposure = Tops.cut(nothing, (3,), 2).exposures()[0]
    assert math.isnan(lists.gini(exposure))
    assert math.isnan(lists.catalogue_coverage(np.empty(0, np.int64)))
    assert lists.catalogue_coverage(exposure) == 0  # defined: of two items none is recommended
    values = lists.user_values(Tops.cut(nothing, (1, 3), 2), counts, owned_of([[0], [1]], 2), np.ones((2, 1)))
    assert set(values) == set(lists.PER_USER)
    assert all(np.isnan(found).all() for found in values.values())
    checks = Checks()
    assert all(math.isnan(rate) for rate in checks.rates().values())
    checks.add(nothing, owned_of([[], []], 2), np.array([0, 0]))
    assert all(math.isnan(rate) for rate in checks.rates().values())
    checks.add(np.array([[0], [1]], np.int32), owned_of([[], []], 2), np.array([2, 2]))
    assert checks.rates()["seen"] == 0  # defined: nothing was seen
