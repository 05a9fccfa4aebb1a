"""EASE and the nearest neighbours, number for number beside RecTools and implicit.

    python3 -m venv ENV && ENV/bin/pip install rectools==0.19.0     (brings a build of implicit; no torch)
    python benchmarks/classic_peers.py --peer-python ENV/bin/python [--data FOLDER/ml-1m]        (about a minute)

Both sides fit the training histories of the same leave-one-out split and score all items for the same histories. The peers
run in their own environment (``classic_peers_side.py``) and get nothing but the matrix of who saw what.

EASE        the weights of RecTools' ``EASEModel(regularization=500)`` in float32, ours ``EASE(reg=500, decay=1)`` in float64.
            RecTools 0.19 itself ranks by ``x W^T`` where Steck's equation 1 has ``x W`` (W is not symmetric; Cornac had the same
            until its pull request 660), so its own lists are compared with both, and by validation NDCG@10
ItemKNN     implicit ``CosineRecommender``, ours ``ItemKNN(shrink=0, decay=1)``. implicit keeps the K most similar items of
            each item of the history, the item itself among them, ours those of each candidate, itself not among them;
            so scores are compared with all neighbours, where both are the same sum (an item's own similarity only
            reaches items that were seen), and with 200 neighbours the similarities themselves
UserKNN     implicit's ``CosineRecommender`` on the transposed matrix, ours ``UserKNN(shrink=0, decay=1)``, all neighbours

For each: the largest difference of a score of an item that was not seen, the share of users whose top 10 is the same list,
and for lists that differ the largest gap, in our scores, between items that changed places (0 is a tie). Kept in
results/classic_peers_NAME.json.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import load_split, save
from scipy import sparse

from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.eval.metrics import ndcg, target_ranks
from llmrec.ranking import top_k
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.matrices import recency_matrix
from llmrec.recommenders.userknn import UserKNN

K = 10
REG = 500.0
NEIGHBOURS = 200


def only_new(scores: np.ndarray, split: Split) -> np.ndarray:
    """Return scores [U, N] with the items of the training histories at -inf."""
    scores = np.array(scores, dtype=np.float64)
    scores[np.repeat(np.arange(len(split.train)), split.train.lengths), split.train.items] = -np.inf
    return scores


def rectools_lists(
    scores: np.ndarray, transposed: np.ndarray, lists: np.ndarray, split: Split
) -> dict[str, Any]:
    """Say which scores RecTools' own lists [U, K] are made from, and what that costs."""
    asked = split.valid.histories
    assert asked.user_ids == split.train.user_ids  # what they are asked is the training history
    ways = {
        "x W": top_k(only_new(scores, split), K)[0],
        "x W^T": top_k(only_new(transposed, split), K)[0],
        "RecTools itself": lists,
    }
    found = {}
    for way, made in ways.items():
        ranks = target_ranks(Recommendations(way, asked.user_ids, made, -made), split.valid.target_items)
        found[way] = {
            f"validation NDCG@{K}": float(ndcg(ranks, K).mean()),
            "share of lists that are RecTools' own": float((made == lists).all(axis=1).mean()),
        }
    print("EASE in RecTools", found, flush=True)
    return found


def compare(ours: ScoringRecommender, scores: np.ndarray, split: Split) -> dict[str, Any]:
    """Compare with a peer's scores [U, N]."""
    ours.fit(split)
    asked = split.train
    mine, theirs = only_new(ours.score(asked), split), only_new(scores, split)
    new = np.isfinite(mine)
    difference = np.abs(mine[new] - theirs[new]).max()
    my_lists, their_lists = top_k(mine, K)[0], top_k(theirs, K)[0]
    changed = my_lists != their_lists
    rows = np.arange(len(asked))[:, None]
    gaps = np.abs(mine[rows, my_lists] - mine[rows, their_lists])[changed]
    found = {
        "largest difference of a score": float(difference),
        "largest score": float(mine.max()),
        f"share of equal top-{K} lists": float((~changed.any(axis=1)).mean()),
        "largest gap between items that changed places": float(gaps.max(initial=0.0)),
    }
    print(ours.name, found, flush=True)
    return found


def main() -> None:
    """Compare and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="of an environment with rectools and implicit")
    parser.add_argument("--data", type=Path, help="folder with interactions.parquet and items.parquet")
    arguments = parser.parse_args()
    split = load_split(arguments.data)
    seen = recency_matrix(split.train, split.n_items)
    side = Path(__file__).with_name("classic_peers_side.py")
    with tempfile.TemporaryDirectory() as folder:
        sparse.save_npz(Path(folder) / "seen.npz", seen)
        command = [
            arguments.peer_python,
            "-W",
            "ignore",
            str(side),
            folder,
            str(REG),
            str(K),
            str(NEIGHBOURS),
        ]
        subprocess.run(command, check=True)
        with np.load(Path(folder) / "peers.npz") as file:
            peers = dict(file)

    found: dict[str, Any] = {
        "EASE": compare(EASE(reg=REG, decay=1.0), peers["ease_scores"], split),
        "EASE in RecTools": rectools_lists(
            peers["ease_scores"], peers["ease_transposed"], peers["ease_lists"], split
        ),
        "ItemKNN": compare(
            ItemKNN(neighbours=split.n_items, shrink=0, decay=1.0), peers["itemknn_scores"], split
        ),
        "UserKNN": compare(
            UserKNN(neighbours=len(split.train), shrink=0, decay=1.0), peers["userknn_scores"], split
        ),
    }
    knn = ItemKNN(neighbours=NEIGHBOURS, shrink=0, decay=1.0)
    knn.fit(split)
    mine = -np.sort(-knn._similarity.toarray(), axis=1)[:, :NEIGHBOURS]
    found["ItemKNN"][f"largest difference of the {NEIGHBOURS} best similarities"] = float(
        np.abs(mine - peers["itemknn_best"]).max()
    )
    versions = dict(zip(("rectools", "implicit", "numpy"), peers["versions"].tolist(), strict=True))
    print(found["ItemKNN"], versions)
    name = split.protocol.dataset
    save(
        f"classic_peers_{name}", {"protocol": split.protocol.to_dict(), "peers": versions, "compared": found}
    )


if __name__ == "__main__":
    main()
