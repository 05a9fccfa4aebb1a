"""Fine-tuning on some users: who is chosen, by what, and that no others are learned from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from finetune_cases import DAY
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import llmrec
from split_cases import STRATEGIES, log_of
from test_leakage import CATALOG, N_ITEMS, SMALL, some_rows, two_futures
from torch.nn import functional as F

from llmrec.data.histories import Histories, History
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.gru4rec import GRU4Rec
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.selection import influence, uncertainty, within_budget
from llmrec.recommenders.windows import last_events


def split_of(strategy="leave-one-out"):
    return STRATEGIES[strategy](log_of(some_rows()), CATALOG)


def histories_of(lengths):
    return Histories.from_list(
        [
            History(str(u), np.arange(n, dtype=np.int32), DAY * np.arange(n, dtype=np.int64))
            for u, n in enumerate(lengths)
        ]
    )


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 3)), min_size=1, max_size=12),
    st.floats(0.01, 1.0),
)
def test_the_best_users_that_fit_are_taken(users, share):
    lengths, scores = zip(*users, strict=True)
    chosen = within_budget(np.array(scores, float), histories_of(lengths), share)
    targets = np.maximum(np.array(lengths) - 1, 0)
    budget = share * targets.sum()
    assert list(chosen) == sorted(set(chosen))
    assert all(targets[u] for u in chosen)
    if targets.sum():
        assert len(chosen) == 1 or targets[chosen].sum() <= budget + 1e-6
    # Who was left out did not fit any more when their turn came.
    turn = sorted(range(len(users)), key=lambda u: (-scores[u], u))
    for at, user in enumerate(turn):
        if targets[user] and user not in chosen:
            spent = sum(targets[u] for u in turn[:at] if u in chosen)
            assert spent + targets[user] > budget
    if share == 1:
        assert set(chosen) == set(np.flatnonzero(targets))


class Even(ScoringRecommender):
    """Finds everything equally good."""

    name = "even"

    def fit(self, split):
        pass

    def score(self, histories):
        return np.zeros((len(histories), N_ITEMS))


def test_uncertainty_is_the_mean_surprise_of_a_users_events():
    split = split_of()
    # Whoever has seen n items has N - n that are equally probable.
    expected = [np.log(N_ITEMS - np.arange(1, n)).mean() for n in split.train.lengths]
    np.testing.assert_allclose(uncertainty(Even(), split), expected)


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("kind", [SASRec, GRU4Rec])
def test_influence_is_the_product_of_gradients(kind, temperature):
    split = split_of()
    model = kind(**SMALL, temperature=temperature)
    model.fit(split)
    model.users_at_once = 7
    found = influence(model, split)

    def gradient(histories, items):
        keys = model.model_.keys().detach().requires_grad_()
        read = last_events(histories, model.max_len, model.device_)
        with torch.no_grad():
            queries = model.model_.queries(model.query(model.model_, read))
        F.cross_entropy(queries @ keys.T, torch.from_numpy(items).long()).backward()
        return keys.grad

    towards = gradient(split.valid.histories, split.valid.target_items)
    for user, history in enumerate(split.train):
        products = [
            float(
                (gradient(
                    Histories.from_list([History("u", history.items[:n], history.timestamps[:n])]),
                    history.items[n : n + 1],
                ) * towards).sum()
            )
            for n in range(1, len(history))
        ]  # fmt: skip
        assert found[user] == pytest.approx(np.mean(products), rel=1e-3, abs=1e-6)


def test_influence_needs_gradients():
    popularity = Popularity()
    with pytest.raises(ConfigError, match="Expected a sequence model"):
        influence(popularity, split_of())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_choice_depends_on_what_is_held_out(strategy):
    scores = []
    for split in two_futures(strategy):
        model = SASRec(**SMALL)
        model.fit(split)
        scores.append([uncertainty(model, split), influence(model, split)])
    np.testing.assert_array_equal(*scores)


CHOSEN = {
    "identifiers": {"scheme": "token"},
    "prompt": {"template": "films", "time": "none"},
    "finetune": {"epochs": 1, "batch_tokens": 400, "selection": {"share": 0.4}},
    "systems": {"llm": {}, "sasrec": {"max_epochs": 2}, "itemknn": {}},
}


@pytest.mark.parametrize(
    ("by", "surrogate", "words"),
    [
        ("random", "null", "a random draw"),
        ("uncertainty", "itemknn", "uncertainty as ItemKNN has it"),
        ("influence", "sasrec", "influence as SASRec has it"),
    ],
)
def test_a_run_on_some_of_the_users(config, tmp_path, capsys, monkeypatch, by, surrogate, words):
    from llmrec.recommenders import llm_training

    read, examples = [], llm_training.training_examples

    def reading(verbalizer, histories, windows, *rest, **more):
        read.append((histories, windows))
        return examples(verbalizer, histories, windows, *rest, **more)

    monkeypatch.setattr(llm_training, "training_examples", reading)
    changes = ("--set", f"finetune.selection.by={by}", "--set", f"finetune.selection.surrogate={surrogate}")
    path, run = config(**CHOSEN), tmp_path / "run"
    llmrec("run", path, *changes, capsys=capsys)
    assert (
        f"learns from 40% of the training events, those of users chosen by {words}"
        in (run / "report.md").read_text()
    )
    counts = json.loads((run / "adapter" / "llmrec.json").read_text())["counts"]
    every = json.loads((run / "protocol.json").read_text())
    assert 0 < counts["targets"] <= 0.4 * every["interactions"]
    # All targets of a user are learned from, or none.
    histories, windows = read[0]
    owner = histories.indptr.searchsorted(windows.start, side="right") - 1
    learned = np.bincount(owner, windows.stop - windows.first_target, minlength=len(histories))
    assert learned.sum() == counts["targets"]
    assert 0 < (learned > 0).sum() < len(histories)
    assert (learned[learned > 0] == histories.lengths[learned > 0] - 1).all()
    refused = llmrec("run", path, *changes, "--set", "finetune.selection.share=0.5", code=2, capsys=capsys)
    assert "finetune.selection.share was 0.4 and is now 0.5" in refused.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["by=uncertainty"],
            "surrogate is not set; expected a cheap one of the systems, which chooses: itemknn, sasrec",
        ),
        (["by=uncertainty", "surrogate=llm"], "which is the language model itself"),
        (["by=uncertainty", "surrogate=nobody"], "expected one of the systems"),
        (["by=influence", "surrogate=itemknn"], "has no gradients, by which influence is told"),
        (["share=0"], "greater than 0"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(config, capsys, changes, said):
    sets = [part for change in changes for part in ("--set", f"finetune.selection.{change}")]
    printed = llmrec("run", config(**CHOSEN), *sets, code=2, capsys=capsys)
    assert said in " ".join(printed.err.split())
