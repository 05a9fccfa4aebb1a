"""A first-order Markov chain over items: what usually follows.

Shapes: U users, N items of the catalogue, E events.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.matrices import recency_matrix

__all__ = ["Markov"]


class Markov(ScoringRecommender):
    r"""Estimates the probability of the next item from the transitions in the training histories.

    With :math:`c_{ij}` the number of times that *j* directly follows *i* in a training history,
    :math:`c_i = \sum_j c_{ij}`, and :math:`p_j` the share of *j* among all training events (one more event of each item
    is assumed, so that no probability is 0),

    .. math:: P(j \mid i) = \frac{c_{ij} + \text{shrink} \cdot p_j}{c_i + \text{shrink}}

    is the posterior mean under a Dirichlet prior of ``shrink`` transitions that follow popularity: what was seen rarely,
    or never, backs off to popularity, and every list can be filled. The score of *j* is :math:`\log P(j \mid h)`,
    with :math:`P(j \mid h)` the mean of :math:`P(j \mid i)` over the items of the history, weighted by
    :math:`\text{decay}^{\,\text{age}(i)}`, where the newest event has age 0, the one before age 1, and so on. An empty
    history gets popularity.

    Parameters
    ----------
    shrink
        Transitions that popularity counts for. Below 1 a single transition beats it; more of them favour popular items.
    decay
        Weight of an event relative to the next newer one, 0 or more and below 1. 0 looks at the newest event alone, the
        first-order chain proper; above it each of the last few events predicts the next one by itself. That
        helps where their order is not known, as it is not for equal timestamps.
    name
        The name under which its recommendations are stored.
    """

    # Defaults: the best validation NDCG@10 on ml-100k of shrink 1-300 x decay 0-0.9: .1033, where decay 0 has .0748
    # (half of all neighbouring events there have the same timestamp, so which one came last is often unknown).
    def __init__(self, *, shrink: float = 30.0, decay: float = 0.8, name: str = "markov") -> None:
        problems = []
        if not shrink > 0:
            problems.append(f"shrink={shrink}; expected a positive number of transitions")
        if not 0 <= decay < 1:
            problems.append(
                f"decay={decay}; expected a weight of 0 or more and below 1 (0 is the newest event)"
            )
        if problems:
            raise ConfigError("Markov got " + ", and ".join(problems) + ".")
        self.name = name
        self.shrink = shrink
        self.decay = decay
        self._prior: NDArray[np.float64] = np.empty(0)  # [N] p
        self._followers = sparse.csr_array((0, 0))  # [N, N] c_ij / (c_i + shrink)
        self._backoff: NDArray[np.float64] = np.empty(0)  # [N] shrink / (c_i + shrink)

    def fit(self, split: Split) -> None:
        """Count events and transitions."""
        train, n = split.train, split.n_items
        counts = np.bincount(train.items, minlength=n) + 1.0
        self._prior = counts / counts.sum()
        same_user = np.ones(max(0, len(train.items) - 1), dtype=bool)
        starts = train.indptr[1:-1]  # of all users but the first
        same_user[starts[(starts > 0) & (starts < len(train.items))] - 1] = False
        pairs = train.items[:-1][same_user], train.items[1:][same_user]
        # Pairs that occur several times are summed.
        transitions = sparse.csr_array((np.ones(len(pairs[0])), pairs), shape=(n, n))
        self._backoff = self.shrink / (transitions.sum(axis=1) + self.shrink)
        self._followers = sparse.diags_array(self._backoff / self.shrink) @ transitions

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the log-probability of every item as the next event [U, N]."""
        weights = recency_matrix(histories, len(self._prior), self.decay)
        total = weights.sum(axis=1)  # [U]
        seen = (weights @ self._followers).toarray()  # [U, N]
        # What the transitions leave over goes to popularity: all of it where there is no event.
        rest = np.where(total > 0, weights @ self._backoff, 1.0)
        probability = (seen + rest[:, None] * self._prior) / np.where(total > 0, total, 1.0)[:, None]
        return np.asarray(np.log(probability))
