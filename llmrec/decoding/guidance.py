"""A second opinion on every item that steers a search over the trie.

Bao et al. 2024 ("Decoding Matters", section 4.2) add the scores of a text-free model to those of the language model while it generates, so
that prefixes of what it finds likely survive. Here the second model says how probable each item is, and a prefix has the probability of the
items below it.

Shapes: B users, N items, M nodes of the trie, n hypotheses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError

__all__ = ["Guide"]


class Guide:
    """The weighted log-probability of every prefix, by a model of items.

    What a path to an item gains, from the root to its leaf, is ``weight * log_probs`` of the item. No step gains more than 0, so a
    prefix's score stays a bound on everything below it, and a search that is certified stays exact.

    Parameters
    ----------
    trie
        The catalogue.
    log_probs
        Of each item [B, N], at most 0: a log-softmax of a recommender's scores, for example. Items that share an
        identifier, and are not hidden, get the mean of their probabilities.
    weight
        How much they count beside the language model's, above 0.
    hidden
        Items that must not come out, per user [B]; prefixes have the probability of what else is below them.

    Raises
    ------
    TrieError
        Not one row per user or one column per item, a number above 0, or a weight that is none.
    """

    def __init__(
        self,
        trie: CompiledTrie,
        log_probs: NDArray[np.floating],
        weight: float,
        hidden: Sequence[NDArray[np.integer]],
    ) -> None:
        if log_probs.shape != (len(hidden), trie.n_items):
            raise TrieError(
                f"Got log-probabilities of shape {log_probs.shape}. Expected {(len(hidden), trie.n_items)}: a row for each "
                "user, a column for each item."
            )
        if not weight > 0 or not np.isfinite(weight):
            raise TrieError(f"The guide's weight is {weight}. Expected a number above 0.")
        if not (log_probs <= 1e-6).all():
            raise TrieError(
                f"The guide has a log-probability of {np.max(log_probs)}. Expected none above 0, and no NaN: a log-softmax, not raw scores."
            )
        visible = np.minimum(log_probs, 0.0, dtype=np.float64)
        for user, items in enumerate(hidden):
            visible[user, items] = -np.inf
        self._value = weight * _masses(trie, visible)  # [B, M]
        self.start: NDArray[np.float64] = self._value[:, 0]  # [B] of the root: what is not hidden

    def gain(
        self, user: NDArray[np.int64], node: NDArray[np.int64], parent: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return what a step from ``parent`` to ``node`` adds to a hypothesis' score, at most 0 [n]."""
        below, above = self._value[user, node], self._value[user, parent]
        # Rounding must not lift a prefix above what it is a part of; and below a prefix without any probability nothing changes.
        gain: NDArray[np.float64] = np.subtract(
            below, above, out=np.zeros(len(node)), where=np.isfinite(above)
        )
        return np.minimum(gain, 0.0, out=gain)


def _masses(trie: CompiledTrie, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-probability of all items below each node [B, M]; of one of them at a leaf that several share."""
    masses = np.full((len(log_probs), trie.n_nodes), -np.inf)
    leaf = trie.leaf[trie.order]
    first = np.flatnonzero(np.diff(leaf, prepend=-1))
    masses[:, leaf[first]] = np.logaddexp.reduceat(log_probs[:, trie.order], first, axis=1)
    for level in range(trie.depth - 1, -1, -1):
        nodes = np.arange(trie.levels[level], trie.levels[level + 1])
        children = trie.n_children(nodes)
        inner, starts = nodes[children > 0], (np.cumsum(children) - children)[children > 0]
        # The children of neighbours are neighbours: all those of a level are the next level.
        below = masses[:, trie.levels[level + 1] : trie.levels[level + 2]]
        masses[:, inner] = np.logaddexp.reduceat(below, starts, axis=1)
    there = np.add.reduceat(np.isfinite(log_probs[:, trie.order]), first, axis=1, dtype=np.int64)
    masses[:, leaf[first]] -= np.log(np.maximum(there, 1))
    return masses
