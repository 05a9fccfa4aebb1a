"""The language model as a recommender: prompt in, identifiers out, never outside the catalogue.

Shapes: U users, K recommendations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import Decoding, Finetune
from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.trie import CompiledTrie
from llmrec.finetune.examples import training_documents, windows
from llmrec.finetune.train import add_lora, finetune
from llmrec.prompts.verbalize import Verbalizer

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
    checkpoints
        Folder in which :meth:`fit` keeps what a killed run goes on from; needed for ``fit`` only.
    seed
        Of the adapter's first weights, of dropout and of the order of documents.
    on_progress
        Called with (steps or users done, all of them).

    Attributes
    ----------
    history_
        One dict per optimiser step of :meth:`fit`: ``step`` and ``loss``.
    counts_
        What :meth:`fit` read: windows, tokens, targets (next items), epochs.
    prompt_tokens_, beam_tokens_
        Tokens that the last :meth:`recommend` put through the model: of prompts, and behind them.
    certified_
        For each user of the last :meth:`recommend` whether the list is provably the model's exact top K [U].
    """

    def __init__(
        self,
        model: Any,
        verbalizer: Verbalizer,
        trie: CompiledTrie,
        *,
        finetune: Finetune,
        decoding: Decoding,
        checkpoints: Path | None = None,
        seed: int = 0,
        name: str = "llm",
        on_progress: OnProgress | None = None,
    ) -> None:
        self.model, self.verbalizer, self.trie = model, verbalizer, trie
        self.finetune, self.decoding = finetune, decoding
        self.checkpoints, self.seed, self.name, self.on_progress = checkpoints, seed, name, on_progress
        self.history_: list[dict[str, float]] = []
        self.counts_: dict[str, float] = {}
        self.prompt_tokens_ = 0
        self.beam_tokens_ = 0
        self.certified_: NDArray[np.bool_] = np.empty(0, dtype=bool)

    def fit(self, split: Split) -> None:
        """Add LoRA adapters and train them on windows of the training histories."""
        if self.checkpoints is None:
            raise ValueError("fit needs a folder for checkpoints")
        cut = windows(split.train, self.verbalizer.max_events, self.finetune.windows_per_user)
        documents = training_documents(self.verbalizer, split.train, cut)
        self.model = add_lora(self.model, self.finetune, self.seed)
        self.history_, used = finetune(
            self.model,
            documents,
            self.finetune,
            checkpoints=self.checkpoints,
            seed=self.seed,
            on_step=self.on_progress,
        )
        self.counts_ = {
            "windows": len(used),
            "tokens": sum(len(documents[i].token_ids) for i in used),
            "targets": sum(len(documents[i].starts) - 1 for i in used),
            "epochs": len(used) / len(documents),
        }

    def recommend(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = True,
        target_timestamps: NDArray[np.int64] | None = None,
    ) -> Recommendations:
        """Return the ``k`` most probable items for each history, best first.

        Parameters
        ----------
        target_timestamps
            When each target happens [U]; used by templates that state it, and by no other.

        Raises
        ------
        PromptError
            A prompt does not fit into the model's context, or a history is empty.
        """
        when = [None] * len(histories) if target_timestamps is None else [int(t) for t in target_timestamps]
        prompts = [self.verbalizer.prompt(h, t) for h, t in zip(histories, when, strict=True)]
        self.prompt_tokens_ = self.beam_tokens_ = 0
        items = np.full((len(histories), k), -1, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf)
        self.certified_ = np.zeros(len(histories), dtype=bool)
        # Prompts of like length share a batch, so that little is padded; the stable sort keeps this reproducible.
        order = np.argsort([len(p) for p in prompts], kind="stable")[::-1]
        for start in range(0, len(order), self.decoding.batch_size):
            rows = order[start : start + self.decoding.batch_size]
            seen = [histories[int(r)].items if exclude_seen else np.empty(0, np.int32) for r in rows]
            self._search(rows, [prompts[r] for r in rows], seen, items, scores)
            self.prompt_tokens_ += sum(len(prompts[r]) for r in rows)
            if self.on_progress is not None:
                self.on_progress(start + len(rows), len(order))
        return Recommendations(self.name, histories.user_ids, items, scores)

    def _search(
        self,
        rows: NDArray[np.int64],
        prompts: list[NDArray[np.int64]],
        exclude: list[NDArray[np.int32]],
        items: NDArray[np.int32],
        scores: NDArray[np.float64],
    ) -> None:
        """Fill in the lists of some users."""
        decoding, k = self.decoding, items.shape[1]
        if decoding.search == "exact":
            exact = score_catalogue(self.model, self.trie, prompts, normalisation=decoding.normalisation)
            items[rows], scores[rows] = top_items(exact.scores, exclude, k)
            self.certified_[rows] = True
            self.beam_tokens_ += exact.fed_tokens
            return
        beam = beam_search(
            self.model,
            self.trie,
            prompts,
            k,
            width=decoding.beam_width,
            exclude=exclude,
            normalisation=decoding.normalisation,
            until_certified=decoding.until_certified,
        )
        items[rows], scores[rows], self.certified_[rows] = beam.items, beam.scores, beam.certified
        self.beam_tokens_ += beam.beam_tokens
