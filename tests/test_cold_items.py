"""In a hybrid, items without training events are judged by those parts that know something of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_leakage import CATALOG

from llmrec.config import RunConfig
from llmrec.data.histories import Histories, History
from llmrec.errors import ConfigError
from llmrec.pipeline.decoder import knows_cold_items
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.comparable import comparable, new_items
from llmrec.recommenders.holdout import holdout_gains
from llmrec.recommenders.hybrid import Hybrid
from llmrec.recommenders.mixes import Mix, all_mixes, mixed, mixed_gains, weight_grid
from llmrec.testing import RecommenderConformance

SPLIT = RecommenderConformance.split


def with_cold_targets(every=3):
    """Return a split in which each so-manieth of the validation users' targets is an item that nobody has in training."""
    train = SPLIT.train
    cold = np.unique(SPLIT.valid.target_items)[::every]
    kept = [
        History(h.user_id, h.items[~np.isin(h.items, cold)], h.timestamps[~np.isin(h.items, cold)])
        for h in train
    ]
    split = replace(SPLIT, train=Histories.from_list(kept))
    assert 10 * every * np.isin(split.valid.target_items, cold).sum() > 3 * len(split.valid)
    return split, ~split.warm


class Behaviour(ScoringRecommender):
    """Knows the targets that have events, and puts all other items last."""

    name = "behaviour"

    def fit(self, split):
        rng = np.random.default_rng(1)
        table = rng.standard_normal((len(split.valid), split.n_items))
        table[np.arange(len(table)), split.valid.target_items] += 3
        table[:, ~split.warm] = -9
        self.table = dict(zip(split.valid.histories.user_ids, table, strict=True))

    def score(self, histories):
        return np.stack([self.table[user] for user in histories.user_ids])


class Texts(Behaviour):
    """Knows something of every target, or nothing of any."""

    name = "texts"
    knows_cold_items = True

    def __init__(self, *, skill: float = 2.0):
        self.skill = skill

    def fit(self, split):
        rng = np.random.default_rng(2)
        table = rng.standard_normal((len(split.valid), split.n_items))
        table[np.arange(len(table)), split.valid.target_items] += self.skill
        self.table = dict(zip(split.valid.histories.user_ids, table, strict=True))


def hybrid(skill=2.0, **options):
    parts = {
        "behaviour": {"kind": "test_cold_items:Behaviour"},
        "texts": {"kind": "test_cold_items:Texts", "skill": skill},
    }
    return Hybrid(parts=parts, **options)


@pytest.mark.parametrize(
    "weights", [None, {"behaviour": 0.7, "texts": 0.3}, {"behaviour": 1.0, "texts": 0.0}]
)
def test_cold_targets_are_found_by_the_part_that_knows_them_and_others_as_before(weights):
    split, cold = with_cold_targets()
    fused, before = hybrid(weights=weights), hybrid(weights=weights, cold="scored")
    for system in (fused, before):
        system.fit(split)
    if weights is not None:
        assert fused.weights_ == before.weights_ == weights
    assert list(fused.chosen_["cold"]) == ["texts"]
    scale = fused.chosen_["cold"]["texts"]
    assert scale in (0.25, 0.5, 0.75, 1.0)
    assert "cold" not in before.chosen_
    histories = split.valid.histories
    scores = [np.asarray(part.score(histories)) for part in fused.parts_.values()]
    z = [comparable(s, new_items(histories, split.n_items), "zscore") for s in scores]
    w = list(fused.weights_.values())
    found = fused.score(histories)
    for user in range(len(histories)):
        for item in range(split.n_items):
            expected = w[0] * z[0][user, item] + w[1] * z[1][user, item]
            if cold[item]:
                expected = scale * z[1][user, item]
            assert found[user, item] == pytest.approx(expected, abs=1e-9)
    gains = {s: holdout_gains(s, split.valid, exclude_seen=True) for s in (fused, before)}
    asked_cold = cold[split.valid.target_items]
    assert gains[fused][asked_cold].mean() > gains[before][asked_cold].mean()
    assert gains[fused].mean() == pytest.approx(fused.chosen_["ndcg@10"])
    assert gains[fused].mean() > gains[before].mean()


def test_where_the_texts_say_nothing_all_parts_have_their_say():
    split, _ = with_cold_targets()
    fused, before = hybrid(skill=0.0), hybrid(skill=0.0, cold="scored")
    for system in (fused, before):
        system.fit(split)
    assert "cold" not in fused.chosen_
    np.testing.assert_array_equal(fused.score(split.valid.histories), before.score(split.valid.histories))


@pytest.mark.parametrize("options", [{"fusion": "rank"}, {"fusion": "logprob"}, {"cold": "scored"}])
def test_other_fusions_and_scored_leave_it_to_all_parts(options):
    split, _ = with_cold_targets()
    fused = hybrid(**options)
    fused.fit(split)
    assert "cold" not in fused.chosen_


def test_without_cold_items_there_is_nothing_to_choose():
    split = replace(SPLIT, train=Histories.from_list([*SPLIT.train, everything()]))
    assert split.warm.all()
    fused = hybrid()
    fused.fit(split)
    assert "cold" not in fused.chosen_


