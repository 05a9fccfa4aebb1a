"""Adjusted: what a recommender says of new items, raised for histories that have some.

Shapes: U users, N items of the catalogue, G constants to choose among.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import LLM, System
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.comparable import comparable, new_items
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.mixes import Mix, mixed_gains
from llmrec.recommenders.parts import MadeOfParts, Parts
from llmrec.recommenders.training_settings import OnEpoch

__all__ = ["Adjusted"]

# Standard deviations; at the last of them hardly anything else is ahead of a cold item.
_CONSTANTS = np.arange(-8, 33) / 4


class Adjusted(MadeOfParts):
    """Another recommender whose scores of cold items have a constant added, for users whose history has such items.

    No training history has an item without training events, so nothing has taught a model how much more probable they are for those who
    have bought one; for all other histories its training has, and their scores stay as they are. A constant on the scores of a class
    is what corrects a classifier for other class shares than in training (Saerens et al. 2002, "Adjusting the Outputs of a Classifier
    to New a Priori Probabilities"; Menon et al. 2021, "Long-tail Learning via Logit Adjustment", equation 9).

    ``adjusted: {kind: adjusted, parts: {llm: {}}}`` is a whole configuration.

    Parameters
    ----------
    parts
        One recommender that scores all items and knows something of cold ones, with its settings as under ``systems``; the run's
        fine-tuned language model is ``llm: {}``.
    constant
        In standard deviations of the user's scores over the items that are not in the history. ``None`` chooses it on those
        validation users whose history has cold items: the best NDCG@10 of -2 to 8 in steps of a quarter, of equally good ones
        the nearest to 0, and 0 where there are no such users.
    validation_users
        How many of these users it is chosen on, a random sample; ``None``: all.
    catalog, seed, on_epoch, checkpoint, language_model
        Given by the run; handed on to the part if it takes them.
    name
        The name under which its recommendations are stored.

    Raises
    ------
    ConfigError
        The settings have problems, or the part knows nothing of items without training events.

    Attributes
    ----------
    constant_
        What is added.
    chosen_
        Where it was chosen: ``constant``; ``ndcg@10`` with it and ``ndcg@10 without`` it; on how many ``users``.
    """

    knows_cold_items = True

    def __init__(
        self,
        *,
        parts: Parts,
        constant: float | None = None,
        validation_users: int | None = None,
        catalog: Catalog | None = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
        language_model: LanguageModel | None = None,
        name: str = "adjusted",
    ) -> None:
        settings = {"parts": parts, "constant": constant, "validation_users": validation_users}
        super().__init__(
            settings,
            name,
            catalog=catalog,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            language_model=language_model,
        )
        ((part, inner),) = self.parts_.items()
        unknown = language_model is None and System.model_validate({"parts": parts}).has_kind(LLM, name)
        if not (inner.knows_cold_items or unknown):
            raise ConfigError(
                f"{name} got {part}, which knows nothing of items without training events, so that all of them have the lowest score or any. "
                "Expected a part that does: content, a hybrid with it, or a language model that writes titles or was taught by one of these."
            )
        self.constant, self.constant_ = constant, 0.0
        self.chosen_: dict[str, Any] = {}

    @classmethod
    def option_problems(cls, options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the settings and with those of the part, each with its dotted name."""
        parts = options.get("parts")
        problems = cls.parts_problems(parts, where)
        if parts and len(parts) > 1:
            problems.append(
                f"{where}.parts: got {', '.join(map(str, parts))}; expected one recommender: several can be one as a hybrid"
            )
        constant = options.get("constant")
        if constant is not None and not math.isfinite(constant):
            problems.append(
                f"{where}.constant: got {constant}; expected a number, or none, to have it chosen on the validation users"
            )
        problems += cls.validation_problems(options, where)
        return problems

    def fit(self, split: Split) -> None:
        """Fit the part, and choose the constant if none is given."""
        self.fit_parts(split)
        self._is_cold = ~split.warm  # [N]
        if self.constant is None:
            self._choose(split)
        else:
            self.constant_ = self.constant

    def _choose(self, split: Split) -> None:
        """Take the constant that is best on the validation users whose history has cold items."""
        asked = self.sample(split.valid.select(np.flatnonzero(self._has_cold(split.valid.histories))))
        self.constant_, self.chosen_ = 0.0, {"constant": 0.0, "users": len(asked)}
        if not len(asked):
            return
        constants = _CONSTANTS[np.abs(_CONSTANTS).argsort(kind="stable")]
        # Of z-scores and ones, the latter weighted by the constant, and among cold items alone.
        plain = np.array([1.0, 0.0])  # one array: what mixes have in common is worked out once
        mixes = [Mix(plain, np.array([1.0, c])) for c in constants]
        gains = []
        for users in self.blocks(asked):
            z = self._standard(users.histories)
            scores = np.stack([z, np.ones_like(z)])
            gains.append(
                mixed_gains(mixes, scores, users, self._is_cold, exclude_seen=split.protocol.exclude_seen)
            )
        means = np.concatenate(gains, axis=1).mean(axis=1)  # [G]
        best = int(means.argmax())
        self.constant_ = float(constants[best])
        self.chosen_ = {
            "constant": self.constant_,
            "ndcg@10": float(means[best]),
            "ndcg@10 without": float(means[0]),
            "users": len(asked),
        }

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return how many standard deviations above the mean the part scores each item, plus the constant where it is due [U, N]."""
        scores = self._standard(histories)
        scores[np.ix_(self._has_cold(histories), self._is_cold)] += self.constant_
        return scores

    def _has_cold(self, histories: Histories) -> NDArray[np.bool_]:
        """Say which histories have a cold item [U]."""
        having: NDArray[np.bool_] = histories.where(self._is_cold[histories.items]).lengths > 0
        return having

    def _standard(self, histories: Histories) -> NDArray[np.float64]:
        """Return how many standard deviations above the mean the part scores each item [U, N]."""
        (scores,) = self.part_scores(histories)
        return comparable(scores, new_items(histories, scores.shape[1]), "zscore")
