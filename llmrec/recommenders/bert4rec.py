"""BERT4Rec: a transformer that sees both sides and fills in events that are masked.

Shapes: B windows, U users, L events, D features, M masked events.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llmrec.recommenders.sequence_model import Inputs, SequenceModel
from llmrec.recommenders.transformer import Encoder, TransformerRecommender
from llmrec.recommenders.windows import Batch

__all__ = ["BERT4Rec"]


@dataclass(kw_only=True, eq=False)
class BERT4Rec(TransformerRecommender):
    """Bidirectional self-attention trained by a cloze task (Sun et al. 2019).

    A share of a window's events is replaced by a mask and predicted from both sides. Predictions come from a mask after the
    newest event, so a share of the windows has that one event masked, as in the paper. Loss, logits and norms are those of
    :class:`SASRec`, so the two differ in the objective alone. Only masked events are learned from: it needs several times the
    epochs of a model that learns from every event (Petrov & Macdonald 2022).

    Parameters
    ----------
    mask_share
        Share of a window's events that is masked, above 0 and below 1. Low: little is learned from a window. High: little is
        left to learn it from.
    last_share
        Share of the windows in which only the newest event is masked, 0 to 1.

    All other settings are those of :class:`TransformerRecommender` and :class:`TrainingSettings`.
    """

    mask_share: float = 0.2
    last_share: float = 0.1
    max_epochs: int = 200
    patience: int = 20
    name: str = "bert4rec"

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        found = super().problems()
        if not 0 < self.mask_share < 1:
            found.append(f"mask_share={self.mask_share} (expected a share above 0 and below 1)")
        if not 0 <= self.last_share <= 1:
            found.append(f"last_share={self.last_share} (expected a share from 0 to 1)")
        return found

    def build(self, n_items: int) -> Encoder:
        """Return a model with fresh weights."""
        return Encoder(
            n_items,
            extra=1,  # the mask
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            positions=self.max_len + 1,  # the mask comes after the events
            dropout=self.dropout,
            temperature=self.temperature,
            causal=False,
            time_gaps=self.time_gaps,
            target_time=self.target_time,
        )

    def examples(self, batch: Batch) -> tuple[Inputs, Tensor, Tensor]:
        """Return windows with masks, where the masks are [B, L], and what they hide [M]."""
        items = batch.items
        newest = torch.arange(items.shape[1], device=items.device) == batch.lengths[:, None] - 1
        hidden = batch.is_target & (torch.rand(items.shape, device=items.device) < self.mask_share)
        alone = torch.rand(len(items), 1, device=items.device) < self.last_share
        alone |= ~hidden.any(dim=1, keepdim=True)  # no window is read for nothing
        hidden = torch.where(alone, newest, hidden)
        gaps = batch.gaps
        if not self.target_time:  # when the next event will be is not known where it is asked for
            gaps = gaps.masked_fill(F.pad(hidden, (0, 1)), 0)
        inputs = Inputs(items.masked_fill(hidden, self._n_items), gaps, batch.lengths)
        return inputs, hidden, items[hidden]

    def query(self, model: SequenceModel, inputs: Inputs) -> Tensor:
        """Return the features [U, D] of a mask after the real events."""
        items = F.pad(inputs.items, (0, 1)).scatter(1, inputs.lengths[:, None], self._n_items)
        return super().query(model, Inputs(items, F.pad(inputs.gaps, (0, 1)), inputs.lengths + 1))
