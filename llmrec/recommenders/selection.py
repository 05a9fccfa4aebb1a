"""Which users a language model is fine-tuned on, where not all of them are to be paid for.

Shapes: U users, E training events, B events asked about together, N items of the catalogue, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.sequential import SequentialRecommender
from llmrec.recommenders.teacher import Opinions, before_events

__all__ = ["influence", "uncertainty", "within_budget"]


def within_budget(scores: NDArray[np.floating], histories: Histories, share: float) -> NDArray[np.int64]:
    """Return the users to learn from, ascending: those of the highest scores whose targets fit into a share of all.

    Parameters
    ----------
    scores
        One for each user [U]; equal ones in the order of the histories.
    histories
        The training histories, all of whose events but the first are targets.
    share
        Of all targets, above 0. The best user who has any is taken even if that is more.
    """
    targets = np.maximum(histories.lengths - 1, 0)
    left, chosen = share * targets.sum(), list[int]()
    for user in np.argsort(-scores, kind="stable").tolist():
        if targets[user] and (targets[user] <= left + 1e-9 or not chosen):
            chosen.append(user)
            left -= targets[user]
    return np.sort(np.array(chosen, dtype=np.int64))


def uncertainty(surrogate: ScoringRecommender, split: Split, seed: int = 0) -> NDArray[np.float64]:
    """Return for each user how improbable the surrogate finds the events on average, in nats [U].

    Uncertainty sampling (Lewis & Gale 1994) with what happened instead of what might: labels cost nothing here, training does.
    The events are probable as :class:`Opinions` say; one that must not be recommended, a repetition, does not count.
    """
    loss = np.full(len(split.train.items), np.nan)
    for events, logs in Opinions(surrogate, split, seed):
        loss[events] = -logs[np.arange(len(events)), split.train.items[events]]
    return _mean_of_users(loss, split.train)


def influence(surrogate: SequentialRecommender, split: Split) -> NDArray[np.float64]:
    """Return how much a gradient step on a user's average event would lower the surrogate's validation loss [U].

    The inner product of both gradients of the softmax loss (Pruthi et al. 2020, "Estimating Training Data Influence by Tracing Gradient
    Descent", equation 1, at the trained weights), with respect to the vectors that score the items, which needs no backward pass:
    that of an event with query q, probabilities p and next item y is ``(p - y) q^T`` [N, D].

    Raises
    ------
    ConfigError
        The surrogate is no sequence model.
    """
    if not isinstance(surrogate, SequentialRecommender):
        raise ConfigError(
            f"{surrogate.name} is to choose users by influence, and has no gradients. Expected a sequence model, such as "
            "sasrec, or finetune.selection.by: uncertainty."
        )
    train, valid = split.train, split.valid
    surrogate.model_.eval()
    with torch.inference_mode():
        towards = torch.zeros_like(surrogate.model_.keys())  # [N, D] the gradient of the validation loss
        for part in valid.blocks(surrogate.users_at_once):
            queries, error = _gradient(surrogate, part.histories, part.target_items)
            towards += error.T @ queries
        towards /= max(len(valid), 1)
        agrees = np.full(len(train.items), np.nan)
        for events, before in before_events(train, surrogate.users_at_once):
            queries, error = _gradient(surrogate, before, train.items[events])
            agrees[events] = ((error @ towards) * queries).sum(dim=1).cpu().numpy()
    return _mean_of_users(agrees, train)


def _gradient(
    surrogate: SequentialRecommender, histories: Histories, items: NDArray[np.int32]
) -> tuple[Tensor, Tensor]:
    """Return queries [B, D] and how far probabilities are from what came next [B, N]: their outer products are the gradients."""
    features = surrogate.query(surrogate.model_, surrogate.inputs(histories))
    error = surrogate.model_.logits(features).softmax(dim=1)
    error[torch.arange(len(items)), torch.from_numpy(items).long().to(error.device)] -= 1
    return surrogate.model_.queries(features), error


def _mean_of_users(values: NDArray[np.float64], histories: Histories) -> NDArray[np.float64]:
    """Return the mean of each user's finite values [U]; the lowest of all for a user without any."""
    user = histories.owners
    known = np.isfinite(values)
    total = np.bincount(user[known], values[known], minlength=len(histories))
    count = np.bincount(user[known], minlength=len(histories))
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(len(histories), np.inf), where=count > 0)
    means[count == 0] = means.min()
    return means
