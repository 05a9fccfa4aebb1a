"""The fine-tune script, on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "finetune" / "finetune.py"
QUIET = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
TWO = ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]


def recipe(folder, tiny_lm, csv_data, **changes):
    content = {
        "name": "tiny",
        "output": str(folder / "run"),
        "data": csv_data,
        "prompt": {"template": "films", "time": "none"},
        "model": {"name": str(tiny_lm), "device": "cpu"},
        "identifiers": {"scheme": "token"},
        "finetune": {
            "epochs": 3,
            "batch_tokens": 300,
            "save_steps": 3,
            "learning_rate": 1e-2,
            "new_tokens": {"start": "collaborative", "dropout": 0.0},
            "validation": {"every": 1, "users": None},
        },
        "systems": {"llm": {}, "sasrec": {"max_epochs": 2, "device": "cpu"}},
        "evaluation": {"k": 5, "cutoffs": [5]},
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(*arguments, module=(), code=0):
    command = [sys.executable, *(("-m", *module, "--dynamo_backend=no") if module else ())]
    done = subprocess.run(
        [*command, str(SCRIPT), *map(str, arguments)], env=QUIET, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def trained(folder):
    return json.loads((folder / "adapter" / "llmrec.json").read_text())


TAUGHT = [
    "distillation.teacher=sasrec",
    "selection.share=0.8",
    "selection.by=uncertainty",
    "selection.surrogate=sasrec",
]


@pytest.mark.parametrize("lessons", [[], TAUGHT], ids=["events", "a teacher, and some users"])
def test_two_processes_learn_what_one_learns(tiny_lm, csv_data, tmp_path, lessons):
    path = recipe(tmp_path, tiny_lm, csv_data)
    lessons = [part for lesson in lessons for part in ("--set", f"finetune.{lesson}")]
    one = run(path, *lessons)
    assert "The adapter is in" in one.stdout
    # A tracker ends with the training, and the processes meet once more after that.
    tracked = ("--set", "finetune.report_to=[tensorboard]")
    two = run(path, *lessons, *tracked, "--set", f"output={tmp_path / 'two'}", module=TWO)
    assert list((tmp_path / "two" / "logs").rglob("events.out.tfevents.*"))
    assert two.stdout.count("The adapter is in") == 1
    a, b = trained(tmp_path / "run"), trained(tmp_path / "two")
    assert len(a["log"]) > 6
    assert [e["loss"] for e in b["log"]] == pytest.approx([e["loss"] for e in a["log"]], rel=1e-3)
    assert [e["tokens"] for e in b["log"]] == [e["tokens"] for e in a["log"]]
    values = [[v["ndcg@10"] for v in x["validations"]] for x in (a, b)]
    assert values[1] == pytest.approx(values[0], abs=0.05)
    # The same command again has nothing to do.
    assert "Fine-tuned" not in run(path, *lessons).stdout


def test_a_bad_recipe_is_explained_at_once_and_before_a_model_is_loaded(tiny_lm, csv_data, tmp_path):
    short = tmp_path / "short"
    short.mkdir()
    for file in tiny_lm.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny_lm / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    (short / "model.safetensors").write_bytes(b"no weights: whoever loads them fails")
    path = recipe(
        tmp_path,
        tiny_lm,
        csv_data,
        model={"name": str(short), "device": "cpu", "keep_layers": 2},
        identifiers={"scheme": "title", "end": "zzzz"},
        finetune={"lora_rank": 0, "target_modules": ["q_prj"], "report_to": ["wnadb"]},
    )
    printed = run(path, code=2).stderr
    for problem in (
        "finetune.lora_rank: got 0",
        "finetune.target_modules names 'q_prj' (did you mean 'q_proj'?)",
        "identifiers.end is 'zzzz'",
        "finetune.report_to names 'wnadb'",
    ):
        assert problem in printed
    assert "4 problems" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()
    printed = run(path, "--set", "identifiers.end=;", code=2).stderr
    assert "A prompt of one event and the longest identifier take at least" in printed
    assert "4 problems" in printed


@pytest.mark.parametrize("name", ["ddp.yaml", "fsdp.yaml"])
def test_accelerate_reads_the_shipped_configs(name):
    config = load_config_from_file(str(ROOT / "finetune" / "accelerate" / name))
    assert config.num_processes == 4
