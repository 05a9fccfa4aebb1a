"""Adapters that training goes on from, and models that are not trained at all."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest
from pipeline_cases import llmrec
from safetensors.torch import load_file

UNTRAINED = ("--set", "finetune.steps=null", "--set", "finetune.epochs=0")


def weights(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


def lists(run):
    return pl.read_parquet(run / "recommendations" / "llm.parquet").to_dict(as_series=False)


@pytest.fixture
def path(config):
    # Rates at which a tiny model shows after a few steps that it was trained.
    return config(systems={"llm": {}, "popularity": {}}, evaluation={"baseline": "popularity", "k": 5, "cutoffs": [5]},
                  finetune={"steps": 12, "batch_tokens": 400, "learning_rate": 3e-2, "schedule": "constant"})  # fmt: skip


def test_an_adapter_serves_other_runs_as_it_is_or_as_a_start(path, tmp_path, capsys):
    first, still, on = (tmp_path / name for name in ("run", "still", "on"))
    llmrec("run", path, capsys=capsys)
    start = ("--set", f"finetune.start_from={first / 'adapter'}")
    told = " ".join(
        llmrec("run", path, *start, *UNTRAINED, "--set", f"output={still}", capsys=capsys).out.split()
    )
    assert "Nothing was trained" in told
    assert weights(still).keys() == weights(first).keys()
    assert all((weights(still)[name] == tensor).all() for name, tensor in weights(first).items())
    assert lists(still) == lists(first)
    assert json.loads((still / "adapter" / "llmrec.json").read_text())["counts"]["targets"] == 0
    assert "0 next items in 0 tokens" in (still / "adapter" / "README.md").read_text()
    llmrec("run", path, *start, "--set", f"output={on}", capsys=capsys)
    begin, end = (json.loads((run / "adapter" / "llmrec.json").read_text())["log"] for run in (on, first))
    # A fresh adapter changes nothing about the first step, in which both read the same.
    assert abs(begin[0]["loss"] - end[0]["loss"]) > 1e-3
    assert any((weights(on)[name] != tensor).any() for name, tensor in weights(first).items())
    # What decides is what is in the folder, not where it is.
    shutil.copytree(first / "adapter", tmp_path / "copy")
    elsewhere = ("--set", f"finetune.start_from={tmp_path / 'copy'}")
    llmrec("run", path, *elsewhere, "--set", f"output={on}", capsys=capsys)
    other = ("--set", f"finetune.start_from={still / '..' / 'on' / 'adapter'}")
    refused = llmrec("run", path, *other, "--set", f"output={on}", code=2, capsys=capsys).err
    assert "finetune.start_from was" in refused


def test_the_pretrained_model_can_be_compared_as_it_is(path, tmp_path, capsys):
    llmrec("run", path, *UNTRAINED, capsys=capsys)
    assert all(not tensor.any() for name, tensor in weights(tmp_path / "run").items() if "lora_B" in name)
    assert "LLM" in (tmp_path / "run" / "report.md").read_text()


def test_what_is_no_start_is_refused(path, tmp_path, capsys):
    missing = llmrec("run", path, "--set", "finetune.start_from=nowhere", code=2, capsys=capsys).err
    assert "no adapter_model.safetensors is. Expected the folder of an adapter" in missing
    llmrec("run", path, capsys=capsys)
    changes = (
        "--set",
        f"finetune.start_from={tmp_path / 'run' / 'adapter'}",
        "--set",
        "finetune.lora_rank=3",
    )
    other = llmrec("run", path, *changes, "--set", f"output={tmp_path / 'other'}", code=2, capsys=capsys).err
    assert "of its matrices differ from this model's" in other
    assert "finetune.lora_rank" in other
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    changes = ("--set", f"finetune.start_from={broken}", "--set", f"output={tmp_path / 'third'}")
    assert "no adapter can be read there" in llmrec("run", path, *changes, code=2, capsys=capsys).err


def test_an_adapter_counts_as_it_was_trained_to(path, tmp_path, capsys):
    llmrec("run", path, capsys=capsys)
    start = ("--set", f"finetune.start_from={tmp_path / 'run' / 'adapter'}")
    other = ("--set", "finetune.lora_alpha=3", "--set", f"output={tmp_path / 'other'}")
    refused = llmrec("run", path, *start, *other, code=2, capsys=capsys).err
    assert "lora_alpha is" in refused
    assert "and not 3" in refused
