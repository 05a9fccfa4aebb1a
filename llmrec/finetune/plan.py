"""Which documents each optimiser step reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import ConfigError
from llmrec.finetune.batches import plan_epoch
from llmrec.finetune.examples import Example
from llmrec.settings import Finetune

__all__ = ["Examples", "Plan"]

Examples = Callable[[int], list[Example]]
"""Returns the examples of an epoch, counted from 0; equal for equal numbers."""


class Plan:
    """The steps of a training, decided by the seed and the budget alone, whatever the number of processes.

    Raises
    ------
    ConfigError
        There is nothing to learn from.
    """

    def __init__(self, examples: Examples, settings: Finetune, seed: int) -> None:
        self.examples, self.settings, self.seed = examples, settings, seed
        self._first = self._epoch(0)
        self.steps_per_epoch = len(self._first[1])
        if not self.steps_per_epoch:
            raise ConfigError(
                "There is nothing to learn from: no training history has two events. Expected longer histories."
            )
        self.steps = settings.steps or self._steps_of(settings.epochs)

    def _epoch(self, epoch: int) -> tuple[list[Example], list[NDArray[np.int64]], NDArray[np.int64]]:
        read = self.examples(epoch)
        lengths = np.array([len(e) for e in read], dtype=np.int64)
        return (
            read,
            plan_epoch(lengths, self.settings.batch_tokens, np.random.default_rng([self.seed, epoch])),
            lengths,
        )

    def _steps_of(self, epochs: float) -> int:
        """Return the steps of a number of passes; their windows differ, and so may their batches."""
        whole, rest = divmod(epochs, 1)
        sizes = [
            self.steps_per_epoch if epoch == 0 else len(self._epoch(epoch)[1])
            for epoch in range(math.ceil(epochs))
        ]
        return max(1, sum(sizes[: int(whole)]) + (round(rest * sizes[-1]) if rest else 0))

    def follow(
        self, done: int
    ) -> Iterator[tuple[int, float, NDArray[np.int64], NDArray[np.int64], list[Example]]]:
        """Yield step, epochs passed with it, its documents, all documents' lengths and documents, after ``done`` steps."""
        step = 0
        for epoch in count():
            read, batches, lengths = self._first if epoch == 0 else self._epoch(epoch)
            for at, batch in enumerate(batches):
                step += 1
                if step > done:
                    yield step, epoch + (at + 1) / len(batches), batch, lengths, read
                if step >= self.steps:  # before another epoch is written, which nobody reads
                    return
