"""The training loop: reproducible, durable, honest about what went wrong."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_cases import Case
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llmrec.errors import ArtefactError, ConfigError, LlmrecError
from llmrec.finetune import checkpoints as checkpoint_module
from llmrec.finetune.batches import collate
from llmrec.finetune.checkpoints import last_checkpoint
from llmrec.finetune.lora import add_lora
from llmrec.finetune.new_tokens import mean_of_items, title_rows
from llmrec.finetune.plan import Plan
from llmrec.finetune.train import finetune
from llmrec.models import load_model
from llmrec.new_rows import make_room
from llmrec.settings import Finetune, NewTokens, Validation

SETTINGS = Finetune(
    steps=6,
    batch_tokens=300,
    learning_rate=1e-2,
    save_steps=2,
    lora_dropout=0.1,
    lora_rank=2,
    new_tokens=NewTokens(start="collaborative", temperature=0.1, learning_rate=1e-2),
)
SCHEMES = [{"scheme": "title"}, {"scheme": "token"}]


def settings(**changes):
    return SETTINGS.model_copy(update=changes)


def weights(objective):
    return {k: v.detach().clone() for k, v in objective.named_parameters() if v.requires_grad}


def train(case, folder, objective=None, **options):
    objective = objective or case.objective()
    outcome = finetune(objective, case.examples, case.settings, checkpoints=folder, seed=3, **options)
    return objective, outcome


@pytest.mark.parametrize("identifiers", SCHEMES, ids=lambda s: s["scheme"])
def test_training_lowers_the_loss_touches_adapters_only_and_repeats_bit_for_bit(
    tiny_lm, catalog, tmp_path, identifiers
):
    case = Case(tiny_lm, catalog, settings(steps=60), **identifiers)
    frozen = load_model(tiny_lm).state_dict()["model.layers.0.mlp.up_proj.weight"]
    results = []
    for run in "ab":
        objective, outcome = train(case, tmp_path / run)
        losses = [e["loss"] for e in outcome.log]
        assert len(losses) == 60
        # The random model's frozen head gives logits near 0: with titles there is little that adapters can do.
        gain = 0.03 if identifiers["scheme"] == "title" else 0.1
        assert np.mean(losses[-9:]) < np.mean(losses[:9]) - gain
        kept = next(p for n, p in objective.named_parameters() if "layers.0.mlp.up_proj.base_layer" in n)
        assert (kept == frozen).all()
        results.append((losses, weights(objective)))
    assert results[0][0] == results[1][0]
    assert all((results[0][1][k] == results[1][1][k]).all() for k in results[0][1])


@pytest.mark.parametrize("averaging", [0.0, 1.0])
@pytest.mark.parametrize("identifiers", SCHEMES, ids=lambda s: s["scheme"])
def test_killed_training_goes_on_and_ends_the_same(tiny_lm, catalog, tmp_path, identifiers, averaging):
    case = Case(tiny_lm, catalog, settings(averaging=averaging), **identifiers)

    def die(step):
        if step.step == 5:
            raise KeyboardInterrupt

    whole, expected = train(case, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(case, tmp_path / "killed", on_step=die)
    half = tmp_path / "killed" / ".step-5.tmp"  # a kill while a checkpoint was being written
    half.mkdir()
    (half / "trainable.safetensors").write_bytes(b"half")
    steps = []
    resumed, again = train(case, tmp_path / "killed", on_step=lambda s: steps.append(s.step))
    assert steps == [5, 6]  # from step 4, not from the start
    assert not half.exists()
    assert [e["loss"] for e in again.log] == [e["loss"] for e in expected.log]
    a, b = weights(whole), weights(resumed)
    assert all((a[k] == b[k]).all() for k in a)


def test_micro_batches_and_checkpointed_activations_change_nothing(tiny_lm, catalog, tmp_path):
    losses = []
    for i, changes in enumerate(({}, {"micro_batch_tokens": 100}, {"gradient_checkpointing": True})):
        case = Case(tiny_lm, catalog, settings(lora_dropout=0.0, **changes), scheme="title")
        losses.append([e["loss"] for e in train(case, tmp_path / str(i))[1].log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_every_epoch_reads_every_target_and_the_log_counts_them(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, settings(steps=None, epochs=2.0), scheme="token")
    seen = []
    _, outcome = train(case, tmp_path, on_step=seen.append)
    per_epoch = int((case.histories.lengths - 1).sum())
    assert sum(e["targets"] for e in outcome.log) == 2 * per_epoch
    assert seen[-1].epoch == 2.0
    assert seen[-1].steps == len(outcome.log)
    assert all(s.padded_tokens >= s.tokens > s.targets > 0 for s in seen)


def test_no_epoch_is_written_that_nobody_reads(tiny_lm, catalog):
    case = Case(tiny_lm, catalog, settings(steps=None, epochs=2.0), scheme="token")
    written = []

    def examples(epoch):
        written.append(epoch)
        return case.examples(epoch)

    plan = Plan(examples, case.settings, seed=0)
    written.clear()
    steps = [step for step, *_ in plan.follow(0)]
    assert steps == list(range(1, plan.steps + 1))
    assert max(written) == 1


def test_best_weights_are_kept_and_training_stops(tiny_lm, catalog, tmp_path):
    case = Case(
        tiny_lm,
        catalog,
        settings(steps=30, save_steps=1, validation=Validation(every=0.5, patience=2)),
        scheme="token",
    )
    values = iter([0.1, 0.3, 0.2, 0.2, 0.9])
    seen = []

    def validate(process, processes):
        assert (process, processes) == (0, 1)
        seen.append(weights(objective))
        return 10 * next(values), 10

    objective = case.objective()
    _, outcome = train(case, tmp_path, objective, validate=validate)
    assert [v["ndcg@10"] for v in outcome.validations] == pytest.approx([0.1, 0.3, 0.2, 0.2])
    assert outcome.best_step == outcome.validations[1]["step"] < len(outcome.log)
    best = weights(objective)
    assert all((best[k] == seen[1][k]).all() for k in best)
    assert any((best[k] != seen[3][k]).any() for k in best)


def test_a_kill_behind_the_best_step_does_not_lose_its_weights(tiny_lm, catalog, tmp_path):
    validation = Validation(every=0.5, metric="loss", patience=9)
    case = Case(tiny_lm, catalog, settings(steps=8, validation=validation), scheme="token")

    def run(folder, die_at=None):
        reached = []

        def validate(process, processes):
            # Whatever was learned, it gets worse after step 4: the best is behind the kill.
            return abs(reached[-1] - 4.0), 1

        def on_step(step):
            reached.append(step.step)
            if step.step == die_at:
                raise KeyboardInterrupt

        return train(case, folder, validate=validate, on_step=on_step)

    whole, expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", die_at=7)
    resumed, outcome = run(tmp_path / "killed")
    assert outcome.best_step == expected.best_step < 7
    assert outcome.validations == expected.validations
    a, b = weights(whole), weights(resumed)
    assert all((a[k] == b[k]).all() for k in a)


def test_what_is_kept_is_the_average_of_the_steps_and_steps_know_nothing_of_it(tiny_lm, catalog, tmp_path):
    plain = Case(tiny_lm, catalog, SETTINGS, scheme="token")
    objective, passed = plain.objective(), []
    _, expected = train(
        plain, tmp_path / "plain", objective, on_step=lambda _: passed.append(weights(objective))
    )
    case = Case(tiny_lm, catalog, settings(averaging=3.0), scheme="token")
    per_epoch = expected.log[-1]["step"] / expected.log[-1]["epoch"]
    start = weights(case.objective())
    averaged, outcome = train(case, tmp_path / "averaged")
    assert [e["loss"] for e in outcome.log] == [e["loss"] for e in expected.log]
    for name, value in weights(averaged).items():
        mean = start[name].double()
        for step, after in enumerate(passed, 1):
            share = max(1 / (3 * per_epoch), 9 / (9 + step))
            mean = (1 - share) * mean + share * after[name].double()
        torch.testing.assert_close(value.double(), mean, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, passed[-1][name])


def test_the_average_is_what_is_validated(tiny_lm, catalog, tmp_path):
    validation = Validation(every=0.5, patience=9)
    case = Case(tiny_lm, catalog, settings(averaging=2.0, validation=validation), scheme="token")
    objective, seen, after = case.objective(), [], []

    def validate(process, processes):
        seen.append(weights(objective))
        return float(len(seen)), 1  # the last is the best

    train(case, tmp_path, objective, validate=validate, on_step=lambda _: after.append(weights(objective)))
    kept = weights(objective)
    assert all(torch.equal(kept[name], seen[-1][name]) for name in kept)
    assert any(not torch.equal(after[-1][name], seen[-1][name]) for name in kept)


def test_a_loss_that_is_no_number_stops_before_it_reaches_a_weight(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, SETTINGS, scheme="title")
    objective = case.objective()

    def poison(step):
        if step.step == 5:
            with torch.no_grad():
                next(p for p in objective.parameters() if p.requires_grad).fill_(float("nan"))

    with pytest.raises(LlmrecError, match=r"loss became nan at step 6.*last good checkpoint is .*step-4"):
        train(case, tmp_path, objective, on_step=poison)
    state = load_file(tmp_path / "step-4" / "trainable.safetensors")
    assert sum(not v.isfinite().all() for v in state.values()) == 0


def test_a_full_disk_is_explained_and_the_checkpoint_before_is_whole(tiny_lm, catalog, tmp_path, monkeypatch):
    case = Case(tiny_lm, catalog, SETTINGS, scheme="title")
    real, calls = checkpoint_module.save_file, []

    def save_file(tensors, path, **options):
        calls.append(path)
        if len(calls) > 4:  # three files a checkpoint: in the middle of the second one
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path, **options)

    monkeypatch.setattr(checkpoint_module, "save_file", save_file)
    with pytest.raises(
        LlmrecError, match=r"step 4 could not be written.*disk is full.*MiB.*step-2' is whole"
    ):
        train(case, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-2"]
    monkeypatch.undo()
    _, outcome = train(case, tmp_path)
    assert [e["step"] for e in outcome.log] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_named(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, SETTINGS, scheme="title")
    train(case, tmp_path)
    (last_checkpoint(tmp_path) / "optimizer.safetensors").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"step-4' cannot be read"):
        train(case, tmp_path)


@pytest.mark.parametrize("start", ["title", "collaborative"])
@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_load_with_peft_alone(tiny_lm, catalog, tmp_path, start, tied):
    """The lines of the model card, without llmrec."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_lm, folder)
    if tied:
        LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_lm, tie_word_embeddings=True)).save_pretrained(
            folder
        )
    case = Case(folder, catalog, settings(new_tokens=NewTokens(start=start)), scheme="token")
    objective, _ = train(case, tmp_path / "work")
    objective.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.resize_token_embeddings(len(case.tokenizer))
    if tied:
        base.get_output_embeddings().weight = torch.nn.Parameter(
            base.get_input_embeddings().weight.detach().clone()
        )
        base.config.tie_word_embeddings = False
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    prompt = torch.as_tensor(case.verbalizer.prompt(case.histories[2]))[None]
    with torch.no_grad():
        assert torch.allclose(theirs(prompt).logits, objective.model(prompt).logits, atol=1e-5)
        merged = theirs.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert torch.allclose(plain(prompt).logits, objective.model(prompt).logits, atol=1e-4)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert max(rows for rows, _ in shapes) <= max(len(catalog), 64)  # no matrix was copied


