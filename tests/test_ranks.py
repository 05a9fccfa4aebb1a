"""Ranks kept beside a table: a comparison of them is that of the runs, and says nothing of anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_metrics import catalogue, holdout_of, lists, protocol_of

from llmrec.data.recommendations import Recommendations
from llmrec.errors import ConfigError
from llmrec.eval.compare import compare
from llmrec.eval.evaluate import Evaluation, evaluate
from llmrec.eval.files import write_evaluation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from ranks import keep, pooled, table  # noqa: E402

USERS, ITEMS, K = 60, 40, 10
HOLDOUT = holdout_of(np.random.default_rng(9).integers(1, ITEMS, USERS))


def training(system: str, seed: int, size: int = 0, **changes: Any) -> Evaluation:
    """Return an evaluation of random lists; lists of one system and seed are equal."""
    rng = np.random.default_rng([len(system), seed])
    items = np.array([1 + rng.permutation(ITEMS - 1)[:K] for _ in range(USERS)])
    found = lists(items.tolist())
    recs = Recommendations(system, found.user_ids, found.items, found.scores)
    meta = {"seed": seed, "key": {"system": {"kind": "sasrec", "size": size}, "seed": seed}}
    protocol = protocol_of(USERS, items=ITEMS, **changes)
    return evaluate(recs, HOLDOUT, np.ones(ITEMS, int), catalogue(ITEMS), protocol, (1, 5, 10), meta=meta)


def kept(folder: Path, name: str, runs: dict[str, list[Evaluation]]) -> Path:
    for run, evaluations in runs.items():
        for evaluation in evaluations:
            (folder / run / "evaluation").mkdir(parents=True, exist_ok=True)
            write_evaluation(folder / run / "evaluation", evaluation)
    path = folder / f"{name}.json"
    keep([folder / run for run in runs], path, {"command": "none"})
    return path


def test_the_comparison_of_kept_ranks_is_that_of_the_runs(tmp_path: Path) -> None:
    runs = [[training("a", seed), training("bb", seed)] for seed in (0, 1, 2)]
    first = kept(tmp_path, "first", {"r0": runs[0], "r1": runs[1]})
    second = kept(tmp_path, "second", {"r1": runs[1], "r2": runs[2]})  # r1 is in both and counts once
    ours = compare(pooled([first, second]), "a", ["ndcg@10"])
    theirs = compare([e for run in runs for e in run], "a", ["ndcg@10"])
    # Resampling is by value, so that the order of the users decides nothing.
    for got, want in (
        (ours.intervals["bb"]["ndcg@10"], theirs.intervals["bb"]["ndcg@10"]),
        (ours.differences["bb"]["ndcg@10"], theirs.differences["bb"]["ndcg@10"]),
    ):
        assert asdict(got) == pytest.approx(asdict(want))
    assert ours.seed_means("bb", "ndcg@10") == pytest.approx(theirs.seed_means("bb", "ndcg@10"))
    assert table(ours).splitlines()[2].split("|")[2].strip() == "3"


def test_neither_users_nor_items_are_named(tmp_path: Path) -> None:
    evaluation = training("a", 0)
    content = json.loads(kept(tmp_path, "t", {"r": [evaluation]}).read_text())
    (only,) = content["trainings"]
    order = sorted(range(USERS), key=evaluation.user_ids.__getitem__)
    assert only.pop("ranks") == np.nan_to_num(evaluation.target_ranks[order]).astype(int).tolist()
    text = json.dumps(content)
    assert not any(f'"{name}"' in text for name in (*evaluation.user_ids, *evaluation.target_items))


def test_other_settings_are_another_system(tmp_path: Path) -> None:
    path = kept(tmp_path, "t", {"small": [training("a", 0)], "large": [training("a", 1, size=2)]})
    assert [e.system for e in pooled([path])] == ["a", "a (large)"]
    with pytest.raises(
        ConfigError, match=r"No file has 'aa' \(did you mean 'a'\?\)\. Expected some of a, a \(large\)\."
    ):
        pooled([path], ["aa", "a"])
    assert [e.system for e in pooled([path], ["a (large)"])] == ["a (large)"]
    # The run's name may be that of another day.
    again = kept(tmp_path, "again", {"large": [training("a", 2, size=3)]})
    assert len({e.system for e in pooled([path, again])}) == 3


def test_ranks_of_another_split_are_refused_in_a_sentence(tmp_path: Path) -> None:
    one = kept(tmp_path, "one", {"r0": [training("a", 0), training("bb", 0)]})
    other = kept(tmp_path, "other", {"r1": [training("a", 1, ties="shuffle")]})

    def run(*files: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BENCHMARKS / "ranks.py"), *map(str, files), "--baseline", "a"]
        return subprocess.run([*command, "--systems", "bb"], capture_output=True, text=True, check=False)

    done = run(one)
    assert done.returncode == 0, done.stderr
    assert "| bb | 1 |" in done.stdout
    for files, words in (((one, other), "ties = 'shuffle'"), ((tmp_path / "none.json",), "none.json")):
        done = run(*files)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
