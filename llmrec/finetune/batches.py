"""Batches by a budget of tokens, planned before they are read, and the tensors that become of them.

Shapes: B documents of a batch, T tokens of the longest, P predictions of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrec.errors import PromptError
from llmrec.finetune.examples import Example

__all__ = ["Batch", "collate", "micro_batches", "plan_epoch"]

_STRETCH = (
    32  # batches whose documents are sorted by length together: little padding, and the order stays random
)


@dataclass(frozen=True, eq=False)
class Batch:
    """What the objective needs of some examples."""

    token_ids: Tensor  # [B, T] padded on the right, where a causal model never looks
    positions: Tensor  # [P] into [B * T]
    labels: Tensor  # [P] the token to be predicted
    prefixes: Tensor  # [P] or [0] where there are no alternatives
    events: Tensor  # [P] the training event that is predicted; -1 where it is none

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def plan_epoch(
    lengths: NDArray[np.integer], batch_tokens: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the documents of each batch: every document once, in random order, like lengths together.

    Parameters
    ----------
    lengths
        Tokens of each document.
    batch_tokens
        Most tokens of a batch, padding included.

    Raises
    ------
    PromptError
        A document alone is longer than that.
    """
    if len(lengths) and lengths.max() > batch_tokens:
        raise PromptError(
            f"A training document takes {lengths.max():,} tokens and finetune.batch_tokens is {batch_tokens:,}. Expected "
            "room for a whole document: raise finetune.batch_tokens or lower prompt.max_events. Nothing was cut off."
        )
    order = rng.permutation(len(lengths))
    typical = max(1, int(batch_tokens / max(float(lengths.mean()), 1.0))) if len(lengths) else 1
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), typical * _STRETCH):
        part = order[start : start + typical * _STRETCH]
        ascending = part[np.argsort(lengths[part], kind="stable")]
        # From the longest, so that what is left over is cheap.
        batches += [piece[::-1] for piece in _pieces(ascending[::-1], lengths, batch_tokens)]
    return [batches[i] for i in rng.permutation(len(batches))]


def micro_batches(
    batch: NDArray[np.int64], lengths: NDArray[np.integer], most_tokens: int | None, processes: int
) -> list[list[NDArray[np.int64]]]:
    """Divide a batch among processes, and each share into what goes through the model at once.

    All processes get equally many micro-batches, since they add up their gradients together; a document more or less
    makes no difference to the sum.

    Returns
    -------
        For each process its micro-batches; some may be empty.
    """
    # By length, and dealt out in turn: every process gets the same amount of work.
    ordered = batch[np.argsort(-lengths[batch], kind="stable")]
    shares = [ordered[rank::processes] for rank in range(processes)]
    if most_tokens is None:
        return [[share] for share in shares]
    cut = [list(_pieces(share, lengths, most_tokens)) for share in shares]
    parts = max(map(len, cut))
    return [pieces + [batch[:0]] * (parts - len(pieces)) for pieces in cut]


def _pieces(
    documents: NDArray[np.int64], lengths: NDArray[np.integer], most_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Cut documents, which descend in length, into pieces of at most ``most_tokens`` with their padding, or of one."""
    at = 0
    while at < len(documents):
        count = max(1, most_tokens // int(lengths[documents[at]]))
        yield documents[at : at + count]
        at += count


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples on the right and point to their predictions."""
    width = max((len(e) for e in examples), default=1)
    ids = np.zeros((max(len(examples), 1), width), dtype=np.int64)
    positions, labels, prefixes, events = ([np.empty(0, np.int64)] for _ in range(4))
    for row, e in enumerate(examples):
        ids[row, : len(e)] = e.token_ids
        positions.append(row * width + e.positions)
        labels.append(e.token_ids[e.positions + 1])
        prefixes.append(e.prefixes)
        events.append(e.events)
    flat = map(np.concatenate, (positions, labels, prefixes, events))
    return Batch(*(torch.from_numpy(a) for a in (ids, *flat)))
