"""Nothing that is held out reaches a system, an identifier, a training example or a figure of a report.

Two logs differ only in what is held out for the test. Whatever is made from training must come out the same.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from finetune_cases import Case
from split_cases import STRATEGIES, catalog_of, log_of
from tokenizer_cases import TOKENIZERS

from llmrec.config import RunConfig, System
from llmrec.data.parts import CONTEXT, TEST, TRAIN, VALID
from llmrec.data.split import Split
from llmrec.eval.evaluate import train_counts
from llmrec.eval.slices import popularity_bands
from llmrec.finetune import train as training_loop
from llmrec.identifiers.index import by_appearance
from llmrec.pipeline import identifiers_stage
from llmrec.pipeline.recommend_stage import collaborative_vectors
from llmrec.prompts.verbalize import Document
from llmrec.recommenders import llm, llm_training
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.registry import RECOMMENDERS, build_recommender, recommender_class
from llmrec.settings import Decoding, Finetune

N_ITEMS = 15
CATALOG = catalog_of(N_ITEMS)
SMALL = {"dim": 8, "layers": 1, "max_len": 5, "batch_size": 8, "max_epochs": 2, "device": "cpu"}
PARTS = {"parts": ["popularity", "itemknn"]}
GUIDED = {"parts": {"llm": {}, "popularity": {}}}
NEEDED = {
    "adjusted": {"parts": {"content": {}}},
    "hybrid": PARTS,
    "rerank": PARTS | {"folds": 2},
    "guided": GUIDED,
}  # settings without a default, by kind


def small(kind: str) -> System:
    """Return a system whose fit is quick, whatever its kind."""
    known = inspect.signature(recommender_class(kind).__init__).parameters
    return System.model_validate({k: v for k, v in SMALL.items() if k in known} | NEEDED.get(kind, {}))


def some_rows():
    draw = np.random.default_rng(5)
    return [
        (f"u{user}", f"i{item}", int(when))
        for user in range(24)
        for item, when in zip(
            draw.permutation(N_ITEMS)[: draw.integers(4, 10)], draw.integers(0, 40, 10), strict=False
        )
    ]


def two_futures(strategy: str) -> tuple[Split, Split]:
    """Return splits of two logs in which only the items of held-out events differ; the validation is allowed to be read."""
    split = STRATEGIES[strategy](log_of(some_rows()), CATALOG)
    events, parts = split.log.events, split.log.parts
    held = (parts == TEST) | (parts == CONTEXT)
    for place in np.flatnonzero(parts == VALID):
        owner = split.log.owners[place]
        held[events.indptr[owner] : place] = False  # in the history of a validation question
    items = np.where(held, (events.items + 1 + np.arange(len(events.items)) % 7) % N_ITEMS, events.items)
    rows = [
        (events.user_ids[u], f"i{i}", int(t))
        for u, i, t in zip(split.log.owners, items, events.timestamps, strict=True)
    ]
    other = STRATEGIES[strategy](log_of(rows), CATALOG)
    assert (other.log.parts == parts).all()
    changed = other.log.events.items != events.items
    assert set(parts[changed]) == ({TEST} if strategy == "leave-one-out" else {TEST, CONTEXT})
    assert not changed[(parts == TRAIN) | (parts == VALID)].any()
    return split, other


@pytest.fixture(params=STRATEGIES)
def strategy(request) -> str:
    return request.param


def assert_blind(make, strategy):
    """Check that a system answers the same questions alike whatever was held out when it was fitted."""
    splits = two_futures(strategy)
    answers = []
    for split in splits:
        system = make()
        system.fit(split)
        answers.append(system.recommend(splits[0].test.histories, N_ITEMS, exclude_seen=False))
    np.testing.assert_array_equal(answers[0].items, answers[1].items)
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_no_system_learns_from_what_is_held_out(kind, strategy, tiny_lm):
    case = Case(tiny_lm, CATALOG, Finetune())
    model = LanguageModel(lambda: case.recommender(Decoding()), key="base")
    injected = {"seed": 1, "catalog": CATALOG, "language_model": model}
    assert_blind(lambda: build_recommender(kind, small(kind), **injected), strategy)


class Leaking(Popularity):
    """Popularity that also counts events it must not know."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def fit(self, split):
        super().fit(split)
        self._counts = self._counts + np.bincount(self.more(split), minlength=split.n_items)


