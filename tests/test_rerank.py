"""The re-ranker: what its trees may learn from, what they are worth on users they have not seen, and what it does then."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import llmrec

from llmrec.data.histories import Histories, History, Holdout
from llmrec.data.recommendations import read_meta
from llmrec.data.split import Split
from llmrec.errors import ConfigError, DataError
from llmrec.eval.metrics import ndcg, target_ranks
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.boosting import Candidates, ndcg_of_candidates
from llmrec.recommenders.hybrid import Hybrid
from llmrec.recommenders.rerank import Rerank
from llmrec.recommenders.rerank_features import CandidateFeatures, candidates_of
from llmrec.testing import RecommenderConformance, markov_sequences, split_of

SMALL = RecommenderConformance.split
N_ITEMS = 60


class Knows(ScoringRecommender):
    """Scores depend on the history alone; the target of a user is known as well as ``skill`` says where ``where`` is right."""

    def __init__(self, *, skill: float = 0.0, where: str = "always", seed: int = 0, name: str = "knows"):
        self.name, self.skill, self.where, self.seed = name, skill, where, seed

    def fit(self, split):
        self.n_items = split.n_items

    def score(self, histories):
        return np.stack([self.of(history) for history in histories])

    def of(self, history):
        scores = np.random.default_rng([self.seed, *history.items.tolist()]).standard_normal(self.n_items)
        right = {"always": True, "long": len(history) >= 12, "short": len(history) < 12}[self.where]
        scores[answer(history)] += self.skill if right else 0.0
        return scores


def answer(history):
    """Return the target of a history, a new item where there is one."""
    item = int(history.items[-1])
    while item in history.items and len(history) < N_ITEMS:
        item = (item + 7) % N_ITEMS
    return item


def asked(n, seed, shift=0):
    rng = np.random.default_rng(seed)
    users = [
        History(f"u{u}", rng.permutation(N_ITEMS)[: rng.integers(4, 20)].astype(np.int32), np.arange(20)[:0])
        for u in range(n)
    ]
    users = [History(h.user_id, h.items, 1000 * np.arange(len(h.items))) for h in users]
    targets = np.array([(answer(h)) for h in users], dtype=np.int32)
    if shift:  # nobody knows them
        targets = np.array(
            [int(np.setdiff1d(np.arange(N_ITEMS), h.items)[seed % 7]) for h in users], np.int32
        )
    return Holdout(Histories.from_list(users), targets, np.full(n, 10**6))


def split_for(n=150, shift=0):
    train = split_of(markov_sequences(40, 12, N_ITEMS), N_ITEMS)
    return Split(train.train, asked(n, 1, shift), asked(n, 2, shift), train.protocol)


def knows(**options):
    return {"kind": "test_rerank:Knows", **options}


# --- what is worth having -----------------------------------------------------------------------------


def test_trees_are_learned_where_they_help_other_users():
    """One part is right about long histories, the other about short ones: no weights can say that."""
    split = split_for(300)
    parts = {
        "long": knows(skill=4.0, where="long", seed=1),
        "short": knows(skill=4.0, where="short", seed=2),
    }
    hybrid, rerank = Hybrid(parts=parts), Rerank(parts=parts, min_rows=20, candidates=20)
    values = {}
    for recommender in (hybrid, rerank):
        recommender.fit(split)
        recs = recommender.recommend(split.test.histories, 10)
        values[recommender] = ndcg(target_ranks(recs, split.test.target_items), 10).mean()
    assert values[rerank] > values[hybrid] + 0.03
    chosen = rerank.chosen_
    assert chosen["beats the plain fusion"]
    assert chosen["trees"] > 0
    assert chosen["cross-validated ndcg@10"] > chosen["cross-validated ndcg@10 of the plain fusion"]
    # It says on the validation users what it is worth on the test users.
    assert chosen["cross-validated ndcg@10"] == pytest.approx(values[rerank], abs=0.08)
    assert chosen["weights"] == hybrid.chosen_["weights"]
    assert sum(chosen["importance"].values()) == pytest.approx(1, abs=0.01)
    assert "events of the history" in chosen["importance"]


def test_where_trees_do_not_help_it_is_the_plain_fusion_and_says_so():
    split = split_for(40)
    parts = {"a": knows(skill=5.0, seed=1), "b": knows(skill=5.0, seed=2)}
    hybrid, rerank = (
        Hybrid(parts=parts),
        Rerank(parts=parts, max_trees=5, learning_rate=1.0, l2=0.0, min_rows=1),
    )
    hybrid.fit(split)
    rerank.fit(split)
    assert not rerank.chosen_["beats the plain fusion"]
    assert rerank.chosen_["trees"] == 0
    assert (
        rerank.chosen_["cross-validated ndcg@10"]
        == rerank.chosen_["cross-validated ndcg@10 of the plain fusion"]
    )
    assert (rerank.score(split.test.histories) == hybrid.score(split.test.histories)).all()


def test_other_items_rank_behind_the_candidates_as_the_plain_fusion_has_them():
    split = split_for(300)
    parts = {"long": knows(skill=4.0, where="long", seed=1), "short": knows(skill=4.0, where="short", seed=2)}
    hybrid, rerank = Hybrid(parts=parts), Rerank(parts=parts, min_rows=20, candidates=10)
    hybrid.fit(split)
    rerank.fit(split)
    assert rerank.trees_ > 0
    few = split.test.histories[:20]
    scores = np.stack([part.score(few) for part in rerank.parts_.values()])
    user, item = candidates_of(scores, few, 10, exclude_seen=True)
    plain, recs = hybrid.recommend(few, N_ITEMS), rerank.recommend(few, N_ITEMS)
    for u in range(len(few)):
        best = set(item[user == u].tolist())
        new = [i for i in range(N_ITEMS) if i not in few[u].items]
        by_part = [set(sorted(new, key=lambda i: -part[u, i])[:10]) for part in scores]
        assert best == set.union(*by_part)
        assert set(recs.items[u, : len(best)].tolist()) == best
        others = [i for i in plain.items[u].tolist() if i not in best]
        assert recs.items[u, len(best) :].tolist() == others


def test_whoever_has_seen_everything_gets_an_empty_list():
    split = split_for(300)
    parts = {"long": knows(skill=4.0, where="long", seed=1), "short": knows(skill=4.0, where="short", seed=2)}
    rerank = Rerank(parts=parts, min_rows=20, candidates=10)
    rerank.fit(split)
    assert rerank.trees_ > 0
    everything = History("all", np.arange(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS) * 1000)
    assert (rerank.recommend(Histories.from_list([everything]), 10).items == -1).all()


def test_equal_seeds_give_equal_trees_and_given_weights_are_kept():
    split = split_for(300)
    parts = {"long": knows(skill=4.0, where="long", seed=1), "short": knows(skill=4.0, where="short", seed=2)}

    def fitted(**options):
        rerank = Rerank(parts=parts, min_rows=20, candidates=20, max_trees=50, **options)
        rerank.fit(split)
        return rerank

    first, again = fitted(seed=3), fitted(seed=3)
    assert first.chosen_ == again.chosen_
    assert (first.score(split.test.histories) == again.score(split.test.histories)).all()
    assert fitted(seed=4).chosen_["importance"] != first.chosen_["importance"]
    weighted = fitted(weights={"long": 1, "short": 3})
    assert weighted.weights_ == {"long": 0.25, "short": 0.75}


# --- what it is told ----------------------------------------------------------------------------------


def test_features_are_what_their_names_say():
    split = SMALL
    features = CandidateFeatures(split, ["a"])
    asked = split.test.histories[:3]
    scores = np.random.default_rng(0).standard_normal((1, 3, split.n_items))
    user, item = candidates_of(scores, asked, 5, exclude_seen=True)
    table = features(scores, asked, user, item)
    column = {name: table[:, f] for f, name in enumerate(features.names)}
    assert features.increasing == [1, 1, 1] + [0] * (len(features.names) - 3)
    of_item = [{u for u, h in enumerate(split.train) if i in h.items} for i in range(split.n_items)]

    def cosine(i, j):
        if not (of_item[i] and of_item[j]):
            return 0.0
        return len(of_item[i] & of_item[j]) / (len(of_item[i]) * len(of_item[j])) ** 0.5

    for row, (u, i) in enumerate(zip(user, item, strict=True)):
        new = np.setdiff1d(np.arange(split.n_items), asked[u].items)
        own = scores[0, u, new]
        assert column["a: zscore"][row] == pytest.approx((scores[0, u, i] - own.mean()) / own.std(), rel=1e-5)
        assert column["a: rank"][row] == pytest.approx(1 / (61 + (own > scores[0, u, i]).sum()), rel=1e-5)
        cosines = [cosine(i, j) for j in asked[u].items[-5:]]
        assert column["cosine with the newest event"][row] == pytest.approx(cosines[-1], abs=1e-6)
        assert column["mean cosine with the newest 5"][row] == pytest.approx(np.mean(cosines), abs=1e-6)
        assert column["largest cosine with the newest 5"][row] == pytest.approx(max(cosines), abs=1e-6)
        assert column["events of the history"][row] == len(asked[u])
        assert column["training users of the item"][row] == len(of_item[i])
        moment = asked[u].timestamps[-1]
        before = sum(((h.items == i) & (h.timestamps < moment)).sum() for h in split.train)
        assert column["item_events"][row] == before


def test_the_target_decides_nothing_but_what_is_learned():
    """Candidates and features of a user are the same whatever the target is, and its time is not looked at."""
    split = split_for(60)
    late = Holdout(split.valid.histories, split.valid.target_items, split.valid.target_timestamps + 10**8)
    parts = {"a": knows(skill=2.0, seed=1), "b": knows(skill=2.0, seed=2)}
    first, second = Rerank(parts=parts, max_trees=20), Rerank(parts=parts, max_trees=20)
    first.fit(split)
    second.fit(Split(split.train, late, split.test, split.protocol))
    assert first.chosen_ == second.chosen_
    assert (first.score(split.test.histories) == second.score(split.test.histories)).all()


@given(st.data())
def test_gains_of_candidates_are_those_of_a_sort(data):
    sizes = data.draw(st.lists(st.integers(0, 14), min_size=1, max_size=4))
    users = np.repeat(np.arange(len(sizes)), sizes)
    scores = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=len(users), max_size=len(users)))
    )
    targets = [data.draw(st.none() | st.integers(0, n - 1)) if n else None for n in sizes]
    is_target = np.concatenate(
        [np.arange(n) == (-1 if t is None else t) for n, t in zip(sizes, targets, strict=True)]
    )
    found = ndcg_of_candidates(
        Candidates(users, np.empty((len(users), 0), np.float32), is_target.astype(bool), len(sizes)), scores
    )
    for u, target in enumerate(targets):
        own = scores[users == u]
        rank = (
            None if target is None else sorted(range(len(own)), key=lambda i: (-own[i], i)).index(target) + 1
        )
        assert found[u] == pytest.approx(1 / np.log2(rank + 1) if rank and rank <= 10 else 0.0)


# --- settings, and in a run ---------------------------------------------------------------------------


def test_wrong_settings_are_told_all_at_once():
    with pytest.raises(ConfigError, match=r"candidates=5 .*; leaves=1 .*; max_trees=7 .*; folds=1 "):
        Rerank(parts=["ease"], candidates=5, leaves=1, max_trees=7, folds=1)
    with pytest.raises(ConfigError, match=r"candidates=6000 \(expected 10 to 5,000 for each of 2 parts\)"):
        Rerank(parts=["ease", "itemknn"], candidates=6000)


def test_without_lightgbm_the_error_names_the_extra(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightgbm" else real(name))
    with pytest.raises(ConfigError, match=r"pip install 'llmrec\[rerank\]'"):
        Rerank(parts=["ease"])


def test_fewer_validation_users_than_folds_are_refused():
    few = Split(SMALL.train, SMALL.valid.select(np.arange(3)), SMALL.test, SMALL.protocol)
    with pytest.raises(DataError, match="3 validation users, and learns from them in 5 folds"):
        Rerank(parts=["popularity"]).fit(few)


def test_in_a_run_with_the_language_model_as_a_part(config, tmp_path, capsys):
    parts = {"llm": {}, "popularity": {}, "itemknn": {}}
    systems = {
        "popularity": {},
        "reranked": {"kind": "rerank", "parts": parts, "candidates": 10, "max_trees": 10},
    }
    evaluation = {"users": 10, "k": 5, "cutoffs": [5], "baseline": "popularity"}
    llmrec("run", config(systems=systems, evaluation=evaluation), capsys=capsys)
    chosen = read_meta(tmp_path / "run" / "recommendations" / "reranked.parquet")["chosen"]
    assert set(chosen["weights"]) == set(parts)
    assert "cross-validated ndcg@10" in chosen
    report = (tmp_path / "run" / "report.md").read_text()
    assert "reranked: chosen on the validation users" in report
    said = "beats the plain fusion" if chosen["beats the plain fusion"] else "does not beat the plain fusion"
    assert f"the re-ranker {said}" in report
