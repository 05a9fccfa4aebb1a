"""What the trainer needs of a model.

Shapes: B users, L events, D features, N items of the catalogue, M positions to be scored, E events of histories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Inputs", "SequenceModel", "gap_classes"]

_FIRST, _TIED = 0, 1  # classes of a gap that is not known, and of none
_GAP_CLASSES = 34  # the last begins at 2^31 seconds, which are 68 years


@dataclass(frozen=True, eq=False)
class Inputs:
    """Runs of events, padded on the right with item 0 and the gap of class 0; ``lengths`` tells what is real.

    Padding follows the events, so a model that only looks back needs no mask to be undisturbed by it.
    """

    items: Tensor  # [B, L] catalogue indices
    gaps: Tensor  # [B, L + 1] see gap_classes; before each event, and between the newest and what comes next
    lengths: Tensor  # [B] real events


def gap_classes(seconds: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return in which power of two of a second gaps lie [E].

    0 for one that is not known (NaN), 1 for none, 2 for 1 second, 3 from 2 seconds, 4 from 4 and so on.
    """
    classes = np.full(len(seconds), _FIRST)
    classes[seconds == 0] = _TIED
    longer = seconds > 0
    classes[longer] = np.minimum(_TIED + 1 + np.log2(seconds[longer]).astype(np.int64), _GAP_CLASSES - 1)
    return classes


class SequenceModel(nn.Module):
    """Features per position, and items scored from features by inner products.

    ``temperature`` says what the inner products are of. With a number, of vectors of length 1, divided by it: the scale of
    the logits is then a setting, where otherwise the norms of the embeddings grow with training and popularity until the
    softmax overfits. With ``None``, of the features and embeddings as they are, as the models were published.

    ``time_gaps`` adds to what is read of an item a vector of the gap before its event, ``target_time`` one of the gap behind it.
    """

    def __init__(
        self,
        n_items: int,
        extra: int,
        dim: int,
        temperature: float | None,
        *,
        time_gaps: bool = False,
        target_time: bool = False,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.temperature = temperature
        self.items = nn.Embedding(n_items + extra, dim)  # those after the items are never recommended
        self.gaps = nn.Embedding(_GAP_CLASSES, dim) if time_gaps else None
        self.next_gaps = nn.Embedding(_GAP_CLASSES, dim) if target_time else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Return features [B, L, D] of events; they must not depend on what comes after the real ones."""
        raise NotImplementedError

    def read(self, inputs: Inputs, scale: float = 1.0) -> Tensor:
        """Return what goes in for each event [B, L, D]: its item's embedding, times ``scale``, and those of its gaps."""
        read: Tensor = self.items(inputs.items) * scale
        if self.gaps is not None:
            read = read + self.gaps(inputs.gaps[:, :-1])
        if self.next_gaps is not None:
            read = read + self.next_gaps(inputs.gaps[:, 1:])
        return read

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
