"""What sequence models are trained by: three losses over the same inner products.

Shapes: M positions with a loss, N items of the catalogue, D features, K sampled items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["LOSSES", "bce", "sampled_softmax", "softmax"]

# Logits held at once. On a CPU a piece should stay in the cache, on a GPU it should keep the cores busy.
LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**27}


class _Softmax(torch.autograd.Function):
    """Cross-entropy of all items, in pieces, with the gradient made in the same pass.

    A piece's logits are overwritten by their exponentials, multiplied into both gradients and forgotten, so M x N numbers are
    never held and none is computed twice. Hsu et al. 2024 ("Liger Kernel", arXiv 2410.10989, section 3.2) do so on GPUs.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, right: Tensor) -> Tensor:
        grad_queries, grad_keys = torch.empty_like(queries), torch.zeros_like(keys)
        rows = max(1, LOGITS_AT_ONCE.get(queries.device.type, 2**27) // len(keys))
        total = torch.zeros((), dtype=torch.float64, device=queries.device)
        for start in range(0, len(queries), rows):
            part, own = queries[start : start + rows], right[start : start + rows]
            logits = part @ keys.T  # [m, N]
            top = logits.amax(dim=1, keepdim=True)
            total += (top[:, 0] - logits.gather(1, own[:, None])[:, 0]).double().sum()
            parts = logits.sub_(top).exp_()
            mass = parts.sum(dim=1, keepdim=True)
            total += mass.double().log().sum()
            # Dividing D features by the mass is cheaper than dividing N probabilities.
            grad_queries[start : start + rows] = parts @ keys / mass
            grad_keys.addmm_(parts.T, part / mass)
        grad_queries -= keys[right]
        grad_keys.index_add_(0, right, queries, alpha=-1)
        ctx.save_for_backward(grad_queries, grad_keys)
        return total.to(queries.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_queries, grad_keys = ctx.saved_tensors
        return grad * grad_queries, grad * grad_keys, None


def softmax(
    queries: Tensor, keys: Tensor, right: Tensor, *, negatives: int, smoothing: float, context: Tensor
) -> Tensor:
    """Return the mean over M positions of the cross-entropy of all N items.

    Parameters
    ----------
    queries, keys
        Logits are their inner products [M, D], [N, D].
    right
        The item that came next [M].
    smoothing
        Probability mass of the target that is spread evenly over all items (Szegedy et al. 2016).
    negatives, context
        Not used: all items are negatives.
    """
    summed: Tensor = _Softmax.apply(queries, keys, right)  # type: ignore[no-untyped-call]
    return _smoothed(summed, queries, keys, right, smoothing)


def sampled_softmax(
    queries: Tensor, keys: Tensor, right: Tensor, *, negatives: int, smoothing: float, context: Tensor
) -> Tensor:
    """Return the cross-entropy against an estimate of the softmax from sampled items.

    One draw of ``negatives`` different items, uniform over the catalogue, serves all positions. Each stands for
    (N - 1) / K items, so that the sum over the sample is an unbiased estimate of the sum over the catalogue (Bengio and Senecal
    2008, section III). The item that came next is always in the sum, once.

    Parameters
    ----------
    negatives
        K, at most N.
    queries, keys, right, smoothing, context
        See :func:`softmax`.
    """
    drawn = torch.randperm(len(keys), device=keys.device)[:negatives]  # [K]
    logits = queries @ keys[drawn].T  # [M, K]
    twice = drawn == right[:, None]
    # Where the right item was drawn, one sampled item fewer stands for the rest.
    left = len(drawn) - twice.sum(dim=1, keepdim=True)
    weighted = logits + torch.log((len(keys) - 1) / left.clamp(min=1))
    own = (queries * keys[right]).sum(dim=1, keepdim=True)  # [M, 1]
    mass = torch.cat([own, weighted.masked_fill(twice, -math.inf)], dim=1).logsumexp(dim=1)
    return _smoothed((mass - own[:, 0]).sum(), queries, keys, right, smoothing)


def bce(
    queries: Tensor, keys: Tensor, right: Tensor, *, negatives: int, smoothing: float, context: Tensor
) -> Tensor:
    """Return the binary cross-entropy of each next item against sampled items, as SASRec was published.

    Kang & McAuley 2018, section III.E, with one negative. It does not rank well: the model learns to tell the next item from a
    random one and not from the likely ones (Klenitskiy & Vasilev 2023; Petrov & Macdonald 2023).

    Parameters
    ----------
    negatives
        Items drawn for each position, uniform over the catalogue.
    context
        Items of the window that a position belongs to [M, L]; as in the paper, they are no negatives.
    smoothing
        Not used.
    queries, keys, right
        See :func:`softmax`.
    """
    drawn = torch.randint(len(keys), (len(right), negatives), device=keys.device)  # [M, K]
    known = (drawn[:, :, None] == context[:, None, :]).any(dim=2) | (drawn == right[:, None])
    own = (queries * keys[right]).sum(dim=1)  # [M]
    others = torch.einsum("md,mkd->mk", queries, keys[drawn])  # [M, K]
    wrong = F.softplus(others).masked_fill(known, 0.0)
    return (F.softplus(-own).sum() + wrong.sum() / negatives) / len(right)


def _smoothed(summed: Tensor, queries: Tensor, keys: Tensor, right: Tensor, smoothing: float) -> Tensor:
    """Return a summed cross-entropy with a smoothed target, as a mean over M.

    Smoothing moves weight from the right item's logit to the mean logit, whatever the sum over items is; and the mean of
    all logits is the inner product with the mean key.
    """
    if smoothing:
        own = (queries * keys[right]).sum()
        summed = summed + smoothing * (own - queries.sum(dim=0) @ keys.mean(dim=0))
    return summed / len(right)


LOSSES: dict[str, Callable[..., Tensor]] = {"softmax": softmax, "sampled": sampled_softmax, "bce": bce}