def test_the_adapters_of_quantised_models_learn_too(wide_lm, catalog, tmp_path):
    pytest.importorskip("bitsandbytes")
    from llmrec.pipeline.parts import quantisation

    case = Case(wide_lm, catalog, settings(steps=40, lora_dropout=0.0), scheme="title")
    for kind in ("8bit", "4bit"):
        model = load_model(wide_lm, quantization_config=quantisation(kind, "float32"))
        case.base = lambda model=model: model
        _, outcome = train(case, tmp_path / kind)
        losses = [e["loss"] for e in outcome.log]
        assert np.mean(losses[-9:]) < np.mean(losses[:9]) - 0.01
        # Gradients have come through all quantised layers: these matrices began at zero.
        moved = {n: float(p.detach().abs().max()) for n, p in model.named_parameters() if "lora_B" in n}
        assert all(value > 0 for n, value in moved.items()), moved


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_are_multiplied_in_the_precision_they_were_loaded_in(
    wide_lm, catalog, tmp_path, dtype
):
    pytest.importorskip("bitsandbytes")
    from llmrec.pipeline.parts import quantisation

    case = Case(wide_lm, catalog, settings(steps=2), scheme="title")
    case.base = lambda: load_model(wide_lm, dtype=dtype, quantization_config=quantisation("4bit", dtype))
    objective, _ = train(case, tmp_path)
    assert all(p.dtype == torch.float32 for p in objective.parameters() if p.requires_grad)
    with objective.precision():
        assert torch.is_autocast_enabled("cpu") == (dtype == "bfloat16")


