"""What a language model is trained on and by: its adapters, its new tokens, the loss and the examples of each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.data.windows import Windows
from llmrec.decoding.trie import CompiledTrie
from llmrec.finetune.batches import collate, plan_epoch
from llmrec.finetune.examples import (
    Alternatives,
    Example,
    one_target_windows,
    training_examples,
    training_windows,
)
from llmrec.finetune.lora import add_lora, go_on_from
from llmrec.finetune.new_tokens import NewTokens
from llmrec.finetune.objective import NextItemLoss
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.finetune.spread import gathered, is_spread, most_of_all
from llmrec.prompts.verbalize import Verbalizer
from llmrec.settings import Finetune

__all__ = ["NewTokenStart", "Training", "alternatives_of"]


@dataclass(frozen=True, eq=False)
class NewTokenStart:
    """What the embeddings of n new tokens start from, see :class:`~llmrec.finetune.new_tokens.NewTokens`."""

    ids: range  # [n]
    rows: NDArray[np.float32]  # [n, D]
    vectors: NDArray[np.float32] | None  # [n, d] collaborative


def alternatives_of(trie: CompiledTrie) -> Alternatives:
    """Return a trie's arrays as training uses them."""
    prefixes: list[list[int]] = [[] for _ in range(trie.n_items)]
    item, node = np.arange(trie.n_items), trie.leaf.astype(np.int64)
    while len(item):
        node = trie.parent(node)
        for i, n in zip(item.tolist(), node.tolist(), strict=True):
            prefixes[i].append(n)
        item, node = item[node > 0], node[node > 0]
    return Alternatives(
        trie.alphabet,
        trie.indptr,
        trie.code,
        [np.array(p[::-1], dtype=np.int64) for p in prefixes],
        trie.code[trie.leaf - 1],
    )


class Training:
    """A language model made ready to be trained.

    Parameters
    ----------
    model
        A causal language model of transformers, without adapters.
    verbalizer, trie, start, soft_targets, users, seed
        As of :class:`~llmrec.recommenders.llm.LLMRecommender`.

    warm
        Which items have training events [N].

    Attributes
    ----------
    model
        With adapters, and room in them for new tokens.
    objective
        What is minimised.
    trained_parameters
        How many numbers that moves.
    """

    def __init__(
        self,
        model: Any,
        verbalizer: Verbalizer,
        trie: CompiledTrie,
        settings: Finetune,
        start: NewTokenStart | None,
        soft_targets: SoftTargets | None,
        users: NDArray[np.int64] | None,
        warm: NDArray[np.bool_],
        seed: int,
    ) -> None:
        self.verbalizer, self.settings, self.users, self.seed = verbalizer, settings, users, seed
        self.model = add_lora(model, settings, seed, None if start is None else start.ids)
        if settings.start_from is not None:
            go_on_from(self.model, Path(settings.start_from))
        new = None
        if start is not None:
            new = NewTokens(
                self.model,
                start.rows,
                start.vectors,
                temperature=settings.new_tokens.temperature,
                dropout=settings.new_tokens.dropout,
                seed=seed,
            )
        self.alternatives = alternatives_of(trie) if settings.loss == "catalogue" else None
        self.objective = NextItemLoss(
            self.model,
            self.alternatives,
            new,
            label_smoothing=settings.label_smoothing,
            candidates=warm if settings.negatives == "warm" else None,
            soft_targets=soft_targets,
            teacher_weight=settings.distillation.weight,
        )
        self.trained_parameters = sum(p.numel() for p in self.objective.parameters() if p.requires_grad)

    def examples(self, histories: Histories, epoch: int) -> list[Example]:
        """Return what is learned from the training histories in an epoch, counted from 0."""
        # In the first pass the newest window of each user is full; later ones show events in other contexts.
        rng = np.random.default_rng([self.seed, epoch, 1]) if epoch else None
        longest = self.verbalizer.max_events
        order = None
        if self.settings.shuffle_ties:
            order = histories.ties_shuffled(np.random.default_rng([self.seed, epoch, 2]))
            histories = replace(histories, items=histories.items[order])
        windows = training_windows(histories, longest, self.settings.windows_per_user, rng)
        if self.users is not None:
            owner = histories.indptr.searchsorted(windows.start, side="right") - 1
            windows = windows.select(np.isin(owner, self.users))
        if self.settings.examples == "one-target":
            windows = one_target_windows(windows, histories, longest)
        found = training_examples(self.verbalizer, histories, windows, self.alternatives)
        if order is None:
            return found
        # A teacher was asked in the order of the log, and about no event that is a user's first there.
        asked = np.where(np.isin(order, histories.indptr[:-1]), -1, order)
        return [replace(example, events=asked[example.events]) for example in found]

    def held_out_loss(self, users: Holdout) -> float:
        """Return the loss of some users' targets, in nats, summed over them; of no users it is 0."""
        batches = [collate([read[i] for i in batch]) for read, batch in self._held_out(users)]
        if is_spread(self.objective):
            # Every pass gathers weights from all processes, so all of them make as many.
            batches += [collate([])] * (most_of_all(len(batches)) - len(batches))
        # A pass without gradients would leave whole what belongs to no layer, and checkpoints take parts.
        with gathered(self.objective), torch.inference_mode(), self.objective.precision():
            return sum(float(self.objective.loss(batch.to(self.model.device))) for batch in batches)

    def _held_out(self, users: Holdout) -> Iterator[tuple[list[Example], NDArray[np.int64]]]:
        """Yield the examples of some users' targets and, of each batch, which of them are in it."""
        if not len(users):
            return  # one of more processes than users
        whole = users.with_targets()
        last = whole.indptr[1:] - 1
        begin = np.maximum(whole.indptr[:-1], last - self.verbalizer.max_events)
        windows = Windows(begin, last, last + 1)
        read = training_examples(self.verbalizer, whole, windows, self.alternatives, held_out=True)
        lengths = np.array([len(e) for e in read])
        budget = max(self.settings.micro_batch_tokens or self.settings.batch_tokens, int(lengths.max()))
        for batch in plan_epoch(lengths, budget, np.random.default_rng(0)):
            yield read, batch
