"""Time-ordered splits."""

from __future__ import annotations

from dataclasses import dataclass

from llmrec.data.histories import Histories, Holdout
from llmrec.data.protocol import Protocol

__all__ = ["Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Training histories, and the questions asked for validation and for the test."""

    train: Histories
    valid: Holdout
    test: Holdout
    protocol: Protocol

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.protocol.items
