"""Functions that training and decoding share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["batches_by_length", "logsumexp_by_row"]


def batches_by_length(texts: Sequence[Sized], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of batches of texts of like length, so that little is padded, the longest first.

    The longest come first because they need the most memory: what does not fit fails at once. Equal lengths stay in a
    fixed order, so that a batch is the same every time.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]
    for start in range(0, len(order), size):
        yield order[start : start + size]


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
