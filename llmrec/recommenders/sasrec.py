"""SASRec: a small causal transformer over item embeddings, and the yardstick of this library.

Shapes: B users, L events, D features, H heads, N items of the catalogue, M positions to be scored.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec.recommenders.sequential import OnEpoch, SequenceModel, SequentialRecommender

__all__ = ["SASRec", "SASRecModel"]


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each on normalised input and added to the stream.

    Kang & McAuley 2018, equations 2-6, but with the norm *before* each part and outside the residual
    path, which trains stably at higher learning rates (Xiong et al. 2020).
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.forward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, L, D] to [B, L, D]."""
        parts = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # 3 x [B, H, L, D / H]
        # Padding is on the right, so causality alone keeps it out of every real position: no mask.
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = self.attention_out(mixed.transpose(1, 2).flatten(2))  # [B, L, D]
        x = x + F.dropout(mixed, self.dropout, self.training)
        hidden = F.dropout(F.gelu(self.expand(self.forward_norm(x))), self.dropout, self.training)
        return x + F.dropout(self.contract(hidden), self.dropout, self.training)


class SASRecModel(SequenceModel):
    """Item embeddings (tied with the output) plus learned positions, then blocks, then a norm.

    The output is a cosine divided by a temperature, rather than the inner product of the paper: the
    scale of the logits is then a setting, where otherwise the norms of the embeddings grow with
    training and popularity until the softmax overfits.
    """

    def __init__(
        self,
        n_items: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        max_len: int,
        dropout: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.max_len = max_len
        self.temperature = temperature
        self.items = nn.Embedding(n_items, dim)
        self.positions = nn.Embedding(max_len, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                # As in BERT and GPT-2: small, so that the residual stream starts near the embeddings.
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, events: Tensor, lengths: Tensor) -> Tensor:
        """Return features [B, L, D] of events [B, L] of which the first ``lengths`` [B] are real."""
        x = self.dropout(self.items(events) + self.positions(self._position(events, lengths)))
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.norm(x)
        return features

    def _position(self, events: Tensor, lengths: Tensor) -> Tensor:
        """Return the index of each event's position embedding [B, L].

        Counted from the end, so that the newest event, the one that predictions are made from, always
        has the same; for events padded on the left (Kang & McAuley, section III.A) it would be the column.
        """
        column = torch.arange(events.shape[1], device=events.device)
        return (column + self.max_len - lengths[:, None]).clamp(max=self.max_len - 1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the scaled cosine with every item embedding [M, N] (equation 7, normalised)."""
        # The features are scaled rather than the logits: M x D divisions instead of M x N.
        scaled = F.normalize(features, dim=-1) / self.temperature
        return scaled @ F.normalize(self.items.weight, dim=-1).T


class SASRec(SequentialRecommender):
    """Self-attentive sequential recommendation (Kang & McAuley 2018) with a full softmax.

    Differs from the paper where that helps: smoothed cross-entropy over all items instead of one sampled
    negative per position, cosine logits, norms before the blocks, and windows with random borders over
    the *whole* history instead of its newest ``max_len`` events. See :class:`SequentialRecommender` for
    the training settings. The defaults were chosen by validation NDCG@10 on ml-100k.

    Parameters
    ----------
    dim
        Features per item; a multiple of ``heads``. Time and memory grow with N x dim.
    layers
        Transformer blocks.
    heads
        Attention heads per block.
    max_len
        Events of the past that the model reads; attention time grows with its square.
    dropout
        Share of features zeroed in training, on embeddings and inside blocks, below 1. The main lever
        against overfitting: raise it for small logs.
    temperature
        Divides the cosine between features and items; logits lie within plus and minus its inverse. Lower
        values can be more certain and overfit sooner; far above 0.2 the softmax cannot single out an item.
    stride, lr, weight_decay, label_smoothing, batch_size, max_epochs, patience, seed, device, threads, on_epoch
        See :class:`SequentialRecommender`.
    name
        The name under which its recommendations are stored.
    """

    def __init__(
        self,
        *,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        max_len: int = 50,
        dropout: float = 0.2,
        temperature: float = 0.1,
        stride: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.1,
        batch_size: int = 32,
        max_epochs: int = 50,
        patience: int = 8,
        seed: int = 0,
        device: str = "auto",
        threads: int = 1,
        on_epoch: OnEpoch | None = None,
        name: str = "sasrec",
    ) -> None:
        self.dim = dim
        self.layers = layers
        self.heads = heads
        self.dropout = dropout
        self.temperature = temperature
        super().__init__(
            name=name,
            max_len=max_len,
            stride=stride,
            lr=lr,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            batch_size=batch_size,
            max_epochs=max_epochs,
            patience=patience,
            seed=seed,
            device=device,
            threads=threads,
            on_epoch=on_epoch,
        )

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        found = super().problems()
        if self.layers < 1:
            found.append(f"layers={self.layers} (expected at least 1)")
        if self.heads < 1 or self.dim < 1 or self.dim % self.heads:
            found.append(f"dim={self.dim} with heads={self.heads} (expected dim to be a multiple of heads)")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout={self.dropout} (expected 0 or more, and below 1)")
        if not self.temperature > 0:
            found.append(f"temperature={self.temperature} (expected a positive number)")
        return found

    def build(self, n_items: int) -> SASRecModel:
        """Return a model with fresh weights."""
        return SASRecModel(
            n_items,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            max_len=self.max_len,
            dropout=self.dropout,
            temperature=self.temperature,
        )

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the fitted item embeddings, of length 1 as the logits use them [N, D]."""
        model = self.model_
        assert isinstance(model, SASRecModel)
        vectors: NDArray[np.float32] = F.normalize(model.items.weight.detach(), dim=-1).cpu().numpy()
        return vectors
