"""The report's table about the kind of items that systems recommend: its columns, their form and their legend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llmrec.eval import words
from llmrec.eval.compare import Comparison
from llmrec.eval.lists import LIST_METRICS

__all__ = ["ItemColumn", "item_columns"]


@dataclass(frozen=True)
class ItemColumn:
    """One column; a heading is the metric, a cell is ``form`` of its mean."""

    metric: str  # such as "novelty@10"
    form: Callable[[float], str]
    about: str  # what it means, for the legend

    @property
    def term(self) -> str:
        """The metric's name without its cutoff, as it is printed."""
        return words.metric_term(self.metric.partition("@")[0])


_ABOUT = {
    "coverage": "share of the catalogue that at least one of these users gets among the first k.",
    "gini": "how unevenly the k places are spread over the catalogue: 0 means all items equally often, close to 1 "
    "means a few items take all places.",
    "popularity": "training events that a recommended item has, on average over each list and then over users.",
    "novelty": "how surprising a recommended item is: -log2 of its share of all training events, in bits, averaged "
    "likewise. An item without training events counts as if it had one.",
    "diversity": "how much the items of one list differ in genre: the mean of 1 - cosine over all pairs. 0 means that all "
    "have the same genres, 1 that no two share one.",
    "miscalibration": "how far the genres of a list are from those of the user's history (Kullback-Leibler divergence, in "
    "nats): 0 means the same shares, 4.6 nothing in common.",
}
_FORMS: dict[str, Callable[[float], str]] = {
    "coverage": partial(words.percent, digits=1),
    "gini": partial(words.number, digits=3),
    "popularity": partial(words.number, digits=1),
    "novelty": partial(words.number, digits=2),
    "diversity": partial(words.number, digits=3),
    "miscalibration": partial(words.number, digits=3),
}


def item_columns(comparison: Comparison, k: int) -> list[ItemColumn]:
    """Return the columns at cutoff ``k``, without those that are undefined for every system.

    Without genres in the catalogue there are no diversity and no miscalibration, for example.
    """
    metrics = {name: f"{name}@{k}" for name in LIST_METRICS}
    return [
        ItemColumn(metric, _FORMS[name], _ABOUT[name])
        for name, metric in metrics.items()
        if any(not math.isnan(e.means.get(metric, math.nan)) for e in comparison.evaluations)
    ]
