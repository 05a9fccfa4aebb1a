"""An average of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llmrec.finetune.checkpoints import put_weights, trained_parts
from llmrec.finetune.spread import whole_weights

__all__ = ["WeightAverage"]


class WeightAverage:
    """An exponential moving average of what is trained, beside the weights themselves, which go on as if there were none.

    Its quality is that of a learning rate that has decayed, and what is validated along the way is less noisy (Izmailov et al. 2018,
    "Averaging Weights Leads to Wider Optima and Better Generalization"; Morales-Brotons et al. 2024, arXiv 2411.18704).

    Parameters
    ----------
    model
        Whose trained parameters are averaged, whatever it is wrapped in; a part of a parameter on each process stays one (FSDP).
    horizon
        Steps over which to average: a step has the weight 1 / horizon when it is the newest, less from then on.
    """

    def __init__(self, model: Any, horizon: float) -> None:
        self.model, self.horizon = model, horizon
        self.average = self._copied()

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Move the average towards the weights after a step, counted from 1."""
        # Early on the average is short, or the first weights would stay in it.
        share = max(1 / max(self.horizon, 1), 9 / (9 + step))
        parts = trained_parts(self.model)
        torch._foreach_lerp_(
            list(self.average.values()), [parts[name].detach() for name in self.average], share
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model be the average for a while."""
        own = self._copied()
        self.put()
        try:
            yield
        finally:
            self._put(own)

    def put(self) -> None:
        """Make the model the average for good."""
        self._put(self.average)

    def state(self) -> dict[str, Tensor]:
        """Return the whole average on the CPU, for a checkpoint; all processes must ask."""
        return whole_weights(self.average)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up the average of a checkpoint."""
        put_weights(self.average, state)

    def _copied(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in trained_parts(self.model).items()}

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, p in trained_parts(self.model).items():
            p.copy_(values[name])
