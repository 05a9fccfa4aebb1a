"""How often a difference is called significant where there is none, and how often where there is one.

    python benchmarks/null_comparison.py        (about ten minutes)

Nulls, 200 comparisons each: one system against itself, trained again with another seed.

* simulated: users whose chance of a hit comes from a beta distribution; two independent draws of ranks.
* projection: PureSVD on a random subspace of ml-100k, whose seed draws the subspace.
* itemknn: ItemKNN on a random 90% of ml-100k's users, whose seed draws the users; 100 comparisons.
* sasrec: a small SASRec on ml-100k, five epochs; all pairs of 10 trainings, since each takes a while.

A test over users at 5% rejects 5% of them as far as luck is each user's own. A training that is better or
worse for all users at once is a real difference between two models, if not between two systems, and is found
as one. Differences of a known size, to see that it rejects more where it should: simulated hits made more
frequent, and true next items put first for a share of the users of a projection.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from common import save
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from llmrec.data.datasets import load_dataset
from llmrec.data.histories import Histories
from llmrec.data.split import Split, leave_one_out
from llmrec.eval.metrics import ndcg, target_ranks
from llmrec.eval.significance import paired_difference
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.sasrec import SASRec

K = 10
USERS = 943  # of a simulated case: as many as ml-100k has
RESAMPLES = 2000  # the test keeps its level with any number
Floats = NDArray[np.float64]


class Projection(ScoringRecommender):
    """PureSVD (Cremonesi et al. 2010) with the subspace of one random projection in place of the leading one."""

    def __init__(self, seed: int, rank: int = 48) -> None:
        self.name, self.seed, self.rank = "projection", seed, rank
        self._basis = np.empty((0, 0))  # [N, rank]

    def fit(self, split: Split) -> None:
        """Draw the subspace."""
        seen = self._seen(split.train, split.n_items)  # [U, N]
        start = np.random.default_rng(self.seed).standard_normal((split.n_items, self.rank))
        self._basis = np.linalg.qr(seen.T @ (seen @ start))[0]

    def score(self, histories: Histories) -> Floats:
        """Return the histories projected onto the subspace [U, N]."""
        return (self._seen(histories, len(self._basis)) @ self._basis) @ self._basis.T

    @staticmethod
    def _seen(histories: Histories, n_items: int) -> Floats:
        seen = np.zeros((len(histories), n_items))
        seen[np.repeat(np.arange(len(histories)), histories.lengths), histories.items] = 1
        return seen


def simulated(rng: np.random.Generator, chance: Floats) -> Floats:
    """Return NDCG@10 of users who are hit with these chances, low ranks more often than high ones."""
    weights = 1 / np.arange(1, K + 1)
    rank = rng.choice(np.arange(1.0, K + 1), p=weights / weights.sum(), size=len(chance))
    return ndcg(np.where(rng.random(len(chance)) < chance, rank, np.nan), K)


def values(recommender: ScoringRecommender, split: Split) -> Floats:
    """Fit, recommend to the test users and return their NDCG@10."""
    recommender.fit(split)
    recs = recommender.recommend(split.test.histories, K)
    return ndcg(target_ranks(recs, split.test.target_items), K)


def some_users(split: Split, seed: int) -> Split:
    """Return the split with a random 90% of the training histories."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(split.train))[: int(0.9 * len(split.train))])
    return Split(split.train[rows], split.valid, split.test, split.protocol)


