"""RecTools' side of ``sasrec_peers.py``: ``FOLDER EPOCHS PATIENCE SECONDS DROPOUT EVENTS HEADS``; needs RecTools and torch."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
folder, epochs, patience = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
limit, dropout, events = float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
heads = int(sys.argv[7])


def dataset(part: str) -> Dataset:
    """Return the events of a part, those of a user in their order."""
    frame = pd.read_csv(folder / f"{part}.csv")
    frame = frame.rename(columns={"user": Columns.User, "item": Columns.Item})
    frame[Columns.Datetime] = pd.to_datetime(frame.pop("place"), unit="s")
    frame[Columns.Weight] = 1.0
    return Dataset.construct(frame)


def measure(model: SASRecModel, part: str, asked: Dataset) -> tuple[float, float]:
    """Return HR@10 and NDCG@10 of a part's targets."""
    targets = pd.read_csv(folder / f"{part}_targets.csv")
    recommended = model.recommend(
        users=targets["user"].to_numpy(),
        dataset=asked,
        k=10,
        filter_viewed=True,
        on_unsupported_targets="ignore",
    )
    found = recommended.merge(targets, left_on=[Columns.User, Columns.Item], right_on=["user", "item"])
    gain = 1 / np.log2(found[Columns.Rank].to_numpy() + 1)
    return len(found) / len(targets), float(gain.sum()) / len(targets)


torch.set_num_threads(1)
torch.manual_seed(0)
train, valid, test = dataset("train"), dataset("valid"), dataset("test")
model = SASRecModel(
    n_factors=64,
    n_blocks=2,
    n_heads=heads,
    session_max_len=events,
    dropout_rate=dropout,
    loss="softmax",
    lr=0.001,
    epochs=1,
    dataloader_num_workers=0,
    verbose=0,
)
curve, seconds = [], 0.0
best, result = -1.0, {}
while len(curve) < epochs and seconds < limit:
    started = time.perf_counter()
    if curve:
        model.fit_partial(train, min_epochs=1, max_epochs=1)
    else:
        model.fit(train)
    seconds += time.perf_counter() - started
    hr, ndcg = measure(model, "valid", valid)
    curve.append({"epoch": len(curve) + 1, "hr@10": hr, "ndcg@10": ndcg, "seconds": seconds})
    print("RecTools", {k: round(v, 4) for k, v in curve[-1].items()}, flush=True)
    if ndcg > best:
        best = ndcg
        hr, ndcg = measure(model, "test", test)
        result = {
            "seconds to the best epoch": seconds,
            "best epoch": len(curve),
            "validation ndcg@10": best,
            "test hr@10": hr,
            "test ndcg@10": ndcg,
        }
    elif len(curve) - result["best epoch"] >= patience:
        break
result |= {"stopped by the time limit": seconds >= limit, "curve": curve}
(folder / "result.json").write_text(json.dumps(result))
