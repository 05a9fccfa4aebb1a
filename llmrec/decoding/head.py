"""Logits in float32 of a model in bfloat16: rounded to its 8 bits they are .06 to .125 nats apart where they are of size 8 to 32, and neighbours tie.

Shapes: T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["with_float32_logits"]


class _Head(nn.Module):
    """A linear head whose products are summed up, and left, in float32; its weights stay as they are."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of states [..., D]."""
        if states.is_cuda:
            flat = torch.mm(states.flatten(0, -2), self.weight.t(), out_dtype=torch.float32)
            logits = flat.view(*states.shape[:-1], -1)
        else:
            logits = F.linear(states.float(), self.weight.float())
        return logits if self.bias is None else logits + self.bias.float()


def with_float32_logits(model: Any) -> Any:
    """Let a causal language model that computes in bfloat16 or float16 give its logits in float32; returns the model.

    Whatever it does with them afterwards is as before. A head that is no plain matrix, such as a quantised one, is left alone.
    """
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16):
        model.set_output_embeddings(_Head(head))
    return model
