"""The full softmax of the sequence models beside torch's cross-entropy of the same logits: seconds forward and backward.

    python benchmarks/softmax.py        (a minute, one thread)

3,000 positions, 3,416 and 12,086 items (ml-1m, Amazon Beauty), 64 and 128 features, label smoothing 0.1. Both sides take turns and
have to give the same loss. Kept in results/softmax.json.
"""

from __future__ import annotations

import torch
from common import save, timed
from torch import Tensor
from torch.nn import functional as F

from llmrec.recommenders.losses import softmax

POSITIONS, SMOOTHING = 3000, 0.1


def ours(queries: Tensor, keys: Tensor, right: Tensor) -> Tensor:
    """Return the loss as the trainer computes it."""
    return softmax(queries, keys, right, negatives=0, smoothing=SMOOTHING, context=right)


def torchs(queries: Tensor, keys: Tensor, right: Tensor) -> Tensor:
    """Return the loss of logits that are held as a whole."""
    return F.cross_entropy(queries @ keys.T, right, label_smoothing=SMOOTHING)


def main() -> None:
    """Time both sides."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    for items, features in ((3416, 64), (3416, 128), (12086, 64)):
        queries = torch.randn(POSITIONS, features).requires_grad_()
        keys = (0.1 * torch.randn(items, features)).requires_grad_()
        right = torch.randint(items, (POSITIONS,))
        torch.testing.assert_close(ours(queries, keys, right), torchs(queries, keys, right))
        parts = (queries, keys, right)
        seconds = timed(
            {
                "llmrec": lambda parts=parts: torch.autograd.grad(ours(*parts), parts[:2]),
                "torch": lambda parts=parts: torch.autograd.grad(torchs(*parts), parts[:2]),
            },
            rounds=9,
        )
        row = {"items": items, "features": features, **seconds, "ratio": seconds["torch"] / seconds["llmrec"]}
        print(row)
        found.append(row)
    save("softmax", {"positions": POSITIONS, "threads": 1, "rows": found})


if __name__ == "__main__":
    main()
