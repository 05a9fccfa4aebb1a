"""Batches of windows for the sequence models.

Shapes: U users, E events of all of them together, W windows, B windows of a batch, L longest input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.histories import Histories
from llmrec.data.time_features import gaps
from llmrec.data.windows import Windows
from llmrec.recommenders.sequence_model import Inputs, gap_classes

__all__ = ["Batch", "last_events", "training_batches"]


@dataclass(frozen=True, eq=False)
class Batch(Inputs):
    """Windows [B, L + 1], and which of their events are to be learned; what comes behind a window is not told."""

    is_target: Tensor  # [B, L + 1] bool


def training_batches(
    items: Tensor, classes: Tensor, windows: Windows, batch_size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield all windows in random order, in batches of windows of like length and of about as many targets each.

    Windows of like length need little padding. As many targets, because a step counts the same whatever is in it: in batches
    of as many windows, a target in a short window would count several times as much as one in a long window. SASRec's validation
    NDCG@10 on ml-100k was .1344 and .1324 with those and is .1372 and .1378 with these (seeds 0 and 1).

    Parameters
    ----------
    items
        The events that ``windows`` points into [E], on the device of the model.
    classes
        The class of the gap before each of them [E], on the same device.
    windows
        Where the events of each window lie; without a window there is no batch.
    batch_size
        Windows per batch, on average: more where they are short, fewer where they are long.
    generator
        Source of the random order, on the CPU.
    """
    if not len(windows):
        return
    bounds = torch.from_numpy(np.stack([windows.start, windows.first_target, windows.stop]))  # [3, W]
    order = torch.randperm(len(windows), generator=generator)
    # A stable sort of a random order leaves windows of the same length shuffled.
    order = order[torch.argsort((bounds[2] - bounds[0])[order], stable=True)]
    batches = _of_as_many((bounds[2] - bounds[1])[order], math.ceil(len(windows) / batch_size))
    for b in torch.randperm(len(batches), generator=generator).tolist():
        chosen = bounds[:, order[batches[b]]]  # [3, B]
        width = int((chosen[2] - chosen[0]).max())  # on the CPU: a GPU would have to be waited for
        start, first_target, stop = chosen.to(items.device)[:, :, None]  # 3 x [B, 1]
        events = start + torch.arange(width, device=items.device)  # [B, L + 1]
        real, events_or_last = events < stop, events.clamp(max=len(items) - 1)
        yield Batch(
            items=torch.where(real, items[events_or_last], 0),
            gaps=F.pad(torch.where(real, classes[events_or_last], 0), (0, 1)),
            lengths=(stop - start)[:, 0],
            is_target=real & (events >= first_target),
        )


def _of_as_many(targets: Tensor, parts: int) -> list[slice]:
    """Cut windows with so many targets [W] into at most so many runs, of about as many targets each."""
    upto = targets.cumsum(0)
    part = (upto - 1) * parts // upto[-1]
    ends = [*(torch.nonzero(part[1:] != part[:-1])[:, 0] + 1).tolist(), len(targets)]
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def last_events(histories: Histories, max_len: int, device: torch.device) -> Inputs:
    """Return the newest ``max_len`` events of each user [U, L]."""
    indptr = torch.from_numpy(histories.indptr)
    lengths = (indptr[1:] - indptr[:-1]).clamp(max=max_len)
    width = int(lengths.max()) if len(lengths) else 0
    index = (indptr[1:] - lengths)[:, None] + torch.arange(width)  # [U, L]
    index = index.clamp(max=max(len(histories.items) - 1, 0))
    real = torch.arange(width) < lengths[:, None]
    items, before = (
        torch.where(real, torch.from_numpy(of_events).long()[index], 0)
        for of_events in (histories.items, gap_classes(gaps(histories)))
    )
    classes = F.pad(before, (0, 1)).scatter(1, lengths[:, None], torch.from_numpy(_next(histories))[:, None])
    return Inputs(items.to(device), classes.to(device), lengths.to(device))


def _next(histories: Histories) -> NDArray[np.int64]:
    """Return the class of the gap between each user's newest event and what is asked for [U]; 0 where that is not told."""
    seconds = np.full(len(histories), np.nan)
    if histories.next_timestamps is not None:
        there = histories.lengths > 0
        seconds[there] = histories.next_timestamps[there] - histories.newest_timestamps
    return gap_classes(seconds)
