from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import Finetune
from llmrec.data.histories import Histories, History
from llmrec.errors import ConfigError, LlmrecError
from llmrec.finetune.examples import training_documents, windows
from llmrec.finetune.train import add_lora, batch_order, collate, finetune, last_checkpoint, target_loss
from llmrec.identifiers.title import title_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.prompts.template import PromptTemplate, load_template
from llmrec.prompts.verbalize import Verbalizer

SETTINGS = Finetune(steps=6, batch_size=2, learning_rate=1e-2, save_steps=2, lora_dropout=0.1, lora_rank=2)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 8))
def test_every_event_after_the_first_is_a_target_exactly_once(lengths, max_events):
    histories = Histories.from_list(
        [History(str(u), np.arange(n, dtype=np.int32), np.arange(n)) for u, n in enumerate(lengths)]
    )
    cut = windows(histories, max_events)
    targets = [(w.row, e) for w in cut for e in range(w.start + 1, w.stop)]
    assert sorted(targets) == [(u, e) for u, n in enumerate(lengths) for e in range(1, n)]
    assert all(w.stop - w.start <= max_events + 1 for w in cut)
    newest = windows(histories, max_events, per_user=1)
    assert [(w.row, w.stop) for w in newest] == [(u, n) for u, n in enumerate(lengths) if n > 1]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=50), st.integers(1, 40), st.integers(1, 8))
def test_batches_use_every_document_equally_often(lengths, steps, batch_size):
    order = batch_order(lengths, steps, batch_size, seed=1)
    assert len(order) == steps * batch_size
    counts = np.bincount(order, minlength=len(lengths))
    assert counts.max() - counts.min() <= 1
    assert order == batch_order(lengths, steps, batch_size, seed=1)


@pytest.fixture
def documents(tiny_lm, catalog):
    def make(template=None, n=6):
        tokenizer = load_tokenizer(tiny_lm)
        verbalizer = Verbalizer(
            template or load_template("films"),
            tokenizer,
            catalog,
            title_identifiers(catalog, tokenizer).token_ids,
        )
        draw = np.random.default_rng(0)
        histories = Histories.from_list(
            [
                History(
                    str(u),
                    draw.permutation(len(catalog))[: 4 + u].astype(np.int32),
                    86_400 * np.arange(4 + u),
                )
                for u in range(n)
            ]
        )
        return training_documents(verbalizer, histories, windows(histories, 20)), verbalizer, histories

    return make


def test_loss_of_the_document_is_that_of_one_prompt_per_target(tiny_lm, documents):
    """The whole point of training on every event: same loss, one forward pass."""
    model = load_model(tiny_lm)
    for template in (load_template("films"), PromptTemplate("b", "Seen:\n", "[{time}: ]", "")):
        made, verbalizer, histories = documents(template)
        document, history = made[-1], histories[len(histories) - 1]
        row = {"input_ids": document.token_ids, "labels": document.labels()}
        whole = target_loss(model, collate([row])).item()
        total, count = 0.0, 0
        for n in range(1, len(history)):
            past = History("x", history.items[:n], history.timestamps[:n])
            prompt = verbalizer.prompt(past, int(history.timestamps[n]))
            target = document.token_ids[document.starts[n] : document.stops[n]]
            with torch.no_grad():
                logp = (
                    model(torch.as_tensor(np.concatenate([prompt, target]))[None]).logits[0].log_softmax(-1)
                )
            rows = torch.arange(len(prompt) - 1, len(prompt) + len(target) - 1)
            total -= float(logp[rows, torch.as_tensor(target)].sum())
            count += len(target)
        assert whole == pytest.approx(total / count, abs=1e-4)


def test_padding_changes_no_loss(tiny_lm, documents):
    model = load_model(tiny_lm)
    rows = [{"input_ids": d.token_ids, "labels": d.labels()} for d in documents()[0]]
    with torch.no_grad():
        n = torch.tensor([(r["labels"] != -100).sum() for r in rows])
        each = torch.stack([target_loss(model, collate([r])) for r in rows])
        assert float(target_loss(model, collate(rows))) == pytest.approx(
            float((each * n).sum() / n.sum()), abs=1e-5
        )


def weights(model):
    return {k: v.detach().clone() for k, v in model.named_parameters() if v.requires_grad}


def test_training_lowers_the_loss_touches_adapters_only_and_repeats_bit_for_bit(tiny_lm, documents, tmp_path):
    made = documents()[0]
    results = []
    for run in ("a", "b"):
        base = load_model(tiny_lm)
        before = base.state_dict()["model.embed_tokens.weight"].clone()
        model = add_lora(base, SETTINGS, seed=3)
        log, order = finetune(
            model, made, SETTINGS.model_copy(update={"steps": 30}), checkpoints=tmp_path / run, seed=3
        )
        assert len(log) == 30
        assert len(order) == 60
        assert np.mean([e["loss"] for e in log[-5:]]) < np.mean([e["loss"] for e in log[:5]]) - 0.1
        assert (base.state_dict()["model.embed_tokens.weight"] == before).all()
        results.append((log, weights(model)))
    assert results[0][0] == results[1][0]
    assert all((results[0][1][k] == results[1][1][k]).all() for k in results[0][1])


def test_killed_training_goes_on_and_ends_the_same(tiny_lm, documents, tmp_path):
    made = documents()[0]

    def die(step, steps):
        if step == 5:
            raise KeyboardInterrupt

    whole = add_lora(load_model(tiny_lm), SETTINGS, seed=3)
    log, _ = finetune(whole, made, SETTINGS, checkpoints=tmp_path / "whole", seed=3)
    broken = add_lora(load_model(tiny_lm), SETTINGS, seed=3)
    with pytest.raises(KeyboardInterrupt):
        finetune(broken, made, SETTINGS, checkpoints=tmp_path / "killed", seed=3, on_step=die)
    half = tmp_path / "killed" / "checkpoint-5"  # a kill while the Trainer was writing
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    resumed = add_lora(load_model(tiny_lm), SETTINGS, seed=3)
    steps = []
    again, _ = finetune(
        resumed, made, SETTINGS, checkpoints=tmp_path / "killed", seed=3, on_step=lambda s, _: steps.append(s)
    )
    assert steps == [5, 6]  # from checkpoint-4, not from the start
    assert [e["loss"] for e in again] == pytest.approx([e["loss"] for e in log], abs=1e-6)
    a, b = weights(whole), weights(resumed)
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_last_checkpoint_ignores_and_removes_half_written_ones(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-12").exists()


def test_a_loss_that_is_no_number_stops_the_training(tiny_lm, documents, tmp_path):
    model = add_lora(load_model(tiny_lm), SETTINGS, seed=0)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(LlmrecError, match="training loss became nan at step 1"):
        finetune(model, documents()[0], SETTINGS, checkpoints=tmp_path, seed=0)


def test_a_single_module_may_be_named_without_a_list(tiny_lm):
    settings = Finetune(target_modules="q_proj", lora_rank=2)
    adapted = [
        n for n, p in add_lora(load_model(tiny_lm), settings, seed=0).named_parameters() if p.requires_grad
    ]
    assert len(adapted) == 4  # two matrices in each of two layers
    assert all("q_proj" in n for n in adapted)


def test_unknown_target_module_names_the_nearest(tiny_lm):
    settings = SETTINGS.model_copy(update={"target_modules": ("q_prj",)})
    with pytest.raises(ConfigError, match=r"'q_prj' \(did you mean 'q_proj'\?\)"):
        add_lora(load_model(tiny_lm), settings, seed=0)
