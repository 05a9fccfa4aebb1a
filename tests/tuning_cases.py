"""A recommender to tune."""

from __future__ import annotations

import numpy as np

from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender


class Blend(ScoringRecommender):
    """Popularity times ``weight``; fails, or scores nonsense, where it is told to."""

    def __init__(self, *, weight: float = 1.0, trouble: str = "none", name: str = "blend") -> None:
        self.name, self.weight, self.trouble = name, weight, trouble

    def fit(self, split: Split) -> None:
        if self.trouble == "config":
            raise ConfigError("Blend diverged: lower the weight.")
        if self.trouble == "memory":
            raise MemoryError
        self.counts = np.bincount(split.train.items, minlength=split.n_items)

    def score(self, histories):
        return np.broadcast_to(self.weight * self.counts, (len(histories), len(self.counts)))
