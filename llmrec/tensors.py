"""Functions that training and decoding share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["batches_by_length", "logsumexp_by_row", "tokens_per_pass"]

# SmolLM2-135M on two cores: 100 ms for a pass and 2 ms for each token.
_PER_PASS = {"cpu": 64, "cuda": 1024}


def tokens_per_pass(device: torch.device) -> int:
    """Return how many tokens cost about as much as a forward pass does beside its tokens."""
    return _PER_PASS.get(device.type, _PER_PASS["cuda"])


def batches_by_length(
    texts: Sequence[Sized], size: int, *, per_batch: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of batches of texts of like length, so that little is padded, the longest first.

    The longest come first because they need the most memory: what does not fit fails at once. Equal lengths stay in a
    fixed order, so that a batch is the same every time.

    Parameters
    ----------
    size
        Texts of a batch; of the last what is left.
    per_batch
        What a batch costs beside its tokens, in tokens. If given, batches are cut into smaller ones where that costs less than
        the padding it spares, as cheaply as can be: few texts differ more in length than neighbours among many.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")[::-1]
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        if per_batch is None:
            yield batch
            continue
        yield from np.split(batch, _cuts(lengths[batch], per_batch))


def _cuts(lengths: NDArray[np.int64], per_batch: int) -> list[int]:
    """Return where to cut descending lengths [n] so that the padded tokens and what each batch costs beside are least."""
    n = len(lengths)
    cost, begin = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        # By where the last batch begins: it is as wide as its first text.
        options = cost[:end] + per_batch + lengths[:end] * np.arange(end, 0, -1)
        begin[end] = options.argmin()
        cost[end] = options[begin[end]]
    cuts, at = [], int(begin[n])
    while at > 0:
        cuts.append(at)
        at = int(begin[at])
    return cuts[::-1]


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
