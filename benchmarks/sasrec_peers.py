"""How long SASRec takes to its best validation epoch, here and in RecTools, on the same split and machine, at the same size.

    python3 -m venv ENV && ENV/bin/pip install torch==2.13.0 && ENV/bin/pip install "rectools[torch]==0.19.0"
    python benchmarks/sasrec_peers.py --peer-python ENV/bin/python [--data FOLDER/amazon-beauty --suite eval/amazon-beauty.yaml]

Both sides have 64 features, 2 blocks, 2 heads, 50 events, dropout 0.2, AdamW or Adam at 0.001, a softmax over all items and one
thread; with ``--suite eval/amazon-beauty.yaml`` dropout, heads, events, most epochs and patience are the suite's on both sides. Each has its
own batches, windows and loss otherwise, as its defaults have them. RecTools is fitted on epoch by epoch (``fit_partial``), which
starts Adam's averages again each time: a few of an epoch's hundreds of steps. Both are validated after each epoch by
NDCG@10 over the whole catalogue, seen items masked, and stop after as many epochs without a better value. RecTools' seconds are
those of training alone, ours include the validation. RecTools runs in its own environment (``sasrec_peers_side.py``), from
the same events. Kept in results/sasrec_peers_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import load_split, load_suite, save

from llmrec.data.histories import Holdout
from llmrec.data.split import Split
from llmrec.recommenders.holdout import holdout_metrics
from llmrec.recommenders.sasrec import SASRec


def ours(split: Split, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fit and return the curve and the test figures."""

    def show(epoch: int, most: int, metrics: Mapping[str, float]) -> None:
        print("llmrec", {k: round(v, 4) for k, v in metrics.items()}, flush=True)

    sasrec = SASRec(**settings, device="cpu", on_epoch=show)
    sasrec.fit(split)
    hr, ndcg = holdout_metrics(sasrec, split.test, exclude_seen=True)
    best = sasrec.history_[sasrec.best_epoch_ - 1]
    return {
        "seconds to the best epoch": best["seconds"],
        "best epoch": sasrec.best_epoch_,
        "validation ndcg@10": best["ndcg@10"],
        "test hr@10": hr,
        "test ndcg@10": ndcg,
        "curve": sasrec.history_,
    }


def events(split: Split, holdout: Holdout | None) -> pl.DataFrame:
    """Return the events of the training histories, or of the histories that a holdout asks about."""
    histories = split.train if holdout is None else holdout.histories
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    names = np.array(histories.user_ids)
    # RecTools sorts by time; the place in the history keeps ties as the split has them.
    place = np.arange(len(user)) - np.repeat(histories.indptr[:-1], histories.lengths)
    return pl.DataFrame({"user": names[user], "item": histories.items, "place": place})


def main() -> None:
    """Run both sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="of an environment with RecTools and torch")
    parser.add_argument("--data", type=Path, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--suite", type=Path, help="whose settings of sasrec to take; defaults if left out")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=8)
    parser.add_argument("--peer-seconds", type=float, default=3600, help="after which RecTools is stopped")
    arguments = parser.parse_args()
    settings = {"max_epochs": arguments.epochs, "patience": arguments.patience}
    if arguments.suite is None:
        split = load_split(arguments.data)
    else:
        config, split = load_suite(arguments.suite, arguments.data)
        settings |= config.systems["sasrec"].options
    with tempfile.TemporaryDirectory() as folder:
        for part, holdout in (("train", None), ("valid", split.valid), ("test", split.test)):
            events(split, holdout).write_csv(Path(folder) / f"{part}.csv")
            if holdout is not None:
                targets = {"user": holdout.histories.user_ids, "item": holdout.target_items}
                pl.DataFrame(targets).write_csv(Path(folder) / f"{part}_targets.csv")
        mine = ours(split, settings)
        side = Path(__file__).with_name("sasrec_peers_side.py")
        limits = [settings["max_epochs"], settings["patience"], arguments.peer_seconds]
        size = [settings.get("dropout", 0.2), settings.get("max_len", 50), settings.get("heads", 2)]
        subprocess.run(
            [arguments.peer_python, "-W", "ignore", str(side), folder, *map(str, limits + size)], check=True
        )
        theirs = json.loads((Path(folder) / "result.json").read_text())
    ratio = theirs["seconds to the best epoch"] / mine["seconds to the best epoch"]
    reached = [e["seconds"] for e in mine["curve"] if e["ndcg@10"] >= theirs["validation ndcg@10"]]
    mine["seconds to RecTools' best validation ndcg@10"] = reached[0] if reached else None
    for name, side_found in (("llmrec", mine), ("RecTools", theirs)):
        print(name, {k: v for k, v in side_found.items() if k != "curve"})
    print(f"RecTools takes {ratio:.2f} times as long")
    name = arguments.data.name if arguments.data else "ml-100k"
    found = {"llmrec": mine, "RecTools": theirs, "RecTools takes times as long": ratio}
    save(f"sasrec_peers_{name}", {"protocol": split.protocol.to_dict(), **found})


if __name__ == "__main__":
    main()
