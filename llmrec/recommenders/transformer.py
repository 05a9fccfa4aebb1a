"""Transformers over item embeddings.

Shapes: B users, L events, D features, H heads, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec.recommenders.sequence_model import Inputs, SequenceModel
from llmrec.recommenders.sequential import SequentialRecommender

__all__ = ["Encoder", "TransformerRecommender"]


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each on normalised input and added to the stream.

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

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map [B, L, D] to [B, L, D]; ``mask`` [B, 1, 1, L] says what can be seen, ``None`` is what came before."""
        parts = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # 3 x [B, H, L, D / H]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        mixed = self.attention_out(mixed.transpose(1, 2).flatten(2))  # [B, L, D]
        x = x + F.dropout(mixed, self.dropout, self.training)
        hidden = F.dropout(F.gelu(self.expand(self.forward_norm(x))), self.dropout, self.training)
        return x + F.dropout(self.contract(hidden), self.dropout, self.training)


class PublishedBlock(nn.Module):
    """A block as in the code of Kang & McAuley 2018.

    The norm is on the queries, while keys and values are the stream as it is; the feed-forward layer, no wider than the
    stream, is added to its normalised input; and dropout is on the attention weights and inside the feed-forward layer.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.attention_out = nn.Linear(dim, dim)
        self.forward_norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map [B, L, D] to [B, L, D]; ``mask`` as for :class:`Block`."""
        query = (
            self.query(self.query_norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        )  # [B, H, L, D / H]
        key, value = self.key_value(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropped = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropped, is_causal=mask is None
        )
        x = self.forward_norm(x + self.attention_out(mixed.transpose(1, 2).flatten(2)))
        hidden = F.relu(F.dropout(self.first(x), self.dropout, self.training))
        return x + F.dropout(self.second(hidden), self.dropout, self.training)


class Encoder(SequenceModel):
    """Item embeddings (tied with the output) plus learned positions, then transformer blocks, then a norm.

    ``published`` is the model of Kang & McAuley's code: its blocks, its initial weights (Glorot & Bengio 2010), and item
    embeddings that are multiplied by the square root of ``dim`` where they are read.
    """

    def __init__(
        self,
        n_items: int,
        *,
        extra: int = 0,
        dim: int,
        layers: int,
        heads: int,
        positions: int,
        dropout: float,
        temperature: float | None,
        causal: bool,
        published: bool = False,
        time_gaps: bool = False,
        target_time: bool = False,
    ) -> None:
        super().__init__(n_items, extra, dim, temperature, time_gaps=time_gaps, target_time=target_time)
        self.causal = causal
        self.scale = dim**0.5 if published else 1.0
        self.positions = nn.Embedding(positions, dim)
        self.dropout = nn.Dropout(dropout)
        block = PublishedBlock if published else Block
        self.blocks = nn.ModuleList(block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                if published:
                    nn.init.xavier_normal_(module.weight)
                else:  # As in BERT and GPT-2: small, so that the residual stream starts near the embeddings.
                    nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return features [B, L, D] of events."""
        column = torch.arange(inputs.items.shape[1], device=inputs.items.device)
        # Padding is on the right, so causality alone keeps it out of every real position: no mask.
        mask = None if self.causal else (column < inputs.lengths[:, None])[:, None, None, :]
        # Counted from the end, so that the newest event, the one that predictions are made from, always
        # has the same; for events padded on the left (Kang & McAuley, section III.A) it would be the column.
        last = self.positions.num_embeddings
        position = (column + last - inputs.lengths[:, None]).clamp(max=last - 1)  # [B, L]
        x = self.dropout(self.read(inputs, self.scale) + self.positions(position))  # [B, L, D]
        for block in self.blocks:
            x = block(x, mask)
        features: Tensor = self.norm(x)
        return features


@dataclass(kw_only=True, eq=False)
class TransformerRecommender(SequentialRecommender):
    """A sequence model of transformer blocks.

    Parameters
    ----------
    dim
        Features per item; a multiple of ``heads``. Time and memory grow with N x dim.
    layers
        Transformer blocks.
    heads
        Attention heads per block.
    dropout
        Share of features zeroed in training, on embeddings and inside blocks, below 1. The main lever
        against overfitting: raise it for small logs.

    All other settings are those of :class:`TrainingSettings`.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        found = super().problems()
        if self.layers < 1:
            found.append(f"layers={self.layers} (expected at least 1)")
        if self.heads < 1 or self.dim < 1 or self.dim % self.heads:
            found.append(f"dim={self.dim} with heads={self.heads} (expected dim to be a multiple of heads)")
        if not 0 <= self.dropout < 1:
            found.append(f"dropout={self.dropout} (expected 0 or more, and below 1)")
        return found
