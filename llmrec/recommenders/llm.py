"""The language model as a recommender: prompt in, identifiers out, never outside the catalogue.

Shapes: U users, K recommendations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.free import FreeCounts, Scored, free_search
from llmrec.decoding.guidance import Guide
from llmrec.decoding.packed import masked_attention
from llmrec.decoding.search import BeamResult
from llmrec.decoding.trie import CompiledTrie
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.prompts.verbalize import Verbalizer
from llmrec.recommenders.holdout import listed_gains
from llmrec.settings import Decoding, Finetune
from llmrec.tensors import batches_by_length, tokens_per_pass

if TYPE_CHECKING:
    from llmrec.finetune.train import Step, Validate
    from llmrec.recommenders.llm_training import NewTokenStart, Training

__all__ = ["LLMRecommender"]

OnProgress = Callable[[int, int], None]  # (done, of how many)


class LLMRecommender:
    """Verbalises histories, searches the catalogue's trie with a language model, and can be fine-tuned to do so.

    Parameters
    ----------
    model
        A causal language model of transformers.
    verbalizer
        Writes histories in this model's tokens.
    trie
        The identifiers that ``verbalizer`` writes, compiled.
    finetune, decoding
        Settings of :meth:`fit` and :meth:`recommend`.
    new_tokens
        How the embeddings of new tokens start, where the identifiers have any; the model must have room for them
        (:func:`llmrec.new_rows.make_room`).
    soft_targets
        What the teacher of ``finetune.distillation`` expects at the training events; needed where there is one.
    users
        The training users to learn from, where that is not all of them.
    checkpoints
        Folder in which :meth:`fit` keeps what a killed run goes on from; needed for ``fit`` only.
    logs
        Folder for trackers such as TensorBoard, where ``finetune.report_to`` names any.
    seed
        Of the adapter's first weights, of dropout and of the order of documents.
    on_progress
        Called with (users done, all of them).
    on_step
        Called after each optimiser step.

    Attributes
    ----------
    history_
        One dict per optimiser step of :meth:`fit`: ``step``, ``loss`` (nats per next item), ``tokens``,
        ``padded_tokens``, ``targets`` (next items), ``seconds`` with those of the validation after it.
    validations_, best_step_
        One dict per validation, and the step whose weights were kept.
    trained_parameters_
        Numbers that :meth:`fit` trained: of adapters, and of new tokens' embeddings or the maps they come from.
    prompt_tokens_, beam_tokens_
        Tokens that the last :meth:`recommend` put through the model: of prompts, and behind them.
    certified_
        For each user of the last :meth:`recommend` whether the list is provably the model's exact top K [U].
    free_
        What became of the texts of the last :meth:`recommend`, where ``decoding.search`` is ``free``.
    """

    def __init__(
        self,
        model: Any,
        verbalizer: Verbalizer,
        trie: CompiledTrie,
        *,
        finetune: Finetune,
        decoding: Decoding,
        new_tokens: NewTokenStart | None = None,
        soft_targets: SoftTargets | None = None,
        users: NDArray[np.int64] | None = None,
        checkpoints: Path | None = None,
        logs: Path | None = None,
        seed: int = 0,
        name: str = "llm",
        on_progress: OnProgress | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.model, self.verbalizer, self.trie = model, verbalizer, trie
        self.finetune, self.decoding, self.new_tokens = finetune, decoding, new_tokens
        self.soft_targets, self.users = soft_targets, users
        self.checkpoints, self.logs, self.seed, self.name = checkpoints, logs, seed, name
        self.on_progress, self.on_step = on_progress, on_step
        self.history_: list[dict[str, float]] = []
        self.validations_: list[dict[str, float]] = []
        self.best_step_ = 0
        self.trained_parameters_ = 0
        self.prompt_tokens_ = 0
        self.beam_tokens_ = 0
        self.certified_: NDArray[np.bool_] = np.empty(0, dtype=bool)
        self.free_ = FreeCounts()

    def fit(self, split: Split) -> None:
        """Add LoRA adapters and train them, and new tokens, on windows of the training histories."""
        # With PEFT, which takes seconds that whoever does not train need not wait for.
        from llmrec.finetune.train import finetune
        from llmrec.recommenders.llm_training import Training

        if self.checkpoints is None:
            raise ValueError("fit needs a folder for checkpoints")
        settings = self.finetune
        if settings.distillation.teacher is not None and self.soft_targets is None:
            raise ValueError("finetune.distillation has a teacher, and fit needs its soft targets")
        training = Training(
            self.model,
            self.verbalizer,
            self.trie,
            settings,
            self.new_tokens,
            self.soft_targets,
            self.users,
            split.warm,
            self.seed,
        )
        self.model = training.model
        self.trained_parameters_ = training.trained_parameters

        outcome = finetune(
            training.objective,
            lambda epoch: training.examples(split.train, epoch),
            settings,
            checkpoints=self.checkpoints,
            seed=self.seed,
            validate=self._validate(training, split),
            on_step=self.on_step,
            logs=self.logs,
            run_name=self.name,
        )
        self.history_, self.validations_, self.best_step_ = (
            outcome.log,
            outcome.validations,
            outcome.best_step,
        )

    def _validate(self, training: Training, split: Split) -> Validate:
        """Return the function that measures the metric of ``finetune.validation``."""
        settings = self.finetune.validation
        users = split.valid.select(split.valid.sample_rows(settings.users, self.seed))

        def ndcg(process: int, processes: int) -> tuple[float, int]:
            part = users.select(np.arange(process, len(users), processes))
            with masked_attention(self.model):
                found = self._lists(part.histories, 10, split.protocol.exclude_seen)
            return float(listed_gains(found.items, part.target_items).sum()), len(part)

        def loss(process: int, processes: int) -> tuple[float, int]:
            part = users.select(np.arange(process, len(users), processes))
            return training.held_out_loss(part), len(part)

        return ndcg if settings.metric == "ndcg@10" else loss

    def recommend(self, histories: Histories, k: int, *, exclude_seen: bool = True) -> Recommendations:
        """Return the ``k`` most probable items for each history, best first; fewer, then -1, where fewer are left.

        Raises
        ------
        PromptError
            A prompt does not fit into the model's context, a history is empty, or it does not tell when the target happens,
            where the template states that.
        """
        self.prompt_tokens_ = self.beam_tokens_ = 0
        self.free_ = FreeCounts()
        return self._lists(histories, k, exclude_seen, self.on_progress)

    def recommend_guided(
        self,
        histories: Histories,
        k: int,
        log_probs: NDArray[np.floating],
        weight: float,
        *,
        exclude_seen: bool = True,
    ) -> Recommendations:
        """Return the ``k`` items with the best sums of two opinions, found by one search that both steer.

        Parameters
        ----------
        log_probs
            The other opinion [U, N]: the log-probability of each item after each history.
        weight
            How much it counts beside the language model's log-probability, above 0.

        Raises
        ------
        PromptError
            A prompt does not fit into the model's context, or a history is empty.
        """
        return self._lists(histories, k, exclude_seen, guide=(log_probs, weight))

    def _lists(
        self,
        histories: Histories,
        k: int,
        exclude_seen: bool,
        on_progress: OnProgress | None = None,
        guide: tuple[NDArray[np.floating], float] | None = None,
    ) -> Recommendations:
        items = np.full((len(histories), k), -1, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf)
        self.certified_ = np.ones(len(histories), dtype=bool)
        none = np.empty(0, np.int32)
        seen = [np.unique(history.items) if exclude_seen else none for history in histories]
        # Whoever has seen everything gets an empty list, for certain, and the others theirs.
        asked = np.flatnonzero([len(own) < self.trie.n_items for own in seen])
        prompts = [self.verbalizer.prompt(histories[int(row)]) for row in asked]
        done = 0
        for batch in self.batches(prompts):
            rows = asked[batch]
            hidden = [seen[row] for row in rows]
            steered = guide and Guide(self.trie, guide[0][rows], guide[1], hidden)
            self._search(rows, [prompts[b] for b in batch], hidden, items, scores, steered)
            self.prompt_tokens_ += sum(len(prompts[b]) for b in batch)
            done += len(rows)
            if on_progress is not None:
                on_progress(done, len(prompts))
        return Recommendations(self.name, histories.user_ids, items, scores)

    def batches(self, prompts: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of prompts that go through the model together."""
        # What a batch costs beside its prompts is a forward pass for each token of an identifier.
        per_batch = tokens_per_pass(self.model.device) * self.trie.depth
        return batches_by_length(prompts, self.decoding.batch_size, per_batch=per_batch)

    def _search(
        self,
        rows: NDArray[np.int64],
        prompts: list[NDArray[np.int64]],
        exclude: list[NDArray[np.int32]],
        items: NDArray[np.int32],
        scores: NDArray[np.float64],
        guide: Guide | None,
    ) -> None:
        """Fill in the lists of some users."""
        decoding, k = self.decoding, items.shape[1]
        search = decoding.search if guide is None else "beam"  # only what is looked at can be steered
        if search == "free":
            self.certified_[rows] = False
            lists = self._free_search(prompts, max(decoding.beam_width, k))
            for row, texts, hidden in zip(rows, lists, exclude, strict=True):
                named = self.verbalizer.read([text for _, text in texts])
                found = self.free_.usable(named, hidden)[:k]
                items[row, : len(found)] = [item for _, item in found]
                scores[row, : len(found)] = [texts[place][0] for place, _ in found]
                self.beam_tokens_ += sum(len(text) for _, text in texts)
            return
        if search == "exact":
            exact = score_catalogue(self.model, self.trie, prompts, normalisation=decoding.normalisation)
            items[rows], scores[rows] = top_items(exact.scores, exclude, k)
            self.certified_[rows] = True
            self.beam_tokens_ += exact.fed_tokens
            return
        beam = self._beam_search(
            prompts,
            k,
            width=max(decoding.beam_width, k),
            exclude=exclude,
            normalisation=decoding.normalisation,
            until_certified=decoding.until_certified,
            **({} if guide is None else {"guide": guide}),
        )
        items[rows], scores[rows], self.certified_[rows] = beam.items, beam.scores, beam.certified
        self.beam_tokens_ += beam.beam_tokens

    def _beam_search(self, prompts: list[NDArray[np.int64]], k: int, **options: Any) -> BeamResult:
        """Search with what runs the model."""
        return beam_search(self.model, self.trie, prompts, k, **options)

    def _free_search(self, prompts: list[NDArray[np.int64]], width: int) -> list[list[Scored]]:
        """Search all texts with what runs the model."""
        return free_search(self.model, prompts, width, **self._ends)

    @property
    def _ends(self) -> dict[str, Any]:
        return {"end_token_id": self.verbalizer.end_token_id, "max_tokens": self.trie.depth}
