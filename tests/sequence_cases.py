"""Inputs of sequence models, written out."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrec.recommenders.sequence_model import Inputs


def inputs(items: Tensor, lengths: Tensor, gaps: Tensor | None = None) -> Inputs:
    """Return events [B, L] of which the first ``lengths`` [B] are real; without gaps, all of the class that is not known."""
    return Inputs(items, torch.zeros_like(items) if gaps is None else gaps, lengths)