def rejected(
    name: str, pairs: Iterable[tuple[Floats, Floats]], *, independent: bool = True
) -> dict[str, Any]:
    """Compare the two sides of each pair and return how often each criterion finds a difference."""
    found = [paired_difference(a, b, seed, resamples=RESAMPLES) for seed, (a, b) in enumerate(pairs)]
    row: dict[str, Any] = {
        "case": name,
        "comparisons": len(found),
        "mean_difference": float(np.mean([d.mean for d in found])),
        "sd_of_differences": float(np.std([d.mean for d in found], ddof=1)),
    }
    for criterion, hits in {
        "p_below_.05": sum(d.p < 0.05 for d in found),
        "interval_without_0": sum(d.low > 0 or d.high < 0 for d in found),
        "shown": sum(d.shown() for d in found),
    }.items():
        row[criterion] = hits / len(found)
        if independent:
            ci = binomtest(hits, len(found)).proportion_ci(method="exact")
            row[f"{criterion}_interval"] = [ci.low, ci.high]
    low, high = row.get("shown_interval", (None, None))
    print(
        f"{name:46} p < .05 {row['p_below_.05']:6.1%}   interval {row['interval_without_0']:6.1%}   "
        f"shown {row['shown']:6.1%}" + (f"   ({low:.1%} to {high:.1%})" if low is not None else ""),
        flush=True,
    )
    return row


def nulls(split: Split, projections: list[Floats], cases: int, trainings: int) -> list[dict[str, Any]]:
    """Compare systems with themselves."""
    rng = np.random.default_rng(0)
    chances = [rng.beta(0.4, 1.5, USERS) for _ in range(cases)]
    rows = [
        rejected("simulated", [(simulated(rng, c), simulated(rng, c)) for c in chances]),
        rejected(
            "simulated, mean of 3 seeds a side",
            [
                tuple(np.mean([simulated(rng, c) for _ in range(3)], axis=0) for _ in range(2))  # type: ignore[misc]
                for c in chances
            ],
        ),
    ]
    rows.append(rejected("projection", zip(projections[:cases], projections[cases:], strict=True)))
    half = cases // 2
    knn = [values(ItemKNN(), some_users(split, seed)) for seed in range(2 * half)]
    rows.append(rejected("itemknn", zip(knn[:half], knn[half:], strict=True)))
    if trainings:
        trained = [
            values(SASRec(seed=seed, dim=32, layers=1, max_len=32, max_epochs=5, device="cpu"), split)
            for seed in range(trainings)
        ]
        pairs = list(itertools.combinations(trained, 2))
        rows.append(rejected(f"sasrec, all pairs of {trainings} trainings", pairs, independent=False))
    return rows


def differences(projections: list[Floats], cases: int) -> list[dict[str, Any]]:
    """Compare systems that differ by a known size."""
    rng = np.random.default_rng(1)
    rows = []
    for lift in (0.1, 0.2, 0.3, 0.5):
        pairs = []
        for _ in range(cases):
            chance = rng.beta(0.4, 1.5, USERS)
            pairs.append((simulated(rng, np.minimum(chance * (1 + lift), 1)), simulated(rng, chance)))
        row = rejected(f"simulated, hits {lift:.0%} more frequent", pairs)
        # What a normal approximation promises for this size and this spread.
        size = row["mean_difference"] / row["sd_of_differences"]
        row["expected"] = float(norm.sf(1.96 - size) + norm.cdf(-1.96 - size))
        rows.append(row)
    for share in (0.01, 0.02, 0.04):
        pairs = []
        for case in range(cases):
            base, other = projections[case], projections[cases + case]
            better = np.where(rng.random(len(base)) < share, 1.0, other)
            pairs.append((better, base))
        rows.append(rejected(f"projection, next item first for {share:.0%} of users", pairs))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=200, help="comparisons of each kind")
    parser.add_argument("--trainings", type=int, default=10, help="of SASRec; 0 leaves it out")
    arguments = parser.parse_args()
    split = leave_one_out(*load_dataset("ml-100k", notify=print), dataset="ml-100k")
    projections = [values(Projection(seed), split) for seed in range(2 * arguments.cases)]
    results = {
        "protocol": split.protocol.to_dict(),
        "nulls": nulls(split, projections, arguments.cases, arguments.trainings),
        "differences": differences(projections, arguments.cases),
    }
    save("null_comparison", results)


if __name__ == "__main__":
    main()
