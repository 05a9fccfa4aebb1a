"""What a hybrid computes, beside plain loops; how it is configured and kept in a run."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import foretold, llmrec
from sklearn.preprocessing import normalize

from llmrec.config import System
from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import read_meta
from llmrec.data.split import Split
from llmrec.errors import ConfigError, DataError
from llmrec.eval.metrics import ndcg, target_ranks
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.borrowed import borrowed
from llmrec.recommenders.comparable import comparable
from llmrec.recommenders.hybrid import Hybrid
from llmrec.recommenders.mixes import weight_grid
from llmrec.recommenders.registry import build_recommender
from llmrec.testing import RecommenderConformance

SPLIT = RecommenderConformance.split
FUSIONS = ("zscore", "rank", "logprob")


class Told(ScoringRecommender):
    """Knows the target of each user as well as ``skill`` says, and thinks the world of what was seen."""

    def __init__(self, *, skill: float = 0.0, scale: float = 1.0, seen: float = 0.0, name: str = "told"):
        self.name, self.skill, self.scale, self.seen = name, skill, scale, seen
        self.rng = np.random.default_rng(int(1000 * skill))

    def fit(self, split):
        noise = self.rng.standard_normal((len(split.valid), split.n_items))
        noise[np.arange(len(split.valid)), split.valid.target_items] += self.skill
        self.table = dict(zip(split.valid.histories.user_ids, self.scale * noise, strict=True))

    def score(self, histories):
        scores = np.stack([self.table[user] for user in histories.user_ids])
        scores[np.repeat(np.arange(len(histories)), histories.lengths), histories.items] += self.seen
        return scores


def told(**options) -> dict[str, object]:
    return {"kind": "test_hybrid:Told", **options}


def test_item_vectors_are_those_of_the_parts_side_by_side():
    catalog = Catalog(tuple(map(str, range(SPLIT.n_items))), tuple(f"item {i}" for i in range(SPLIT.n_items)))
    hybrid = Hybrid(parts={"svd": {"dim": 3}, "content": {}}, catalog=catalog)
    hybrid.fit(SPLIT)
    svd, content = (part.item_vectors() for part in hybrid.parts_.values())
    np.testing.assert_array_equal(hybrid.item_vectors(), np.hstack([svd, content]))


def test_an_item_without_a_vector_borrows_those_of_items_that_are_alike():
    rng = np.random.default_rng(0)
    ours, theirs = (normalize(rng.standard_normal((40, d))).astype(np.float32) for d in (3, 5))
    ours[[4, 17]] = theirs[8] = 0
    theirs[17] = 0
    filled, other = borrowed([ours, theirs])
    has = ours.any(axis=1)
    np.testing.assert_array_equal(filled[has], ours[has])
    likeness = [
        (theirs[4] @ theirs[i], i) for i in range(40) if has[i]
    ]  # one item at a time, as the docstring says
    mean = sum(max(cosine, 0) ** 2 * ours[i] for cosine, i in sorted(likeness, reverse=True)[:10])
    np.testing.assert_allclose(filled[4], mean / np.linalg.norm(mean), atol=1e-6)
    assert not filled[17].any()
    assert not other[17].any()
    np.testing.assert_allclose(np.linalg.norm(other[8]), 1, atol=1e-6)


def test_what_is_like_an_item_alone_is_borrowed_from_it_alone():
    ours, theirs = np.eye(3, dtype=np.float32), np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    ours[2] = 0
    np.testing.assert_array_equal(borrowed([ours, theirs])[0][2], ours[0])
    alone = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(borrowed([alone]), [alone])  # from whom
    assert not borrowed([alone, theirs])[0].any()  # nobody has any


# --- scores made comparable ---------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from([-3.0, 0.0, 0.1, 0.5, 2.0, 40.0]), st.booleans()), min_size=1, max_size=9
    )
)
def test_comparable_scores_are_what_they_say(row):
    scores, new = np.array([[s for s, _ in row]]), np.array([[n for _, n in row]])
    candidates = [s for s, n in row if n]
    if not candidates:
        for fusion in FUSIONS:
            assert np.isfinite(comparable(scores, new, fusion)).all()
        return
    mean, deviation = statistics.fmean(candidates), statistics.pstdev(candidates)
    log_total = math.log(sum(math.exp(s) for s in candidates))
    expected = {
        "zscore": [(s - mean) / deviation if deviation else 0.0 for s, _ in row],
        "rank": [1 / (60 + 1 + sum(other > s for other in candidates)) for s, _ in row],
        "logprob": [s - log_total for s, _ in row],
    }
    for fusion in FUSIONS:
        np.testing.assert_allclose(comparable(scores, new, fusion)[0], expected[fusion], atol=1e-9)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_seen_items_do_not_influence_the_others(fusion):
    def lists(seen):
        parts = {"a": told(skill=1.0, seen=seen), "b": told(skill=2.0)}
        hybrid = Hybrid(parts=parts, fusion=fusion, weights={"a": 1, "b": 1})
        hybrid.fit(SPLIT)
        return hybrid.recommend(SPLIT.valid.histories, 10)

    calm, wild = lists(0.0), lists(1e3)
    assert (calm.items == wild.items).all()
    np.testing.assert_allclose(calm.scores, wild.scores)


@pytest.mark.parametrize("fusion", ["zscore", "rank"])
def test_the_scale_of_a_part_does_not_matter(fusion):
    def lists(scale):
        hybrid = Hybrid(
            parts={"a": told(skill=1.0, scale=scale), "b": told(skill=2.0)},
            fusion=fusion,
            weights={"a": 1, "b": 1},
        )
        hybrid.fit(SPLIT)
        return hybrid.recommend(SPLIT.valid.histories, 10).items

    assert (lists(1.0) == lists(1024.0)).all()


# --- weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 8, 120])
def test_the_grid_has_all_ways_to_divide_one(parts):
    grid = weight_grid(parts)
    assert len(grid) <= max(100, parts)
    np.testing.assert_allclose(grid.sum(axis=1), 1)
    assert all((grid == corner).all(axis=1).any() for corner in np.eye(parts))
    if parts in (2, 3, 4):
        steps = round(1 / grid[grid > 0].min())
        brute = {w for w in itertools.product(range(steps + 1), repeat=parts) if sum(w) == steps}
        assert {tuple(w) for w in np.round(grid * steps).astype(int).tolist()} == brute
        assert steps == {2: 10, 3: 10, 4: 6}[parts]


def test_finer_steps_are_those_asked_for():
    assert weight_grid(2, 20)[:, 0].tolist() == [n / 20 for n in range(20, -1, -1)]
    assert len(weight_grid(3, 20)) == math.comb(22, 2)
    parts = {"good": told(skill=3.0), "fair": told(skill=2.0)}
    coarse, fine = Hybrid(parts=parts), Hybrid(parts=parts, steps=40)
    for hybrid in (coarse, fine):
        hybrid.fit(SPLIT)
    assert fine.chosen_["ndcg@10"] >= coarse.chosen_["ndcg@10"]
    assert fine.chosen_["ndcg@10 alone"] == coarse.chosen_["ndcg@10 alone"]


def test_weights_can_be_chosen_on_a_sample_of_the_users():
    def chosen(**options):
        hybrid = Hybrid(parts={"good": told(skill=3.0), "fair": told(skill=2.0)}, **options)
        hybrid.fit(SPLIT)
        return hybrid.chosen_

    few = chosen(validation_users=5)
    assert few["users"] == 5
    assert few == chosen(validation_users=5)
    sample = SPLIT.valid.select(SPLIT.valid.sample_rows(5, 0))
    given = Hybrid(parts={"good": told(skill=3.0), "fair": told(skill=2.0)}, weights=few["weights"])
    given.fit(SPLIT)
    ranks = target_ranks(given.recommend(sample.histories, 10), sample.target_items)
    assert few["ndcg@10"] == pytest.approx(ndcg(ranks, 10).mean())
    assert chosen()["users"] == chosen(validation_users=10**6)["users"] == len(SPLIT.valid)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("alone", ["itemknn", "popularity"])
def test_weight_zero_is_the_other_part(fusion, alone):
    weights = {"itemknn": 0.0, "popularity": 0.0} | {alone: 3.0}
    hybrid = Hybrid(parts=["itemknn", "popularity"], fusion=fusion, weights=weights)
    single = build_recommender(alone, System())
    for recommender in (hybrid, single):
        recommender.fit(SPLIT)
    assert hybrid.weights_[alone] == 1
    assert hybrid.chosen_ == {}
    asked = SPLIT.test.histories
    assert (hybrid.recommend(asked, 20).items == single.recommend(asked, 20).items).all()
    assert (hybrid.score(asked) == single.score(asked)).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_chosen_weights_are_the_best_of_the_grid(fusion):
    parts = {"good": told(skill=3.0), "fair": told(skill=2.0), "noise": told()}
    hybrid = Hybrid(parts=parts, fusion=fusion)
    hybrid.users_at_once = 7
    hybrid.fit(SPLIT)

    def measured(weights):
        given = Hybrid(parts=parts, fusion=fusion, weights=dict(zip(parts, weights, strict=True)))
        given.fit(SPLIT)
        recs = given.recommend(SPLIT.valid.histories, 10)
        return ndcg(target_ranks(recs, SPLIT.valid.target_items), 10).mean()

    values = [measured(w) for w in weight_grid(3).tolist()]
    assert hybrid.chosen_["ndcg@10"] == pytest.approx(max(values))
    assert measured(list(hybrid.weights_.values())) == pytest.approx(max(values))
    assert hybrid.weights_["noise"] < hybrid.weights_["good"]
    assert sum(hybrid.weights_.values()) == pytest.approx(1)


def test_weights_cannot_be_chosen_without_validation_users():
    nobody = Split(SPLIT.train, SPLIT.valid.select(np.empty(0, np.int64)), SPLIT.test, SPLIT.protocol)
    with pytest.raises(DataError, match="without validation users"):
        Hybrid(parts=["ease"]).fit(nobody)
    Hybrid(parts=["ease"], weights={"ease": 1}).fit(nobody)


def test_wrong_settings_are_told_all_at_once():
    with pytest.raises(ConfigError, match=r"parts.ease.*reg=0.*hybrid.fusion: got 'sum'.*hybrid.weights"):
        Hybrid(parts={"ease": {"reg": 0}}, fusion="sum", weights={"ease": 0})


# --- in a run -----------------------------------------------------------------------------------------


def test_a_run_keeps_the_chosen_weights_and_notices_another_language_model(config, tmp_path, tiny_lm, capsys):
    model = shutil.copytree(tiny_lm, tmp_path / "model")
    content = {"kind": "content", "vectors": "lm", "model": str(model), "attributes": ["year"]}
    path = config(
        systems={
            "popularity": {},
            "mix": {"kind": "hybrid", "parts": {"text": content, "ease": {"reg": 5}}},
        },
        evaluation={"users": 10, "k": 5, "cutoffs": [1, 5], "baseline": "popularity"},
    )
    assert foretold(path, capsys)["mix"] == "ease: fit; text: fit"
    llmrec("run", path, capsys=capsys)
    meta = read_meta(tmp_path / "run" / "recommendations" / "mix.parquet")
    assert set(meta["chosen"]["weights"]) == {"text", "ease"}
    assert list(meta["key"]["pretrained"]) == [str(model)]
    kept = json.loads((tmp_path / "run" / "evaluation" / "mix.json").read_text())
    assert kept["meta"]["chosen"] == meta["chosen"]
    llmrec("run", path, capsys=capsys)
    changed = json.loads((model / "config.json").read_text()) | {"rope_theta": 5.0}
    (model / "config.json").write_text(json.dumps(changed))
    assert "pretrained" in llmrec("run", path, code=2, capsys=capsys).err


def test_problems_of_parts_are_problems_of_the_config(config, capsys):
    systems = {
        "popularity": {},
        "mix": {"kind": "hybrid", "parts": {"ease": {"regg": 5}, "markov": {"decay": 1}}},
    }
    err = llmrec("run", config(systems=systems), code=2, capsys=capsys).err
    assert "systems.mix.parts.ease.regg: ease has no such setting" in err
    assert "systems.mix.parts.markov: Markov got decay=1" in err
