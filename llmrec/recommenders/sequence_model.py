"""What the trainer needs of a model.

Shapes: B users, L events, D features, N items of the catalogue, M positions to be scored.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SequenceModel"]


class SequenceModel(nn.Module):
    """Features per position, and items scored from features by inner products.

    ``temperature`` says what the inner products are of. With a number, of vectors of length 1, divided by it: the scale of
    the logits is then a setting, where otherwise the norms of the embeddings grow with training and popularity until the
    softmax overfits. With ``None``, of the features and embeddings as they are, as the models were published.
    """

    def __init__(self, n_items: int, extra: int, dim: int, temperature: float | None) -> None:
        super().__init__()
        self.n_items = n_items
        self.temperature = temperature
        self.items = nn.Embedding(n_items + extra, dim)  # those after the items are never recommended

    def forward(self, events: Tensor, lengths: Tensor) -> Tensor:
        """Return features [B, L, D] of events [B, L] of which the first ``lengths`` [B] are real.

        They must not depend on what comes after the real events.
        """
        raise NotImplementedError

    def queries(self, features: Tensor) -> Tensor:
        """Return the vectors [M, D] whose inner products with :meth:`keys` are the logits."""
        # Scaled here rather than in the logits: M x D divisions instead of M x N.
        return features if self.temperature is None else F.normalize(features, dim=-1) / self.temperature

    def keys(self) -> Tensor:
        """Return the vectors of the items [N, D]."""
        weight = self.items.weight[: self.n_items]
        return weight if self.temperature is None else F.normalize(weight, dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the unnormalised log-probability of every item [M, N] from features [M, D]."""
        return self.queries(features) @ self.keys().T
