"""EASE: a linear model of each item from all others, fitted in closed form.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.matrices import decay_problems, recency_matrix

__all__ = ["EASE"]

BLOCK = 1024  # items whose co-occurrences are counted at once: BLOCK x N float64


class EASE(ScoringRecommender):
    r"""Embarrassingly shallow autoencoder (Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data").

    With :math:`X` the binary user-item matrix of the training events, the item-item weights are

    .. math:: B = \arg\min_B \lVert X - XB \rVert_F^2 + \text{reg} \lVert B \rVert_F^2, \quad \operatorname{diag}(B) = 0

    which is :math:`B_{ij} = -P_{ij} / P_{jj}` off the diagonal, with :math:`P = (X^\top X + \text{reg} I)^{-1}`
    (equations 3 to 8). Candidate *j* scores :math:`\sum_{i \in h} \text{decay}^{\,\text{age}(i)} B_{ij}` for a history
    *h*, where the newest event has age 0, the one before age 1, and so on; ``decay`` 1 is the published model.

    Memory: one matrix of N x N float64 (8 N\ :sup:`2` bytes: 0.1 GB for 3,400 items, 3.2 GB for 20,000, 80 GB for
    100,000), inverted in place. Time grows with the cube of N.

    Parameters
    ----------
    reg
        L2 regularisation, in units of users: what a weight has to explain to be believed. More of it for smaller logs.
    decay
        Weight of an event relative to the next newer one, above 0 and at most 1. Weights are fitted without it; 1 ignores
        the order of the history, lower values answer to the last few events.
    name
        The name under which its recommendations are stored.
    """

    # Defaults: the best validation NDCG@10 on ml-100k of reg 50-1,600 x decay 0.6-1: .1275, where decay 1 has .0878.
    def __init__(self, *, reg: float = 600.0, decay: float = 0.85, name: str = "ease") -> None:
        problems = []
        if not reg > 0:
            problems.append(f"reg={reg}; expected a positive number of users")
        problems += decay_problems(decay)
        if problems:
            raise ConfigError("EASE got " + ", and ".join(problems) + ".")
        self.name = name
        self.reg = reg
        self.decay = decay
        self._weights: NDArray[np.float64] = np.empty((0, 0))  # [N, N] B

    def fit(self, split: Split) -> None:
        """Invert the regularised co-occurrences of all items.

        Raises
        ------
        ConfigError
            N x N numbers do not fit into the memory that is free.
        """
        n = split.n_items
        self._check_memory(n)
        seen = recency_matrix(split.train, n)  # [U, N]
        by_item = seen.T.tocsr()
        # In Fortran's order LAPACK works in place; columns are as good as rows, since the matrix is symmetric.
        matrix = np.empty((n, n), order="F")
        for start in range(0, n, BLOCK):
            matrix[:, start : start + BLOCK] = (by_item[start : start + BLOCK] @ seen).toarray().T
        matrix[np.diag_indices(n)] += self.reg
        # Positive definite, since reg > 0: Cholesky takes half the time of a general inverse and is as exact.
        matrix, failed = lapack.dpotrf(matrix, lower=1, overwrite_a=1)
        if not failed:
            matrix, failed = lapack.dpotri(matrix, lower=1, overwrite_c=1)
        if failed:
            raise ConfigError(
                f"EASE cannot invert the co-occurrences of {n:,} items with reg={self.reg}: they are singular to "
                "working precision. Expected more regularisation: raise reg."
            )
        for start in range(0, n, BLOCK):  # only the lower triangle was computed
            matrix[start : start + BLOCK, start + BLOCK :] = matrix[start + BLOCK :, start : start + BLOCK].T
            square = matrix[start : start + BLOCK, start : start + BLOCK]
            square[:] = np.tril(square) + np.tril(square, -1).T
        # The inverse is symmetric, so its transpose is itself, in the order that products with rows need.
        self._weights = matrix.T
        self._weights /= -matrix.diagonal()  # each column by its own
        self._weights[np.diag_indices(n)] = 0.0

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the weighted sum of the history's weights on every item [U, N]; 0 for an item without events."""
        history: sparse.csr_array = recency_matrix(histories, len(self._weights), self.decay)
        scores: NDArray[np.float64] = history @ self._weights
        return scores

    def _check_memory(self, n_items: int) -> None:
        need, free = 8 * n_items**2, psutil.virtual_memory().available
        if need > free:
            raise ConfigError(
                f"EASE needs {need / 1e9:,.1f} GB for {n_items:,} x {n_items:,} weights, and {free / 1e9:,.1f} GB of memory "
                "are free. Expected room for them: use a machine with more memory, a smaller catalogue, or itemknn, "
                "which keeps a few neighbours per item."
            )
