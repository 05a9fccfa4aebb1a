"""Are the lists sound? Counts of what must not happen, as a generative system without constraints lets it.

Shapes: U users, K places of a list, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Checks", "owned_items"]


@dataclass
class Checks:
    """Counts over all places of all lists; :meth:`add` takes the lists in parts.

    An empty place (``-1``) is no recommendation; any other number outside 0 to N-1 is an invalid one.
    """

    made: int = 0  # recommendations
    valid: int = 0  # of items of the catalogue
    repeated: int = 0  # of what the same list already holds
    seen: int = 0  # of items of the user's own history
    possible: int = 0  # places that candidates could fill
    filled: int = 0  # of these

    def add(self, items: NDArray[np.int32], owned: csr_array, candidates: NDArray[np.integer]) -> None:
        """Count the lists [U, K] of some users.

        Parameters
        ----------
        owned
            How many events each of these users has with each item [U, N], from :func:`owned_items`.
        candidates
            How many items each of these users could be recommended [U].
        """
        ordered = np.sort(items, axis=1)  # sorted, repeats are neighbours and a row is one of a sparse matrix
        made = ordered != -1
        valid = (ordered >= 0) & (ordered < owned.shape[1])
        per_user = made.sum(axis=1)  # [U]
        self.made += int(per_user.sum())
        self.valid += int(valid.sum())
        self.repeated += int(((ordered[:, 1:] == ordered[:, :-1]) & made[:, 1:]).sum())
        self.seen += _shared(ordered, valid, owned)
        self.possible += int(np.minimum(candidates, items.shape[1]).sum())
        self.filled += int(np.minimum(per_user, candidates).sum())

    def rates(self) -> dict[str, float]:
        """Return fractions of 1; NaN where there is nothing to take a fraction of."""
        return {
            "validity": _share(self.valid, self.made),
            "duplicates": _share(self.repeated, self.made),
            "seen": _share(self.seen, self.made),
            "filled": _share(self.filled, self.possible),
        }


def owned_items(items: NDArray[np.int32], indptr: NDArray[np.integer], n_items: int) -> csr_array:
    """Return how many of the events ``indptr[u]:indptr[u + 1]`` are with each item, sorted by item [U, N]."""
    indptr = (indptr - indptr[0]).astype(np.int32)
    # Copied, because sum_duplicates works in place.
    ones = np.ones(len(items), dtype=np.float32)
    owned = csr_array((ones, items.copy(), indptr), shape=(len(indptr) - 1, n_items))
    owned.sum_duplicates()
    return owned


def _shared(ordered: NDArray[np.int32], valid: NDArray[np.bool_], owned: csr_array) -> int:
    """Return how many places hold an item that the user owns."""
    indptr = np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32)
    held = ordered.ravel() if valid.all() else ordered[valid]
    places = csr_array((np.ones(len(held), np.float32), held, indptr), shape=owned.shape)
    places.sum_duplicates()
    return int(places.multiply(owned > 0).sum(dtype=np.float64))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
