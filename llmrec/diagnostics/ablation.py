"""What lists lose when something is taken out of the histories they are made from.

The systems stay as they were fitted. So a loss says what a system *uses*; how well it would do had it been fitted without
order is another question (Klenitskiy et al., "Does it look sequential?", RecSys 2024, arXiv 2408.12008, who shuffle in
both ways, to see whether data sets have an order worth using).

Shapes: U users, K places of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.eval.metrics import parse_metric, target_ranks
from llmrec.eval.significance import Difference, holm, paired_difference

__all__ = [
    "CUTOFF",
    "METRICS",
    "Ask",
    "Measured",
    "Variant",
    "ablate",
    "corrected",
    "mean_overlap",
    "user_values",
]

CUTOFF = 10  # places of a list that count
METRICS = (f"ndcg@{CUTOFF}", f"hr@{CUTOFF}")


Ask = Callable[[Histories], Recommendations]
"""Makes lists of at least ``CUTOFF`` items, where the catalogue has as many."""


@dataclass(frozen=True)
class Measured:
    """What a system's lists are worth, and beside what."""

    system: str
    means: Mapping[str, float]  # of each of METRICS
    differences: Mapping[str, Difference]  # of each of METRICS; empty for what others are compared with


@dataclass(frozen=True)
class Variant(Measured):
    """How a system does on one kind of histories; differences are to the true ones."""

    histories: str
    overlap: (
        float  # mean share of the true histories' first CUTOFF items that are there still; NaN without any
    )


AnyMeasured = TypeVar("AnyMeasured", bound=Measured)


def ablate(
    system: str,
    recommend: Ask,
    true: Recommendations,
    users: Holdout,
    families: Mapping[str, Mapping[str, Histories]],
    seed: int,
) -> dict[str, list[Variant]]:
    """Measure a fitted system on the true histories and on changed ones.

    Parameters
    ----------
    recommend
        The system.
    true
        Its lists for the true histories.
    users
        The true histories, and what came next.
    families
        Changed histories of the same users, by the question that they answer and by name.
    seed
        Of the intervals and tests.

    Returns
    -------
    For each family its variants, the true histories first. p-values are Holm-corrected for the variants of the family.
    """
    found = {}
    for question, variants in families.items():
        rows = [
            _variant(system, name, true, recommend(histories), users, seed)
            for name, histories in variants.items()
        ]
        found[question] = [_variant(system, "true", true, true, users, seed), *corrected(rows)]
    return found


def _variant(
    system: str, name: str, true: Recommendations, changed: Recommendations, users: Holdout, seed: int
) -> Variant:
    before, after = user_values(true, users), user_values(changed, users)
    return Variant(
        system=system,
        histories=name,
        means={metric: float(values.mean()) for metric, values in after.items()},
        differences={}
        if changed is true
        else {metric: paired_difference(after[metric], before[metric], seed) for metric in METRICS},
        overlap=mean_overlap(true.items[:, :CUTOFF], changed.items[:, :CUTOFF]),
    )


def user_values(recs: Recommendations, users: Holdout) -> dict[str, NDArray[np.float64]]:
    """Return the value of each of METRICS for every user [U]."""
    ranks = target_ranks(recs, users.target_items)
    values = {}
    for name in METRICS:
        metric, cutoff = parse_metric(name)
        values[name] = metric(ranks, cutoff)
    return values


def corrected(rows: Sequence[AnyMeasured]) -> list[AnyMeasured]:
    """Return the rows with p-values that are Holm-corrected for all differences of a metric among them."""
    by_metric = {
        metric: holm({str(n): row.differences[metric].p for n, row in enumerate(rows) if row.differences})
        for metric in METRICS
    }
    return [
        replace(
            row,
            differences={
                metric: replace(difference, p_holm=by_metric[metric][str(n)])
                for metric, difference in row.differences.items()
            },
        )
        for n, row in enumerate(rows)
    ]


def mean_overlap(lists: NDArray[np.int32], others: NDArray[np.int32]) -> float:
    """Return the mean share of the items of ``lists`` [U, K] that ``others`` [U, K] have for the same user.

    Places do not count, empty ones (-1) neither; users without items are left out, and NaN if that is all of them.
    """
    made = lists >= 0
    asked = made.sum(axis=1)
    kept = ((lists[:, :, None] == others[:, None, :]).any(axis=2) & made).sum(axis=1)
    return float((kept[asked > 0] / asked[asked > 0]).mean()) if asked.any() else float("nan")
