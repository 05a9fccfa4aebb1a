"""A softmax over the items that have training events: what the others are is left to what they share with these."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetune_cases import Case
from pipeline_cases import llmrec
from test_distillation import soft
from test_objective import noisy

from llmrec.errors import ConfigError
from llmrec.finetune.batches import collate
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.recommenders.llm_training import Training
from llmrec.settings import Distillation, Finetune, NewTokens


def case_of(tiny_lm, catalog, **more):
    settings = Finetune(
        lora_rank=2, negatives="warm", label_smoothing=0.2, new_tokens=NewTokens(dropout=0.0), **more
    )
    return Case(tiny_lm, catalog, settings, scheme="token")


def learned(case):
    """Return examples, and which items are warm: those that the examples have as targets, but for a few."""
    warm = np.ones(len(case.catalog), dtype=bool)
    warm[case.histories[4].items[-2:]] = False
    examples = [e for e in case.examples() if warm[case.histories.items[e.events]].all()]
    assert examples
    assert not warm.all()
    return collate(examples), warm


@pytest.mark.parametrize("taught", [False, True])
def test_loss_is_the_cross_entropy_over_the_warm_items(tiny_lm, catalog, taught):
    case = case_of(tiny_lm, catalog, distillation=Distillation(teacher="svd", weight=0.4))
    n, (batch, warm) = len(catalog), learned(case)
    targets = soft(len(case.histories.items), n, n // 2) if taught else None
    objective = noisy(case.objective(soft_targets=targets, candidates=warm))
    with torch.no_grad():
        states = objective._states(batch.token_ids).flatten(0, 1)[batch.positions]
        scores = objective._logits(states).double().numpy()[:, case.alternatives.places]  # by item
        loss = float(objective.loss(batch))
    scores[:, ~warm] = -np.inf
    expected = 0.0
    for row, event in zip(scores, batch.events.numpy(), strict=True):
        mixed = np.where(warm, 0.2 / warm.sum(), 0.0)
        mixed[case.histories.items[event]] += 0.8
        if targets is not None:
            view = np.zeros(n)
            view[targets.items[event]] = targets.probabilities[event]
            view[~warm] = 0
            mixed = 0.6 * mixed + 0.4 * (view + np.where(warm, (1 - view.sum()) / warm.sum(), 0.0))
        assert mixed.sum() == pytest.approx(1, abs=1e-6)
        expected -= mixed[warm] @ (row[warm] - np.logaddexp.reduce(row[warm]))
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("negatives", ["all", "warm"])
def test_cold_items_keep_the_embeddings_that_they_start_with(tiny_lm, catalog, negatives):
    case = case_of(tiny_lm, catalog)
    case.settings = case.settings.model_copy(update={"negatives": negatives})
    batch, warm = learned(case)
    objective = case.objective(candidates=warm if negatives == "warm" else None).train()
    before = objective.new_tokens.outputs().detach().clone()
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        objective.loss(batch).backward()
        optimizer.step()
    moved = (objective.new_tokens.outputs() != before).any(dim=1).numpy()[case.alternatives.places]
    assert moved[warm].all()
    assert moved[~warm].all() == (negatives == "all")
    assert moved[~warm].any() == (negatives == "all")


def test_training_takes_the_items_of_the_training_histories(tiny_lm, catalog):
    case = case_of(tiny_lm, catalog)
    warm = np.arange(len(catalog)) > 2
    for negatives, expected in (("warm", int(warm.sum())), ("all", None)):
        settings = case.settings.model_copy(update={"negatives": negatives})
        training = Training(case.base(), case.verbalizer, case.trie, settings, None, None, None, warm, seed=0)
        found = getattr(training.objective, "candidates", None)
        assert (None if found is None else len(found)) == expected


def test_identifiers_of_many_tokens_are_refused(tiny_lm, catalog):
    case = Case(tiny_lm, catalog, Finetune(lora_rank=2, negatives="warm"), scheme="title")
    with pytest.raises(ConfigError, match=r"identifiers\.scheme: token and finetune\.loss: catalogue"):
        case.objective(candidates=np.ones(len(catalog), bool))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identifiers": {"scheme": "title"}}, "parts of longer identifiers are shared"),
        ({"loss": "vocab"}, "finetune.loss: catalogue with it"),
        (
            {"validation": {"every": 1, "metric": "loss"}},
            "infinite where the target is an item without training events",
        ),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused_before_anything_is_done(config, capsys, changes, said):
    identifiers = changes.pop("identifiers", {"scheme": "token"})
    path = config(identifiers=identifiers, finetune={"negatives": "warm", **changes})
    assert said in " ".join(llmrec("run", path, code=2, capsys=capsys).err.split())


def test_a_teacher_of_cold_items_only_is_spread_over_the_warm(tiny_lm, catalog):
    case = case_of(tiny_lm, catalog, distillation=Distillation(teacher="svd", weight=1.0))
    batch, warm = learned(case)
    cold = np.flatnonzero(~warm)[:1].astype(np.int32)
    n = len(case.histories.items)
    nothing = SoftTargets(np.tile(cold, (n, 1)), np.zeros((n, 1), np.float16))
    of_cold = SoftTargets(np.tile(cold, (n, 1)), np.ones((n, 1), np.float16))
    with torch.no_grad():
        losses = [
            float(noisy(case.objective(soft_targets=t, candidates=warm)).loss(batch))
            for t in (nothing, of_cold)
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
