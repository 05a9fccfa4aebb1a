"""How good is the yardstick? SASRec on MovieLens-100K over three seeds, beside popularity and ItemKNN.

    python benchmarks/sasrec_ml100k.py

Leave-one-out, the whole catalogue ranked, seen items masked, ties in source order. Every setting was
chosen on validation; the test is looked at once per fitted model. Writes what it prints to
``results/sasrec_ml100k.json`` beside this file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from common import save

from llmrec.data.datasets import load_dataset
from llmrec.data.split import Split, leave_one_out
from llmrec.eval.metrics import hit_rate, ndcg, target_ranks
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.sasrec import SASRec

K = 10


def show(epoch: int, max_epochs: int, metrics: Mapping[str, float]) -> None:
    """Print one point of the validation curve."""
    print(
        f"  epoch {epoch:3}/{max_epochs}  loss {metrics['loss']:.4f}  valid HR@10 {metrics['hr@10']:.4f}"
        f"  NDCG@10 {metrics['ndcg@10']:.4f}  {metrics['seconds']:6.1f} s",
        flush=True,
    )


def measure(recommender: ScoringRecommender, split: Split) -> dict[str, Any]:
    """Fit, recommend, and return HR@10 and NDCG@10 of both holdouts with the seconds of each stage."""
    began = time.perf_counter()
    recommender.fit(split)
    row: dict[str, Any] = {"system": recommender.name, "fit_seconds": time.perf_counter() - began}
    for part, holdout in (("valid", split.valid), ("test", split.test)):
        began = time.perf_counter()
        recs = recommender.recommend(holdout.histories, K, exclude_seen=split.protocol.exclude_seen)
        row[f"{part}_seconds"] = time.perf_counter() - began
        ranks = target_ranks(recs, holdout.target_items)
        row[f"{part}_hr@{K}"] = float(hit_rate(ranks, K).mean())
        row[f"{part}_ndcg@{K}"] = float(ndcg(ranks, K).mean())
    if isinstance(recommender, SASRec):
        row |= {
            "seed": recommender.seed,
            "best_epoch": recommender.best_epoch_,
            "history": recommender.history_,
        }
    print(
        f"{row['system']:12} valid {row['valid_hr@10']:.4f} / {row['valid_ndcg@10']:.4f}   "
        f"test {row['test_hr@10']:.4f} / {row['test_ndcg@10']:.4f}   fit {row['fit_seconds']:.1f} s",
        flush=True,
    )
    return row


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of SASRec fits")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    arguments = parser.parse_args()

    split = leave_one_out(*load_dataset("ml-100k", notify=print), dataset="ml-100k")
    print(f"{'system':12} valid HR@10 / NDCG@10   test HR@10 / NDCG@10")
    rows = [measure(recommender, split) for recommender in (Popularity(), ItemKNN())]
    for seed in range(arguments.seeds):
        print(f"sasrec, seed {seed}")
        rows.append(measure(SASRec(seed=seed, device=arguments.device, on_epoch=show), split))

    runs = [row for row in rows if row["system"] == "sasrec"]
    for metric in (f"hr@{K}", f"ndcg@{K}"):
        values = [row[f"test_{metric}"] for row in runs]
        spread = f" (sd {np.std(values, ddof=1):.4f})" if len(values) > 1 else ""
        print(f"sasrec test {metric}: mean of {len(values)} seeds {np.mean(values):.4f}{spread}")

    settings = {"sasrec_threads": SASRec().threads, "device": str(SASRec(device=arguments.device).device_)}
    save("sasrec_ml100k", {"protocol": split.protocol.to_dict(), "settings": settings, "runs": rows})


if __name__ == "__main__":
    main()
