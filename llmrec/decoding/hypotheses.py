"""What a beam search holds: hypotheses, and the prefixes that went through the model.

Shapes: n hypotheses or prefixes, c children of all of them together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.scores import as_float64, child_log_probs
from llmrec.decoding.trie import CompiledTrie, flat_ranges

__all__ = ["NOT_FED", "Fed", "Hypotheses"]

NOT_FED = -1


@dataclass
class Hypotheses:
    """Prefixes and whole identifiers of all users, flat [n]."""

    user: NDArray[np.int64]
    score: NDArray[np.float64]
    node: NDArray[np.int64]  # trie node reached
    done: NDArray[np.bool_]  # node is a leaf
    fed: NDArray[np.int64]  # row of Fed that holds node; NOT_FED before its token went through the model
    parent: NDArray[np.int64]  # row of Fed that holds the node before it

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Hypotheses:
        """Return the chosen ones."""
        return Hypotheses(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[Hypotheses]) -> Hypotheses:
        """Return all of them, one after the other."""
        return Hypotheses(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Hypotheses)))


class Fed:
    """Prefixes whose last token went through the model, with the log-probabilities of what may follow."""

    def __init__(self, trie: CompiledTrie, normalisation: str) -> None:
        self.trie, self.normalisation = trie, normalisation
        self.slot = np.empty(0, np.int64)
        self.next_node = np.empty(0, np.int64)  # the child that the next row holds, NOT_FED if none
        self.start = np.zeros(1, np.int64)  # children of row i are start[i]:start[i + 1]
        self.logp = np.empty(0)
        self.nodes = np.empty(0, np.int64)

    def add(self, nodes: NDArray[np.int64], slots: NDArray[np.int64], logits: torch.Tensor | None) -> int:
        """Append rows and return the number of the first; without logits each node has a single, certain child."""
        edges = self.trie.edges(nodes)
        if logits is None:
            logp = np.zeros(len(edges.nodes))
        else:
            logp = as_float64(child_log_probs(logits, edges.tokens, edges.offsets, self.normalisation))
        return self.append(slots, edges.offsets, edges.nodes, logp)

    def append(
        self,
        slots: NDArray[np.int64],
        offsets: NDArray[np.int64],
        nodes: NDArray[np.int64],
        logp: NDArray[np.float64],
    ) -> int:
        """Append rows whose children are scored, flat with offsets; return the number of the first."""
        first = len(self.slot)
        self.slot = np.concatenate([self.slot, slots])
        self.next_node = np.concatenate([self.next_node, np.full(len(slots), NOT_FED)])
        self.start = np.concatenate([self.start, self.start[-1] + offsets[1:]])
        self.logp = np.concatenate([self.logp, logp])
        self.nodes = np.concatenate([self.nodes, nodes])
        return first

    def children(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return for each child of the given rows: which of them it follows, its node, its log-probability [c]."""
        place, offsets = flat_ranges(self.start[rows], self.start[rows + 1] - self.start[rows])
        which = np.repeat(np.arange(len(rows)), np.diff(offsets))
        return which, self.nodes[place], self.logp[place]
