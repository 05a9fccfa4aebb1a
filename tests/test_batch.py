"""The batch job: shards that survive a kill, rejects with reasons, and the lists that the run itself makes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import polars as pl
import pyarrow.parquet as pq
import pytest
from pipeline_cases import llmrec

from llmrec.config_file import load_config
from llmrec.errors import ConfigError
from llmrec.pipeline.replicas import _needs, _Replica, _sharing_memory
from llmrec.pipeline.worker import Worker


@pytest.fixture
def trained(config, capsys):
    path = config(evaluation={"users": None, "k": 5, "cutoffs": [1, 5], "users_shown": 2})
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, capsys=capsys)
    return path


@pytest.fixture
def log(csv_log, tmp_path):
    """Everything before the last event of each user: what the test prompts of the run are made from."""
    frame = pl.read_csv(csv_log / "log.csv").with_row_index("row").sort("time", maintain_order=True)
    last = frame.group_by("user", maintain_order=True).agg(pl.col("row").last())["row"].implode()
    frame.filter(~pl.col("row").is_in(last)).drop("row").write_csv(tmp_path / "log.csv")
    return tmp_path / "log.csv"


def lists(folder):
    return pl.concat([pl.read_parquet(p) for p in sorted(folder.glob("part-*.parquet"))])


def test_lists_are_those_of_the_run(trained, log, tmp_path, capsys):
    llmrec("recommend", trained, capsys=capsys)
    llmrec(
        "recommend",
        trained,
        "--histories",
        log,
        "--output",
        tmp_path / "out",
        "--shard-users",
        7,
        capsys=capsys,
    )
    ours = lists(tmp_path / "out").sort("user_id", "rank")
    theirs = pl.read_parquet(tmp_path / "run" / "recommendations" / "llm.parquet").sort("user_id", "rank")
    assert ours.select("user_id", "rank", "item_id").equals(theirs.select("user_id", "rank", "item_id"))
    assert ours["score"].to_list() == pytest.approx(theirs["score"].to_list(), abs=1e-4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["users"], summary["rejects"]) == (24, 0)
    assert len(list((tmp_path / "out").glob("part-*"))) == 4


@pytest.mark.parametrize("dies_in", [0, 2])
def test_a_killed_job_goes_on_and_ends_the_same(trained, log, tmp_path, capsys, monkeypatch, dies_in):
    job = ("recommend", trained, "--histories", log, "--shard-users", 7, "-k", 3, "--output")
    llmrec(*job, tmp_path / "whole", capsys=capsys)
    make, made = Worker.make, []

    def dying(self, *arguments):
        if len(made) == dies_in:
            raise KeyboardInterrupt
        made.append(1)
        return make(self, *arguments)

    monkeypatch.setattr(Worker, "make", dying)
    llmrec(*job, tmp_path / "out", code=130, capsys=capsys)
    assert len(list((tmp_path / "out").glob("part-*"))) == dies_in
    assert not (tmp_path / "out" / "summary.json").exists()
    made.clear()
    monkeypatch.setattr(Worker, "make", lambda self, *a: (made.append(1), make(self, *a))[1])
    llmrec(*job, tmp_path / "out", capsys=capsys)
    assert len(made) == 4 - dies_in  # nothing is done twice
    assert lists(tmp_path / "out").equals(lists(tmp_path / "whole"))
    llmrec(*job, tmp_path / "out", capsys=capsys)
    assert len(made) == 4 - dies_in  # nor when all is there


def test_another_jobs_parts_are_no_part_of_this_one(trained, log, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    job = ("recommend", trained, "--histories", log, "--shard-users", 7, "-k", 3, "--output", out)
    llmrec(*job, capsys=capsys)
    text = log.read_text()
    log.write_text("\n".join(line for line in text.splitlines() if not line.startswith("u2")) + "\n")
    said = llmrec(*job, code=2, capsys=capsys).err
    assert "part-00003.parquet" in said
    assert "--output" in said
    log.write_text(text)
    # What says that a job is complete is not there while it is made anew.
    (out / "part-00000.parquet").unlink()
    monkeypatch.setattr(Worker, "make", lambda self, *_: (_ for _ in ()).throw(KeyboardInterrupt))
    llmrec(*job, code=130, capsys=capsys)
    assert not (out / "summary.json").exists()
    assert not (out / "rejects.jsonl").exists()


def test_kill_9_loses_at_most_a_shard(trained, log, tmp_path, capsys):
    job = ["recommend", trained, "--histories", log, "--shard-users", 2, "-k", 3, "--output"]
    llmrec(*job, tmp_path / "whole", capsys=capsys)
    command = [
        sys.executable,
        "-c",
        "from llmrec.cli import main; main()",
        *map(str, job),
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < 3:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    assert 3 <= len(before) < 12
    llmrec(*job, tmp_path / "out", capsys=capsys)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert lists(tmp_path / "out").equals(lists(tmp_path / "whole"))
    assert (tmp_path / "out" / "rejects.jsonl").read_bytes() == (
        tmp_path / "whole" / "rejects.jsonl"
    ).read_bytes()


def test_users_without_a_list_are_named_with_the_reason(trained, log, tmp_path, capsys):
    rows = [f"everything,i{n},{n}" for n in range(16)]
    rows += ["known,i1,5", "known,nowhere,6", "stranger,nowhere,6", "stranger,elsewhere,7"]
    log.write_text(log.read_text() + "\n".join(rows) + "\n")
    printed = llmrec(
        "recommend", trained, "--histories", log, "--output", tmp_path / "out", capsys=capsys
    ).out
    assert "everything: the history holds every item" in " ".join(printed.split())
    assert "3 events of items that the model does not know were left out" in " ".join(printed.split())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["unknown_items"] == 3
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    reasons = {r["user_id"]: r["reason"] for r in rejects}
    assert set(reasons) == {"everything", "stranger"}
    assert "every item" in reasons["everything"]
    assert "'nowhere' is not in the catalogue" in reasons["stranger"]
    # Where training left out such an event, it is left out here too.
    assert lists(tmp_path / "out")["user_id"].n_unique() == 25


def test_yesterdays_model_serves_todays_log(trained, csv_log, tmp_path, capsys):
    """The log of the training is the log of every day, and has grown."""
    today = tmp_path / "today.csv"
    today.write_text((csv_log / "log.csv").read_text())
    now = ("--set", f"data.interactions={today}", "--set", f"output={tmp_path / 'today'}")
    for stage in ("prepare", "finetune"):
        llmrec(stage, trained, *now, capsys=capsys)
    job = ("recommend", trained, *now, "--histories", today, "--output")
    llmrec(*job, tmp_path / "first", capsys=capsys)
    today.write_text(today.read_text() + "newcomer,i1,990000000\n")
    refused = llmrec(*job, tmp_path / "first", code=2, capsys=capsys).err
    assert "today.csv has changed" in refused
    assert "a folder of their own with --output" in refused
    llmrec(*job, tmp_path / "second", capsys=capsys)
    assert lists(tmp_path / "second")["user_id"].n_unique() == 25
    # A run of the log as it is now is another run all the same.
    assert "today.csv has changed" in llmrec("run", trained, *now, code=2, capsys=capsys).err
    other = ("--set", "prompt.max_events=3")
    assert "max_events was" in llmrec(*job, tmp_path / "third", *other, code=2, capsys=capsys).err


def test_another_job_in_the_folder_is_refused(trained, log, tmp_path, capsys):
    job = ("recommend", trained, "--histories", log, "--output", tmp_path / "out")
    llmrec(*job, "-k", 3, capsys=capsys)
    assert "k was 3 and is now 4" in llmrec(*job, "-k", 4, code=2, capsys=capsys).err
    log.write_text(log.read_text() + "u1,i3,900000000\n")
    assert "log.csv has changed" in llmrec(*job, "-k", 3, code=2, capsys=capsys).err


def test_mistakes_are_named(trained, log, config, tmp_path, capsys):
    def said(*options):
        return llmrec("recommend", trained, *options, code=2, capsys=capsys).err

    assert "without --output" in said("--histories", log)
    assert "without --histories" in said("-k", 3)
    assert "decoding.backend" in said("--backend", "cuda")
    assert "Got --output, -k or --replicas" in said("--replicas", 2)
    assert "0 replicas" in said("--histories", log, "--output", tmp_path / "out", "--replicas", 0)
    assert "Expected 1 or more" in said("--histories", log, "--output", tmp_path / "out", "-k", 0)
    assert "search: beam" in said("--backend", "vllm", "--set", "decoding.search=exact")
    assert "nowhere.csv" in said("--histories", tmp_path / "nowhere.csv", "--output", tmp_path / "out")


def test_without_vllm_the_extra_is_named(trained, log, tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n == "vllm" or n.startswith("vllm.")] + ["vllm"]:
        monkeypatch.setitem(sys.modules, name, None)
    job = ("recommend", trained, "--histories", log, "--output", tmp_path / "out", "--backend", "vllm")
    assert "pip install 'llmrec[gpu]'" in llmrec(*job, code=2, capsys=capsys).err


def test_replicas_without_ray_name_the_extra(trained, log, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    job = ("recommend", trained, "--histories", log, "--output", tmp_path / "out", "--replicas", 2)
    assert "pip install 'llmrec[ray]'" in llmrec(*job, code=2, capsys=capsys).err


def test_replicas_get_what_the_cluster_has(trained):
    config = load_config(trained, ["model.device=auto"])
    on_gpus = load_config(
        trained, ["model.device=auto", "decoding.backend=vllm", "decoding.vllm={tensor_parallel_size: 4}"]
    )
    assert _needs(config, {"CPU": 8.0}, 3) == {"num_cpus": 2}
    assert _needs(config, {"CPU": 8.0, "GPU": 2.0}, 3) == {"num_gpus": 1}
    assert _needs(on_gpus, {"CPU": 8.0, "GPU": 8.0}, 2) == {"num_gpus": 4}
    assert _sharing_memory(config, 4).decoding.vllm == {"gpu_memory_utilization": 0.2}
    assert _sharing_memory(on_gpus, 1).decoding.vllm["tensor_parallel_size"] == 4
    with pytest.raises(ConfigError, match="needs 4 GPUs"):
        _needs(on_gpus, {"GPU": 2.0}, 2)
    with pytest.raises(ConfigError, match="cluster of 2 cores"):
        _needs(config, {"CPU": 2.0}, 3)


def test_a_mistake_inside_a_replica_is_told_once(trained, log, tmp_path, capsys):
    job = ("recommend", trained, "--histories", log, "--output", tmp_path / "out", "--replicas", 1)
    (tmp_path / "run" / "adapter" / "adapter_config.json").write_text("{}")
    assert "does not fit" in llmrec(*job, code=2, capsys=capsys).err


def test_a_replica_that_sees_no_run_says_that_disks_are_not_shared(trained, tmp_path):
    replica = _Replica(load_config(trained, ["output=elsewhere"]), 3, str(tmp_path))
    assert "file system that all machines" in replica({"position": [0], "shard": [b""]})["error"][0]


def test_lists_are_searched_for_as_the_system_says(trained, log, tmp_path, capsys):
    own = ("--set", "systems={free: {kind: llm, search: free}, llm: {beam_width: 9}, sasrec: {}}")
    out = ("--histories", log, "--output")
    llmrec("recommend", trained, *own, *out, tmp_path / "own", capsys=capsys)
    llmrec("recommend", trained, "--set", "decoding.beam_width=9", *out, tmp_path / "section", capsys=capsys)
    keys = [pq.read_schema(next(p.glob("part-*"))).metadata for p in (tmp_path / "own", tmp_path / "section")]
    decoding = [json.loads(key[b"llmrec"])["key"]["decoding"] for key in keys]
    assert decoding[0] == decoding[1]
    assert decoding[0]["beam_width"] == 9
    free = ("--set", "systems={llm: {search: free}, sasrec: {}}")
    printed = llmrec("recommend", trained, *free, *out, tmp_path / "free", code=2, capsys=capsys)
    assert "search is free" in printed.err
