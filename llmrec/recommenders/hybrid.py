"""Hybrid: several recommenders' scores made comparable and added up.

Shapes: P parts, U users, N items of the catalogue, G points of the grid of weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import DataError
from llmrec.recommenders.borrowed import borrowed
from llmrec.recommenders.comparable import Fusion, comparable, new_items
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.mixes import Mix, all_mixes, mixed, mixed_gains, n_ways, weight_grid
from llmrec.recommenders.parts import MadeOfParts, Parts
from llmrec.recommenders.training_settings import OnEpoch

__all__ = ["Hybrid"]

_MOST_ASKED = 2_000  # points of the grid of weights, where steps are given


class Hybrid(MadeOfParts):
    """The weighted sum of the scores of other recommenders, which are fitted on the same split.

    ``hybrid: {kind: hybrid, parts: {ease: {}, sasrec: {max_epochs: 20}}}`` is a whole configuration.

    Scores of different systems have different scales, so they are first made comparable for each user, see
    :func:`comparable`. Only items that are not in the history count for that: what a part thinks of an item that the user
    has seen, often the highest number of all, changes nothing about the others.

    Parameters
    ----------
    parts
        The recommenders by name: for each its settings, with ``kind`` where the name is not the kind, as under ``systems``;
        or a list of kinds, all with their defaults. Any that scores all items can be one, a hybrid too, and the run's
        fine-tuned language model, ``llm: {}``. A part may set its own ``seed``: ``{sasrec: {}, again: {kind: sasrec, seed: 1}}``
        shows what two trainings of one system are worth together, and so what of a fusion is no merit of the other system.
    fusion
        zscore: scores less their mean, over their standard deviation. rank: reciprocal ranks, deaf to how sure a part is;
        robust. logprob: log-probabilities, for parts that are trained as such (sasrec, markov).
    weights
        Of each part, 0 or more; only their ratios matter. ``None`` chooses them on the validation users: the best NDCG@10
        of a grid over all ways to divide 1 among the parts, a single part among them. The first of equally good ones is
        taken. Parts that stop early by the same validation users look a little better there than they are.
    steps
        In how many steps the grid divides 1. ``None``: tenths among two or three parts, coarser ones among more (at most
        100 ways).
    cold
        What becomes of items without training events under ``zscore``, where some parts know something of them (``content``, a
        language model that writes titles or was taught by ``content``) and others only that they never came next, which puts
        such an item last however much it has in common with the history. chosen: those others have no say in it; its score is
        the weighted mean of the parts that know it (a plain mean where they have no weight), or what one of them says, times .25,
        .5, .75 or 1; or else all have their say: whichever is best on the validation users, together with the weights. scored:
        all have their say.
    validation_users
        How many validation users the weights are chosen on, a random sample; ``None``: all. Fewer make the weights less
        sure; they are for parts that are slow to score, such as the language model, on large data.
    catalog, seed, on_epoch, checkpoint, language_model
        Given by the run; handed on to parts that take them. ``checkpoint`` is a folder here: parts that are trained
        alike, in one hybrid or several, are trained once.
    name
        The name under which its recommendations are stored.

    Attributes
    ----------
    parts_
        The recommenders by name.
    weights_
        Weight of each part by name, in sum 1.
    chosen_
        Where anything was chosen: ``weights``; the weights of ``cold`` items, unless they are the same; ``ndcg@10`` on the validation
        users, and ``ndcg@10 alone`` of each part there, where mixes were compared that leave cold items to all; how many ``users``.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        fusion: Fusion = "zscore",
        weights: Mapping[str, float] | None = None,
        steps: int | None = None,
        cold: Literal["chosen", "scored"] | float = "chosen",
        validation_users: int | None = None,
        catalog: Catalog | None = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
        language_model: LanguageModel | None = None,
        name: str = "hybrid",
    ) -> None:
        settings = {
            "parts": parts,
            "fusion": fusion,
            "weights": weights,
            "steps": steps,
            "cold": cold,
            "validation_users": validation_users,
        }
        super().__init__(
            settings,
            name,
            catalog=catalog,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            language_model=language_model,
        )
        self.fusion = fusion
        self.weights, self.steps, self.cold = weights, steps, cold
        self._knows = np.array([part.knows_cold_items for part in self.parts_.values()])  # [P]
        self.knows_cold_items = bool(self._knows.any())
        self.weights_: dict[str, float] = {}
        self.chosen_: dict[str, Any] = {}

    @classmethod
    def option_problems(cls, options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the settings and with those of the parts, each with its dotted name."""
        parts = list(options.get("parts") or ())
        problems = cls.parts_problems(options.get("parts"), where)
        fusion = options.get("fusion", "zscore")
        if fusion not in get_args(Fusion):
            problems.append(f"{where}.fusion: got {fusion!r}; expected one of {', '.join(get_args(Fusion))}")
        weights = options.get("weights")
        if weights is not None and (
            set(weights) != set(parts)
            or not all(math.isfinite(w) and w >= 0 for w in weights.values())
            or not any(weights.values())
        ):
            problems.append(
                f"{where}.weights: got {dict(weights)}; expected a number of 0 or more for each of "
                f"{', '.join(map(str, parts))}, not all 0, or none, to have them chosen on the validation users"
            )
        steps = options.get("steps")
        if steps is not None and (steps < 1 or n_ways(len(parts), steps) > _MOST_ASKED):
            problems.append(
                f"{where}.steps: got {steps}; expected 1 or more, with no more than {_MOST_ASKED:,} ways to divide 1 among "
                f"{len(parts)} parts"
            )
        cold = options.get("cold", "chosen")
        if cold not in ("chosen", "scored") and not (_is_number(cold) and math.isfinite(cold) and cold > 0):
            problems.append(f"{where}.cold: got {cold!r}; expected chosen, scored or a number above 0")
        if _is_number(cold) and fusion != "zscore":
            problems.append(
                f"{where}.cold: got {cold!r} with fusion {fusion}; expected a number with zscore only"
            )
        problems += cls.validation_problems(options, where)
        return problems

    def fit(self, split: Split) -> None:
        """Fit all parts, and choose the weights if none are given."""
        if self.weights is None and not len(split.valid):
            raise DataError(
                f"{self.name} got a split without validation users, and is to choose its weights by them. Expected such "
                "users, or weights in the config."
            )
        self.fit_parts(split)
        mixes = self._mixes(split)
        if self.weights is not None and len(mixes) == 1:
            self._take(mixes[0])
        else:
            self._choose(mixes, self._validate(split, mixes))

    def fit_parts(self, split: Split) -> None:
        """Fit all parts, and note which items are cold."""
        super().fit_parts(split)
        self._is_cold = ~split.warm  # [N]

    def _mixes(self, split: Split) -> list[Mix]:
        """Return what there is to choose among."""
        grid = self._grid()
        if not (self.knows_cold_items and self._is_cold.any() and self.fusion == "zscore"):
            return [Mix(weights, None) for weights in grid]
        if not isinstance(self.cold, str):
            return all_mixes(grid, self._knows, self.cold)
        if self.cold == "chosen" and len(self.parts_) > 1 and len(split.valid):
            return all_mixes(grid, self._knows)
        return [Mix(weights, None) for weights in grid]

    def _grid(self) -> NDArray[np.float64]:
        """Return the weights to choose among [G, P]: the given ones, or all of a grid."""
        if self.weights is None:
            return weight_grid(len(self.parts_), self.steps)
        given: NDArray[np.float64] = np.array([[self.weights[part] for part in self.parts_]])
        total: float = given.sum()
        return given / total

    def _take(self, mix: Mix) -> None:
        """Fuse so from here on."""
        self.mix_ = mix
        self.weights_ = dict(zip(self.parts_, mix.weights.tolist(), strict=True))

    def _choose(self, mixes: Sequence[Mix], gains: NDArray[np.float64]) -> None:
        """Take the mix with the highest mean of the users' gains [G, U]."""
        means = gains.mean(axis=1)
        best = int(means.argmax())
        self._take(mixes[best])
        cold = self.mix_.cold
        alone = {
            part: float(mean)
            for mean, mix in zip(means, mixes, strict=True)
            for part, weight in zip(self.parts_, mix.weights, strict=True)
            if mix.cold is None and weight == 1
        }
        self.chosen_ = {
            "weights": self.weights_,
            **({} if cold is None else {"cold": _shares(self.parts_, cold)}),
            "ndcg@10": float(means[best]),
            **({"ndcg@10 alone": alone} if alone else {}),
            "users": gains.shape[1],
        }

    def _validate(self, split: Split, mixes: Sequence[Mix]) -> NDArray[np.float64]:
        """Return each validation user's NDCG@10 under each mix [G, U]; a part scores a user once."""
        gains = []
        for holdout in self.blocks(self.sample(split.valid)):
            scores = self._comparable(self.part_scores(holdout.histories), holdout.histories)
            gains.append(
                mixed_gains(mixes, scores, holdout, self._is_cold, exclude_seen=split.protocol.exclude_seen)
            )
        return np.concatenate(gains, axis=1)

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the weighted sum of the parts' comparable scores, or the scores of a part that has all the weight [U, N]."""
        return self.fuse(self.mix_, self.part_scores(histories), histories)

    def fuse(self, mix: Mix, scores: NDArray[np.float64], histories: Histories) -> NDArray[np.float64]:
        """Return what a mix makes of the scores of all parts [P, U, N]."""
        if mix.weights.max() == 1 and mix.cold is None:
            # Mapped to another scale, scores that differ in the last bit could become equal.
            alone: NDArray[np.float64] = scores[mix.weights.argmax()]
            return alone
        return mixed(mix, self._comparable(scores, histories), self._is_cold)

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the item vectors of all parts side by side [N, D], whatever their weights.

        So items have both what behaviour and what texts say of them. Where a part has nothing (0), it has what it says of items
        that are alike to the others, see :func:`borrowed`.
        """
        parts: list[Any] = list(self.parts_.values())
        return np.concatenate(borrowed([part.item_vectors() for part in parts]), axis=1)

    def _comparable(self, scores: NDArray[np.float64], histories: Histories) -> NDArray[np.float64]:
        """Return the comparable scores of all parts [P, U, N]."""
        new = new_items(histories, scores.shape[2])
        return np.stack([comparable(s, new, self.fusion) for s in scores])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shares(parts: Iterable[str], weights: NDArray[np.float64]) -> dict[str, float]:
    """Return the weights that are not 0, by part."""
    return {part: weight for part, weight in zip(parts, weights.tolist(), strict=True) if weight}
