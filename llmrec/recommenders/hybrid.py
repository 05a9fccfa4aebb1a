"""Hybrid: several recommenders' scores made comparable and added up.

Shapes: P parts, U users, N items of the catalogue, G points of the grid of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from llmrec.config import LLM, System
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError, DataError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.holdout import holdout_metrics
from llmrec.recommenders.registry import build_recommender, recommender_class, system_problems
from llmrec.recommenders.training_settings import OnEpoch

__all__ = ["Hybrid", "comparable", "weight_grid"]

Fusion = Literal["zscore", "rank", "logprob"]

RANK_CONSTANT = 60  # of reciprocal rank fusion, as its authors chose it
_MOST_WEIGHTS = 100  # points of the grid


class Hybrid(ScoringRecommender):
    """The weighted sum of the scores of other recommenders, which are fitted on the same split.

    ``hybrid: {kind: hybrid, parts: {ease: {}, sasrec: {max_epochs: 20}}}`` is a whole configuration.

    Scores of different systems have different scales, so they are first made comparable for each user, see
    :func:`comparable`. Only items that are not in the history count for that: what a part thinks of an item that the user
    has seen, often the highest number of all, changes nothing about the others.

    Parameters
    ----------
    parts
        The recommenders by name: for each its settings, with ``kind`` where the name is not the kind, as under ``systems``;
        or a list of kinds, all with their defaults. Any that scores all items can be one, a hybrid too; the language
        model cannot, it makes lists.
    fusion
        zscore: scores less their mean, over their standard deviation. rank: reciprocal ranks, deaf to how sure a part is;
        robust. logprob: log-probabilities, for parts that are trained as such (sasrec, markov).
    weights
        Of each part, 0 or more; only their ratios matter. ``None`` chooses them on the validation users: the best NDCG@10
        of a grid over all ways to divide 1 in tenths among two or three parts, in coarser steps among more (at most 100
        ways), a single part among them. The first of equally good ones is taken. Parts that stop early by the same
        validation users look a little better there than they are.
    catalog, seed, on_epoch, checkpoint
        Given by the run; handed on to parts that take them, each with a checkpoint of its own.
    name
        The name under which its recommendations are stored.

    Attributes
    ----------
    parts_
        The recommenders by name.
    weights_
        Weight of each part by name, in sum 1.
    chosen_
        Where weights were chosen: ``weights``, and ``ndcg@10`` on the validation users.
    """

    def __init__(
        self,
        *,
        parts: Mapping[str, Mapping[str, Any] | None] | Sequence[str],
        fusion: Fusion = "zscore",
        weights: Mapping[str, float] | None = None,
        catalog: Catalog | None = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
        name: str = "hybrid",
    ) -> None:
        problems = self.option_problems({"parts": parts, "fusion": fusion, "weights": weights}, name)
        if problems:
            raise ConfigError("; ".join(problems))
        self.name = name
        self.fusion = fusion
        injected = {"catalog": catalog, "seed": seed, "on_epoch": on_epoch}
        self.parts_: dict[str, ScoringRecommender] = {
            part: build_recommender(
                part,
                system,
                **injected,
                checkpoint=checkpoint
                and checkpoint.with_name(f"{checkpoint.stem}.{part}{checkpoint.suffix}"),
            )
            for part, system in _systems(parts).items()
        }
        self.users_at_once = min(part.users_at_once for part in self.parts_.values())
        self.pretrained = tuple(dict.fromkeys(m for part in self.parts_.values() for m in part.pretrained))
        self.weights = weights
        self.weights_: dict[str, float] = {}
        self.chosen_: dict[str, Any] = {}

    @classmethod
    def option_problems(cls, options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the settings and with those of the parts, each with its dotted name."""
        problems, systems = [], _systems(options.get("parts") or {})
        if not systems:
            problems.append(
                f"{where}.parts: got none; expected recommenders, for example {{ease: {{}}, sasrec: {{}}}}"
            )
        for part, system in systems.items():
            here = f"{where}.parts.{part}"
            kind = system.kind_as(part)
            found = system_problems(part, system, here)
            if not found and (kind == LLM or not issubclass(recommender_class(kind), ScoringRecommender)):
                found = [f"{here}: {kind} does not score all items; expected a ScoringRecommender"]
            problems += found
        fusion = options.get("fusion", "zscore")
        if fusion not in get_args(Fusion):
            problems.append(f"{where}.fusion: got {fusion!r}; expected one of {', '.join(get_args(Fusion))}")
        weights = options.get("weights")
        if weights is not None and (
            set(weights) != set(systems)
            or not all(math.isfinite(w) and w >= 0 for w in weights.values())
            or not any(weights.values())
        ):
            problems.append(
                f"{where}.weights: got {dict(weights)}; expected a number of 0 or more for each of "
                f"{', '.join(systems)}, not all 0, or none, to have them chosen on the validation users"
            )
        return problems

    @property
    def device_(self) -> str:
        """The GPU of the first part that has one, or the CPU."""
        devices = [str(getattr(part, "device_", "cpu")) for part in self.parts_.values()]
        return next((d for d in devices if d != "cpu"), "cpu")

    def fit(self, split: Split) -> None:
        """Fit all parts, and choose the weights if none are given."""
        if self.weights is None and not len(split.valid):
            raise DataError(
                f"{self.name} got a split without validation users, and is to choose its weights by them. Expected such "
                "users, or weights in the config."
            )
        for part in self.parts_.values():
            part.fit(split)
        if self.weights is None:
            grid = weight_grid(len(self.parts_))
            gains = self._validate(split, grid)
            best = int(gains.argmax())
            self.weights_ = dict(zip(self.parts_, grid[best].tolist(), strict=True))
            self.chosen_ = {"weights": self.weights_, "ndcg@10": float(gains[best])}
        else:
            total = sum(self.weights.values())
            self.weights_ = {part: self.weights[part] / total for part in self.parts_}

    def _validate(self, split: Split, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the validation NDCG@10 of each point of the grid [G]; every part scores every user once."""
        gains = np.zeros(len(grid))
        for start in range(0, len(split.valid), self.users_at_once):
            holdout = split.valid.select(np.arange(start, min(start + self.users_at_once, len(split.valid))))
            scores = self._comparable(holdout.histories)
            for g, weights in enumerate(grid):
                given = _Given(np.tensordot(weights, scores, 1))
                _, ndcg = holdout_metrics(given, holdout, exclude_seen=split.protocol.exclude_seen)
                gains[g] += ndcg * len(holdout) / len(split.valid)
        return gains

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the weighted sum of the parts' comparable scores [U, N]."""
        weights = np.array([self.weights_[part] for part in self.parts_])  # [P]
        scores: NDArray[np.float64] = np.tensordot(weights, self._comparable(histories), 1)
        return scores

    def _comparable(self, histories: Histories) -> NDArray[np.float64]:
        """Return the comparable scores of all parts [P, U, N]."""
        scores = [np.asarray(part.score(histories), dtype=np.float64) for part in self.parts_.values()]
        new = np.ones(scores[0].shape, dtype=bool)
        new[np.repeat(np.arange(len(histories)), histories.lengths), histories.items] = False
        return np.stack([comparable(s, new, self.fusion) for s in scores])


def comparable(scores: NDArray[np.float64], new: NDArray[np.bool_], fusion: Fusion) -> NDArray[np.float64]:
    """Return scores that can be added to those of another system [U, N].

    Parameters
    ----------
    scores
        Of one system [U, N].
    new
        Which items decide how scores are mapped [U, N]; the others are mapped alike.
    fusion
        zscore: (score - mean) / standard deviation. Where all new items have the same score, all of them are 0.

        rank: 1 / (60 + rank), with the number of new items of a higher score + 1 as the rank, so that equal scores stay
        equal (reciprocal rank fusion, Cormack et al. 2009).

        logprob: the log of the softmax over the new items. Its weighted sum is the log of a product of the systems'
        distributions, but for a constant per user, and so ranks as the weighted sum of the scores themselves.
    """
    if fusion == "rank":
        ahead = [
            row[mask].size - np.searchsorted(np.sort(row[mask]), row, side="right")
            for row, mask in zip(scores, new, strict=True)
        ]
        reciprocal: NDArray[np.float64] = 1.0 / (RANK_CONSTANT + 1.0 + np.stack(ahead))
        return reciprocal
    count = np.maximum(new.sum(axis=1, keepdims=True), 1)  # [U, 1] 1 where everything was seen
    if fusion == "logprob":
        hidden = np.where(new, scores, -np.inf)
        total = logsumexp(hidden, axis=1, keepdims=True)
        return scores - np.asarray(np.where(np.isfinite(total), total, 0.0), dtype=np.float64)
    mean = np.where(new, scores, 0.0).sum(axis=1, keepdims=True) / count
    centred = scores - mean
    deviation = np.sqrt(np.where(new, centred**2, 0.0).sum(axis=1, keepdims=True) / count)
    lowest = np.where(new, scores, np.inf).min(axis=1, keepdims=True)
    # Asked of the scores, since the deviation of equal ones need not be 0 to the last bit.
    differ = np.where(new, scores, -np.inf).max(axis=1, keepdims=True) > lowest
    return np.where(differ, centred / np.where(differ, deviation, 1.0), 0.0)


def weight_grid(parts: int) -> NDArray[np.float64]:
    """Return all ways to divide 1 among ``parts`` in equal steps [G, P], those of single parts among them.

    The steps are tenths, or the finest that make no more than 100 ways.
    """
    steps = 10
    while steps > 1 and math.comb(steps + parts - 1, parts - 1) > _MOST_WEIGHTS:
        steps -= 1

    def divide(rest: int, among: int) -> Iterator[list[int]]:
        if among == 1:
            yield [rest]
            return
        for first in range(rest, -1, -1):
            yield from ([first, *others] for others in divide(rest - first, among - 1))

    return np.array(list(divide(steps, parts))) / steps


def _systems(parts: Mapping[str, Mapping[str, Any] | None] | Sequence[str]) -> dict[str, System]:
    given = parts if isinstance(parts, Mapping) else dict.fromkeys(parts)
    return {str(part): System.model_validate(options or {}) for part, options in given.items()}


class _Given(ScoringRecommender):
    """Scores that are there already."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self.name, self.scores, self.users_at_once = "given", scores, max(1, len(scores))

    def fit(self, split: Split) -> None:
        """Do nothing."""

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return them."""
        return self.scores
