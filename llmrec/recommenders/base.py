"""The protocol that every recommender follows, and the helper for those that score all items.

Shapes: U users, N items of the catalogue, K recommendations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.ranking import top_k

__all__ = ["Recommender", "ScoringRecommender"]


@runtime_checkable
class Recommender(Protocol):
    """A system under comparison.

    ``fit`` may look at ``split.train`` and, to choose among its own settings or epochs, at
    ``split.valid``; never at ``split.test``. ``recommend`` gets histories it has not necessarily seen.
    """

    name: str

    def fit(self, split: Split) -> None:
        """Learn from the training histories."""
        ...

    def recommend(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> Recommendations:
        """Return the ``k`` best items for each history, best first; equal scores by catalogue order."""
        ...


class ScoringRecommender(ABC):
    """A recommender that scores every item; subclasses write ``fit`` and ``score``."""

    name: str
    users_at_once: int = 1024  # users scored together: U x N float32 must fit in memory
    knows_cold_items: bool = False  # whether its scores say anything of items without training events
    pretrained: tuple[str, ...] = ()  # names of models that fit reads; a run notices when one changes
    spared_seconds_: float = (
        0.0  # work so far that was taken over from before and not done again; a cost all the same
    )

    @abstractmethod
    def fit(self, split: Split) -> None:
        """Learn from the training histories."""

    @abstractmethod
    def score(self, histories: Histories) -> NDArray[np.floating]:
        """Return a score for every item of the catalogue [U, N]; higher is better."""

    def recommend(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> Recommendations:
        """Return the ``k`` best items for each history, best first; equal scores by catalogue order."""
        items, scores = [], []
        for start in range(0, len(histories), self.users_at_once):
            batch = histories[start : start + self.users_at_once]
            matrix = np.array(self.score(batch), dtype=np.float64)  # [U, N]; a copy, since it is masked
            if exclude_seen:
                matrix[batch.owners, batch.items] = -np.inf
            best, values = top_k(matrix, k)
            items.append(best)
            scores.append(values)
        return Recommendations(self.name, histories.user_ids, np.concatenate(items), np.concatenate(scores))
