"""What decides an artefact of a run, and that nothing made by other settings, weights or words passes for it."""

from __future__ import annotations

from dataclasses import replace

from pipeline_cases import llmrec
from safetensors.torch import load_file, save_file

from llmrec.config_file import load_config
from llmrec.pipeline import keys
from llmrec.pipeline.adapter import WEIGHTS
from llmrec.pipeline.artefacts import locked, whole_folder
from llmrec.pipeline.keys import finetune_key, own_settings
from llmrec.prompts.template import load_template


def test_lists_of_another_adapter_are_refused_by_every_stage(config, tmp_path, capsys):
    path, run = (
        config(
            systems={"llm": {}, "itemknn": {}}, evaluation={"k": 5, "cutoffs": [5], "baseline": "itemknn"}
        ),
        tmp_path / "run",
    )
    llmrec("run", path, capsys=capsys)
    weights = load_file(run / "adapter" / WEIGHTS)
    save_file({name: 2 * value for name, value in weights.items()}, run / "adapter" / WEIGHTS)
    for stage in ("recommend", "evaluate", "compare"):
        said = llmrec(stage, path, code=2, capsys=capsys).err
        assert "llm.parquet" in said
        assert "adapter was" in said


def test_what_decides_the_prompts_and_nothing_else_decides_the_adapter(config, tmp_path, capsys, monkeypatch):
    told = {"template": "films", "time": "weekday"}
    key = finetune_key(load_config(config(prompt=told), []))
    # How long lists are decides nothing of what is learned from a system.
    path = config(identifiers={"scheme": "token"}, finetune={"new_tokens": {"start": "collaborative"}})
    assert finetune_key(load_config(path, [])) == finetune_key(load_config(path, ["evaluation.k=6"]))
    # A template that comes along and was edited is another prompt.
    shipped = load_template("films")
    monkeypatch.setattr(keys, "load_template", lambda name: replace(shipped, preamble="Other words:\n"))
    path = config(prompt=told)
    assert finetune_key(load_config(path, [])) != key
    monkeypatch.undo()
    # And so is another zone, whoever has said it.
    elsewhere = load_config(path, ["data.cleaning.timezone=Asia/Tokyo"])
    assert own_settings(finetune_key(elsewhere)) != own_settings(key)


def test_trainings_that_start_from_trainings_of_one_system_are_of_one_system(config, tmp_path, capsys):
    found = []
    for seed in (0, 1, 2):
        source = config(seed=seed, output=str(tmp_path / f"source{seed}"))
        for stage in ("prepare", "finetune"):
            llmrec(stage, source, capsys=capsys)
        adapter = tmp_path / f"source{seed}" / "adapter"
        if seed == 2:
            (adapter / "llmrec.json").unlink()  # nobody knows how it was trained
        path = config(seed=seed, finetune={"steps": 4, "batch_tokens": 400, "start_from": str(adapter)})
        found.append(finetune_key(load_config(path, [])))
    assert found[0] != found[1]
    assert own_settings(found[0]) == own_settings(found[1]) != own_settings(found[2])


def test_work_in_a_folder_with_a_lock_of_its_own_is_left_alone(tmp_path):
    with locked(tmp_path / "run" / "tuned"), whole_folder(tmp_path / "run" / "tuned" / "split") as work:
        (work / "half").touch()
        with locked(tmp_path / "run"):
            pass
        assert (work / "half").exists()
