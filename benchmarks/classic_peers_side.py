"""The peers' side of ``classic_peers.py``; runs in an environment with rectools and implicit, without llmrec."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path

import implicit
import numpy as np
import pandas as pd
import rectools
from implicit.nearest_neighbours import CosineRecommender
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel
from scipy import sparse


def ease(seen: sparse.csr_matrix, reg: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return RecTools' weights [N, N] and its own lists [U, k]."""
    users, items = seen.nonzero()
    log = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    log[Columns.Datetime] = pd.Timestamp(0)
    dataset = Dataset.construct(log)
    model = EASEModel(regularization=reg, recommend_n_threads=1)
    model.fit(dataset)
    # RecTools numbers items as they come; those without an event have no number and no weight.
    known = dataset.item_id_map.get_external_sorted_by_internal()
    weights = np.zeros((seen.shape[1], seen.shape[1]), dtype=model.weight.dtype)
    weights[np.ix_(known, known)] = model.weight
    asked = np.arange(seen.shape[0])
    recs = model.recommend(asked, dataset, k=k, filter_viewed=True)
    lists = recs.sort_values([Columns.User, Columns.Rank])[Columns.Item].to_numpy().reshape(-1, k)
    return weights, lists


def cosine(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """Return implicit's similarities of the columns, the ``k`` best of each row."""
    model = CosineRecommender(K=k, num_threads=1)
    # Columns without an entry divide by 0 in implicit; they have no similarity in the end.
    with np.errstate(invalid="ignore"):
        model.fit(matrix, show_progress=False)
    return model.similarity.tocsr()


def without_self(similarity: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return similarities to others only."""
    return similarity - sparse.diags(similarity.diagonal())


def main() -> None:
    """Read the matrix, write what the peers make of it."""
    folder, reg, k, neighbours = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    seen = sparse.csr_matrix(sparse.load_npz(folder / "seen.npz"))
    weights, ease_lists = ease(seen, reg, k)
    every = cosine(seen, seen.shape[1])
    # One more, for the item itself.
    best = cosine(seen, neighbours + 1)
    users = cosine(seen.T.tocsr(), seen.shape[0])
    versions = {d.name: d.version for d in distributions()}
    np.savez(
        folder / "peers.npz",
        ease_scores=seen @ weights,
        ease_transposed=seen @ weights.T,
        ease_lists=ease_lists,
        itemknn_scores=(seen @ every.T).toarray(),
        itemknn_best=-np.sort(-without_self(best).toarray(), axis=1)[:, :neighbours],
        userknn_scores=(without_self(users) @ seen).toarray(),
        versions=[rectools.__version__, implicit.__version__, versions["numpy"]],
    )


if __name__ == "__main__":
    main()
