"""Following tokens through a trie, or through what a user may see of it: never silently off the paths.

Shapes: n queried nodes, c children of all of them together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import TrieError

__all__ = ["Walkable"]


class Walkable(ABC):
    """Nodes that tokens lead between."""

    @abstractmethod
    def children(self, nodes: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the tokens that may follow ``nodes`` [n], flat [c], and their offsets [n + 1]."""

    @abstractmethod
    def try_advance(self, nodes: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Follow one token from each node and return the nodes reached; -1 where it is not allowed [n]."""

    def advance(self, nodes: NDArray[np.integer], tokens: NDArray[np.integer]) -> NDArray[np.int64]:
        """Follow one token from each node [n] and return the nodes reached [n].

        Raises
        ------
        TrieError
            A token is not allowed after its node; the message names both and what is allowed.
        """
        reached = self.try_advance(nodes, tokens)
        if reached.size and reached.min() < 0:
            bad = int(np.argmin(reached))
            allowed = self.children(np.asarray(nodes)[bad : bad + 1])[0]
            raise TrieError(_not_allowed(int(tokens[bad]), int(nodes[bad]), allowed))
        return reached

    def walk(self, prefix: Sequence[int]) -> int:
        """Follow a sequence of tokens from the root and return the node reached."""
        node = np.zeros(1, dtype=np.int64)
        for token in prefix:
            node = self.advance(node, np.asarray([token]))
        return int(node[0])


def _not_allowed(token: int, node: int, allowed: NDArray[np.int32]) -> str:
    if not len(allowed):
        return f"Token {token} is not allowed at node {node}, where an identifier has ended. Expected no further token."
    return (
        f"Token {token} is not allowed at node {node}; expected one of {allowed[:10].tolist()}"
        f"{' ...' if len(allowed) > 10 else ''} ({len(allowed)} tokens)."
    )
