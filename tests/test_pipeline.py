"""The whole pipeline on a tiny language model and a CSV log, through the command line's own functions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pipeline_cases import ALIGNED, llmrec

from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import read_recommendations

SYSTEMS = ("llm", "popularity", "itemknn", "sasrec")


def artefacts(run: Path) -> dict[str, object]:
    """Return all results without times."""
    found: dict[str, object] = {"adapter": (run / "adapter" / "adapter_model.safetensors").read_bytes()}
    for path in (run / "recommendations").glob("*.parquet"):
        found[path.name] = pl.read_parquet(path).to_dict(as_series=False)
    for path in (run / "evaluation").glob("*.json"):
        content = json.loads(path.read_text())
        found[path.name] = (content["means"], content["counts"], content["checks"])
    return found


def test_run_makes_every_artefact_and_a_second_run_changes_nothing(config, tmp_path, csv_log, capsys):
    path = config()
    llmrec("run", path, capsys=capsys)
    run = tmp_path / "run"
    for name in ("config.yaml", "protocol.json", "report.html", "report.md"):
        assert (run / name).stat().st_size > 0
    table = pl.read_csv(csv_log / "items.csv", infer_schema=False)
    catalog = Catalog(tuple(table["item"]), tuple(table["title"]))
    log = pl.read_csv(csv_log / "log.csv", infer_schema=False)
    seen = {u: set(i) for u, i in log.group_by("user").agg("item").iter_rows()}
    split = pl.read_parquet(run / "split" / "events.parquet").filter(pl.col("part") == "test")
    target = dict(zip(split["user_id"], split["item_id"], strict=True))
    for system in SYSTEMS:
        recs = read_recommendations(run / "recommendations" / f"{system}.parquet", catalog)
        assert len(recs) == (10 if system == "llm" else 24)
        for user, items in zip(recs.user_ids, recs.items, strict=True):
            listed = [catalog.item_ids[i] for i in items if i >= 0]
            assert len(set(listed)) == len(listed) == min(5, 16 - len(seen[user]) + 1)
            assert not set(listed) & (seen[user] - {target[user]})
        ranks = pl.read_parquet(run / "evaluation" / f"{system}.parquet")
        assert ranks.columns[:3] == ["user_id", "target_item", "target_rank"]
        assert len(ranks) == 10
    report = (run / "report.html").read_text()
    assert "Sabrina" in report
    assert "10 of 24 test users" in report
    assert "Drawn at random with seed 0" in report
    before, stamps = artefacts(run), {p: p.stat().st_mtime_ns for p in (run / "recommendations").iterdir()}
    llmrec("run", path, capsys=capsys)
    assert artefacts(run) == before
    assert {p: p.stat().st_mtime_ns for p in (run / "recommendations").iterdir()} == stamps


def test_stages_one_by_one_give_the_same_as_a_run(config, tmp_path, capsys):
    path = config()
    llmrec("finetune", path, code=2, capsys=capsys)  # nothing prepared yet
    for stage in ("prepare", "finetune", "recommend", "evaluate", "compare"):
        llmrec(stage, path, capsys=capsys)
    one_by_one = artefacts(tmp_path / "run")
    llmrec("run", path, "--set", f"output={tmp_path / 'other'}", capsys=capsys)
    assert artefacts(tmp_path / "other") == one_by_one


def test_saved_config_and_report_follow_settings_that_decide_no_artefact(config, tmp_path, capsys):
    path = config()
    llmrec("run", path, capsys=capsys)
    llmrec("compare", path, "--set", "evaluation.users_shown=1", capsys=capsys)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["evaluation"]["users_shown"] == 1
    assert "users_shown: 1" in (tmp_path / "run" / "report.md").read_text()


def test_all_ways_to_search_for_the_exact_best_agree(config, tmp_path, tiny_lm, capsys):
    lists = {}
    for name, decoding in {
        "exact": {"search": "exact"},
        "certified": {"until_certified": True, "beam_width": 5},
        "wide": {"beam_width": 16},
    }.items():
        path = config(decoding=decoding, output=str(tmp_path / name), systems={"llm": {}}, evaluation={
            "users": 10, "k": 5, "cutoffs": [5], "baseline": "llm"
        })  # fmt: skip
        llmrec("run", path, capsys=capsys)
        lists[name] = pl.read_parquet(tmp_path / name / "recommendations" / "llm.parquet")
    assert "every item of the catalogue scored" in (tmp_path / "exact" / "report.md").read_text()
    assert "widened until" in (tmp_path / "certified" / "report.md").read_text()
    for name in ("certified", "wide"):
        assert (lists[name]["item_id"] == lists["exact"]["item_id"]).all()
        assert (lists[name]["score"] - lists["exact"]["score"]).abs().max() < 1e-4


def test_adapter_loads_without_llmrec(config, tmp_path, tiny_lm, capsys):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    path = config()
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, capsys=capsys)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_lm), tmp_path / "run" / "adapter"
    )
    assert any("lora" in name for name, _ in model.named_parameters())


def test_item_tokens_from_the_data_to_a_merged_model(config, tmp_path, capsys):
    """One fit of SASRec serves as a baseline and as the start of the tokens; the exported model needs no llmrec."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, run = config(**ALIGNED), tmp_path / "run"
    llmrec("run", path, capsys=capsys)
    card = (run / "adapter" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    assert "| step | epoch | validation ndcg@10 |" in card
    report = (run / "report.md").read_text()
    assert "one new token per item; uses the item vectors of SASRec" in report
    llmrec("export", path, tmp_path / "merged", code=2, capsys=capsys)
    llmrec("export", path, tmp_path / "merged", "--merge", capsys=capsys)
    assert "something at" in llmrec("export", path, tmp_path / "merged", "--merge", code=2, capsys=capsys).err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    # vLLM takes every such file beside the weights for weights.
    assert [p.name for p in (tmp_path / "merged").glob("*.safetensors")] == ["model.safetensors"]
    assert "NDCG" in (tmp_path / "merged" / "README.md").read_text().upper()
    # The best of the exported model's item tokens are the run's recommendations.
    lists = pl.read_parquet(run / "recommendations" / "llm.parquet").filter(pl.col("rank") == 1)
    ids = pl.read_parquet(tmp_path / "merged" / "items" / "identifiers.parquet")
    token = dict(zip(ids["item_id"], ids["text"], strict=True))
    events = pl.read_parquet(run / "split" / "events.parquet").filter(pl.col("part") != "test")
    for user, best in zip(lists["user_id"], lists["item_id"], strict=True):
        history = events.filter(pl.col("user_id") == user)["item_id"].to_list()
        prompt = "Films watched by one person, oldest first:\n" + "".join(token[i] for i in history)
        logits = model(**tokenizer(prompt, return_tensors="pt", add_special_tokens=False)).logits[0, -1]
        allowed = [i for i in token if i not in history]
        scores = logits[tokenizer.convert_tokens_to_ids([token[i] for i in allowed])]
        assert allowed[int(scores.argmax())] == best


@pytest.mark.parametrize(("kind", "scheme", "share"), [("4bit", "title", 0.3), ("8bit", "token", 1)])
def test_a_quantised_run_is_exported_as_it_was_trained(
    config, wide_lm, tmp_path, capsys, kind, scheme, share
):
    """The weights written out are the rounded ones, to which the adapter was fitted."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    from llmrec.config_file import load_config
    from llmrec.pipeline.adapter import merged_model
    from llmrec.pipeline.parts import language_parts
    from llmrec.pipeline.prepare_stage import prepare
    from llmrec.pipeline.recommend_stage import run_identifiers

    model = {"name": str(wide_lm), "device": "cpu", "dtype": "float32", "quantize": kind}
    training = {"steps": 6, "batch_tokens": 400, "learning_rate": 3e-2}
    path = config(model=model, identifiers={"scheme": scheme}, finetune=training)
    for command in (("prepare", path), ("finetune", path), ("export", path, tmp_path / "whole", "--merge")):
        llmrec(*command, capsys=capsys)
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())

    run = load_config(path, [])
    split, catalog = prepare(run)
    parts = language_parts(run, split, catalog, run_identifiers(run, split, catalog))
    full = run.model_copy(update={"model": run.model.model_copy(update={"quantize": "none"})})
    prompt = torch.as_tensor(parts.verbalizer.prompt(split.test.histories[0]))[None]
    with torch.inference_mode():
        exported, trained, unrounded = (
            it(input_ids=prompt).logits
            for it in (
                AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval(),
                merged_model(run, parts),
                merged_model(full, parts),
            )
        )
    # What is left: bitsandbytes multiplies by 4 bits in lower precision on a CPU, and rounds what 8 bits are multiplied with.
    away = float((exported - trained).abs().max())
    assert away < share * float((unrounded - trained).abs().max())
    assert away < 0.05 * float(trained.std())


@pytest.mark.parametrize(
    "identifiers",
    [
        {"scheme": "index", "numbering": "collaborative"},
        {"scheme": "semantic", "levels": 2, "codes": 6},
        {"scheme": "semantic", "levels": 2, "codes": 6, "vectors": "both"},
    ],
    ids=lambda i: "-".join(map(str, i.values())),
)
def test_every_scheme_runs_to_the_report(config, tmp_path, identifiers, capsys):
    llmrec("run", config(identifiers=identifiers), capsys=capsys)
    checks = json.loads((tmp_path / "run" / "evaluation" / "llm.json").read_text())["checks"]
    assert checks["validity"] == checks["filled"] == 1.0


@pytest.mark.parametrize("scheme", ["title", "token"])
def test_a_model_in_bfloat16_is_validated_by_loss_too(config, tiny_lm, tmp_path, capsys, scheme):
    """New tokens' vectors and maps are in float32, and the states that they meet in bfloat16."""
    training = ALIGNED["finetune"] | {"validation": {"every": 1, "metric": "loss", "users": None}}
    if scheme == "title":
        training = {name: value for name, value in training.items() if name != "new_tokens"}
    model = {"name": str(tiny_lm), "device": "cpu", "dtype": "bfloat16"}
    path = config(model=model, identifiers={"scheme": scheme}, finetune=training)
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, capsys=capsys)
    trained = json.loads((tmp_path / "run" / "adapter" / "llmrec.json").read_text())
    assert [0 < v["loss"] < 10 for v in trained["validations"]] == [True, True]


