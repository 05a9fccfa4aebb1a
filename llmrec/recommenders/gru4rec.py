"""GRU4Rec: a recurrent network over item embeddings.

Shapes: B windows, L events, D features of an item, H features of the recurrent state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from llmrec.recommenders.sequence_model import Inputs, SequenceModel
from llmrec.recommenders.sequential import SequentialRecommender

__all__ = ["GRU4Rec"]

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


class RecurrentModel(SequenceModel):
    """Item embeddings (tied with the output), recurrent layers, and a projection back to the embeddings' size."""

    def __init__(
        self,
        n_items: int,
        *,
        cell: str,
        dim: int,
        hidden: int,
        layers: int,
        dropout: float,
        temperature: float | None,
        time_gaps: bool,
        target_time: bool,
    ) -> None:
        super().__init__(n_items, 0, dim, temperature, time_gaps=time_gaps, target_time=target_time)
        # Of the length that a recurrent layer's own weights are made for.
        nn.init.normal_(self.items.weight, std=dim**-0.5)
        between = dropout if layers > 1 else 0.0
        self.layers = CELLS[cell](dim, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, dim)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return features [B, L, D]; padding is on the right, so what is real never sees it."""
        states, _ = self.layers(self.dropout(self.read(inputs)))  # [B, L, H]
        features: Tensor = self.out(self.dropout(states))
        return features


@dataclass(kw_only=True, eq=False)
class GRU4Rec(SequentialRecommender):
    """A recurrent sequence model (Hidasi et al. 2016) with a full softmax and tied embeddings.

    Differs from the paper where that helps: cross-entropy over all items instead of a pairwise loss over sampled ones, as
    Hidasi & Karatzoglou 2018 found better; embeddings shared by input and output; dropout; windows instead of
    session-parallel batches, because histories of users are longer than sessions.

    Parameters
    ----------
    cell
        gru, lstm, or rnn (Elman, tanh).
    dim
        Features per item. Time and memory grow with N x dim.
    hidden
        Features of the recurrent state; ``None`` is twice ``dim``.
    layers
        Recurrent layers.
    dropout
        Share of features zeroed in training, of embeddings and states, below 1.

    All other settings are those of :class:`TrainingSettings`.
    """

    cell: Literal["gru", "lstm", "rnn"] = "gru"
    dim: int = 64
    hidden: int | None = None
    layers: int = 1
    dropout: float = 0.3
    name: str = "gru4rec"

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        found = super().problems()
        if self.cell not in CELLS:
            found.append(f"cell={self.cell!r} (expected one of {', '.join(CELLS)})")
        for name in ("dim", "hidden", "layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"{name}={value} (expected at least 1)")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout={self.dropout} (expected 0 or more, and below 1)")
        return found

    def build(self, n_items: int) -> RecurrentModel:
        """Return a model with fresh weights."""
        return RecurrentModel(
            n_items,
            cell=self.cell,
            dim=self.dim,
            hidden=self.hidden or 2 * self.dim,
            layers=self.layers,
            dropout=self.dropout,
            temperature=self.temperature,
            time_gaps=self.time_gaps,
            target_time=self.target_time,
        )
