"""Weights that are spread over processes (FSDP2), each of which holds a part of every matrix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["gathered", "is_spread", "like", "most_of_all", "whole", "whole_weights", "will_be_spread"]


def will_be_spread() -> bool:
    """Say whether accelerate was told to spread the weights, which it does when the training begins."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def is_spread(model: nn.Module) -> bool:
    """Say whether a model's weights are spread."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def whole(value: Tensor) -> Tensor:
    """Return all of a tensor, on the CPU; every process has to ask for it."""
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().cpu().contiguous()


def whole_weights(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors on the CPU; those that are spread are gathered on each process."""
    return {name: whole(p) for name, p in parts.items()}


def like(value: Tensor, place: Any) -> Tensor:
    """Return a whole tensor as the process' part of ``place``."""
    if isinstance(place, DTensor):
        return distribute_tensor(value.to(place.device), place.device_mesh, place.placements)
    return value.to(place.device)


@contextmanager
def gathered(root: Any) -> Iterator[None]:
    """Have the weights that belong to the outermost unit itself, and to no layer, as whole tensors in this context."""
    spread = is_spread(root)
    if spread:
        root.unshard()
    try:
        yield
    finally:
        if spread:
            root.reshard()


def most_of_all(number: int) -> int:
    """Return the largest of the processes' numbers."""
    device = (
        "cpu" if distributed.get_backend() == "gloo" else torch.device("cuda", torch.cuda.current_device())
    )
    most = torch.tensor(number, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)