def test_validation_by_loss_keeps_the_best_step(config, tmp_path, capsys):
    training = ALIGNED["finetune"] | {"validation": {"every": 0.5, "metric": "loss", "users": None}}
    llmrec("run", config(**ALIGNED | {"finetune": training}), capsys=capsys)
    trained = json.loads((tmp_path / "run" / "adapter" / "llmrec.json").read_text())
    seen = {v["step"]: v["loss"] for v in trained["validations"]}
    assert len(seen) == 4
    assert trained["best_step"] == min(seen, key=seen.get)
    assert "loss on the validation targets" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("finetune.steps=5", "finetune.steps was 4 and is now 5"),
        ("prompt.max_events=3", "prompt.max_events was 20 and is now 3"),
        ("decoding.beam_width=7", "decoding.beam_width was 6 and is now 7"),
        ("systems.sasrec.max_epochs=1", "systems.sasrec.max_epochs was 2 and is now 1"),
        ("seed=1", "seed was 0 and is now 1"),
    ],
)
def test_artefacts_of_another_config_are_refused(config, change, named, capsys):
    path = config()
    llmrec("run", path, capsys=capsys)
    printed = llmrec("run", path, "--set", change, code=2, capsys=capsys)
    assert named in printed.err
    assert "Traceback" not in printed.err


