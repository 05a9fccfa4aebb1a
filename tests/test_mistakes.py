"""What a user gets wrong: one paragraph, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from pipeline_cases import ALIGNED, llmrec


def test_a_system_without_item_vectors_is_refused(config, capsys):
    changes = ("--set", "identifiers.collaborative_system=itemknn")
    printed = llmrec("run", config(**ALIGNED), *changes, code=2, capsys=capsys)
    assert "itemknn, which has no item vectors. Expected a system of the kind svd" in printed.err
    both = "{kind: hybrid, parts: {svd: {}, itemknn: {}}}"
    changes = ("--set", "identifiers.collaborative_system=both", "--set", f"systems.both={both}")
    printed = llmrec("run", config(**ALIGNED), *changes, code=2, capsys=capsys)
    assert "is 'both', a hybrid with itemknn, which has no item vectors" in printed.err
    changes = ("--set", "finetune.loss=vocab")
    assert "expected loss: catalogue" in llmrec("run", config(**ALIGNED), *changes, code=2, capsys=capsys).err
    changes = ("--set", "finetune.new_tokens.temperature=0.1", "--set", "finetune.new_tokens.start=title")
    assert "temperature is set" in llmrec("run", config(**ALIGNED), *changes, code=2, capsys=capsys).err
    changes = ("--set", "identifiers.collaborative_system=nobody")
    assert (
        "expected one of the systems" in llmrec("run", config(**ALIGNED), *changes, code=2, capsys=capsys).err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.interactions=nowhere.csv"], "no such file"),
        (["data.columns.timestamp=tiem"], "no column 'tiem' (did you mean 'time'?)"),
        (["data.dataset=ml-100k"], "expected either 'dataset'"),
        (["data={dataset: ml-10k}"], "did you mean 'ml-100k'"),
        (
            ["finetune.lora_rnk=3", "evaluation.baseline=x", "systems.sasrec.dimm=3"],
            "did you mean 'lora_rank'",
        ),
        (["systems.gru={}"], "there is no recommender 'gru'"),
        (["systems.sasrec.kind=3"], "systems.sasrec.kind: got 3"),
        (["systems.sasrec=3"], "systems.sasrec: got 3"),
        (["finetune.target_modules=q_prj"], "did you mean 'q_proj'"),
        (["model.name=/nowhere/at/all"], "nowhere"),
        (["prompt.template=film"], "did you mean 'films'"),
        (["finetune.target_modules=[q_prj]"], "did you mean 'q_proj'"),
        (["prompt.max_events=400", "model.name={short}"], "Expected both to fit"),
        (["evaluation.k=50"], "expected at least evaluation.k = 50"),
        (["evaluation.cutoffs=[]"], "evaluation.cutoffs: got []"),
        (["evaluation.cutoffs=[0,5]"], "evaluation.cutoffs.0: got 0"),
        (["model.device=gpu"], "Expected auto, cpu, cuda"),
        (["systems.a/b={kind: sasrec}"], "systems.a/b: its lists are a file of that name"),
        (["systems.adjusted={parts: {itemknn: {}}}"], "knows nothing of items without training events"),
        (
            ["systems.adjusted={parts: {llm: {}}}", "identifiers.scheme=token"],
            "knows nothing of items without",
        ),
        (["systems.content={attributes: [yaer]}"], "attributes with 'yaer' (did you mean 'year'?)"),
        (["data.interactions={location: x.csv, encodng: latin-1}"], "did you mean 'encoding'"),
        (["data.privacy.drop_attributes=[yaer]"], "'yaer' (did you mean 'year'?)"),
        (["data.interactions=s3://bucket/log.parquet"], "s3:// is not read"),
        (["finetune.steps"], "has no '='"),
    ],
)
def test_mistakes_are_explained(config, tmp_path, tiny_lm, changes, message, capsys):
    short = tmp_path / "short"  # the same model with a context of 24 tokens
    short.mkdir()
    for file in tiny_lm.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    settings = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": 24}
    (short / "config.json").write_text(json.dumps(settings))
    options = [o for c in changes for o in ("--set", c.replace("{short}", str(short)))]
    printed = llmrec("run", config(), *options, code=2, capsys=capsys)
    assert message in printed.err.replace("\n", " ")
    assert "Traceback" not in printed.err + printed.out
    left = tmp_path / "run"
    assert not (left / "adapter").exists()
    assert not (left / "report.html").exists()
    assert not list(left.glob("recommendations/*")) if left.exists() else True


def test_all_problems_of_a_config_are_listed_at_once(config, capsys):
    bad = ["finetune.lora_rnk=3", "evaluation.baseline=x", "systems.sasrec.dimm=3", "finetune.steps=zero"]
    printed = llmrec("run", config(), *[o for c in bad for o in ("--set", c)], code=2, capsys=capsys)
    for part in ("lora_rnk", "dimm", "finetune.steps: got 'zero'"):
        assert part in printed.err


def test_model_without_a_tokenizer(config, tmp_path, tiny_lm, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_lm / name).read_bytes())
    printed = llmrec("run", config(), "--set", f"model.name={bare}", code=2, capsys=capsys)
    assert "tokenizer" in printed.err


def test_a_dry_run_refuses_what_a_run_would(config, capsys):
    for change, said in (
        ("finetune.report_to=[wandbb]", "no tracker"),
        ("systems.content={attributes: [yaer]}", "yaer"),
    ):
        assert said in llmrec("run", config(), "--dry-run", "--set", change, code=2, capsys=capsys).err


def test_without_a_language_model_there_is_nothing_to_fine_tune(config, capsys):
    path = config(systems={"popularity": {}, "sasrec": {"max_epochs": 1}})
    llmrec("prepare", path, capsys=capsys)
    assert "has no language model" in llmrec("finetune", path, code=2, capsys=capsys).err


@pytest.mark.parametrize(("layers", "said"), [(1, "no such layer"), (None, "It has nothing for")])
def test_an_adapter_of_another_depth_is_refused(config, tmp_path, layers, said, capsys):
    """PEFT leaves out without an error what a model of fewer layers has no place for, and the other way round."""
    path, run = config(), tmp_path / "run"
    trained = () if layers else ("--set", "model.keep_layers=1")
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, *trained, capsys=capsys)
    shutil.copytree(run / "adapter", tmp_path / "other" / "adapter")
    (tmp_path / "other" / "adapter" / "llmrec.json").unlink()
    now = ("--set", f"output={tmp_path / 'other'}", *(("--set", "model.keep_layers=1") if layers else ()))
    printed = llmrec("run", path, *now, code=2, capsys=capsys).err
    assert "does not fit" in printed
    assert said in " ".join(printed.split())


def test_what_a_folder_cannot_be_is_said(config, capsys):
    for output in ("/proc/nope/run", str(config())):
        printed = llmrec("prepare", config(), "--set", f"output={output}", code=2, capsys=capsys).err
        assert "Expected" in printed
        assert "Traceback" not in printed


def test_a_mistake_in_a_config_does_not_wait_for_torch_nor_lists_for_peft():
    """What takes seconds to import is imported by who needs it."""
    code = (
        "import sys, llmrec.pipeline.run; early = 'torch' in sys.modules; "
        "import llmrec.pipeline.checks, llmrec.pipeline.recommend_stage, llmrec.pipeline.batch; "
        "sys.exit(early or 'peft' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
