"""A recommender to tune, and a split whose test cannot be read."""

from __future__ import annotations

import dataclasses

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


def blind(split: Split) -> Split:
    """Return a split that raises if its test is read."""

    class Blind(Split):
        def __getattribute__(self, name):
            if name == "test":
                raise AssertionError("the test holdout was read")
            return super().__getattribute__(name)

    parts = {f.name: getattr(split, f.name) for f in dataclasses.fields(split)}
    return Blind(**parts)
