"""Guided: the language model's search, steered by another recommender.

Shapes: U users, N items of the catalogue, G weights to choose among.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.errors import DataError
from llmrec.recommenders.holdout import listed_gains
from llmrec.recommenders.llm import LLMRecommender
from llmrec.recommenders.llm_scores import LanguageModel, LanguageModelScores
from llmrec.recommenders.parts import MadeOfParts, Parts
from llmrec.recommenders.training_settings import OnEpoch

__all__ = ["Guided"]

_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


class Guided(MadeOfParts):
    """The language model's beam search with another recommender's say in every step.

    ``guided: {kind: guided, parts: {llm: {}, sasrec: {}}}``. An item scores its log-probability by the language model plus ``weight`` times its
    log-probability by the other part, the log-softmax of its scores, and a prefix of identifiers has the probability of the
    items below it (:class:`llmrec.decoding.guidance.Guide`; Bao et al. 2024, "Decoding Matters"). It is the hybrid of both with
    ``fusion: logprob`` for catalogues that are too large to score every item: the language model reads only what the search looks at.

    Parameters
    ----------
    parts
        Two: ``llm``, the run's fine-tuned language model, and a recommender that scores all items. The beam is as wide as
        ``decoding`` says, in torch, and normalised as the part ``llm`` says, or ``decoding``.
    weight
        Of the other part, 0 or more; 0 is the language model alone. ``None`` chooses it on the validation users: the best NDCG@10 of
        0, 1/4, 1/2, 1, 2 and 4, one search for each.
    validation_users
        How many validation users the weight is chosen on, a random sample; ``None``: all.
    catalog, seed, on_epoch, checkpoint, language_model
        Given by the run; handed on to parts that take them.
    name
        The name under which its recommendations are stored.

    Attributes
    ----------
    model, guide
        The parts: the language model and what steers it.
    weight_
        The weight that is used.
    chosen_
        Where it was chosen: ``weight``; ``ndcg@10`` on the validation users, by weight; how many ``users`` that were.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        weight: float | None = None,
        validation_users: int | None = None,
        catalog: Catalog | None = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
        language_model: LanguageModel | None = None,
        name: str = "guided",
    ) -> None:
        settings = {"parts": parts, "weight": weight, "validation_users": validation_users}
        super().__init__(
            settings,
            name,
            catalog=catalog,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            language_model=language_model,
        )
        self.weight, self.weight_ = weight, 0.0
        self.chosen_: dict[str, Any] = {}
        models = [p for p in self.parts_.values() if isinstance(p, LanguageModelScores)]
        (self.model,) = models
        (self.guide,) = (p for p in self.parts_.values() if p is not self.model)

    @classmethod
    def option_problems(cls, options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the settings and with those of the parts, each with its dotted name."""
        given = options.get("parts")
        problems = cls.parts_problems(given, where)
        if not problems:
            assert given is not None
            named = given if isinstance(given, Mapping) else dict.fromkeys(given)
            kinds = [(options or {}).get("kind", part) for part, options in named.items()]
            if len(kinds) != 2 or kinds.count("llm") != 1:
                problems.append(
                    f"{where}.parts: got {', '.join(map(str, named))}; expected two, the language model and one that guides it, for "
                    "example {llm: {}, sasrec: {}}"
                )
        weight = options.get("weight")
        if weight is not None and not (np.isfinite(weight) and weight >= 0):
            problems.append(
                f"{where}.weight: got {weight}; expected 0 or more, or none, to have it chosen on the validation users"
            )
        problems += cls.validation_problems(options, where)
        return problems

    @property
    def searches(self) -> int:
        """Searches for each validation user: one for each weight to choose among."""
        return len(_WEIGHTS) if self.weight is None else 0

    @property
    def llm(self) -> LLMRecommender:
        """The language model."""
        return self.model.llm_

    def fit(self, split: Split) -> None:
        """Open the language model, fit the other part, and choose the weight if none is given."""
        if self.weight is None and not len(split.valid):
            raise DataError(
                f"{self.name} got a split without validation users, and is to choose its weight by them. Expected such "
                "users, or a weight in the config."
            )
        self.fit_parts(split)
        # Of its own: what is opened for one system is no other's.
        self.llm.decoding = self.llm.decoding.model_copy(
            update={"search": "beam", "normalisation": self.model.normalisation}
        )
        if self.weight is not None:
            self.weight_ = self.weight
            return
        gains: dict[float, list[NDArray[np.float64]]] = {weight: [] for weight in _WEIGHTS}
        for users in self.blocks(self.sample(split.valid)):
            opinions = self._opinions(users.histories)
            for weight, found in gains.items():
                lists = self._search(users.histories, opinions, 10, weight, split.protocol.exclude_seen)
                found.append(listed_gains(lists.items, users.target_items))
        means = {weight: float(np.concatenate(found).mean()) for weight, found in gains.items()}
        self.weight_ = max(means, key=lambda weight: means[weight])  # the first of equally good ones
        self.chosen_ = {
            "weight": self.weight_,
            "ndcg@10": {f"{weight:g}": value for weight, value in means.items()},
            "users": sum(map(len, gains[0.0])),
        }

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the sum of both opinions on every item [U, N], exactly; ``recommend`` finds its best without it."""
        scores = self.model.score(histories)
        if self.weight_:
            scores = scores + self.weight_ * self._opinions(histories)
        return scores

    def recommend(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> Recommendations:
        """Return the ``k`` items that the guided search finds for each history, best first."""
        items, scores = [], []
        for start in range(0, len(histories), self.users_at_once):
            block = histories[start : start + self.users_at_once]
            opinions = self._opinions(block) if self.weight_ else None
            found = self._search(block, opinions, k, self.weight_, exclude_seen)
            items.append(found.items)
            scores.append(found.scores)
        return Recommendations(self.name, histories.user_ids, np.concatenate(items), np.concatenate(scores))

    def _opinions(self, histories: Histories) -> NDArray[np.float64]:
        """Return the other part's log-probability of every item [U, N]."""
        opinions: NDArray[np.float64] = log_softmax(
            np.asarray(self.guide.score(histories), dtype=np.float64), axis=1
        )
        return opinions

    def _search(
        self,
        histories: Histories,
        opinions: NDArray[np.float64] | None,
        k: int,
        weight: float,
        exclude_seen: bool,
    ) -> Recommendations:
        if not weight or opinions is None:
            return self.llm.recommend(histories, k, exclude_seen=exclude_seen)
        return self.llm.recommend_guided(histories, k, opinions, weight, exclude_seen=exclude_seen)
