"""Several trainings of a system, runs side by side, and lists of other tools beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from pipeline_cases import llmrec

CLASSIC = {"popularity": {}, "sasrec": {"max_epochs": 1, "device": "cpu", "dim": 8, "heads": 2}}
WHOLE = {"users": None, "k": 5, "cutoffs": [1, 5], "users_shown": 2}


@pytest.fixture
def classic(config, tmp_path, capsys):
    """Make a run without a language model in a directory of that name and return it."""

    def make(name: str, *changes: str, **sections) -> Path:
        sections = {"systems": CLASSIC, "evaluation": WHOLE} | sections
        path = config(output=str(tmp_path / name), **sections)
        llmrec("run", path, *[o for c in changes for o in ("--set", c)], capsys=capsys)
        return tmp_path / name

    return make


def compared(folder: Path) -> dict:
    """Return a report's numbers, with a file of each form beside them."""
    for form in ("html", "md", "tex"):
        assert (folder / f"report.{form}").stat().st_size > 0
    return json.loads((folder / "report.json").read_text())


def side_by_side(*arguments: object, output: Path, capsys, code: int = 0):
    printed = llmrec("compare", *arguments, "--output", output, code=code, capsys=capsys)
    assert "Traceback" not in printed.err
    return printed


def test_each_seed_is_trained_once_and_the_report_is_about_their_mean(config, classic, tmp_path, capsys):
    run = classic("run", "systems.sasrec.seeds=3")
    folder = run / "recommendations"
    stems = ["popularity", "sasrec", "sasrec.seed1", "sasrec.seed2"]
    assert sorted(p.stem for p in folder.iterdir()) == stems
    system = compared(run)["systems"]["sasrec"]
    assert system["seeds"] == [0, 1, 2]
    files = [json.loads((run / "evaluation" / f"{stem}.json").read_text())["means"] for stem in stems[1:]]
    assert system["seed_means"]["ndcg@5"] == pytest.approx([means["ndcg@5"] for means in files])
    assert len(set(system["seed_means"]["ndcg@5"])) > 1
    assert system["intervals"]["ndcg@5"]["mean"] == pytest.approx(np.mean([m["ndcg@5"] for m in files]))
    report = (run / "report.md").read_text()
    assert "SASRec with seeds 0, 1 and 2" in report
    assert "SASRec (baseline), 3 seeds" in report
    # Taken up again, only what is missing is made, and it is what it was.
    lost = folder / "sasrec.seed1.parquet"
    before, stamps = pl.read_parquet(lost), {p: p.stat().st_mtime_ns for p in folder.iterdir() if p != lost}
    lost.unlink()
    again = ("--set", f"output={run}", "--set", "systems.sasrec.seeds=3")
    path = config(systems=CLASSIC, evaluation=WHOLE)
    assert "sasrec.seed1" in llmrec("compare", path, *again, code=2, capsys=capsys).err
    llmrec("run", path, *again, capsys=capsys)
    assert pl.read_parquet(lost).equals(before)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    # The training with seed 1 is that of a run whose seed is 1.
    other = classic("other", "seed=1")
    assert pl.read_parquet(other / "recommendations" / "sasrec.parquet").equals(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("systems.popularity.seeds=2", "popularity takes no seed"),
        ("systems.llm.seeds=2", "--set seed=1 --set output=..."),
        ("systems.sasrec.seeds=0", "systems.sasrec.seeds: got 0"),
        ("systems={sasrec: {}, sasrec.seed1: {kind: sasrec}}", "expected another name"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(config, change, message, capsys):
    assert message in llmrec("run", config(), "--set", change, code=2, capsys=capsys).err


def test_systems_of_two_runs_are_trainings_of_one_or_told_apart(classic, tmp_path, capsys):
    first = classic("first", "systems.sasrec.seeds=2")
    second = classic("second", "seed=1")
    third = classic("third", "systems.sasrec.max_epochs=2")
    output = tmp_path / "comparison"
    printed = side_by_side(first, second, output=output, capsys=capsys)
    found = compared(output)
    # Popularity has no seed, and both runs trained with seed 1: each is shown once.
    assert {name: s["seeds"] for name, s in found["systems"].items()} == {
        "sasrec": [0, 1],
        "popularity": [None],
    }
    assert printed.out.count("is the same training in first") == 2
    assert found["baseline"] == "sasrec"
    own = compared(first)["systems"]
    for name, system in found["systems"].items():
        assert system["seed_means"] == own[name]["seed_means"]
    # The same settings and seed and other lists: something is not reproducible, which a reader must know.
    file = second / "recommendations" / "sasrec.parquet"
    lists = pl.read_parquet(file)
    swapped = lists.with_columns(rank=pl.col("rank").replace({1: 2, 2: 1}))
    swapped = swapped.with_columns(score=-pl.col("rank").cast(pl.Float64))
    pq.write_table(swapped.to_arrow().replace_schema_metadata(pq.read_schema(file).metadata), file)
    side_by_side(first, second, output=output, capsys=capsys)
    assert (
        "in first and in second, and its lists differ. Those of first" in (output / "report.md").read_text()
    )
    assert compared(output)["systems"]["sasrec"]["seed_means"] == own["sasrec"]["seed_means"]
    side_by_side(first, third, output=output, capsys=capsys)
    found = compared(output)
    assert set(found["systems"]) == {"sasrec (first)", "sasrec (third)", "popularity"}
    assert found["baseline"] == "sasrec (first)"
    assert "SASRec (third)" in (output / "report.html").read_text()
    assert f"llmrec compare {first} {third}" in (output / "report.md").read_text()
    arguments = ("--baseline", "popularity", "--subject", "sasrec (third)", "--metrics", "hr@1,mrr@5")
    side_by_side(first, third, *arguments, output=output, capsys=capsys)
    found = compared(output)
    assert (found["baseline"], found["subject"]) == ("popularity", "sasrec (third)")
    assert found["metrics"] == ["hr@1", "mrr@5"]


def test_a_comparison_says_which_of_its_systems_are_told_when_the_target_happens(classic, tmp_path, capsys):
    untold = classic("untold")
    told = classic("told", "prompt.target_time=true", "systems.sasrec.target_time=true")
    output = tmp_path / "comparison"
    side_by_side(untold, told, output=output, capsys=capsys)
    assert "SASRec (told) is told when the next event happens." in (output / "report.md").read_text()
    side_by_side(untold, output=output, capsys=capsys)
    assert "No system is told when the next event happens." in (output / "report.md").read_text()


def test_a_run_can_be_moved_and_compared_without_its_data(classic, config, tmp_path, csv_log, capsys):
    log = tmp_path / "log.csv"
    shutil.copy(csv_log / "log.csv", log)
    run = classic("run", f"data.interactions={log}")
    numbers = compared(run)["systems"]
    moved = run.rename(tmp_path / "moved")
    log.unlink()
    side_by_side(moved, output=tmp_path / "out", capsys=capsys)
    assert compared(tmp_path / "out")["systems"] == numbers


def test_lists_made_elsewhere_answer_the_questions_of_the_first_run(classic, tmp_path, capsys):
    run, output = classic("run"), tmp_path / "out"
    ours = pl.read_parquet(run / "recommendations" / "popularity.parquet")
    for name in ("theirs", "theirs.seed4"):
        ours.write_parquet(tmp_path / f"{name}.parquet")
    files = [tmp_path / "theirs.parquet", tmp_path / "theirs.seed4.parquet"]
    side_by_side(run, *files, "--lists", f"also={files[0]}", output=output, capsys=capsys)
    found = compared(output)["systems"]
    assert found["theirs"]["seeds"] == [None, 4]
    assert found["also"]["seeds"] == [None]
    assert found["theirs"]["means"] == found["also"]["means"] == found["popularity"]["means"]
    assert "Lists of theirs and also were made elsewhere" in (output / "report.md").read_text()
    twice = side_by_side(run, files[0], files[0], output=output, code=2, capsys=capsys)
    assert "Lists of 'theirs' were given twice" in twice.err
    named = side_by_side(run, "--lists", "theirs.parquet", output=output, code=2, capsys=capsys)
    assert "Expected NAME=FILE.parquet" in named.err


def test_samples_of_users_that_differ_are_compared_only_on_request(classic, tmp_path, capsys):
    run, output = classic("run"), tmp_path / "out"
    lists = pl.read_parquet(run / "recommendations" / "sasrec.parquet")
    for name, users in {"a": range(10), "b": range(5, 15), "c": range(15, 20)}.items():
        some = lists.filter(pl.col("user_id").is_in([f"u{u}" for u in users]))
        some.write_parquet(tmp_path / f"{name}.parquet")
    a, b, c = (tmp_path / f"{name}.parquet" for name in "abc")
    said = side_by_side(run, a, output=output, capsys=capsys).out  # one sample: everybody is compared on it
    note = "'a' have lists for 10 of 24 test users; all numbers here are about these"
    assert note in " ".join(said.split())
    assert note in (output / "report.md").read_text()
    assert compared(output)["users"] == 10
    assert (
        "A sample of 10 of 24 test users. Those that all systems have lists for."
        in (output / "report.md").read_text()
    )
    refused = side_by_side(run, a, b, output=output, code=2, capsys=capsys).err
    assert "'a' 10 and 'b' 10 of 24 test users, 5 in common" in refused
    assert "--common-users" in refused
    side_by_side(run, a, b, "--common-users", output=output, capsys=capsys)
    assert compared(output)["users"] == 5
    assert "lists for different users" in (output / "report.html").read_text()
    nobody = side_by_side(run, a, c, "--common-users", output=output, code=2, capsys=capsys).err
    assert "0 in common" in nobody
    lists.with_columns(user_id=pl.lit("x") + pl.col("user_id")).write_parquet(tmp_path / "x.parquet")
    strangers = side_by_side(run, tmp_path / "x.parquet", output=output, code=2, capsys=capsys).err
    assert "lists for 24 users that are no test users of run" in strangers


def test_runs_that_ask_different_questions_are_refused(classic, tmp_path, csv_log, capsys):
    run, output = classic("run"), tmp_path / "out"
    log = tmp_path / "log.csv"
    log.write_text((csv_log / "log.csv").read_text() + "u0,i1,999999999\n")
    other = classic("other", f"data.interactions={log}")
    assert "dataset" in side_by_side(run, other, output=output, code=2, capsys=capsys).err
    seen = classic("seen", "split.exclude_seen=false")
    refused = side_by_side(run, seen, output=output, code=2, capsys=capsys).err
    assert "'seen' was evaluated with exclude_seen = False and 'run' with True" in refused
    shuffled = [classic(f"s{seed}", f"seed={seed}", "split.ties=shuffle") for seed in (0, 1)]
    refused = side_by_side(*shuffled, output=output, code=2, capsys=capsys).err
    assert "'s1' was evaluated with seed = 1 and 's0' with 0" in refused
    parts = [classic(f"p{seed}", f"seed={seed}", "split.valid_share=0.5") for seed in (0, 1)]
    assert "with seed = 1" in side_by_side(*parts, output=output, code=2, capsys=capsys).err
    one_split = ("split.ties=shuffle", "split.seed=7")
    trainings = [classic(f"t{seed}", f"seed={seed}", *one_split) for seed in (0, 1)]
    side_by_side(*trainings, output=output, capsys=capsys)
    assert compared(output)["systems"]["sasrec"]["seeds"] == [0, 1]
    assert compared(output)["protocol"]["seed"] == 7


def test_what_is_no_run_is_refused(classic, config, tmp_path, capsys):
    run, output = classic("run"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((run, tmp_path / "empty"), "no run directory that can be read"),
        ((run, "--baseline", "sasrc"), "did you mean 'sasrec'"),
        ((run, "--subject", "nobody"), "'nobody' was not evaluated"),
        ((run, "--metrics", "ndcg@50"), "50 are needed"),
        ((run, "--set", "seed=1"), "Got --set with run directories"),
        ((config(), "--seed", "1"), "options for comparing run directories"),
        ((tmp_path / "x.parquet",), "Got lists and no run directory"),
    ):
        assert message in side_by_side(*arguments, output=output, code=2, capsys=capsys).err
    (tmp_path / "file").touch()
    assert "is a file" in side_by_side(run, output=tmp_path / "file", code=2, capsys=capsys).err
    assert "is a run directory" in side_by_side(run, output=run, code=2, capsys=capsys).err
    assert not output.exists()
    (run / "recommendations" / "sasrec.parquet").unlink()
    assert "no recommendations of 'sasrec'" in side_by_side(run, output=output, code=2, capsys=capsys).err


def test_language_models_of_two_seeds_are_one_system(config, tmp_path, capsys):
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"seed{seed}")
        changes = ("--set", f"seed={seed}", "--set", f"output={runs[-1]}", "--set", "evaluation.users_seed=7")
        path = config(systems={"llm": {}, "popularity": {}}, evaluation={
            "users": 10, "k": 5, "cutoffs": [5], "baseline": "popularity"})  # fmt: skip
        llmrec("run", path, *changes, capsys=capsys)
    llmrec("diagnose", path, "--users", 2, "--titles", 1, "--alone", *changes, capsys=capsys)
    side_by_side(*runs, output=tmp_path / "out", capsys=capsys)
    found = compared(tmp_path / "out")
    assert found["users"] == 10
    assert found["subject"] == "llm"
    assert found["systems"]["llm"]["seeds"] == [0, 1]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "LLM with seeds 0 and 1" in report
    assert "LoRA, rank 16" in report
    # The second run alone is diagnosed, and of which it is has to be said only where there are several.
    assert report.count("Does it use the order of events? (seed1)") == 1
    assert "(seed0)" not in report
    side_by_side(runs[1], output=tmp_path / "out", capsys=capsys)
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("Does it use the order of events?") == 1
    assert "Does it use the order of events? (" not in report


def test_adapters_that_were_trained_elsewhere_are_no_trainings_of_one_system(config, tmp_path, capsys):
    runs = []
    for seed in (0, 1):
        runs.append(tmp_path / f"seed{seed}")
        evaluation = {"users": 10, "users_seed": 7, "k": 5, "cutoffs": [5], "baseline": "popularity"}
        path = config(
            systems={"llm": {}, "popularity": {}}, evaluation=evaluation, seed=seed, output=str(runs[-1])
        )
        for stage in ("prepare", "finetune"):
            llmrec(stage, path, capsys=capsys)
        (runs[-1] / "adapter" / "llmrec.json").unlink()  # what is left is what PEFT writes
        llmrec("run", path, capsys=capsys)
    side_by_side(*runs, output=tmp_path / "out", capsys=capsys)
    systems = compared(tmp_path / "out")["systems"]
    assert {"llm (seed0)", "llm (seed1)"} <= set(systems)
    assert "llm" not in systems


def test_lists_need_be_no_longer_than_what_is_asked_of_them(classic, tmp_path, capsys):
    run, output = classic("run"), tmp_path / "out"
    lists = pl.read_parquet(run / "recommendations" / "sasrec.parquet").filter(pl.col("rank") <= 2)
    lists.write_parquet(tmp_path / "two.parquet")
    two = (run, tmp_path / "two.parquet")
    assert "too few items" in side_by_side(*two, output=output, code=2, capsys=capsys).err
    side_by_side(*two, "--metrics", "ndcg@2,hr@1", output=output, capsys=capsys)
    found = compared(output)["systems"]
    assert found["two"]["means"]["ndcg@2"] == pytest.approx(found["sasrec"]["means"]["ndcg@2"])
