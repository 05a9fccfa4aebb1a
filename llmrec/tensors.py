"""Tensor functions that training and decoding share."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_by_row"]


def logsumexp_by_row(values: Tensor, row: Tensor, n: int) -> Tensor:
    """Return log(sum(exp(values))) over the entries of each row [n]; rows may have different numbers of entries.

    Parameters
    ----------
    values
        Entries of all rows, flat [c].
    row
        The row of each entry, 0 to n - 1 [c].
    """
    # The maximum only keeps exp() in range: it cancels out, so no gradient has to go through it.
    top = torch.full((n,), -torch.inf, device=values.device).scatter_reduce(0, row, values.detach(), "amax")
    return torch.zeros(n, device=values.device).index_add(0, row, (values - top[row]).exp()).log() + top
