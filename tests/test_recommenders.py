"""Every built-in recommender keeps the promises of :mod:`llmrec.testing`; what a ranking is; what the registry says."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from finetune_cases import Case
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import System
from llmrec.ranking import top_k
from llmrec.recommenders.adjusted import Adjusted
from llmrec.recommenders.content import Content
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.guided import Guided
from llmrec.recommenders.hybrid import Hybrid
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.registry import RECOMMENDERS, build_recommender, system_problems
from llmrec.recommenders.rerank import Rerank
from llmrec.recommenders.svd import SVD
from llmrec.recommenders.trend import Trend
from llmrec.recommenders.userknn import UserKNN
from llmrec.settings import Decoding, Finetune
from llmrec.testing import RecommenderConformance, ScoringConformance

DAY = 86_400


class TestPopularity(ScoringConformance):
    def make(self):
        return Popularity()


class TestRecentPopularity(ScoringConformance):
    def make(self):
        return Popularity(window_days=2 / DAY)


class TestTrend(ScoringConformance):
    def make(self):
        return Trend()


class TestTrendOfAFewEvents(ScoringConformance):
    def make(self):
        return Trend(window_days=2 / DAY)


class TestTrendWithAHalfLife(ScoringConformance):
    def make(self):
        return Trend(window_days=None, half_life_days=3 / DAY)


class TestMarkov(ScoringConformance):
    def make(self):
        return Markov()


class TestMarkovOfSeveralEvents(ScoringConformance):
    def make(self):
        return Markov(shrink=0.5, decay=0.7)


class TestItemKNN(ScoringConformance):
    def make(self):
        return ItemKNN()


class TestItemKNNWithoutOrder(ScoringConformance):
    def make(self):
        return ItemKNN(neighbours=3, shrink=0, decay=1.0)


class TestUserKNN(ScoringConformance):
    def make(self):
        return UserKNN(neighbours=5)


class TestUserKNNOfRecentEvents(ScoringConformance):
    def make(self):
        return UserKNN(neighbours=3, shrink=2, decay=0.5)


class TestEASE(ScoringConformance):
    def make(self):
        return EASE(reg=5)


class TestSVD(ScoringConformance):
    def make(self):
        return SVD(dim=4)


class TestEASEOfRecentEvents(ScoringConformance):
    def make(self):
        return EASE(reg=0.1, decay=0.5)


class TestContent(ScoringConformance):
    def make(self):
        return Content(catalog=self.catalog)


class TestContentOfAttributes(ScoringConformance):
    def make(self):
        return Content(catalog=self.catalog, attributes=["genre"], decay=1.0)


class TestContentOfALanguageModel(ScoringConformance):
    @pytest.fixture(autouse=True)
    def _model(self, tiny_lm):
        self.model = str(tiny_lm)

    def make(self):
        return Content(catalog=self.catalog, vectors="lm", model=self.model)


class TestHybridOfGivenWeights(ScoringConformance):
    def make(self):
        return Hybrid(parts={"ease": {"reg": 5}, "popularity": {}}, weights={"ease": 2, "popularity": 1})


class TestHybridOfRanks(ScoringConformance):
    def make(self):
        return Hybrid(parts=["itemknn", "markov"], fusion="rank", weights={"itemknn": 1, "markov": 1})


class TestHybridOfChosenWeights(ScoringConformance):
    reads_validation = True

    def make(self):
        parts = {"markov": {}, "text": {"kind": "content"}, "userknn": {"neighbours": 5}}
        return Hybrid(parts=parts, fusion="zscore", catalog=self.catalog)


class TestAdjusted(ScoringConformance):
    reads_validation = True

    def make(self):
        return Adjusted(parts={"content": {}}, catalog=self.catalog)


class TestRerank(ScoringConformance):
    reads_validation = True

    def make(self):
        return Rerank(parts=["ease", "markov"], candidates=10, folds=3, max_trees=20, min_rows=5, l2=0.0)


class TestHybridWithANetwork(ScoringConformance):
    reads_validation = True
    answers_empty_histories = False

    def make(self):
        sasrec = {"dim": 8, "layers": 1, "max_len": 4, "batch_size": 8, "max_epochs": 2, "device": "cpu"}
        return Hybrid(parts={"sasrec": sasrec, "markov": {}}, fusion="logprob", seed=1)


class TestLanguageModel(RecommenderConformance):
    """Fine-tuned for two steps, every item scored."""

    answers_empty_histories = False

    @pytest.fixture(autouse=True)
    def _place(self, tiny_lm, tmp_path_factory):
        self.tiny_lm, self.folder = tiny_lm, tmp_path_factory.mktemp

    def make(self):
        settings = Finetune(steps=2, batch_tokens=400)
        case = Case(self.tiny_lm, self.catalog, settings, distinguish_by=["genre"])
        return case.recommender(Decoding(search="exact"), self.folder("fit"))


class TestGuided(RecommenderConformance):
    """The base model, guided by EASE."""

    answers_empty_histories = False

    @pytest.fixture(autouse=True)
    def _place(self, tiny_lm):
        self.tiny_lm = tiny_lm

    def make(self):
        case = Case(self.tiny_lm, self.catalog, Finetune(), distinguish_by=["genre"])
        model = LanguageModel(lambda: case.recommender(Decoding(until_certified=True)), key="base")
        return Guided(parts={"llm": {}, "ease": {"reg": 5}}, weight=2.0, language_model=model)

    def test_lists_have_the_best_scores(self):
        asked = self.split.test.histories
        scores, lists = self.fitted().score(asked), self.fitted().recommend(asked, 5, exclude_seen=False)
        np.testing.assert_allclose(lists.scores, -np.sort(-scores, axis=1)[:, :5], atol=1e-4)


def test_every_built_in_is_put_through_the_suite():
    def cases(cls):
        return [cls, *(c for child in cls.__subclasses__() for c in cases(child))]

    importlib.import_module(
        "test_sequential"
    )  # the cases of sequence models are with the tests of their trainer
    names = [c.__name__.lower() for c in cases(RecommenderConformance)]
    assert [kind for kind in RECOMMENDERS if not any(kind in name for name in names)] == []


class Forgetful(Popularity):
    """A recommender with a fault that the suite has to find, named by the test that finds it."""

    fault = ""

    def fit(self, split):
        super().fit(split)
        if self.fault == "test_fit_never_looks_at_the_test":
            self._counts[split.test.target_items] += 1
        if self.fault == "test_validation_events_are_no_training_events":
            np.add.at(self._counts, split.valid.target_items, 1)
        if self.fault == "test_two_fits_give_identical_results":
            self._counts = self._counts + np.random.rand(len(self._counts))
        if self.fault == "test_the_data_stay_as_they_are":
            split.train.items[:] = 0

    def score(self, histories):
        scores = np.array(super().score(histories))
        if self.fault == "test_a_list_does_not_depend_on_who_else_is_asked":
            scores[:, histories.items[0]] += 1
        if self.fault == "test_scores_are_finite_and_lists_sort_them":
            scores[:, 0] = np.nan
        if self.fault == "test_unknown_users_and_one_event_are_enough" and "new" in histories.user_ids:
            scores[:] = -np.inf
        return scores

    def recommend(self, histories, k, *, exclude_seen=True):
        seen = self.fault != "test_seen_items_are_never_recommended"
        return super().recommend(histories, k, exclude_seen=exclude_seen and seen)


@pytest.mark.parametrize(
    "fault",
    [
        "test_fit_never_looks_at_the_test",
        "test_validation_events_are_no_training_events",
        "test_two_fits_give_identical_results",
        "test_the_data_stay_as_they_are",
        "test_a_list_does_not_depend_on_who_else_is_asked",
        "test_scores_are_finite_and_lists_sort_them",
        "test_unknown_users_and_one_event_are_enough",
        "test_seen_items_are_never_recommended",
    ],
)
def test_the_suite_finds_faults(fault):
    class Case(ScoringConformance):
        def make(self):
            recommender = Forgetful()
            recommender.fault = fault
            return recommender

    with pytest.raises(AssertionError):
        getattr(Case(), fault)()


# --- top_k --------------------------------------------------------------------------------------------


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n),
            min_size=1,
            max_size=4,
        )
    ),
    st.integers(1, 10),
)
def test_top_k_is_a_stable_sort(rows, k):
    items, values = top_k(np.array(rows), k)
    for row, got, scores in zip(rows, items.tolist(), values.tolist(), strict=True):
        best = sorted((i for i in range(len(row)) if row[i] > -np.inf), key=lambda i: (-row[i], i))[:k]
        assert [i for i in got if i >= 0] == best == got[: len(best)]
        assert scores[: len(best)] == [row[i] for i in best]
        assert all(s == -np.inf for s in scores[len(best) :])


# --- registry -----------------------------------------------------------------------------------------


def system(**settings) -> System:
    return System.model_validate(settings)


class OnlyLists:
    """Makes lists, and scores nothing else."""

    name = "lists"

    def fit(self, split): ...

    def recommend(self, histories, k, *, exclude_seen=True): ...


class Foreign:
    """Has a type that is there for type checkers only, an option of a type of its own, and one that must be given."""

    def __init__(self, *, needed: Nowhere, name="foreign"): ...  # noqa: F821


def test_options_have_the_types_that_their_parameters_ask_for():
    sasrec = build_recommender("sasrec", system(lr="1e-3", dim=64.0, heads="2"))
    assert (sasrec.lr, sasrec.dim, sasrec.heads) == (1e-3, 64, 2)
    assert isinstance(sasrec.dim, int)
    fused = build_recommender(
        "x", system(kind="hybrid", parts={"ease": {"reg": "1e3"}}, validation_users="7")
    )
    assert fused.validation_users == 7
    assert fused.parts_["ease"].reg == 1e3


def test_somebody_elses_recommender_may_have_any_types():
    assert system_problems("x", system(kind="test_recommenders:Foreign", needed=object())) == []
    (problem,) = system_problems("x", system(kind="test_recommenders:Foreign"))
    assert "needed" in problem
    for kind, said in (("os:path", "is a module; expected a class"), (":Foreign", "there is no recommender")):
        (problem,) = system_problems("x", system(kind=kind))
        assert said in problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "ease", "regg": 3}, "systems.x.regg: ease has no such setting (did you mean 'reg'?)"),
        ({"kind": "ease", "reg": 0}, "systems.x: EASE got reg=0"),
        ({"kind": "markov", "shrink": "much"}, "systems.x.shrink: got 'much'"),
        (
            {"kind": "content", "vectors": "bert"},
            "systems.x.vectors: got 'bert'; input should be 'tfidf' or 'lm'",
        ),
        ({"kind": "content", "catalog": 1}, "systems.x.catalog: content has no such setting"),
        ({"kind": "eas"}, "systems.x: there is no recommender 'eas' (did you mean 'ease'?)"),
        ({"kind": "hybrid"}, "systems.x.parts: got none"),
        (
            {"kind": "hybrid", "parts": {"sasrec": {"max_epoch": 3}, "ease": {}}},
            "systems.x.parts.sasrec.max_epoch: sasrec has no such setting (did you mean 'max_epochs'?)",
        ),
        (
            {"kind": "hybrid", "parts": {"deep": {"kind": "hybrid", "parts": {"ease": {"reg": -1}}}}},
            "systems.x.parts.deep.parts.ease: EASE got reg=-1",
        ),
        (
            {"kind": "hybrid", "parts": {"ease": {}, "lists": {"kind": "test_recommenders:OnlyLists"}}},
            "systems.x.parts.lists: test_recommenders:OnlyLists does not score all items",
        ),
        ({"kind": "hybrid", "parts": ["ease", "markov"], "steps": 0}, "systems.x.steps: got 0"),
        ({"kind": "hybrid", "parts": ["ease", "markov"], "steps": 2000}, "systems.x.steps: got 2000"),
        ({"kind": "hybrid", "parts": ["ease"], "validation_users": 0}, "systems.x.validation_users: got 0"),
        ({"kind": "hybrid", "parts": ["ease"], "fusion": "sum"}, "systems.x.fusion: got 'sum'"),
        (
            {"kind": "hybrid", "parts": ["ease", "markov"], "weights": {"ease": 1}},
            "systems.x.weights: got {'ease': 1.0}; expected a number of 0 or more for each of ease, markov",
        ),
    ],
)
def test_problems_of_systems_and_of_their_parts_say_where(settings, expected):
    (problem,) = system_problems("x", system(**settings))
    assert problem.startswith(expected)


def test_all_problems_of_a_hybrid_are_told_at_once():
    wrong = {
        "kind": "hybrid",
        "parts": {"ease": {"regg": 1}, "itemknn": {"shrink": -1}},
        "weights": {"ease": -1},
    }
    assert len(system_problems("x", system(**wrong))) == 3


def test_what_a_run_gives_reaches_the_parts():
    catalog, epochs = RecommenderConformance.catalog, []
    inner = {"kind": "hybrid", "parts": {"content": None, "sasrec": {"device": "cpu"}}}
    hybrid = build_recommender(
        "x",
        system(kind="hybrid", parts={"inner": inner, "ease": None}),
        seed=5,
        catalog=catalog,
        on_epoch=epochs.append,
    )
    parts = hybrid.parts_["inner"].parts_
    assert parts["content"].catalog is catalog
    assert parts["sasrec"].seed == 5
    assert parts["sasrec"].on_epoch == epochs.append
    assert [part.name for part in parts.values()] == ["content", "sasrec"]
