"""Windows: long histories cut into pieces that a model of bounded length can read.

Shapes: U users, E events of all of them together, W windows, B windows of a batch, L longest input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrec.data.histories import Histories

__all__ = ["Batch", "Windows", "last_events", "training_batches"]


@dataclass(frozen=True, eq=False)
class Windows:
    """W runs of neighbouring events ``start:stop``, of which ``first_target:stop`` are to be predicted.

    A user's first event has no past and is never a target; every other event is the target of exactly
    one window. The events ``start:first_target`` are context that other windows predict.
    """

    start: NDArray[np.int64]  # [W]
    first_target: NDArray[np.int64]  # [W]
    stop: NDArray[np.int64]  # [W]

    @classmethod
    def cut(
        cls, indptr: NDArray[np.int64], max_len: int, stride: int, offsets: NDArray[np.int64] | None = None
    ) -> Windows:
        """Cut every history into windows of up to ``stride`` targets read with up to ``max_len`` inputs.

        Parameters
        ----------
        indptr
            User ``u`` owns events ``indptr[u]:indptr[u + 1]`` [U + 1].
        max_len
            Most input events of a window.
        stride
            Most targets of a window, at most ``max_len``. Below ``max_len`` neighbouring windows overlap,
            so every target but a user's first few sees at least ``max_len - stride + 1`` earlier
            events; costs ``max_len / stride`` times as many input positions.
        offsets
            Targets of the window that holds a user's newest event, from 0 (as many as fit) to ``stride``
            [U]. Drawn anew in every epoch, they let each event be predicted from contexts of all lengths.
        """
        begin, end = indptr[:-1] + 1, indptr[1:]  # [U] targets of a user
        newest = np.full(len(end), stride) if offsets is None else np.where(offsets == 0, stride, offsets)
        left = np.maximum(end - begin - newest, 0)  # [U] targets before those of the newest window
        windows = np.where(end > begin, 1 + -(-left // stride), 0)  # [U]

        user = np.repeat(np.arange(len(windows)), windows)  # [W]
        nth = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)  # [W] 0: the newest
        stop = np.where(nth == 0, end[user], end[user] - newest[user] - (nth - 1) * stride)
        first = np.maximum(begin[user], end[user] - newest[user] - nth * stride)
        # The newest event of a window is a target only: its inputs end one event earlier.
        start = np.maximum(indptr[:-1][user], stop - 1 - max_len)
        return cls(start, first, stop)

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, eq=False)
class Batch:
    """Runs of events, padded on the right with item 0; ``lengths`` tells what is real.

    Padding follows the events, so a model that only looks back needs no mask to be undisturbed by it.
    """

    events: Tensor  # [B, L + 1] catalogue indices
    lengths: Tensor  # [B] real events
    is_target: Tensor  # [B, L + 1] bool


def training_batches(
    items: Tensor, windows: Windows, batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield all windows in random order, windows of like length together, so that little is padding.

    Parameters
    ----------
    items
        The events that ``windows`` points into [E], on the device of the model.
    windows
        Where the events of each window lie; without a window there is no batch.
    batch_size
        Most windows per batch.
    generator
        Source of the random order, on the CPU.
    """
    if not len(windows):
        return
    bounds = torch.from_numpy(np.stack([windows.start, windows.first_target, windows.stop]))  # [3, W]
    order = torch.randperm(len(windows), generator=generator)
    # A stable sort of a random order leaves windows of the same length shuffled.
    order = order[torch.argsort((bounds[2] - bounds[0])[order], stable=True)]
    batches = torch.split(order, batch_size)
    for b in torch.randperm(len(batches), generator=generator).tolist():
        chosen = bounds[:, batches[b]]  # [3, B]
        width = int((chosen[2] - chosen[0]).max())  # on the CPU: a GPU would have to be waited for
        start, first_target, stop = chosen.to(items.device)[:, :, None]  # 3 x [B, 1]
        events = start + torch.arange(width, device=items.device)  # [B, L + 1]
        real = events < stop
        yield Batch(
            events=torch.where(real, items[events.clamp(max=len(items) - 1)], 0),
            lengths=(stop - start)[:, 0],
            is_target=real & (events >= first_target),
        )


def last_events(histories: Histories, max_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the newest ``max_len`` events of each user [U, L], padded on the right, and their number [U]."""
    indptr = torch.from_numpy(histories.indptr)
    lengths = (indptr[1:] - indptr[:-1]).clamp(max=max_len)
    width = int(lengths.max()) if len(lengths) else 0
    index = (indptr[1:] - lengths)[:, None] + torch.arange(width)  # [U, L]
    items = torch.from_numpy(histories.items).long()
    real = torch.arange(width) < lengths[:, None]
    events = torch.where(real, items[index.clamp(max=max(len(items) - 1, 0))], 0)
    return events.to(device), lengths.to(device)
