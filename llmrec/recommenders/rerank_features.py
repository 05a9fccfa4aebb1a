"""What a re-ranker is told about a user's candidates.

Shapes: P parts, U users, N items of the catalogue, R candidates of all users together, F features.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.data.time_features import candidate_time_features
from llmrec.data.trends import ItemTimes
from llmrec.ranking import top_k
from llmrec.recommenders.comparable import Fusion, comparable, new_items
from llmrec.recommenders.matrices import recency_matrix

__all__ = ["CandidateFeatures", "candidates_of"]

_LAST = 5  # events of a history that candidates are compared with


def candidates_of(
    scores: NDArray[np.float64], histories: Histories, n: int, *, exclude_seen: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the user and the item of each candidate, both [R], ascending: what any part [P, U, N] has among its best ``n``."""
    n_items = scores.shape[2]
    among = np.zeros(scores.shape[1:], dtype=bool)
    open_to = new_items(histories, n_items) if exclude_seen else np.ones_like(among)
    for part in scores:
        best, _ = top_k(np.where(open_to, part, -np.inf), n)
        np.put_along_axis(among, np.maximum(best, 0), True, axis=1)
    users, items = np.nonzero(among & open_to)
    return users, items


class CandidateFeatures:
    """Turns candidates into rows of numbers; knows the training events only.

    Parameters
    ----------
    split
        Where the training events come from.
    parts
        Names of the parts.

    Attributes
    ----------
    names
        Of the features [F]; known after the first call. The first ``3 P`` are the parts' scores, higher is better: how
        many standard deviations above the mean of the items that are new to the user, log-softmax over them, and
        1 / (60 + rank). Then what the item has in common with the user's history: cosine of the training users of both, with the newest
        event, and the mean and the largest of the newest five; events of the history; whether the item is in it; the
        item's training users. Then what :func:`~llmrec.data.time_features.candidate_time_features` says about the moment of the user's newest
        event, the last moment that all systems know.
    """

    def __init__(self, split: Split, parts: list[str]) -> None:
        self._split = split
        self._times = ItemTimes(split.train, split.n_items)
        seen = recency_matrix(split.train, split.n_items)
        self._users_of = np.asarray(seen.sum(axis=0)).ravel()  # [N]
        length = 1 / np.sqrt(np.maximum(self._users_of, 1))
        self._columns = sparse.csr_array(seen.multiply(length[None]).T)  # [N, U] items of length 1
        self._scores = [f"{part}: {kind}" for part in parts for kind in get_args(Fusion)]
        self.names: tuple[str, ...] = ()

    @property
    def increasing(self) -> list[int]:
        """Say of each feature whether more of it can only be better, 1, or whether that is open, 0 [F]."""
        return [int(name in self._scores) for name in self.names]

    def __call__(
        self,
        scores: NDArray[np.float64],
        histories: Histories,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the features of candidates [R, F], given all scores of the parts [P, U, N]."""
        new = new_items(histories, self._split.n_items)
        of_parts = [
            comparable(part, new, fusion)[users, items] for part in scores for fusion in get_args(Fusion)
        ]
        newest, mean, largest = self._in_common(histories, users, items)
        own = {
            "cosine with the newest event": newest,
            f"mean cosine with the newest {_LAST}": mean,
            f"largest cosine with the newest {_LAST}": largest,
            "events of the history": histories.lengths[users],
            "in the history": ~new[users, items],
            "training users of the item": self._users_of[items],
        }
        time_names, times = self._in_time(histories, users, items)
        self.names = (*self._scores, *own, *time_names)
        return np.column_stack([*of_parts, *own.values(), times]).astype(np.float32)

    def _in_common(
        self, histories: Histories, users: NDArray[np.int64], items: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return cosines with the newest events of the user [R]: with the last, the mean and the largest of a few."""
        found = np.zeros((3, len(items)))
        stops = np.searchsorted(users, np.arange(len(histories) + 1))
        for user, history in enumerate(histories):
            if len(history):
                rows = slice(stops[user], stops[user + 1])
                last = history.items[-_LAST:]
                cosines = (self._columns[items[rows]] @ self._columns[last].T).toarray()  # [candidates, last]
                found[:, rows] = cosines[:, -1], cosines.mean(axis=1), cosines.max(axis=1)
        return found[0], found[1], found[2]

    def _in_time(
        self, histories: Histories, users: NDArray[np.int64], items: NDArray[np.int64]
    ) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        moments = np.full(len(histories), self._times.end, dtype=np.int64)
        moments[histories.lengths > 0] = histories.newest_timestamps
        place = np.arange(len(users)) - np.searchsorted(users, users)
        table = np.full((len(histories), int(place.max(initial=0)) + 1), -1, dtype=np.int64)
        table[users, place] = items
        names, features = candidate_time_features(
            self._split, histories, moments, table, item_times=self._times
        )
        return names, features[users, place]
