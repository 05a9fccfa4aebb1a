"""Metrics: each is its definition plus ten lines.

With one target per user, the target's rank is all that a ranking metric needs, so :data:`RANK_METRICS`
map ranks [U] to values [U]. Metrics of what is recommended, whether right or not, are in
:data:`LIST_METRICS`; they map whole lists to one number. A metric is named ``"ndcg@10"``: a key of one of
these dicts, or the dotted path of a function with the same signature, and the cutoff.

Shapes: U users, K places of a list, N items of the catalogue, E events of all histories.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.errors import ConfigError, nearest

__all__ = [
    "LIST_METRICS",
    "METRICS",
    "RANK_METRICS",
    "catalogue_coverage",
    "duplicate_rate",
    "filled_rate",
    "gini",
    "hit_rate",
    "mean_popularity",
    "mrr",
    "ndcg",
    "parse_metric",
    "seen_rate",
    "target_ranks",
    "validity_rate",
]

Floats = NDArray[np.float64]
Items = NDArray[np.int32]


def target_ranks(recs: Recommendations, target_items: Items) -> Floats:
    """Return the rank of each user's target in that user's list [U]; 1 is best, NaN is not in the list.

    A list's order is the ranking: scores are not looked at, so ties are broken as the system did. An item
    that occurs twice counts at its first place.
    """
    found = recs.items == np.asarray(target_items)[:, None]  # [U, K]
    if found.shape[1] == 0:
        return np.full(len(recs), np.nan)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.nan)


def hit_rate(ranks: Floats, k: int) -> Floats:
    """Return 1 where the target is among the first ``k``, else 0 [U]: recall@k with one target."""
    return (_in_top(ranks, k)).astype(np.float64)


def ndcg(ranks: Floats, k: int) -> Floats:
    """Return ``1 / log2(1 + rank)`` where the target is among the first ``k``, else 0 [U].

    Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002. The ideal list
    has the one target first, whose gain is 1, so the normalising constant is 1.
    """
    hit = _in_top(ranks, k)
    return np.where(hit, 1.0 / np.log2(1.0 + np.where(hit, ranks, 1.0)), 0.0)


def mrr(ranks: Floats, k: int) -> Floats:
    """Return ``1 / rank`` where the target is among the first ``k``, else 0 [U]."""
    hit = _in_top(ranks, k)
    return np.where(hit, 1.0 / np.where(hit, ranks, 1.0), 0.0)


def catalogue_coverage(items: Items, k: int, train_counts: NDArray[np.integer]) -> float:
    """Return the share of the N items that at least one user gets among the first ``k``.

    NaN for an empty catalogue. Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy", RecSys 2010.
    """
    return float((_exposure(items, k, len(train_counts)) > 0).mean()) if len(train_counts) else np.nan


def gini(items: Items, k: int, train_counts: NDArray[np.integer]) -> float:
    """Return the Gini index of how often each of the N items is recommended among the first ``k``.

    0: all equally often; close to 1: a few items take all places. Items never recommended count. NaN if
    nothing is recommended. With exposures sorted upwards, ``sum((2 i - N - 1) x_i) / (N sum(x))``; Fleder
    and Hosanagar, "Blockbuster culture's next rise or fall", Management Science 2009.
    """
    exposure = np.sort(_exposure(items, k, len(train_counts)))
    if exposure.sum() == 0:
        return np.nan
    n = len(exposure)
    return float(np.dot(2.0 * np.arange(1, n + 1) - n - 1, exposure) / (n * exposure.sum()))


def mean_popularity(items: Items, k: int, train_counts: NDArray[np.integer]) -> float:
    """Return the mean number of training events of the items among the first ``k``; NaN if there are none."""
    top = items[:, :k]
    held = top[_valid(top, len(train_counts))]
    return float(train_counts[held].mean()) if len(held) else np.nan


def validity_rate(items: Items, n_items: int) -> float:
    """Return the share of recommendations that are items of the catalogue; NaN without recommendations.

    An empty place (``-1``) is no recommendation; any other number outside 0 to N-1 is an invalid one.
    """
    made = items != -1
    return float(_valid(items, n_items)[made].mean()) if made.any() else np.nan


def duplicate_rate(items: Items) -> float:
    """Return the share of recommendations that the same list already holds; NaN without recommendations."""
    ordered = np.sort(items, axis=1)
    made = int((items != -1).sum())
    repeats = int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)).sum())
    return repeats / made if made else np.nan


def seen_rate(items: Items, histories: Histories, n_items: int) -> float:
    """Return the share of recommendations that are in the user's own history; NaN without any."""
    made = int((items != -1).sum())
    if not made:
        return np.nan
    user = np.repeat(np.arange(len(histories), dtype=np.int64), histories.lengths)  # [E]
    owned = np.unique(user * n_items + histories.items)
    row, column = np.nonzero(_valid(items, n_items))
    asked = row.astype(np.int64) * n_items + items[row, column]
    place = np.minimum(np.searchsorted(owned, asked), max(len(owned) - 1, 0))
    return float((owned[place] == asked).sum()) / made if len(owned) else 0.0


def filled_rate(items: Items, expected: NDArray[np.integer]) -> float:
    """Return the share of the places that could be filled (``expected`` [U]) that are; NaN if none could."""
    possible = int(np.minimum(expected, items.shape[1]).sum())
    return float(np.minimum((items != -1).sum(axis=1), expected).sum()) / possible if possible else np.nan


RANK_METRICS: dict[str, Callable[[Floats, int], Floats]] = {"hr": hit_rate, "ndcg": ndcg, "mrr": mrr}
LIST_METRICS: dict[str, Callable[[Items, int, NDArray[np.integer]], float]] = {
    "coverage": catalogue_coverage,
    "gini": gini,
    "popularity": mean_popularity,
}
METRICS: dict[str, Callable[..., Floats | float]] = {**RANK_METRICS, **LIST_METRICS}


def parse_metric(name: str) -> tuple[Callable[[Floats, int], Floats], int]:
    """Return the function and the cutoff of a ranking metric's name, for example ``"ndcg@10"``.

    Raises
    ------
    ConfigError
        The name is not ``metric@k``, the metric is unknown, or ``k`` is not a positive whole number.
    """
    metric, _, cutoff = name.partition("@")
    if not cutoff.isdecimal() or int(cutoff) == 0:
        raise ConfigError(
            f"Metric {name!r} has no cutoff. Expected a name, '@' and a number from 1, for example 'ndcg@10'."
        )
    if metric in RANK_METRICS:
        return RANK_METRICS[metric], int(cutoff)
    if "." in metric:
        module, _, function = metric.rpartition(".")
        try:
            found: Callable[[Floats, int], Floats] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"Metric {name!r} cannot be imported: {error}.") from None
        return found, int(cutoff)
    raise ConfigError(
        f"Metric {metric!r} is not known{nearest(metric, RANK_METRICS)}. Expected one of "
        f"{', '.join(RANK_METRICS)}, or the dotted path of a function of ranks and k."
    )


def _in_top(ranks: Floats, k: int) -> NDArray[np.bool_]:
    return np.nan_to_num(np.asarray(ranks, dtype=np.float64), nan=np.inf) <= k


def _valid(items: Items, n_items: int) -> NDArray[np.bool_]:
    return (items >= 0) & (items < n_items)


def _exposure(items: Items, k: int, n_items: int) -> NDArray[np.int64]:
    """Return how many of the users get each item among the first ``k`` [N]."""
    top = items[:, :k]
    return np.bincount(top[_valid(top, n_items)], minlength=n_items)
