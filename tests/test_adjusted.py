"""What a recommender says of items without training events is raised for histories that have such items, and for no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_cold_items import SPLIT, Texts, with_cold_targets

from llmrec.errors import ConfigError
from llmrec.recommenders.adjusted import Adjusted
from llmrec.recommenders.comparable import new_items
from llmrec.recommenders.holdout import holdout_gains

TEXTS = {"texts": {"kind": "test_cold_items:Texts"}}


class Timid(Texts):
    """Says of every cold item that it is improbable, though it can tell which one."""

    def fit(self, split):
        super().fit(split)
        for row in self.table.values():
            row[~split.warm] -= 2.5


def having(split, cold):
    """Return the validation users whose history has a cold item."""
    return np.array([cold[h.items].any() for h in split.valid.histories])


@pytest.fixture
def fitted():
    split, cold = with_cold_targets(12)
    system = Adjusted(parts={"timid": {"kind": "test_adjusted:Timid"}})
    system.fit(split)
    return system, split, cold


def test_only_cold_items_of_histories_that_have_some_are_raised(fitted):
    system, split, cold = fitted
    assert system.constant_ > 0
    histories = split.valid.histories
    given = np.asarray(system.parts_["timid"].score(histories))
    new = new_items(histories, split.n_items)
    found = system.score(histories)
    due = having(split, cold)
    assert 5 < due.sum() < len(due)
    for user in range(len(histories)):
        seen = given[user, new[user]]
        expected = (given[user] - seen.mean()) / seen.std()
        if due[user]:
            expected = expected + system.constant_ * cold
        np.testing.assert_allclose(found[user], expected, atol=1e-9)


def test_the_constant_is_the_best_of_all_for_those_users_and_the_smallest_of_equally_good_ones(fitted):
    system, split, cold = fitted
    asked = split.valid.select(np.flatnonzero(having(split, cold)))
    means = {}
    for constant in np.arange(-2, 8.01, 0.25):
        given = Adjusted(parts={"timid": {"kind": "test_adjusted:Timid"}}, constant=float(constant))
        given.fit(split)
        means[float(constant)] = holdout_gains(given, asked, exclude_seen=True).mean()
    best = max(means.values())
    assert abs(system.constant_) == min(abs(c) for c, mean in means.items() if mean == pytest.approx(best))
    chosen = system.chosen_
    assert chosen["constant"] == system.constant_
    assert chosen["users"] == len(asked)
    assert (chosen["ndcg@10"], chosen["ndcg@10 without"]) == pytest.approx((best, means[0.0]))
    assert best > means[0.0]


def test_a_sample_of_the_users_is_a_sample_of_those_that_are_asked():
    split, _ = with_cold_targets(12)
    system = Adjusted(parts=TEXTS, validation_users=4)
    system.fit(split)
    assert system.chosen_["users"] == 4


@pytest.mark.parametrize("cold_items", [True, False])
def test_where_no_history_has_cold_items_nothing_is_added(cold_items):
    split, cold = with_cold_targets(12)
    if cold_items:
        split = replace(split, valid=split.valid.select(np.flatnonzero(~having(split, cold))))
    else:
        split = SPLIT
    system = Adjusted(parts=TEXTS)
    system.fit(split)
    assert system.chosen_ == {"constant": 0.0, "users": 0}
    lists = [s.recommend(split.valid.histories, 10).items for s in (system, system.parts_["texts"])]
    np.testing.assert_array_equal(*lists)


def test_a_constant_of_your_own_is_taken_and_the_validation_not_looked_at():
    split, _ = with_cold_targets(12)
    system = Adjusted(parts=TEXTS, constant=1.5)
    system.fit(split)
    assert (system.constant_, system.chosen_) == (1.5, {})


def test_who_knows_nothing_of_cold_items_is_refused():
    with pytest.raises(
        ConfigError, match="adjusted got svd, which knows nothing of items without training events"
    ):
        Adjusted(parts={"svd": {"dim": 4}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": {"svd": {}, "content": {}}}, "adjusted.parts: got svd, content; expected one recommender"),
        ({"parts": {}}, "adjusted.parts: got none"),
        ({"parts": TEXTS, "constant": float("nan")}, "adjusted.constant: got nan; expected a number"),
        ({"parts": TEXTS, "validation_users": 0}, "adjusted.validation_users: got 0; expected 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Adjusted(**options)
