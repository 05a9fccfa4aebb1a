"""What benchmarks share: where results go, what machine they are from, and a fair way to time things."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.data.datasets import load_dataset
from llmrec.data.load import Loaded, load_data
from llmrec.data.split import Split, leave_one_out
from llmrec.pipeline.parts import make_split
from llmrec.recommenders.holdout import holdout_metrics
from llmrec.recommenders.sequential import SequentialRecommender
from llmrec.settings import Data

__all__ = ["load_folder", "load_split", "load_suite", "machine", "of_both_holdouts", "save", "timed"]

# Oracles such as brute force are written once, for the tests and for here.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
    }


def save(name: str, results: dict[str, Any]) -> None:
    """Keep results as ``results/<name>.json`` beside this file."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    print(f"kept in benchmarks/results/{path.name}")


def timed(sides: dict[str, Callable[[], Any]], rounds: int, inner: int = 1) -> dict[str, float]:
    """Return the median seconds of one call of each side.

    The sides take turns, so that a noisy neighbour disturbs all of them alike. Each round makes ``inner`` calls.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        call()
    for _ in range(rounds):
        for name, call in sides.items():
            started = time.perf_counter()
            for _ in range(inner):
                call()
            seconds[name].append((time.perf_counter() - started) / inner)
    return {name: statistics.median(values) for name, values in seconds.items()}


def load_split(data: Path | None) -> Split:
    """Return the leave-one-out split of ml-100k, or of a folder with interactions.parquet and items.parquet."""
    if data is None:
        return leave_one_out(*load_dataset("ml-100k", notify=print), dataset="ml-100k")
    loaded = load_folder(data)
    return leave_one_out(loaded.interactions, loaded.catalog, dataset=data.name)


def load_suite(suite: Path, folder: Path | None, sets: Sequence[str] = ()) -> tuple[RunConfig, Split]:
    """Return a suite with the tables of a folder, or with its own, and further settings; and its split."""
    tables = [f"data.{part}={folder / part}.parquet" for part in ("interactions", "items")] if folder else []
    config = load_config(suite, [*tables, *sets])
    loaded = load_data(config.data)
    return config, make_split(config, loaded.interactions, loaded.catalog)


def of_both_holdouts(recommender: SequentialRecommender, split: Split) -> dict[str, float]:
    """Return HR@10 and NDCG@10 of a trained model on both holdouts, its best epoch and the seconds to it."""
    found: dict[str, float] = {}
    for part, holdout in (("valid", split.valid), ("test", split.test)):
        hr, ndcg = holdout_metrics(recommender, holdout, exclude_seen=split.protocol.exclude_seen)
        found |= {f"{part} hr@10": hr, f"{part} ndcg@10": ndcg}
    best = recommender.best_epoch_
    return {**found, "best epoch": best, "seconds to it": recommender.history_[best - 1]["seconds"]}


def load_folder(folder: Path) -> Loaded:
    """Return what a folder with interactions.parquet and items.parquet has, as a run reads it."""
    tables = {name: str(folder / f"{name}.parquet") for name in ("interactions", "items")}
    return load_data(Data.model_validate(tables))