def everything():
    """Return the history of somebody who had every item."""
    return History("all", np.arange(SPLIT.n_items, dtype=np.int32), np.arange(SPLIT.n_items, dtype=np.int64))


def test_weights_and_scale_are_the_best_of_all_pairs():
    split, _ = with_cold_targets()
    fused = hybrid(steps=3)
    fused.fit(split)
    means = []
    for weight in (1.0, 2 / 3, 1 / 3, 0.0):
        for scale in (None, 0.25, 0.5, 0.75, 1.0):
            cold = None if scale is None else np.array([0, scale])
            fused.mix_ = Mix(np.array([weight, 1 - weight]), cold)
            means.append(holdout_gains(fused, split.valid, exclude_seen=True).mean())
    assert fused.chosen_["ndcg@10"] == pytest.approx(max(means))


def test_several_parts_that_know_cold_items_judge_them_together_or_one_by_one():
    grid = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mixes = all_mixes(grid, np.array([False, True, True]))
    assert [
        len([m for m in mixes if m.weights is w]) for w in {id(m.weights): m.weights for m in mixes}.values()
    ] == [13, 13, 9]
    judged = [m.cold for m in mixes[:13]]
    assert judged[0] is None
    np.testing.assert_allclose(
        judged[1:],
        [np.array(j) * s for j in ([0, 1, 0], [0, 0, 1], [0, 0.6, 0.4]) for s in (0.25, 0.5, 0.75, 1)],
    )
    np.testing.assert_allclose(mixes[25].cold, [0, 0.5, 0.5])  # neither has a weight: evenly


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_gains_of_mixes_are_those_of_their_scores(exclude_seen):
    split, cold = with_cold_targets()
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (3, len(split.valid), split.n_items)).astype(float)  # many are equal
    mixes = all_mixes(weight_grid(3, 4), np.array([False, True, True]))
    found = mixed_gains(mixes, scores, split.valid, cold, exclude_seen=exclude_seen)
    assert (found > 0).any(axis=0).mean() > 0.5

    class Given(Behaviour):
        def __init__(self, mix):
            table = mixed(mix, scores, cold)
            self.table = dict(zip(split.valid.histories.user_ids, table, strict=True))

    for mix, gains in zip(mixes, found, strict=True):
        np.testing.assert_array_equal(
            gains, holdout_gains(Given(mix), split.valid, exclude_seen=exclude_seen)
        )


def test_whoknows_cold_items():
    assert hybrid().knows_cold_items
    assert not Hybrid(parts=["svd", "markov"]).knows_cold_items
    assert Hybrid(parts=["svd", "content"], catalog=CATALOG).knows_cold_items


@pytest.mark.parametrize(
    ("teacher", "knows"),
    [
        ({"kind": "svd"}, False),
        ({"kind": "hybrid", "parts": {"svd": {}, "markov": {}}}, False),
        (
            {
                "kind": "hybrid",
                "parts": {"svd": {}, "inner": {"kind": "hybrid", "parts": ["content", "ease"]}},
            },
            True,
        ),
        ({"kind": "test_cold_items:Texts"}, True),
        ({"kind": "test_cold_items:Behaviour"}, False),
    ],
)
def test_a_language_model_of_item_tokens_knows_what_its_teacher_knows(teacher, knows):
    config = {
        "name": "x",
        "output": "runs/x",
        "data": {"dataset": "ml-100k"},
        "identifiers": {"scheme": "token"},
        "finetune": {"distillation": {"teacher": "teacher"}},
        "systems": {"llm": {}, "sasrec": {}, "teacher": teacher},
    }
    assert knows_cold_items(RunConfig.model_validate(config)) is knows


def test_another_word_is_refused():
    with pytest.raises(
        ConfigError, match=r"hybrid\.cold: got 'never'; expected chosen, scored or a number above 0"
    ):
        hybrid(cold="never")


@pytest.mark.parametrize("cold", [0, -1.0, float("nan"), True])
def test_a_number_that_cannot_be_multiplied_with_is_refused(cold):
    with pytest.raises(
        ConfigError, match=r"hybrid\.cold: got .*; expected chosen, scored or a number above 0"
    ):
        hybrid(cold=cold)


def test_a_number_is_for_scores_that_are_comparable():
    with pytest.raises(
        ConfigError, match=r"hybrid\.cold: got 1\.0 with fusion rank; expected a number with zscore only"
    ):
        hybrid(cold=1.0, fusion="rank")


@pytest.mark.parametrize("weights", [None, {"behaviour": 0.7, "texts": 0.3}])
def test_with_a_number_all_that_know_cold_items_judge_them_times_it(weights):
    split, cold = with_cold_targets()
    fused, plain = hybrid(weights=weights, cold=1.5), hybrid(weights=weights, cold="scored")
    for system in (fused, plain):
        system.fit(split)
    histories = split.valid.histories
    texts = comparable(fused.parts_["texts"].score(histories), new_items(histories, split.n_items), "zscore")
    found = fused.score(histories)
    np.testing.assert_allclose(found[:, cold], 1.5 * texts[:, cold])
    plain._take(Mix(np.array(list(fused.weights_.values())), None))
    np.testing.assert_array_equal(found[:, ~cold], plain.score(histories)[:, ~cold])