def test_bfloat16_weights_are_trained_in_mixed_precision(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, settings(steps=8, lora_dropout=0.0), scheme="token")
    case.base = lambda: make_room(load_model(tiny_lm, dtype="bfloat16"), len(case.tokenizer))
    objective, outcome = train(case, tmp_path)
    assert all(p.dtype == torch.float32 for p in objective.parameters() if p.requires_grad)
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]


def test_trackers_get_the_curves(tiny_lm, catalog, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validation = Validation(every=0.5)
    case = Case(tiny_lm, catalog, settings(report_to=("tensorboard",), validation=validation), scheme="token")
    _, outcome = train(
        case, tmp_path / "work", logs=tmp_path / "logs", run_name="x", validate=lambda *_: (0.5, 1)
    )
    (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*0")
    events = EventAccumulator(str(file)).Reload()
    logged = [e.value for e in events.Scalars("loss")]
    assert logged == pytest.approx([e["loss"] for e in outcome.log], rel=1e-5)
    assert "validation ndcg@10" in events.Tags()["scalars"]


def test_only_the_first_layers_are_kept(tiny_lm, catalog):
    model = load_model(tiny_lm, keep_layers=1)
    assert len(model.model.layers) == model.config.num_hidden_layers == 1
    assert (
        model.model.layers[0].mlp.up_proj.weight == load_model(tiny_lm).model.layers[0].mlp.up_proj.weight
    ).all()
    with pytest.raises(ConfigError, match=r"keep_layers is 3, and .* has 2 layers"):
        load_model(tiny_lm, keep_layers=3)


def test_new_rows_stand_for_the_items_that_use_them():
    embedding = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    rows = title_rows(embedding, [[0], [1, 2], []])
    means = np.array([[1, 0], [1.5, 2.5], [0, 0]])
    means = means - means.mean(axis=0)
    assert rows / np.abs(rows).max() == pytest.approx(means / np.abs(means).max(), abs=1e-6)
    assert np.square(rows).mean() == pytest.approx(float(embedding.square().mean()))
    values = np.array([[1.0], [3.0], [5.0]])
    assert mean_of_items(values, [[7, 1], [7], [9]], 7, 3).tolist() == [[2.0], [0.0], [5.0]]


def test_a_single_module_may_be_named_without_a_list(tiny_lm):
    model = add_lora(load_model(tiny_lm), Finetune(target_modules="q_proj", lora_rank=2), seed=0)
    adapted = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(adapted) == 4  # two matrices in each of two layers
    assert all("q_proj" in n for n in adapted)


def test_unknown_target_module_names_the_nearest(tiny_lm):
    with pytest.raises(ConfigError, match=r"'q_prj' \(did you mean 'q_proj'\?\)"):
        add_lora(load_model(tiny_lm), settings(target_modules=("q_prj",)), seed=0)


@pytest.mark.parametrize("module", ["act_fn", "input_layernorm", "embed_tokens"])
def test_only_linear_layers_are_offered_and_taken(tiny_lm, module):
    with pytest.raises(ConfigError, match="is no linear layer of this model") as error:
        add_lora(load_model(tiny_lm), settings(target_modules=(module,)), seed=0)
    offered = str(error.value).split("some of ")[1].rstrip(".").split(", ")
    assert offered == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_one_step_trains_whatever_the_warm_up(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, settings(steps=1, warmup_steps=10), scheme="title")
    objective = case.objective()
    before = weights(objective)
    train(case, tmp_path, objective)
    after = weights(objective)
    assert any((after[name] != before[name]).any() for name in before)


def test_without_a_step_nothing_is_planned(tiny_lm, catalog, tmp_path):
    case = Case(tiny_lm, catalog, settings(steps=None, epochs=0, batch_tokens=16), scheme="title")

    def examples(epoch):
        raise AssertionError("nothing is read")

    outcome = finetune(case.objective(), examples, case.settings, checkpoints=tmp_path, seed=0)
    assert (outcome.log, outcome.best_step) == ([], 0)


def test_items_without_events_do_not_decide_the_first_steps(tiny_lm, catalog):
    """Their vector is 0, and the gradient of its direction has no bound."""
    new = NewTokens(start="collaborative", temperature=0.1, dropout=0.0)
    norms = []
    for cold in (0, 4):
        case = Case(tiny_lm, catalog, settings(new_tokens=new), scheme="token")
        case.vectors[:cold] = 0
        objective = case.objective()
        objective.train()
        objective.loss(collate(case.examples())).backward()
        gradient = objective.new_tokens.vectors.grad
        assert torch.isfinite(gradient).all()
        norms.append(float(gradient.norm()))
    assert norms[1] < 10 * norms[0]
