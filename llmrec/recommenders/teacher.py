"""What a fitted recommender holds for probable at each training event, for a language model to learn from.

Shapes: E training events, U users, N items of the catalogue, K items kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.errors import DataError
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.comparable import comparable, new_items

__all__ = ["teach"]

_TEMPERATURES = (0.05, 20.0)  # of scores of standard deviation 1: from nearly certain to nearly even
_CALIBRATED_ON = 2_000  # validation users: one number is chosen, and their scores are held at once


def teach(
    teacher: ScoringRecommender,
    split: Split,
    top_items: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[SoftTargets, float]:
    """Ask a fitted recommender about every training event but the first of each user.

    Its scores of all items, after the events before this one, become comparable over users (their z-score over the items that may
    be recommended) and then probabilities by a softmax with one temperature: that with the best log-likelihood of the validation
    targets (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2), since scores of one system are sums and
    of another cosines. Where seen items are not recommended, they have no probability.

    Parameters
    ----------
    teacher
        Fitted on ``split.train``. That it knows the events it is asked about makes it surer of them than of others.
    top_items
        K; all where the catalogue has fewer.
    seed
        Of the sample of validation users, where there are more than 2,000.
    on_progress
        Called with (events done, all of them).

    Returns
    -------
        The targets, and the temperature.

    Raises
    ------
    DataError
        The split has no validation users whose target could be recommended.
    """
    temperature = _calibrate(
        teacher, split, split.valid.select(split.valid.sample_rows(_CALIBRATED_ON, seed))
    )
    train, k = split.train, min(top_items, split.n_items)
    items = np.zeros((len(train.items), k), dtype=np.int32)
    probabilities = np.zeros((len(train.items), k), dtype=np.float16)
    user = np.repeat(np.arange(len(train)), train.lengths)  # [E]
    asked = np.flatnonzero(np.arange(len(user)) > train.indptr[user])
    for start in range(0, len(asked), teacher.users_at_once):
        events = asked[start : start + teacher.users_at_once]
        before = train.spans(user[events], train.indptr[user[events]], events)
        logs = _log_probabilities(teacher, before, split, temperature)
        best = np.argpartition(-logs, k - 1, axis=1)[:, :k]
        items[events] = best
        probabilities[events] = np.exp(np.take_along_axis(logs, best, axis=1))
        if on_progress is not None:
            on_progress(start + len(events), len(asked))
    return SoftTargets(items, probabilities), temperature


def _calibrate(teacher: ScoringRecommender, split: Split, valid: Holdout) -> float:
    """Return the temperature under which the validation targets are most likely."""
    rows = np.arange(len(valid))
    if split.protocol.exclude_seen:
        rows = np.flatnonzero(new_items(valid.histories, split.n_items)[rows, valid.target_items])
    if not len(rows):
        raise DataError(
            f"{teacher.name} is to teach, and the split has no validation question with an answer that may be recommended, by which "
            "its scores become probabilities. Expected such questions: hold more out (section split), or check the log."
        )
    asked = valid.select(rows)
    scores = np.concatenate(
        [
            _scores(teacher, asked.histories[start : start + teacher.users_at_once], split)
            for start in range(0, len(asked), teacher.users_at_once)
        ]
    )
    own = scores[np.arange(len(asked)), asked.target_items]

    def loss(log_temperature: float) -> float:
        t = math.exp(log_temperature)
        return float((logsumexp(scores / t, axis=1) - own / t).mean())

    return math.exp(minimize_scalar(loss, bounds=tuple(map(math.log, _TEMPERATURES)), method="bounded").x)


def _log_probabilities(
    teacher: ScoringRecommender, histories: Histories, split: Split, temperature: float
) -> NDArray[np.float64]:
    scores = _scores(teacher, histories, split) / temperature
    normalised: NDArray[np.float64] = scores - logsumexp(scores, axis=1, keepdims=True)
    return normalised


def _scores(teacher: ScoringRecommender, histories: Histories, split: Split) -> NDArray[np.float64]:
    """Return comparable scores [U, N]; -inf for an item that is not recommended."""
    new = new_items(histories, split.n_items)
    if not split.protocol.exclude_seen:
        new[:] = True
    new |= ~new.any(axis=1, keepdims=True)  # who has seen everything can be recommended nothing new
    raw = np.asarray(teacher.score(histories), dtype=np.float64)
    scores: NDArray[np.float64] = np.where(new, comparable(raw, new, "zscore"), -np.inf)
    return scores
