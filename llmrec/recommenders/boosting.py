"""Trees that move candidates up and down from where they are, by LambdaMART, and how many of them are worth having.

Shapes: R candidates of all users together, Q users, F features, T rounds of trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates", "ndcg_of_candidates", "staged", "train"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of some users."""

    users: NDArray[np.int64]  # [R] ascending, 0 to Q - 1
    features: NDArray[np.float32]  # [R, F]
    is_target: NDArray[np.bool_]  # [R] at most one per user
    n_users: int  # Q, those without candidates included

    def of(self, users: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which candidates are of some users [R], given which users these are [Q]."""
        rows: NDArray[np.bool_] = users[self.users]
        return rows


def train(
    given: Candidates,
    rows: NDArray[np.bool_],
    start: NDArray[np.float64],
    trees: int,
    *,
    increasing: Sequence[int],
    settings: dict[str, Any],
    seed: int,
) -> Any:
    """Return a booster whose trees add to the scores that candidates have.

    Parameters
    ----------
    rows
        The candidates that are learned from [R]. Users without a target among them teach nothing and are left out.
    start
        The scores that candidates have [R].
    trees
        How many.
    increasing
        1 for features of which more can only be better, else 0 [F].
    settings
        Of LightGBM.
    """
    import lightgbm

    has_target = np.bincount(given.users[given.is_target & rows], minlength=given.n_users) > 0
    rows = rows & given.of(has_target)
    if not rows.any():
        return None
    groups = np.bincount(given.users[rows], minlength=given.n_users)
    data = lightgbm.Dataset(
        given.features[rows],
        label=given.is_target[rows].astype(np.float64),
        group=groups[groups > 0],
        init_score=start[rows],
        free_raw_data=True,
    )
    fixed = {
        "objective": "lambdarank",
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # sums of floats in another order would be other trees
        "seed": seed,
        "monotone_constraints": list(increasing),
        "verbosity": -1,
    }
    return lightgbm.train(fixed | settings, data, num_boost_round=trees)


def staged(
    booster: Any, features: NDArray[np.float32], start: NDArray[np.float64], trees: int, step: int
) -> list[NDArray[np.float64]]:
    """Return the candidates' scores [R] after 0, ``step``, 2 ``step`` ... trees."""
    scores = [start]
    for first in range(0, trees, step):
        more = np.zeros(len(start))
        if booster is not None and len(features):
            more = booster.predict(features, raw_score=True, start_iteration=first, num_iteration=step)
        scores.append(scores[-1] + more)
    return scores


def ndcg_of_candidates(given: Candidates, scores: NDArray[np.float64], k: int = 10) -> NDArray[np.float64]:
    """Return each user's NDCG@k [Q] when candidates are ranked by score [R], equal ones in their order; 0 without a target."""
    own = np.full(given.n_users, np.inf)
    own[given.users[given.is_target]] = scores[given.is_target]
    place = np.full(given.n_users, -1)
    place[given.users[given.is_target]] = np.flatnonzero(given.is_target)
    before = np.arange(len(scores)) < place[given.users]
    ahead = (scores > own[given.users]) | ((scores == own[given.users]) & before)
    rank = 1 + np.bincount(given.users, weights=ahead, minlength=given.n_users)
    return np.where((place >= 0) & (rank <= k), 1 / np.log2(rank + 1), 0.0)