def test_a_changed_log_is_noticed(config, tmp_path, csv_log, capsys):
    log = tmp_path / "log.csv"
    log.write_text((csv_log / "log.csv").read_text())
    path = config()
    here = ("--set", f"data.interactions={log}")
    llmrec("prepare", path, *here, capsys=capsys)
    log.write_text(log.read_text() + "u0,i1,999999999\n")
    assert "log.csv has changed" in llmrec("prepare", path, *here, code=2, capsys=capsys).err


def test_lists_made_elsewhere_are_compared_and_never_overwritten(config, tmp_path, capsys):
    path = config()
    llmrec("run", path, capsys=capsys)
    folder = tmp_path / "run" / "recommendations"
    theirs = pl.read_parquet(folder / "popularity.parquet")
    theirs.write_parquet(folder / "theirs.parquet")
    llmrec("compare", path, capsys=capsys)
    llmrec("evaluate", path, capsys=capsys)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "theirs" in report
    assert "made elsewhere" in report
    assert (tmp_path / "run" / "evaluation" / "theirs.parquet").is_file()
    (folder / "theirs.parquet").unlink()
    llmrec("evaluate", path, capsys=capsys)
    assert not (tmp_path / "run" / "evaluation" / "theirs.parquet").is_file()
    theirs.write_parquet(folder / "itemknn.parquet")
    assert pq.read_schema(folder / "itemknn.parquet").metadata is None or b"llmrec" not in (
        pq.read_schema(folder / "itemknn.parquet").metadata
    )
    assert "made elsewhere" in llmrec("recommend", path, code=2, capsys=capsys).err
    assert pl.read_parquet(folder / "itemknn.parquet").equals(theirs)


