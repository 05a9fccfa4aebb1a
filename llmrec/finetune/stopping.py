"""Early stopping."""

from __future__ import annotations

import math

from llmrec.settings import Validation

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """When to validate, what was seen, and whether that was enough."""

    def __init__(self, settings: Validation, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.seen: list[dict[str, float]] = []

    def due(self, step: int, epoch: float) -> bool:
        """Say whether to validate after a step."""
        if self.settings.every is None:
            return False
        last = self.seen[-1]["epoch"] if self.seen else 0.0
        # Rounded, so that a third of an epoch three times is an epoch.
        passed = math.floor(round(epoch / self.settings.every, 6)) > math.floor(
            round(last / self.settings.every, 6)
        )
        return passed or step == self.steps

    def add(self, step: int, epoch: float, value: float, loss: float) -> bool:
        """Take note of a value and say whether it is the best so far."""
        self.seen.append({"step": step, "epoch": epoch, self.settings.metric: value, "training loss": loss})
        return self.best_step == step

    @property
    def best_step(self) -> int:
        """The step of the best value, the first of equals; 0 before any."""
        sign = 1 if self.settings.metric == "loss" else -1
        return int(min(self.seen, key=lambda v: sign * v[self.settings.metric])["step"]) if self.seen else 0

    @property
    def over(self) -> bool:
        """Whether there were ``patience`` validations without a better value."""
        since = sum(v["step"] > self.best_step for v in self.seen)
        return since >= self.settings.patience
