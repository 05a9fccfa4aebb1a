"""Do our list metrics say what RecTools' say? Both on the same lists of popularity and ItemKNN for MovieLens-100K.

    python -m venv PEERS && PEERS/bin/pip install rectools==0.19.0
    python benchmarks/metrics_peers.py --peer-python PEERS/bin/python

RecTools runs in an environment of its own and gets lists, training events and genres as files. Compared user by user where a
metric has values of users, at cutoffs 5, 10, 20 and 50; kept is the largest difference.

popularity      AvgRecPopularity
coverage        CatalogCoverage(normalize=True)
novelty         MeanInvUserFreq, which divides by training users where we divide by training events: log2(events / users) is taken
                off ours. No user has an item twice in this data, else the two would count differently.
diversity       IntraListDiversity with a calculator of cosine distances; and, with the first genre of each item only, with
                RecTools' own PairwiseHammingDistanceCalculator, whose distance is then twice ours.

Pairs with an item without genres are left out on both sides (RecTools: distance NaN).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np

KS = (5, 10, 20, 50)


def ours(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Write the lists to ``folder`` and return our values by system and metric, each [U] or one number."""
    from llmrec.data.datasets import load_dataset
    from llmrec.data.split import leave_one_out
    from llmrec.eval.evaluate import evaluate, train_counts
    from llmrec.eval.lists import genre_matrix
    from llmrec.recommenders.itemknn import ItemKNN
    from llmrec.recommenders.popularity import Popularity

    interactions, catalog = load_dataset("ml-100k", notify=print)
    split = leave_one_out(interactions, catalog, dataset="ml-100k")
    counts, train = train_counts(split.train, len(catalog)), split.train
    genres = genre_matrix(catalog)
    assert genres is not None
    first = np.zeros(genres.shape)
    rows = np.flatnonzero(np.diff(genres.indptr))
    first[rows, genres.indices[genres.indptr[rows]]] = 1
    np.savez(
        folder / "data.npz",
        user=np.repeat(np.arange(len(train)), train.lengths),
        item=train.items,
        genres=genres.toarray(),
        first=first,
    )
    bits = np.log2(len(train.items) / len(train))
    found: dict[str, dict[str, np.ndarray]] = {}
    for recommender in (Popularity(), ItemKNN()):
        recommender.fit(split)
        recs = recommender.recommend(split.test.histories, max(KS), exclude_seen=True)
        np.save(folder / f"{recs.system}.npy", recs.items)
        arguments = (recs, split.test, counts, catalog, split.protocol, KS)
        full, single = evaluate(*arguments), evaluate(*arguments, features=first)
        values = found[recs.system] = {}
        for k in KS:
            values[f"popularity@{k}"] = full.per_user[f"popularity@{k}"]
            values[f"coverage@{k}"] = np.array([full.means[f"coverage@{k}"]])
            values[f"novelty@{k}"] = full.per_user[f"novelty@{k}"] - bits
            values[f"diversity, cosine@{k}"] = full.per_user[f"diversity@{k}"]
            values[f"diversity, Hamming@{k}"] = 2 * single.per_user[f"diversity@{k}"]
    return found


def theirs(folder: Path) -> None:
    """Write RecTools' values for the lists of ``folder`` beside them."""
    import pandas as pd
    from rectools import Columns
    from rectools.metrics import AvgRecPopularity, CatalogCoverage, IntraListDiversity, MeanInvUserFreq
    from rectools.metrics.distances import PairwiseDistanceCalculator, PairwiseHammingDistanceCalculator

    class Cosine(PairwiseDistanceCalculator):  # type: ignore[misc]
        def __init__(self, features: np.ndarray) -> None:
            self.unit = features / np.linalg.norm(features, axis=1, keepdims=True)

        def _get_distances_for_item_pairs(self, items_0: np.ndarray, items_1: np.ndarray) -> np.ndarray:
            return 1 - (self.unit[items_0] * self.unit[items_1]).sum(axis=1)

    def or_nan(features: np.ndarray) -> np.ndarray:
        return np.where(features.any(axis=1)[:, None], features, np.nan)

    warnings.filterwarnings("ignore", message="Some items has absent feature values")
    data = dict(np.load(folder / "data.npz"))
    train = pd.DataFrame({Columns.User: data["user"], Columns.Item: data["item"]})
    cosine = Cosine(or_nan(data["genres"]))
    hamming = PairwiseHammingDistanceCalculator(pd.DataFrame(or_nan(data["first"])))
    for path in folder.glob("*.npy"):
        items = np.load(path)
        user, place = np.nonzero(items >= 0)
        reco = pd.DataFrame({Columns.User: user, Columns.Item: items[user, place], Columns.Rank: place + 1})
        values = {}
        for k in KS:
            top = reco[reco[Columns.Rank] <= k]  # so that pairs are made for these only
            coverage = CatalogCoverage(k, normalize=True).calc(top, range(len(data["genres"])))
            values[f"popularity@{k}"] = AvgRecPopularity(k).calc_per_user(top, train)
            values[f"coverage@{k}"] = np.array([coverage])
            values[f"novelty@{k}"] = MeanInvUserFreq(k).calc_per_user(top, train)
            values[f"diversity, cosine@{k}"] = IntraListDiversity(k, cosine).calc_per_user(top)
            values[f"diversity, Hamming@{k}"] = IntraListDiversity(k, hamming).calc_per_user(top)
        np.savez(path.with_suffix(".theirs.npz"), **values)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peer-python", help="of an environment with RecTools")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        theirs(arguments.peer)
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: see the first lines of this file")

    from common import save

    with tempfile.TemporaryDirectory() as folder:
        found = ours(Path(folder))
        subprocess.run([arguments.peer_python, __file__, "--peer", folder], check=True)
        peers = {system: dict(np.load(Path(folder) / f"{system}.theirs.npz")) for system in found}
    version = "from importlib.metadata import version; print(version('rectools'))"
    command = [arguments.peer_python, "-c", version]
    differences = {
        system: {name: float(np.abs(v - peers[system][name]).max()) for name, v in values.items()}
        for system, values in found.items()
    }
    largest: dict[str, float] = {}
    for system, values in found.items():
        for name, value in values.items():
            print(
                f"{system:12} {name:24} ours {value.mean():10.5f}  RecTools {peers[system][name].mean():10.5f}  "
                f"largest difference {differences[system][name]:.1e}"
            )
            metric = name.partition("@")[0]
            largest[metric] = max(largest.get(metric, 0.0), differences[system][name])
    print("largest differences: " + ", ".join(f"{name} {value:.1e}" for name, value in largest.items()))
    save(
        "metrics_peers",
        {
            "rectools": subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(),
            "users": {system: len(values["popularity@5"]) for system, values in found.items()},
            "means": {s: {n: float(v.mean()) for n, v in values.items()} for s, values in found.items()},
            "largest_differences": largest,
            "differences": differences,
        },
    )


if __name__ == "__main__":
    main()
