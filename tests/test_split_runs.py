"""Whole runs under every split, on a tiny language model."""

from __future__ import annotations

import json

import polars as pl
import pytest
from pipeline_cases import llmrec

SPLITS = {
    "temporal": {"strategy": "temporal", "valid_quantile": 0.5, "test_quantile": 0.75},
    "users": {"strategy": "users", "valid_users": 0.3, "test_users": 0.3, "repeats": "drop"},
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_run_from_the_log_to_the_report(config, tmp_path, name, capsys):
    # Validated by loss, which reads histories and targets as documents, on users that are not in training.
    training = {"epochs": 1, "batch_tokens": 400, "validation": {"every": 1, "metric": "loss", "users": None}}
    path = config(split=SPLITS[name], finetune=training)
    printed = llmrec("run", path, capsys=capsys).out
    run = tmp_path / "run"
    protocol = json.loads((run / "protocol.json").read_text())
    assert protocol["split"] == name
    assert f"and {protocol['users']:,} for the test" in " ".join(printed.split())
    events = pl.read_parquet(run / "split" / "events.parquet")
    targets = events.filter(pl.col("part") == "test")
    assert len(targets) == protocol["users"] > 1
    assert len(events.filter(pl.col("part") == "valid")) == protocol["valid_users"] > 1
    target = dict(zip(targets["user_id"], targets["item_id"], strict=True))
    for system in ("llm", "popularity", "itemknn", "sasrec"):
        ranks = pl.read_parquet(run / "evaluation" / f"{system}.parquet")
        assert len(ranks) == min(10, protocol["users"])
        assert all(target[u] == i for u, i in zip(ranks["user_id"], ranks["target_item"], strict=True))
    report = (run / "report.md").read_text()
    for text in ("Weakness of this split", "Questions", "Items new to training"):
        assert text in report
    llmrec("run", path, capsys=capsys)  # reads the split it wrote


def test_the_prompt_of_users_who_are_not_in_training(config, tmp_path, capsys):
    path = config(split=SPLITS["users"])
    llmrec("prepare", path, capsys=capsys)
    events = pl.read_parquet(tmp_path / "run" / "split" / "events.parquet")
    tested = events.filter(pl.col("part") == "test")["user_id"][0]
    printed = llmrec("prompt", "show", path, "--user", tested, capsys=capsys).out
    assert "To be generated" in printed
    assert "no event of this user is for training" in printed
    trained = events.filter(pl.col("part") == "train")["user_id"][0]
    printed = llmrec("prompt", "show", path, "--user", trained, code=2, capsys=capsys).err
    assert "nothing is asked about the user in the test of this split (users)" in printed.replace("\n", " ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("split.strategy=global", "split.strategy: got 'global'"),
        ("split.valid_quantile=0.95", "expected the test to begin after the validation"),
        ("split.valid_users=0.95", "users are left for training"),
        ("split.cold_items=hide", "split.cold_items: got 'hide'"),
    ],
)
def test_mistakes_about_splits_are_explained(config, change, message, capsys):
    printed = llmrec("prepare", config(), "--set", change, code=2, capsys=capsys).err
    assert message in printed.replace("\n", " ")
