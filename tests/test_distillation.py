"""Distillation: what a teacher expects at the training events, and what the language model learns of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from finetune_cases import Case
from pipeline_cases import llmrec
from scipy.special import softmax
from split_cases import STRATEGIES, log_of
from test_leakage import CATALOG, N_ITEMS, some_rows, two_futures
from test_objective import noisy

from llmrec.data.histories import Histories, History
from llmrec.errors import ConfigError, DataError
from llmrec.finetune.batches import collate
from llmrec.finetune.examples import training_examples, training_windows
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.recommenders.svd import SVD
from llmrec.recommenders.teacher import Opinions, teach
from llmrec.settings import Distillation, Finetune


def fitted(split):
    svd = SVD(dim=4)
    svd.fit(split)
    return svd


def probabilities(teacher, history, seen, temperature):
    """By hand, from the definition."""
    new = np.setdiff1d(np.arange(N_ITEMS), seen)
    scores = teacher.score(Histories.from_list([history]))[0, new]
    z = (scores - scores.mean()) / scores.std()
    full = np.zeros(N_ITEMS)
    full[new] = softmax(z / temperature)
    return full


@pytest.mark.parametrize("k", [4, 100])
def test_targets_are_the_softmax_of_the_teachers_scores_before_each_event(strategy, k):
    split = STRATEGIES[strategy](log_of(some_rows()), CATALOG)
    teacher = fitted(split)
    teacher.users_at_once = 7  # so that blocks end inside histories
    opinions = Opinions(teacher, split)
    targets, temperature = teach(opinions, k), opinions.temperature
    assert targets.items.shape == targets.probabilities.shape == (len(split.train.items), min(k, N_ITEMS))
    event = 0
    for history in split.train:
        assert not targets.probabilities[event].any()  # nothing stands before the first
        for n in range(1, len(history)):
            before = History(history.user_id, history.items[:n], history.timestamps[:n])
            full = probabilities(teacher, before, before.items, temperature)
            found = targets.probabilities[event + n].astype(float)
            np.testing.assert_allclose(np.sort(found)[::-1], np.sort(full)[::-1][: len(found)], atol=1e-3)
            np.testing.assert_allclose(found, full[targets.items[event + n]], atol=1e-3)
        event += len(history)


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return request.param


def test_the_temperature_makes_the_validation_targets_most_likely(strategy):
    split = STRATEGIES[strategy](log_of(some_rows()), CATALOG)
    teacher = fitted(split)
    chosen = Opinions(teacher, split).temperature

    def loss(temperature):
        found = [
            probabilities(teacher, history, history.items, temperature)[target]
            for history, target in zip(split.valid.histories, split.valid.target_items, strict=True)
            if target not in history.items
        ]
        return -np.log(found).mean()

    assert loss(chosen) <= min(map(loss, np.geomspace(0.05, 20, 100))) + 1e-6


def test_a_teacher_without_validation_questions_is_refused():
    split = STRATEGIES["leave-one-out"](log_of(some_rows()), CATALOG)
    teacher = fitted(split)
    with pytest.raises(DataError, match="no validation question"):
        Opinions(teacher, replace(split, valid=split.valid.select(np.empty(0, np.int64))))


def test_no_target_depends_on_what_is_held_out(strategy):
    first, second = (teach(Opinions(fitted(split), split), 5) for split in two_futures(strategy))
    np.testing.assert_array_equal(first.items, second.items)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def soft(n_events, n_items, k, seed=0):
    draw = np.random.default_rng(seed)
    items = np.stack([draw.permutation(n_items)[:k] for _ in range(n_events)]).astype(np.int32)
    return SoftTargets(items, (0.9 * draw.dirichlet(np.ones(k), n_events)).astype(np.float16))


def settings(**distillation):
    return Finetune(
        lora_rank=2, label_smoothing=0.2, distillation=Distillation(teacher="sasrec", **distillation)
    )


@pytest.mark.parametrize("examples", ["whole", "random windows"])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_loss_is_the_cross_entropy_with_the_mixed_target(tiny_lm, catalog, weight, examples):
    case = Case(tiny_lm, catalog, settings(weight=weight), max_events=4, scheme="token")
    n = len(catalog)
    targets = soft(len(case.histories.items), n, 5)
    objective = noisy(case.objective(soft_targets=targets))
    windows = training_windows(
        case.histories, 4, rng=np.random.default_rng(2) if examples == "random windows" else None
    )
    read = training_examples(case.verbalizer, case.histories, windows, case.alternatives)
    batch = collate(read)
    with torch.no_grad():
        states = objective._states(batch.token_ids).flatten(0, 1)[batch.positions]
        logs = objective._logits(states).float().log_softmax(1).numpy()
        loss = float(objective.loss(batch))
    token = {int(t[0]): item for item, t in enumerate(case.identifiers.token_ids)}
    of_place = [token[int(t)] for t in case.alternatives.alphabet]
    expected = 0.0
    events = np.concatenate(
        [np.arange(a, b) for a, b in zip(windows.first_target, windows.stop, strict=True)]
    )
    assert sorted(events) == sorted(
        set(range(len(case.histories.items))) - set(case.histories.indptr[:-1].tolist())
    )
    for row, event in zip(logs, events, strict=True):
        taught = np.full(n, (1 - targets.probabilities[event].astype(float).sum()) / n)
        taught[targets.items[event]] += targets.probabilities[event]
        happened = np.full(n, 0.2 / n)
        happened[case.histories.items[event]] += 0.8
        mixed = (1 - weight) * happened + weight * taught
        expected -= mixed[of_place] @ row
    assert loss == pytest.approx(expected, rel=1e-4)
    # What is held out has no teacher.
    own = training_examples(case.verbalizer, case.histories, windows, case.alternatives, held_out=True)
    with torch.no_grad():
        plain = float(noisy(case.objective()).loss(batch))
        assert float(objective.loss(collate(own))) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(("scheme", "loss"), [("title", "catalogue"), ("token", "vocab")])
def test_a_teacher_of_items_needs_a_token_an_item(tiny_lm, catalog, scheme, loss):
    case = Case(tiny_lm, catalog, settings().model_copy(update={"loss": loss}), scheme=scheme)
    with pytest.raises(ConfigError, match=r"identifiers\.scheme: token and finetune\.loss: catalogue"):
        case.objective(soft_targets=soft(len(case.histories.items), len(catalog), 5))


def test_the_model_comes_to_think_what_its_teacher_thinks(tiny_lm, catalog):
    """With all the weight on a teacher who says the opposite of the events, the events lose."""
    case = Case(tiny_lm, catalog, settings(weight=1.0), scheme="token")
    events = case.histories.items
    said = ((events.astype(int) + 5) % len(catalog)).astype(np.int32)[:, None]
    objective = case.objective(soft_targets=SoftTargets(said, np.ones((len(events), 1), np.float16))).train()
    batch = collate(case.examples())
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (objective.loss(batch) / len(batch.labels)).backward()
        optimizer.step()
    objective.eval()
    with torch.no_grad():
        states = objective._states(batch.token_ids).flatten(0, 1)[batch.positions]
        logits = objective._logits(states).numpy()
    rows, places = np.arange(len(logits)), case.alternatives.places
    happened, taught = (logits[rows, places[items[batch.events.numpy()]]] for items in (events, said[:, 0]))
    assert (taught > happened).mean() > 0.9


TAUGHT = {
    "prompt": {"template": "films", "time": "none"},
    "identifiers": {"scheme": "token"},
    "finetune": {
        "epochs": 1,
        "batch_tokens": 400,
        "distillation": {"teacher": "sasrec_svd", "weight": 0.6, "top_items": 5},
    },
    "systems": {
        "llm": {},
        "sasrec": {"max_epochs": 2},
        "sasrec_svd": {"kind": "hybrid", "parts": {"sasrec": {"max_epochs": 2}, "svd": {}}},
    },
}


def test_a_run_with_a_teacher(config, tmp_path, capsys, monkeypatch):
    from llmrec.recommenders.hybrid import Hybrid

    fits, fit = [], Hybrid.fit
    monkeypatch.setattr(Hybrid, "fit", lambda self, split: (fits.append(1), fit(self, split)))
    path, run = config(**TAUGHT), tmp_path / "run"
    estimated = llmrec("run", path, "--dry-run", capsys=capsys).out
    assert "teach by" in estimated
    said = " ".join(llmrec("run", path, capsys=capsys).out.split())
    assert len(fits) == 1  # for its lists and for its pupil
    assert "sasrec_svd: asked about" in said
    assert "60% of what it learns is the view of" in (run / "report.md").read_text()
    costs = {
        name: json.loads((run / "evaluation" / f"{name}.json").read_text())["cost"]["fit_seconds"]
        for name in ("llm", "sasrec_svd")
    }
    assert costs["llm"] > costs["sasrec_svd"] > 0
    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    # Another weight is another adapter, and so is another teacher.
    for change in ("finetune.distillation.weight=0.5", "systems.sasrec_svd.fusion=rank"):
        assert (
            "was made with another config" in llmrec("run", path, "--set", change, code=2, capsys=capsys).err
        )
    untaught = ("--set", "finetune.distillation.teacher=null", "--set", f"output={tmp_path / 'alone'}")
    llmrec("run", path, *untaught, capsys=capsys)
    assert (tmp_path / "alone" / "adapter" / "adapter_model.safetensors").read_bytes() != before
    # The same settings elsewhere give the same.
    llmrec("run", path, "--set", f"output={tmp_path / 'again'}", capsys=capsys)
    assert (tmp_path / "again" / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_a_dry_run_knows_teachers_of_any_depth(config, capsys):
    inner = "{kind: hybrid, parts: {svd: {dim: 4}, itemknn: {}}}"
    deep = f"systems.sasrec_svd={{kind: hybrid, parts: {{inner: {inner}, ease: {{}}}}}}"
    assert "teach by" in llmrec("run", config(**TAUGHT), "--dry-run", "--set", deep, capsys=capsys).out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teacher=nobody", "expected one of the systems: llm, sasrec, sasrec_svd"),
        ("teacher=llm", "which is the language model itself or has it as a part"),
        ("weight=0", "greater than 0"),
        ("top_items=0", "greater than or equal to 1"),
    ],
)
def test_a_teacher_that_makes_no_sense_is_refused(config, capsys, change, said):
    printed = llmrec(
        "run", config(**TAUGHT), "--set", f"finetune.distillation.{change}", code=2, capsys=capsys
    )
    assert said in printed.err


def test_a_teacher_and_names_of_many_tokens_are_refused(config, capsys):
    printed = llmrec("run", config(**TAUGHT), "--set", "identifiers.scheme=title", code=2, capsys=capsys)
    assert "a teacher speaks of items" in printed.err
