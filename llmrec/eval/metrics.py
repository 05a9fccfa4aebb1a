"""Ranking metrics: each is its definition plus ten lines.

With one target per user, the target's rank is all that a ranking metric needs, so :data:`RANK_METRICS`
map ranks [U] to values [U]. A metric is named ``"ndcg@10"``: a key of that dict, or the dotted path of a
function with the same signature, and the cutoff. Metrics of what is recommended, whether right or not, are
in :mod:`llmrec.eval.lists`.

Shapes: U users, K places of a list.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmrec.data.recommendations import Recommendations
from llmrec.errors import ConfigError, nearest

__all__ = [
    "RANK_METRICS",
    "average_precision",
    "hit_rate",
    "mrr",
    "ndcg",
    "parse_metric",
    "precision",
    "target_ranks",
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


def average_precision(ranks: Floats, k: int) -> Floats:
    """Return the average precision among the first ``k`` [U]; its mean over users is MAP@k.

    That is the mean, over a user's relevant items, of the precision at the place of each. With the one
    target as the only relevant item it is ``1 / rank``, so MAP@k and MRR@k are the same number.
    """
    return mrr(ranks, k)


def precision(ranks: Floats, k: int) -> Floats:
    """Return the share of the first ``k`` places that hold the target [U]: ``1 / k`` or 0, hit rate / k.

    Empty places of a short list count as places, as in trec_eval.
    """
    return hit_rate(ranks, k) / k


RANK_METRICS: dict[str, Callable[[Floats, int], Floats]] = {
    "hr": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
    "precision": precision,
}


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
        if not callable(found):
            raise ConfigError(
                f"Metric {name!r} is a {type(found).__name__}. Expected a function of ranks and k."
            )
        return found, int(cutoff)
    raise ConfigError(
        f"Metric {metric!r} is not known{nearest(metric, RANK_METRICS)}. Expected one of "
        f"{', '.join(RANK_METRICS)}, or the dotted path of a function of ranks and k."
    )


def _in_top(ranks: Floats, k: int) -> NDArray[np.bool_]:
    return np.asarray(ranks, dtype=np.float64) <= k  # False for NaN
