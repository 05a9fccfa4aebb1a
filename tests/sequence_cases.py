"""Inputs of sequence models, written out."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrec.recommenders.sequence_model import Inputs


def inputs(items: Tensor, lengths: Tensor) -> Inputs:
    """Return events [B, L] of which the first ``lengths`` [B] are real, after gaps that are not known."""
    return Inputs(items, torch.zeros(len(items), items.shape[1] + 1, dtype=torch.long), lengths)
