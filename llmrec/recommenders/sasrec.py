"""SASRec: a small causal transformer over item embeddings, and the yardstick of this library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmrec.recommenders.transformer import Encoder, TransformerRecommender

__all__ = ["SASRec"]


@dataclass(kw_only=True, eq=False)
class SASRec(TransformerRecommender):
    """Self-attentive sequential recommendation (Kang & McAuley 2018) with a full softmax.

    Differs from the paper where that helps: smoothed cross-entropy over all items instead of one sampled
    negative per position, cosine logits, norms before the blocks, and windows with random borders over
    the *whole* history instead of its newest ``max_len`` events. The defaults were chosen by validation NDCG@10 on
    ml-100k. ``loss: bce, label_smoothing: 0, temperature: null`` is the loss of the paper.

    Parameters
    ----------
    blocks
        "pre-norm", or "published": the network of the paper's code, with norms elsewhere, dropout of attention weights, narrow
        feed-forward layers and item vectors that are multiplied by the square root of ``dim`` on the way in. It takes more
        dropout and more epochs, and is better where histories are short and items many (docs/baselines.md).

    All other settings are those of :class:`TransformerRecommender` and :class:`TrainingSettings`.
    """

    name: str = "sasrec"
    blocks: Literal["pre-norm", "published"] = "pre-norm"

    def build(self, n_items: int) -> Encoder:
        """Return a model with fresh weights."""
        return Encoder(
            n_items,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            positions=self.max_len,
            dropout=self.dropout,
            temperature=self.temperature,
            causal=True,
            published=self.blocks == "published",
            time_gaps=self.time_gaps,
            target_time=self.target_time,
        )
