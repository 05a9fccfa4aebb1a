"""One trainer for all neural sequence models, so that they differ in their architecture only.

Shapes: U users, N items of the catalogue, B windows of a batch, L longest input, D features,
M positions with a loss.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llmrec.data.histories import Histories
from llmrec.data.split import Split
from llmrec.data.time_features import gaps
from llmrec.data.windows import Windows
from llmrec.errors import ConfigError, DataError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.holdout import holdout_metrics
from llmrec.recommenders.losses import LOSSES
from llmrec.recommenders.sequence_model import Inputs, SequenceModel, gap_classes
from llmrec.recommenders.training_settings import TrainingSettings
from llmrec.recommenders.training_state import TrainingState
from llmrec.recommenders.windows import Batch, last_events, training_batches

__all__ = ["SequentialRecommender"]


@dataclass(kw_only=True, eq=False)
class SequentialRecommender(TrainingSettings, ScoringRecommender):
    """Trains a :class:`SequenceModel` on every next item, by default with the cross-entropy of all items.

    All items of the catalogue are negatives, at every position. With one sampled negative and binary
    cross-entropy, as SASRec was published, the same network is overconfident and much worse (Klenitskiy
    & Vasilev 2023, "Turning Dross Into Gold Loss"; Petrov & Macdonald 2023, "gSASRec").

    Subclasses write :meth:`build`; one whose objective is not the next item also overrides
    :meth:`examples` and :meth:`query`.

    The settings are those of :class:`TrainingSettings`.

    Attributes
    ----------
    model_
        The model, with the weights of the best epoch.
    history_
        One dict per epoch: ``epoch`` (from 1), ``loss`` (nats per target, under dropout), ``hr@10`` and
        ``ndcg@10`` on the validation targets, ``seconds`` since ``fit`` began.
    best_epoch_
        The epoch whose weights were kept.
    device_
        The device it computes on.
    """

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []
        self.best_epoch_ = 0
        problems = self.problems()
        if problems:
            raise ConfigError(f"{type(self).__name__} got " + "; ".join(problems) + ".")
        gpu = torch.cuda.is_available()
        self.device_ = torch.device(self.device if self.device != "auto" else "cuda" if gpu else "cpu")

    @abstractmethod
    def build(self, n_items: int) -> SequenceModel:
        """Return a model with fresh weights."""

    def examples(self, batch: Batch) -> tuple[Inputs, Tensor, Tensor]:
        """Return inputs, where a loss is taken [B, L], and what is right there [M]."""
        mask = batch.is_target[:, 1:]
        # The newest event of a window is not read, only asked for, and so is the gap before it.
        inputs = Inputs(batch.items[:, :-1], batch.gaps[:, :-1], batch.lengths - 1)
        return inputs, mask, batch.items[:, 1:][mask]

    def query(self, model: SequenceModel, inputs: Inputs) -> Tensor:
        """Return the features [U, D] that predict what comes after the real events."""
        features: Tensor = model(inputs)  # [U, L, D]
        users = torch.arange(len(features), device=features.device)
        return features[users, inputs.lengths - 1]

    def fit(self, split: Split) -> None:
        """Train until validation NDCG@10 no longer improves, and keep the best epoch's weights.

        Raises
        ------
        ConfigError
            Training diverged.
        DataError
            There is nothing to learn from or nobody to validate on.
        ArtefactError
            ``checkpoint`` belongs to another training.
        """
        if not len(split.valid):
            raise DataError(
                f"{self.name} got a split without validation users, but stops by their NDCG@10. "
                "Expected validation questions: hold more out (section split), or check the log."
            )
        devices = [self.device_] if self.device_.type == "cuda" else []
        threads = torch.get_num_threads()
        with torch.random.fork_rng(devices=devices):  # leaves the caller's random state as it was
            torch.manual_seed(self.seed)
            torch.set_num_threads(self.threads)
            try:
                self._fit(split)
            finally:
                torch.set_num_threads(threads)

    def _fit(self, split: Split) -> None:
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(self.seed)
        rng = np.random.default_rng(self.seed)
        items = torch.from_numpy(split.train.items).long().to(self.device_)  # [E]
        classes = torch.from_numpy(gap_classes(gaps(split.train))).to(self.device_)  # [E]
        self._n_items = split.n_items
        self._warm = split.warm
        trained = self.model_ = self.build(split.n_items).to(self.device_)
        optimizer, self._steps = self._optimizer(), 0
        if self.averaging:
            self.model_ = copy.deepcopy(trained)
        state = TrainingState(self._state_file(split), self._key(split))
        found = state.load(trained, optimizer, rng, generator)
        if found:
            self.model_.load_state_dict(found["average"])
            self._steps = found["steps"]
        self.history_, self.best_epoch_ = found.get("history", []), found.get("best_epoch", 0)
        weights = found.get("best") or copy.deepcopy(self.model_.state_dict())
        best = self.history_[self.best_epoch_ - 1]["ndcg@10"] if self.best_epoch_ else -1.0
        self.spared_seconds_ = self.history_[-1]["seconds"] if self.history_ else 0.0
        began -= self.spared_seconds_

        stride = self.stride or self.max_len
        while len(self.history_) < self.max_epochs and len(self.history_) - self.best_epoch_ < self.patience:
            epoch = len(self.history_) + 1
            offsets = rng.integers(0, stride, len(split.train))
            windows = Windows.cut(split.train.indptr, self.max_len, stride, offsets)
            if not len(windows):
                raise DataError(
                    f"{self.name} got training histories of at most one event, which have no next item. "
                    "Expected histories of at least 2 events: check the log, or filter less."
                )
            shown = items
            if self.shuffle_ties:
                shown = items[torch.from_numpy(split.train.ties_shuffled(rng)).to(self.device_)]
            batches = training_batches(shown, classes, windows, self.batch_size, generator)
            loss = self._epoch(
                trained, batches, optimizer, horizon=self.averaging * len(windows) / self.batch_size
            )
            hr, ndcg = holdout_metrics(self, split.valid, exclude_seen=split.protocol.exclude_seen)
            metrics = {
                "epoch": epoch,
                "loss": loss,
                "hr@10": hr,
                "ndcg@10": ndcg,
                "seconds": time.perf_counter() - began,
            }
            self.history_.append(metrics)
            if ndcg > best:
                best, self.best_epoch_ = ndcg, epoch
                weights = copy.deepcopy(self.model_.state_dict())
            kept = {"history": self.history_, "best_epoch": self.best_epoch_, "best": weights}
            average = {"average": self.model_.state_dict(), "steps": self._steps}
            state.save(trained, optimizer, rng, generator, **kept, **average)
            if self.on_epoch is not None:
                self.on_epoch(epoch, self.max_epochs, metrics)
        self.model_.load_state_dict(weights)
        self.model_.eval()

    def _key(self, split: Split) -> dict[str, Any]:
        """Return what decides the weights of an epoch, JSON-ready; a training that ended too soon can go on with more."""
        nothing = ("name", "device", "threads", "max_epochs", "patience", "on_epoch", "checkpoint")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in nothing}
        return {"model": type(self).__name__, **settings, "split": split.protocol.to_dict()}

    def training_id(self, split: Split) -> str:
        """Return what tells the training on a split from all others with another outcome."""
        # Where a training stops is in it too: one that may go on for longer has another best epoch.
        ends = {"max_epochs": self.max_epochs, "patience": self.patience}
        text = json.dumps({**self._key(split), **ends}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _state_file(self, split: Split) -> Path | None:
        if self.checkpoint is None or not self.checkpoint.is_dir():
            return self.checkpoint
        return self.checkpoint / f"{self.training_id(split)}.pt"

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model_.parameters() if p.ndim > 1]
        vectors = [p for p in self.model_.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, self.beta2), fused=True)

    def _epoch(
        self,
        model: SequenceModel,
        batches: Iterator[Batch],
        optimizer: torch.optim.Optimizer,
        *,
        horizon: float,
    ) -> float:
        """Take one step per batch and return the mean loss per target; ``horizon`` is the steps to average over."""
        model.train()
        total, count = torch.zeros((), dtype=torch.float64, device=self.device_), 0
        for batch in batches:
            inputs, mask, right = self.examples(batch)
            features = model(inputs)[mask]  # [M, D] items are scored only where it counts
            loss = LOSSES[self.loss](
                model.queries(features),
                model.keys(),
                right,
                negatives=self.negatives or (1 if self.loss == "bce" else 1024),
                smoothing=self.label_smoothing,
                context=self._context(batch, mask) if self.loss == "bce" else batch.items,
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            self._steps += 1
            self._average(model, horizon)
            total += loss.detach() * len(right)
            count += len(right)
        mean = float(total) / count
        if not math.isfinite(mean):
            raise ConfigError(
                f"{self.name} diverged: the training loss is {mean} in epoch {len(self.history_) + 1} "
                f"with lr={self.lr}. Lower lr."
            )
        return mean

    @torch.no_grad()
    def _average(self, model: SequenceModel, horizon: float) -> None:
        """Move the averaged weights towards those of a step."""
        if self.model_ is model:
            return
        # Early on the average is short, or the first random weights would stay in it.
        share = max(1 / max(horizon, 1), 9 / (10 + self._steps))
        torch._foreach_lerp_(list(self.model_.parameters()), list(model.parameters()), share)

    @staticmethod
    def _context(batch: Batch, mask: Tensor) -> Tensor:
        """Return the items of the window of each position with a loss [M, L]; -1 is padding."""
        column = torch.arange(batch.items.shape[1], device=batch.items.device)
        items = batch.items.masked_fill(column >= batch.lengths[:, None], -1)
        return items[mask.nonzero()[:, 0]]

    @torch.inference_mode()
    def score(self, histories: Histories) -> NDArray[np.float32]:
        """Return the logits of every item as the next event [U, N]; raises as :meth:`inputs` does."""
        self.model_.eval()
        features = self.query(self.model_, self.inputs(histories))
        scores: NDArray[np.float32] = self.model_.logits(features).cpu().numpy()
        return scores

    def inputs(self, histories: Histories) -> Inputs:
        """Return what the model reads of histories.

        Items without training events are left out of histories that have others: their embeddings are those of items that were
        never in a history.

        Raises
        ------
        DataError
            A history is empty, or does not tell when the target happens and the model is to be told.
        """
        empty = np.flatnonzero(histories.lengths == 0)
        if len(empty):
            raise DataError(
                f"{self.name} was asked about {len(empty):,} empty histories, for example user "
                f"{histories.user_ids[empty[0]]!r}. Expected at least one event: a sequence model has "
                "nothing to say about a user without a past; use popularity there."
            )
        if not self.target_time:
            histories = replace(histories, next_timestamps=None)
        elif histories.next_timestamps is None:
            raise DataError(
                f"{self.name} has target_time, and the histories it is asked about do not tell when the target happens. Expected "
                "prompt.target_time: true, with which the questions of validation and test do; or target_time: false."
            )
        return last_events(self._readable(histories), self.max_len, self.device_)

    def _readable(self, histories: Histories) -> Histories:
        known = self._warm[histories.items]  # [E]
        if known.all():
            return histories
        nothing = histories.where(known).lengths == 0
        return histories.where(known | np.repeat(nothing, histories.lengths))

    def item_vectors(self) -> NDArray[np.float32]:
        """Return the fitted item embeddings, of length 1 [N, D]; 0 without events, where they only say that it never came next."""
        weight = self.model_.items.weight.detach()[: self._n_items]
        vectors: NDArray[np.float32] = F.normalize(weight, dim=-1).cpu().numpy()
        return np.where(self._warm[:, None], vectors, np.float32(0))