def test_killed_run_ends_with_the_same_artefacts(config, tmp_path):
    """SIGKILL at several moments; the same command is started until it ends by itself."""
    path = config(finetune={"steps": 12, "batch_tokens": 400, "save_steps": 1, "lora_dropout": 0.1})
    command = [sys.executable, "-c", "from llmrec.cli import main; main()", "run", str(path)]
    quiet = {"env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}, "stdout": subprocess.DEVNULL}
    whole = subprocess.run(
        [*command, "--set", f"output={tmp_path / 'whole'}"], check=True, timeout=300, **quiet
    )
    assert whole.returncode == 0
    run = tmp_path / "run"
    moments = [
        lambda: (run / "split").exists(),
        lambda: list((run / ".work").rglob("state.json")),
        lambda: (run / "adapter").exists(),
        lambda: (run / "recommendations" / "llm.parquet").exists(),
    ]
    for reached in moments:
        process = subprocess.Popen([*command, "--set", f"output={run}"], **quiet)
        while not reached() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--set", f"output={run}"], check=True, timeout=300, **quiet)
    assert artefacts(run) == artefacts(tmp_path / "whole")
    files = {p.relative_to(run) for p in run.rglob("*") if p.is_file() and ".work" not in p.parts}
    assert files == {
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()
    }


def test_two_runs_in_one_directory_are_kept_apart(config, tmp_path, capsys):
    from llmrec.pipeline.artefacts import locked

    with locked(tmp_path / "run"):
        printed = llmrec("run", config(), code=2, capsys=capsys)
    assert "Another process is working" in printed.err


def test_prompt_show_prints_the_prompt_and_its_cost(config, capsys):
    printed = llmrec("prompt", "show", config(), "--user", "u3", capsys=capsys).out
    assert "Films watched by one person, oldest first:" in printed
    assert "Targets are at token positions" in printed
    assert "u3" not in printed.split("oldest first:")[1].split("To be generated")[0]
    assert "did you mean" in llmrec("prompt", "show", config(), "--user", "u33", code=2, capsys=capsys).err


def test_prompts_tell_local_time_and_nothing_finer_than_the_log(config, csv_data, csv_log, tmp_path, capsys):
    log = pl.read_csv(csv_log / "log.csv")
    when = log.filter(pl.col("user") == "u3")["time"].sort()[-2]  # of the newest event before the target
    newest = datetime.fromtimestamp(when, ZoneInfo("Asia/Tokyo"))

    def shown(code=0, data=csv_data, **prompt):
        path = config(data=data, prompt={"template": "films", "max_events": 1, **prompt})
        return llmrec("prompt", "show", path, "--user", "u3", code=code, capsys=capsys)

    def asked(**options):
        return shown(**options).out.split("oldest first:")[1].split("To be generated")[0]

    words = f"watched {newest:%A}, {newest.hour % 12 or 12} {newest:%p}".lower()
    assert words in asked(time="weekday+hour", timezone="Asia/Tokyo").lower()
    there = csv_data | {"cleaning": {"timezone": "Asia/Tokyo"}}
    assert words in asked(data=there, time="weekday+hour").lower()
    assert words not in asked(data=there, time="weekday+hour", timezone="UTC").lower()

    days = tmp_path / "days.csv"
    log.with_columns(pl.from_epoch("time").dt.date()).write_csv(days)
    coarse = csv_data | {"interactions": str(days)}
    day = f"watched {datetime.fromtimestamp(when, UTC):%A}\n"
    assert day in asked(data=coarse, time="weekday", timezone="America/New_York")
    assert "this log knows days only" in shown(code=2, data=coarse, time="weekday+hour").err


def test_dry_run_estimates_and_writes_nothing(config, tmp_path, capsys):
    printed = llmrec("run", config(), "--dry-run", capsys=capsys).out
    for word in ("finetune", "recommend llm", "recommend sasrec", "in all", "GiB"):
        assert word in printed
    assert not (tmp_path / "run").exists()


def test_shipped_configs_are_valid():
    from llmrec.config_file import load_config
    from llmrec.prompts.template import load_template

    root = Path(__file__).parents[1]
    found = [
        p
        for folder in ("eval", "finetune")
        for p in root.joinpath(folder).rglob("*.yaml")
        if p.parent.name != "accelerate"
    ]
    assert found
    for path in found:
        load_template(load_config(path).prompt.template)
    ablations = list(root.joinpath("benchmarks", "ablations").glob("*.yaml"))
    assert ablations
    for path in ablations:
        content = yaml.safe_load(path.read_text())
        for own in [content.get("source", []), *content["variants"].values()]:
            settings = [s.replace("{source}", "runs/source") for s in [*content.get("set", []), *own]]
            load_config(root / content["suite"], settings)


def test_systems_that_the_config_has_no_more_are_in_no_report(config, tmp_path, capsys):
    systems, evaluation = (
        {"popularity": {}, "itemknn": {}},
        {"baseline": "popularity", "k": 5, "cutoffs": [5]},
    )
    alone = config(systems=systems, evaluation=evaluation)
    llmrec("run", alone, "--set", "name=Kitchen shop", capsys=capsys)
    run = tmp_path / "run"
    before = json.loads((run / "report.json").read_text())
    assert "--set 'name=Kitchen shop'" in (run / "report.md").read_text()
    llmrec("run", config(systems=systems | {"svd": {"dim": 4}}, evaluation=evaluation), capsys=capsys)
    assert "svd" in json.loads((run / "report.json").read_text())["systems"]
    printed = llmrec("run", config(systems=systems, evaluation=evaluation), capsys=capsys).out
    assert "svd.parquet, of a system that the config no longer has" in " ".join(printed.split())
    assert json.loads((run / "report.json").read_text())["systems"] == before["systems"]


def test_whoever_has_seen_everything_gets_an_empty_list_and_the_others_theirs(
    config, tmp_path, csv_log, capsys
):
    lines = (csv_log / "log.csv").read_text().splitlines()
    items = [line.split(",")[0] for line in (csv_log / "items.csv").read_text().splitlines()[1:]]
    everything = [f"omnivore,{item},{900_000_000 + 60 * n}" for n, item in enumerate([*items, *items[:3]])]
    log = tmp_path / "log.csv"
    log.write_text("\n".join([*lines, *everything]) + "\n")
    systems = {"llm": {}, "scored": {"kind": "llm", "search": "exact"}, "itemknn": {}}
    path = config(systems=systems, evaluation={"baseline": "itemknn", "k": 5, "cutoffs": [5]})
    validated = ("--set", "finetune.validation.every=0.5")
    llmrec("run", path, "--set", f"data.interactions={log}", *validated, capsys=capsys)
    folder = tmp_path / "run" / "recommendations"
    for name in systems:
        found = pl.read_parquet(folder / f"{name}.parquet")
        assert found["user_id"].n_unique() == 24
        assert "omnivore" not in found["user_id"]
    asked = pl.read_parquet(tmp_path / "run" / "evaluation" / "llm.parquet")
    assert asked.filter(pl.col("user_id") == "omnivore")["target_rank"].to_list() == [None]


def test_a_part_that_is_the_start_of_the_tokens_too_is_counted_once(config, tmp_path, capsys):
    from llmrec.config_file import load_config
    from llmrec.pipeline.recommend_stage import _fit_seconds

    sasrec = {"max_epochs": 2, "device": "cpu"}
    other = {"fused": {"kind": "hybrid", "parts": {"llm": {}, "sasrec": sasrec}}}
    other |= {"another": {"kind": "hybrid", "parts": {"llm": {}, "sasrec": sasrec | {"seed": 7}}}}
    path = config(**ALIGNED | {"systems": {"llm": {}, "sasrec": sasrec} | other})
    loaded = load_config(path)
    llmrec("prepare", path, capsys=capsys)
    lists = tmp_path / "run" / "recommendations" / "sasrec.parquet"
    lists.parent.mkdir()
    table = pl.DataFrame({"user_id": ["u0"], "rank": [1], "item_id": ["i0"], "score": [0.0]}).to_arrow()
    meta = {b"llmrec": json.dumps({"cost": {"fit_seconds": 100}}).encode()}
    pq.write_table(table.replace_schema_metadata(meta), lists)
    seconds = {name: _fit_seconds(loaded, name, {"seconds": 10}) for name in ("llm", *other)}
    assert seconds == {"llm": 110, "fused": 10, "another": 110}


def test_the_card_of_a_model_has_no_figures_of_another(config, tmp_path, capsys):
    path, run = config(), tmp_path / "run"
    llmrec("run", path, capsys=capsys)
    measured = run / "evaluation" / "llm.json"
    ours = json.loads(measured.read_text())
    ours["means"]["diversity@1"] = None  # as of a catalogue with genres: one item has none
    measured.write_text(json.dumps(ours))
    value = f"{ours['means']['ndcg@5']:.4f}"
    llmrec("export", path, tmp_path / "ours", "--merge", capsys=capsys)
    assert value in (tmp_path / "ours" / "README.md").read_text()
    of_another = json.loads(measured.read_text())
    of_another["meta"]["adapter"] = "0" * 64
    measured.write_text(json.dumps(of_another))
    llmrec("export", path, tmp_path / "theirs", "--merge", capsys=capsys)
    assert value not in (tmp_path / "theirs" / "README.md").read_text()


def test_a_dry_run_counts_validations_of_the_users_that_are_chosen(config, capsys):
    training = {"epochs": 4, "batch_tokens": 400, "selection": {"share": 0.5}, "validation": {"every": 1}}
    printed = " ".join(llmrec("run", config(finetune=training), "--dry-run", capsys=capsys).out.split())
    assert "at most 4 times" in printed


def test_files_of_a_run_can_be_read_by_colleagues(config, tmp_path, capsys):
    llmrec("run", config(**ALIGNED), capsys=capsys)
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock"]
    assert {oct(p.stat().st_mode & 0o777) for p in files if ".work" not in p.parts} == {"0o644"}
