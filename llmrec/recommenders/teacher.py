"""What a fitted recommender holds for probable at each training event, and what a language model learns of it.

Shapes: E training events, B of them that are asked about together, U users, N items of the catalogue, K items kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.errors import DataError
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.comparable import cached_rows, comparable, new_items

__all__ = ["Opinions", "before_events", "teach"]

_TEMPERATURES = (0.05, 20.0)  # of scores of standard deviation 1: from nearly certain to nearly even
_CALIBRATED_ON = 2_000  # validation users: one number is chosen, and their scores are held at once


class Opinions:
    """A fitted recommender's probabilities of what comes at each training event but the first of each user.

    Its scores of all items, after the events before this one, become comparable over users (their z-score over the items that may
    be recommended) and then probabilities by a softmax with one temperature: that with the best log-likelihood of the validation
    targets (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2), since scores of one system are sums and
    of another cosines. Where seen items are not recommended, they have no probability.

    Parameters
    ----------
    recommender
        Fitted on ``split.train``. That it knows the events it is asked about makes it surer of them than of others.
    seed
        Of the sample of validation users, where there are more than 2,000.

    Raises
    ------
    DataError
        The split has no validation users whose target could be recommended.
    """

    def __init__(self, recommender: ScoringRecommender, split: Split, seed: int = 0) -> None:
        self.recommender, self.split = recommender, split
        sample = split.valid.select(split.valid.sample_rows(_CALIBRATED_ON, seed))
        self.temperature = _calibrate(recommender, split, sample)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Yield some events [B] and the log-probabilities of all items there [B, N], until all were asked about."""
        for events, before in before_events(self.split.train, self.recommender.users_at_once):
            scores = _scores(self.recommender, before, self.split) / self.temperature
            for part in cached_rows(scores):
                some = scores[part]
                # By hand: scipy's logsumexp takes three times as long, and this is most of the work.
                top = some.max(axis=1, keepdims=True)
                yield events[part], some - (top + np.log(np.exp(some - top).sum(axis=1, keepdims=True)))


def before_events(histories: Histories, at_once: int) -> Iterator[tuple[NDArray[np.int64], Histories]]:
    """Yield events that have a past, so many at once, and the histories before each of them, which tell when they happened."""
    user = histories.owners  # [E]
    asked = np.flatnonzero(np.arange(len(user)) > histories.indptr[user])
    for start in range(0, len(asked), at_once):
        events = asked[start : start + at_once]
        before = histories.spans(user[events], histories.indptr[user[events]], events)
        yield events, before.told(histories.timestamps[events])


def teach(
    opinions: Opinions, top_items: int, on_progress: Callable[[int, int], None] | None = None
) -> SoftTargets:
    """Return the most probable items of each event.

    Parameters
    ----------
    top_items
        K; all where the catalogue has fewer.
    on_progress
        Called with (events done, all of them).
    """
    split = opinions.split
    k, n_events = min(top_items, split.n_items), len(split.train.items)
    items = np.zeros((n_events, k), dtype=np.int32)
    probabilities = np.zeros((n_events, k), dtype=np.float16)
    for events, logs in opinions:
        best = np.argpartition(-logs, k - 1, axis=1)[:, :k]
        items[events] = best
        probabilities[events] = np.exp(np.take_along_axis(logs, best, axis=1))
        if on_progress is not None:
            on_progress(int(events[-1]) + 1, n_events)
    return SoftTargets(items, probabilities)


def _calibrate(teacher: ScoringRecommender, split: Split, valid: Holdout) -> float:
    """Return the temperature under which the validation targets are most likely."""
    rows = np.arange(len(valid))
    if split.protocol.exclude_seen:
        rows = np.flatnonzero(new_items(valid.histories, split.n_items)[rows, valid.target_items])
    if not len(rows):
        raise DataError(
            f"{teacher.name} is asked about the training events, and the split has no validation question with an answer that may be recommended, by which "
            "its scores become probabilities. Expected such questions: hold more out (section split), or check the log."
        )
    asked = valid.select(rows)
    scores = np.concatenate(
        [_scores(teacher, part.histories, split) for part in asked.blocks(teacher.users_at_once)]
    )
    own = scores[np.arange(len(asked)), asked.target_items]

    def loss(log_temperature: float) -> float:
        t = math.exp(log_temperature)
        return float((logsumexp(scores / t, axis=1) - own / t).mean())

    return math.exp(minimize_scalar(loss, bounds=tuple(map(math.log, _TEMPERATURES)), method="bounded").x)


def _scores(teacher: ScoringRecommender, histories: Histories, split: Split) -> NDArray[np.float64]:
    """Return comparable scores [U, N]; -inf for an item that is not recommended."""
    new = new_items(histories, split.n_items)
    if not split.protocol.exclude_seen:
        new[:] = True
    new |= ~new.any(axis=1, keepdims=True)  # who has seen everything can be recommended nothing new
    raw = np.asarray(teacher.score(histories), dtype=np.float64)
    scores: NDArray[np.float64] = np.where(new, comparable(raw, new, "zscore"), -np.inf)
    return scores