@pytest.mark.parametrize(
    ("more", "strategies"),
    [
        (lambda split: split.test.target_items, list(STRATEGIES)),
        (lambda split: split.log.events.items, list(STRATEGIES)),
        # Under leave-one-out these are training and validation events only.
        (lambda split: split.test.histories.items, ["temporal", "users"]),
    ],
    ids=["test targets", "the whole log", "test histories"],
)
def test_a_leak_is_caught(more, strategies):
    for strategy in strategies:
        with pytest.raises(AssertionError, match="Arrays are not equal"):
            assert_blind(lambda: Leaking(more), strategy)


# --- what the language model is made of


@pytest.mark.parametrize(
    "settings",
    [
        {"scheme": "index", "numbering": "sequential"},
        {"scheme": "index", "numbering": "collaborative"},
        {"scheme": "semantic", "levels": 2, "codes": 8, "vectors": "collaborative"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_no_identifier_depends_on_what_is_held_out(settings, strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(identifiers_stage, "load_base_tokenizer", lambda config: TOKENIZERS["gpt2"]())
    made = []
    for name, split in zip("ab", two_futures(strategy), strict=True):
        config = RunConfig.model_validate(
            {
                "name": "x",
                "output": tmp_path / name,
                "data": {"dataset": "ml-100k"},  # names the run; nothing is read
                "identifiers": settings,
                "systems": {"sasrec": SMALL},
            }
        )

        def vectors(config=config, split=split):
            return collaborative_vectors(config, split, CATALOG)

        made.append(identifiers_stage.identifiers_for(config, split, CATALOG, vectors))
    assert made[0].texts == made[1].texts
    assert made[0].token_ids == made[1].token_ids


def test_numbers_by_appearance_would_show_a_leak(strategy):
    """Or the test above would say nothing."""
    first, second = (by_appearance(split.log.events, N_ITEMS) for split in two_futures(strategy))
    assert (first != second).any()


class Verbalizer:
    """A document is the items themselves."""

    max_events = 3

    def document(self, history, now=None):
        at = np.arange(len(history))
        return Document(history.items.astype(np.int64), history.items, at, at + 1)


@pytest.mark.parametrize("examples", ["every-event", "one-target"])
def test_the_language_model_is_trained_on_training_events_only(examples, strategy, tmp_path, monkeypatch):
    read = []

    def finetune(objective, make_examples, settings, **rest):
        read.append([make_examples(epoch) for epoch in (0, 1)])
        return SimpleNamespace(log=[], validations=[], best_step=0)

    monkeypatch.setattr(llm_training, "add_lora", lambda model, *rest: model)
    monkeypatch.setattr(llm_training, "NextItemLoss", lambda *a, **kw: SimpleNamespace(parameters=list))
    monkeypatch.setattr(training_loop, "finetune", finetune)
    settings = Finetune(examples=examples, loss="vocab")
    splits = two_futures(strategy)
    for split in splits:
        llm.LLMRecommender(
            None, Verbalizer(), None, finetune=settings, decoding=None, checkpoints=tmp_path
        ).fit(split)
    for first, second in zip(*read, strict=True):
        assert [e.token_ids.tolist() for e in first] == [e.token_ids.tolist() for e in second]
        # Every training event but a user's first is a target, once.
        assert sum(e.targets for e in first) == len(splits[0].train.items) - len(splits[0].train)


def test_the_clock_of_prompts_is_that_of_training():
    """How finely times are said must not depend on a held-out event either."""
    rows = [(f"u{u}", f"i{n}", 86_400 * (n + u) + (n == 4)) for u in range(3) for n in range(5)]
    split = STRATEGIES["leave-one-out"](log_of(rows), CATALOG)
    assert split.protocol.time_resolution == 86_400


def test_popularity_in_reports_counts_training_events_only(strategy):
    first, second = (train_counts(split.train, N_ITEMS) for split in two_futures(strategy))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(popularity_bands(first), popularity_bands(second))
