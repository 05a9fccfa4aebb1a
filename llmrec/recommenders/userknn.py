"""UserKNN: recommend what the users with the most similar histories have seen.

Shapes: U users asked about, T users of the training histories, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.matrices import best_of_rows, decay_problems, recency_matrix

__all__ = ["UserKNN"]

SIMILARITIES_AT_ONCE = 2**24  # 128 MiB of float64: users asked about x training users held densely


class UserKNN(ScoringRecommender):
    r"""User-based nearest neighbours (Resnick et al. 1994, in the form of Dacrema et al. 2019, section 3).

    With :math:`w_i = \text{decay}^{\,\text{age}(i)}` the weights of the items of the history that is asked about (the
    newest event has age 0, the one before age 1, and so on) and :math:`X_v` the set of items that training user *v* has
    seen, the similarity of the two is

    .. math:: s_v = \frac{\sum_{i \in X_v} w_i}{\lVert w \rVert \sqrt{|X_v|} + \text{shrink}}

    and item *i* scores the sum of :math:`s_v` over those of the nearest ``neighbours`` training users who have seen it.

    Whose history it is does not matter but for one thing: a user is no neighbour of their own, found by the user id.
    The own row knows nothing about items that the user has not seen.

    Parameters
    ----------
    neighbours
        Training users that a list is made from. More of them favour popular items.
    shrink
        Added to the denominator, in units of items: distrusts similarities that rest on short histories.
    decay
        Weight of an event relative to the next newer one, above 0 and at most 1. 1 ignores the order of the history;
        lower values look for users who share its last few events.
    name
        The name under which its recommendations are stored.
    """

    # Defaults: the best validation NDCG@10 on ml-100k of 10-400 neighbours x shrink 0-20 x decay 0.75-1.
    def __init__(
        self, *, neighbours: int = 30, shrink: float = 5.0, decay: float = 0.8, name: str = "userknn"
    ) -> None:
        problems = []
        if neighbours < 1:
            problems.append(f"neighbours={neighbours}; expected at least 1")
        if shrink < 0:
            problems.append(f"shrink={shrink}; expected 0 or more items")
        problems += decay_problems(decay)
        if problems:
            raise ConfigError("UserKNN got " + ", and ".join(problems) + ".")
        self.name = name
        self.neighbours = neighbours
        self.shrink = shrink
        self.decay = decay
        self._seen = sparse.csr_array((0, 0))  # [T, N]
        self._by_item = sparse.csr_array((0, 0))  # [N, T] the same
        self._length = np.empty(0)  # [T] of the rows of _seen
        self._row: dict[str, int] = {}  # user id -> row of _seen

    def fit(self, split: Split) -> None:
        """Remember who has seen what."""
        self._seen = recency_matrix(split.train, split.n_items)
        self._by_item = self._seen.T.tocsr()
        self._length = np.sqrt(self._seen.sum(axis=1))
        self._row = {user: row for row, user in enumerate(split.train.user_ids)}

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the summed similarities of the neighbours who have seen each item [U, N]; 0 without one."""
        weights = recency_matrix(histories, self._seen.shape[1], self.decay)
        norm = np.sqrt(weights.power(2).sum(axis=1))  # [U]
        own = np.array([self._row.get(user, -1) for user in histories.user_ids], dtype=np.int64)  # [U]
        rows = max(1, SIMILARITIES_AT_ONCE // max(1, len(self._length)))
        parts = []
        for start in range(0, len(histories), rows):
            block = slice(start, start + rows)
            common = (weights[block] @ self._by_item).toarray()  # [block, T] weight of the items in common
            with np.errstate(invalid="ignore"):  # 0 / 0: users without an event, masked below
                similar = common / (np.outer(norm[block], self._length) + self.shrink)
            similar[common == 0] = -np.inf
            known = np.flatnonzero(own[block] >= 0)
            similar[known, own[block][known]] = -np.inf  # a user is no neighbour of their own
            parts.append((best_of_rows(similar, self.neighbours) @ self._seen).toarray())
        return np.concatenate(parts)
