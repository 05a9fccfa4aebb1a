"""What each way to split would ask, and what it would leak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmrec.data.protocol import Protocol
from llmrec.data.split import Split

__all__ = ["STRATEGIES", "SplitCheck", "check_split"]

STRATEGIES = ("leave-one-out", "temporal", "users")


@dataclass(frozen=True)
class SplitCheck:
    """One way to split the log; shares are fractions of 1."""

    strategy: str
    protocol: Protocol | None  # what is asked of whom; None where the log cannot be split so
    cold_items: int = 0  # items of the catalogue without a training event
    later_than_half: float = (
        math.nan
    )  # share of the training events that are later than half of the test targets
    problem: str = ""  # why it cannot be split so


def check_split(split: Split) -> SplitCheck:
    """Measure a split."""
    train = split.train
    trained = split.warm
    middle = np.median(split.test.target_timestamps)
    return SplitCheck(
        split.protocol.split,
        split.protocol,
        cold_items=int((~trained).sum()),
        later_than_half=float(np.mean(train.timestamps > middle)),
    )
