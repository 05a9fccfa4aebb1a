"""How good a recommender that scores all items is on questions whose answers are known.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.data.histories import Holdout
from llmrec.recommenders.base import ScoringRecommender

__all__ = ["holdout_gains", "holdout_metrics", "listed_gains"]


def holdout_metrics(
    recommender: ScoringRecommender, holdout: Holdout, *, exclude_seen: bool, k: int = 10
) -> tuple[float, float]:
    """Return the mean HR@k and NDCG@k of a holdout, see :func:`holdout_gains`."""
    gain = holdout_gains(recommender, holdout, exclude_seen=exclude_seen, k=k)
    return float((gain > 0).mean()), float(gain.mean())


def holdout_gains(
    recommender: ScoringRecommender, holdout: Holdout, *, exclude_seen: bool, k: int = 10
) -> NDArray[np.float64]:
    """Return each user's NDCG@k [U], every item of the catalogue ranked.

    Equal scores rank by catalogue order and seen items not at all, as in
    :meth:`ScoringRecommender.recommend`; counting what is ahead of the target is cheaper than sorting.
    """
    gains = []
    for part in holdout.blocks(recommender.users_at_once):
        scores = torch.tensor(np.asarray(recommender.score(part.histories)))  # [U, N]; a copy, it is masked
        users, targets = torch.arange(len(part)), torch.from_numpy(part.target_items).long()
        if exclude_seen:
            owner = torch.from_numpy(part.histories.owners)
            scores[owner, torch.from_numpy(part.histories.items).long()] = -torch.inf
        own = scores[users, targets][:, None]  # [U, 1]
        # What is not behind is ahead, so that NaN scores rank last rather than first.
        behind = (scores < own).sum(dim=1)
        tied = scores == own
        behind += (tied & (torch.arange(scores.shape[1]) > targets[:, None])).sum(dim=1)
        rank = (scores.shape[1] - behind).numpy()  # [U] from 1
        found = (rank <= k) & np.isfinite(own[:, 0].numpy())
        gains.append(np.where(found, 1 / np.log2(rank + 1), 0.0))
    return np.concatenate(gains)


def listed_gains(items: NDArray[np.integer], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return each user's NDCG [U] by lists that are there already [U, k], for a recommender that makes nothing else."""
    gains = np.zeros(len(items))
    user, rank = np.nonzero(items == targets[:, None])
    gains[user] = 1 / np.log2(rank + 2)
    return gains
