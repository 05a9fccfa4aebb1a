"""Intervals that cover, tests that reject as often as they say, and Holm's worked example."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.eval.metrics import ndcg
from llmrec.eval.significance import bootstrap_mean, holm, paired_difference, sign_flip_p


def some_values(users: int, seed: int, hits: float = 0.3) -> np.ndarray:
    """NDCG@10 of users whose target is at a random rank, or not in the list."""
    rng = np.random.default_rng(seed)
    ranks = np.where(rng.random(users) < hits, rng.integers(1, 11, users), np.nan)
    return ndcg(ranks, 10)


def test_the_interval_equals_scipys_bca_interval() -> None:
    values = some_values(300, 1)
    ours = bootstrap_mean(values, 0, resamples=40_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1), batch=1000
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == values.mean()
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    percentile = bootstrap_mean(values, 0, resamples=40_000, method="percentile")
    assert (
        percentile.low < ours.low < percentile.mean < percentile.high < ours.high
    )  # BCa follows the long right tail


def test_resampling_different_values_is_resampling_users() -> None:
    values = some_values(200, 2)
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, 200, (20_000, 200))].mean(axis=1)
    ours = bootstrap_mean(values, 0, resamples=20_000, method="percentile")
    spread = means.std()
    assert [ours.low, ours.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.08 * spread)


def test_ninety_five_per_cent_of_intervals_hold_the_true_mean() -> None:
    truth = 0.3 * np.mean(1 / np.log2(1 + np.arange(1, 11)))
    inside = 0
    for seed in range(300):
        interval = bootstrap_mean(some_values(250, 1000 + seed), seed, resamples=1000)
        inside += interval.low <= truth <= interval.high
    # Binomial(300, 0.95) lies in 270..296 with probability 0.999; below 0.93 the interval would be too narrow.
    assert 270 <= inside <= 298


def test_the_null_is_rejected_in_about_five_per_cent_of_cases() -> None:
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        first, second = some_values(150, 2 * seed), some_values(150, 2 * seed + 1)
        swap = rng.random(150) < 0.5  # exchangeable for every user: the null hypothesis itself
        d = paired_difference(
            np.where(swap, first, second), np.where(swap, second, first), seed, resamples=1000
        )
        rejected += d.p < 0.05
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 200, 0.05)
    assert low <= rejected <= high


def trained(chance: np.ndarray, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """NDCG@10 of users with these chances of a hit, the mean over trainings that differ in nothing but luck."""
    hit = rng.random((seeds, len(chance))) < chance
    return (
        ndcg(np.where(hit, rng.integers(1, 11, hit.shape), np.nan).ravel(), 10)
        .reshape(hit.shape)
        .mean(axis=0)
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_system_does_not_differ_from_itself_with_other_seeds(seeds: int) -> None:
    rng, found = np.random.default_rng(seeds), []
    for case in range(200):
        chance = rng.beta(0.4, 1.5, 200)
        pair = (trained(chance, seeds, rng), trained(chance, seeds, rng))
        found.append(paired_difference(*pair, case, resamples=400))
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 200, 0.05)
    assert low <= sum(d.p < 0.05 for d in found) <= high
    assert sum(d.shown() for d in found) <= high  # asks for more than p < 0.05


def test_the_larger_a_difference_the_more_often_it_is_shown() -> None:
    rng, shown = np.random.default_rng(0), []
    for lift in (0.0, 0.3, 0.8):
        found = []
        for case in range(60):
            chance = rng.beta(0.4, 1.5, 400)
            better = trained(np.minimum(chance * (1 + lift), 1), 1, rng)
            found.append(paired_difference(better, trained(chance, 1, rng), case, resamples=400))
        shown.append(sum(d.shown() for d in found) / len(found))
    assert shown[0] < 0.2 < shown[1] < 0.9 < shown[2]


def test_a_real_difference_is_found_with_its_sign() -> None:
    better, worse = some_values(800, 5, hits=0.5), some_values(800, 6, hits=0.2)
    up, down = paired_difference(better, worse, 0), paired_difference(worse, better, 0)
    assert up.low > 0
    assert up.shown()
    assert down.high < 0
    assert down.shown()
    assert up.mean == pytest.approx(-down.mean)
    delta = better - worse
    assert up.effect_size == pytest.approx(delta.mean() / delta.std(ddof=1))
    assert up.relative == pytest.approx(delta.mean() / worse.mean())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=11))
def test_with_few_users_p_is_scipys_exact_p(differences: list[int]) -> None:
    d = np.array(differences) / 8
    theirs = scipy.stats.permutation_test(
        (d, np.zeros_like(d)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
    ).pvalue
    ours = sign_flip_p(d, 0)
    brute = np.mean(
        [abs(np.dot(s, d)) >= abs(d.sum()) - 1e-12 for s in itertools.product((-1, 1), repeat=len(d))]
    )
    assert ours == pytest.approx(brute)
    assert ours == pytest.approx(min(theirs, 1.0), abs=1e-9)


def test_with_many_users_p_agrees_with_scipy() -> None:
    d = some_values(120, 3, 0.4) - some_values(120, 4, 0.3)
    theirs = scipy.stats.permutation_test(
        (d, np.zeros_like(d)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert sign_flip_p(d, 0) == pytest.approx(theirs, abs=0.02)  # 4 standard errors of the two estimates
    assert 0.02 < theirs < 0.98  # else the comparison would be trivial


def test_p_is_never_zero_and_one_where_nothing_differs() -> None:
    assert sign_flip_p(np.ones(500), 0, resamples=999) == 1 / 1000
    assert sign_flip_p(np.zeros(500), 0) == 1.0
    cancel = np.array([0.1, 0.2, -0.3] * 20)
    assert cancel.sum() != 0  # in floating point, in which they do not cancel
    assert sign_flip_p(cancel, 0) == 1.0


def test_equal_input_gives_equal_output() -> None:
    a, b = some_values(400, 8), some_values(400, 9)
    assert paired_difference(a, b, 3) == paired_difference(a, b, 3)
    assert paired_difference(a, b, 3) != paired_difference(a, b, 4)


def test_holm_is_the_worked_example() -> None:
    # Sorted: .01 * 4, .03 * 3, .04 * 2 -> raised to .09, .9 * 1.
    corrected = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9})
    assert list(corrected) == ["a", "b", "c", "d"]
    assert corrected == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_what_the_bootstrap_cannot_know_is_nan() -> None:
    interval = bootstrap_mean(np.zeros(50), 0)
    assert interval.mean == 0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    same = paired_difference(np.zeros(50), np.zeros(50), 0)
    assert math.isnan(same.effect_size)
    assert math.isnan(same.relative)
    assert not same.shown()


def test_bad_input_raises() -> None:
    with pytest.raises(ValueError, match="no NaN"):
        bootstrap_mean(np.array([1.0, np.nan]), 0)
    with pytest.raises(ValueError, match="got 0 values"):
        bootstrap_mean(np.array([]), 0)
    with pytest.raises(ValueError, match="'bootstrap-t' is not known"):
        bootstrap_mean(np.ones(3), 0, method="bootstrap-t")
