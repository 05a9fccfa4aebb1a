"""The fine-tuned language model as one more recommender that scores all items.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.decoding.exact import score_catalogue
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.kept_scores import KeptScores

if TYPE_CHECKING:
    from llmrec.recommenders.llm import LLMRecommender

__all__ = ["LanguageModel", "LanguageModelScores"]


@dataclass(frozen=True)
class LanguageModel:
    """The fine-tuned language model of a run, as it reaches the systems that have it as a part."""

    open: Callable[[], LLMRecommender]
    """Loads it."""
    key: str
    """Tells its scores from those of any other model, prompt or identifiers."""
    knows_cold_items: bool = False
    """Whether what it says of an item without training events says anything of that item."""
    on_users: Callable[[int], None] | None = None
    """Called with the number of users scored so far."""


class LanguageModelScores(ScoringRecommender):
    """The log-probability of every item after each history, by the fine-tuned language model.

    ``fused: {kind: hybrid, parts: {llm: {}, sasrec: {}}}`` has it as a part. It is the run's own model, fine-tuned already as
    the sections prompt, identifiers, model and finetune say: ``fit`` opens it. Every item is scored, exactly
    (:func:`llmrec.decoding.exact.score_catalogue`): one forward pass per user where an item is one token, and the distinct
    prefixes of the catalogue behind it where it is more.

    Parameters
    ----------
    normalisation
        As ``decoding.normalisation``, which it is if left out.
    language_model, checkpoint
        Given by the run. Scores are kept in the folder ``checkpoint``, so that no user is scored twice: neither by another
        system that has the model as a part nor by a run that goes on after a kill.
    name
        The name under which its recommendations are stored.
    """

    users_at_once = 64  # a kill loses the scores of no more

    def __init__(
        self,
        *,
        normalisation: Literal["catalogue", "vocab"] | None = None,
        language_model: LanguageModel | None = None,
        checkpoint: Path | None = None,
        name: str = "llm",
    ) -> None:
        self.name = name
        self.knows_cold_items = language_model is not None and language_model.knows_cold_items
        self.normalisation = normalisation
        self.language_model, self.checkpoint = language_model, checkpoint
        self.spared_seconds_ = 0.0

    def fit(self, split: Split) -> None:
        """Open the model.

        Raises
        ------
        ConfigError
            There is no fine-tuned model here.
        """
        if self.language_model is None:
            raise ConfigError(
                f"{self.name} is the run's fine-tuned language model, and there is none here. Expected it in a run: "
                "'llmrec run' fine-tunes it first; in Python give language_model."
            )
        self.llm_ = self.language_model.open()
        if self.normalisation is None:
            self.normalisation = self.llm_.decoding.normalisation
        folder = (
            self.checkpoint and self.checkpoint / f"scores-{self.language_model.key}-{self.normalisation}"
        )
        self._kept = KeptScores(folder, split.n_items)
        self.device_ = self.llm_.model.device
        self._users = 0

    @property
    def batch_size(self) -> int:
        """Users that the model reads together."""
        return self.llm_.decoding.batch_size

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the log-probability of each item [U, N].

        Raises
        ------
        PromptError
            A prompt does not fit into the model's context, or a history is empty.
        """
        scores, missing, seconds = self._kept.read(histories)
        self.spared_seconds_ += seconds
        if len(missing):
            began = time.perf_counter()
            scores[missing] = self._computed(histories[missing])
            self._kept.write(histories[missing], scores[missing], time.perf_counter() - began)
        self._users += len(histories)
        if self.language_model is not None and self.language_model.on_users is not None:
            self.language_model.on_users(self._users)
        return scores

    def _computed(self, histories: Histories) -> NDArray[np.float64]:
        llm = self.llm_
        assert self.normalisation is not None
        prompts = [llm.verbalizer.prompt(history) for history in histories]
        scores = np.empty((len(prompts), llm.trie.n_items))
        for rows in llm.batches(prompts):
            exact = score_catalogue(
                llm.model, llm.trie, [prompts[r] for r in rows], normalisation=self.normalisation
            )
            scores[rows] = exact.scores
        return scores
