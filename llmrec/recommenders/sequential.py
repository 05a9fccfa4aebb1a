"""One trainer for all neural sequence models, so that they differ in their architecture only.

Shapes: U users, N items of the catalogue, B windows of a batch, L longest input, D features,
M positions with a loss.
"""

from __future__ import annotations

import copy
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.data.windows import Windows
from llmrec.errors import ConfigError, DataError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.windows import Batch, last_events, training_batches

__all__ = ["OnEpoch", "SequenceModel", "SequentialRecommender", "holdout_metrics"]

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1), the most epochs there can be, and its metrics."""

LOGITS_AT_ONCE = 2**27  # 0.5 GiB of float32; beyond it the loss is computed, and recomputed, in pieces


class SequenceModel(nn.Module):
    """What the trainer needs of a model: features per position, and items scored from features."""

    def forward(self, events: Tensor, lengths: Tensor) -> Tensor:
        """Return features [B, L, D] of events [B, L] of which the first ``lengths`` [B] are real.

        The feature at a position predicts the next event; it must not depend on later ones.
        """
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Return the unnormalised log-probability of every item [M, N] from features [M, D]."""
        raise NotImplementedError


class SequentialRecommender(ScoringRecommender):
    """Trains a :class:`SequenceModel` by full-softmax cross-entropy on every next item.

    All items of the catalogue are negatives, at every position. With one sampled negative and binary
    cross-entropy, as SASRec was published, the same network is overconfident and much worse (Klenitskiy
    & Vasilev 2023, "Turning Dross Into Gold Loss"; Petrov & Macdonald 2023, "gSASRec").

    Subclasses write :meth:`build`; one whose objective is not the next item also overrides
    :meth:`examples` and :meth:`query`.

    Parameters
    ----------
    max_len
        Events of the past that the model reads. Longer histories are cut into windows for training, and
        to their newest ``max_len`` events for prediction.
    stride
        Targets per training window, at most ``max_len``; ``None`` is ``max_len``. Lower values give the
        early targets of a window context from the window before (see :meth:`Windows.cut`) for
        ``max_len / stride`` times the transformer's work. On ml-100k half of ``max_len`` took 1.3 times
        as long and moved validation NDCG@10 by no more than another seed does.
    lr
        Learning rate of AdamW, constant.
    weight_decay
        Decoupled weight decay of matrices (not of biases and norms).
    label_smoothing
        Probability mass spread evenly over the catalogue in the training target, below 1.
    batch_size
        Windows per optimiser step (a window is up to ``stride`` targets, not a user).
    max_epochs
        Most passes over the training events.
    patience
        Epochs without a better validation NDCG@10 before training stops.
    seed
        Of initial weights, dropout and batches. Equal seeds give equal weights on the same CPU, torch
        version and ``threads``; on a GPU they may differ in the last bits.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...; ``"auto"`` is the GPU where there is one.
    threads
        CPU threads that ``fit`` computes with; no matter on a GPU. Steps of a small model on a small
        catalogue are too short to share: on ml-100k a second thread saves 7%, and where other processes
        hold the cores, threads that wait for each other made an epoch take 30 times as long. Raise it for
        catalogues of tens of thousands of items on an idle machine.
    on_epoch
        Called after each epoch, to show progress; see :data:`OnEpoch`.

    Attributes
    ----------
    model_
        The model, with the weights of the best epoch.
    history_
        One dict per epoch: ``epoch`` (from 1), ``loss`` (nats per target, under dropout), ``hr@10`` and
        ``ndcg@10`` on the validation targets, ``seconds`` since ``fit`` began.
    best_epoch_
        The epoch whose weights were kept.
    """

    def __init__(
        self,
        *,
        name: str,
        max_len: int,
        stride: int | None,
        lr: float,
        weight_decay: float,
        label_smoothing: float,
        batch_size: int,
        max_epochs: int,
        patience: int,
        seed: int,
        device: str,
        threads: int,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.name = name
        self.max_len = max_len
        self.stride = max_len if stride is None else stride
        self.lr = lr
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.train_batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.seed = seed
        self.device_name = device
        self.threads = threads
        self.on_epoch = on_epoch
        self.history_: list[dict[str, float]] = []
        self.best_epoch_ = 0
        problems = self.problems()
        if problems:
            raise ConfigError(f"{type(self).__name__} got " + "; ".join(problems) + ".")
        gpu = torch.cuda.is_available()
        self.device = torch.device(device if device != "auto" else "cuda" if gpu else "cpu")

    @abstractmethod
    def build(self, n_items: int) -> SequenceModel:
        """Return a model with fresh weights."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        expected = {
            "max_len": (self.max_len >= 1, "at least 1 event"),
            "stride": (1 <= self.stride <= max(self.max_len, 1), "1 to max_len targets"),
            "lr": (self.lr > 0, "a positive learning rate"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more, and below 1"),
            "max_epochs": (self.max_epochs >= 1, "at least 1 epoch"),
            "patience": (self.patience >= 1, "at least 1 epoch"),
            "threads": (self.threads >= 1, "at least 1 thread"),
        }
        found = [
            f"{name}={getattr(self, name)} (expected {what})"
            for name, (good, what) in expected.items()
            if not good
        ]
        if self.train_batch_size < 1:
            found.append(f"batch_size={self.train_batch_size} (expected at least 1 window)")
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        if self.device_name.partition(":")[0] not in ("auto", *devices):
            found.append(
                f"device={self.device_name!r} (expected auto or {' or '.join(devices)}, which is there)"
            )
        return found

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return inputs [B, L], their lengths [B], where a loss is taken [B, L], and what is right there [M]."""
        mask = batch.is_target[:, 1:]
        return batch.events[:, :-1], batch.lengths - 1, mask, batch.events[:, 1:][mask]

    def query(self, model: SequenceModel, events: Tensor, lengths: Tensor) -> Tensor:
        """Return the features [U, D] that predict what comes after the ``lengths`` [U] real events."""
        features: Tensor = model(events, lengths)  # [U, L, D]
        return features[torch.arange(len(events), device=events.device), lengths - 1]

    def fit(self, split: Split) -> None:
        """Train until validation NDCG@10 no longer improves, and keep the best epoch's weights."""
        if not len(split.valid):
            raise DataError(
                f"{self.name} got a split without validation users, but stops by their NDCG@10. "
                "Expected validation questions: hold more out (section split), or check the log."
            )
        devices = [self.device] if self.device.type == "cuda" else []
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
        items = torch.from_numpy(split.train.items).long().to(self.device)  # [E]
        self._n_items = split.n_items
        self.model_ = self.build(split.n_items).to(self.device)
        optimizer = self._optimizer()
        self.history_, self.best_epoch_ = [], 0
        best, weights = -1.0, copy.deepcopy(self.model_.state_dict())

        for epoch in range(1, self.max_epochs + 1):
            offsets = rng.integers(0, self.stride, len(split.train))
            windows = Windows.cut(split.train.indptr, self.max_len, self.stride, offsets)
            if not len(windows):
                raise DataError(
                    f"{self.name} got training histories of at most one event, which have no next item. "
                    "Expected histories of at least 2 events: check the log, or filter less."
                )
            loss = self._epoch(training_batches(items, windows, self.train_batch_size, generator), optimizer)
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
            if self.on_epoch is not None:
                self.on_epoch(epoch, self.max_epochs, metrics)
            if epoch - self.best_epoch_ >= self.patience:
                break
        self.model_.load_state_dict(weights)
        self.model_.eval()

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model_.parameters() if p.ndim > 1]
        vectors = [p for p in self.model_.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), fused=True)

    def _epoch(self, batches: Iterator[Batch], optimizer: torch.optim.Optimizer) -> float:
        """Take one step per batch and return the mean loss per target."""
        self.model_.train()
        total, count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for batch in batches:
            inputs, lengths, mask, right = self.examples(batch)
            features = self.model_(inputs, lengths)[mask]  # [M, D] items are scored only where it counts
            loss = self._cross_entropy(features, right)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach() * len(right)
            count += len(right)
        mean = float(total) / count
        if not math.isfinite(mean):
            raise ConfigError(
                f"{self.name} diverged: the training loss is {mean} in epoch {len(self.history_) + 1} "
                f"with lr={self.lr}. Lower lr."
            )
        return mean

    def _cross_entropy(self, features: Tensor, right: Tensor) -> Tensor:
        """Return the mean over M positions of the cross-entropy of all N items."""

        def summed(part: Tensor, items: Tensor) -> Tensor:
            logits = self.model_.logits(part)
            return F.cross_entropy(logits, items, label_smoothing=self.label_smoothing, reduction="sum")

        rows = max(1, LOGITS_AT_ONCE // self._n_items)
        if len(right) <= rows:
            return summed(features, right) / len(right)
        parts = [
            checkpoint(summed, part, items, use_reentrant=False)
            for part, items in zip(torch.split(features, rows), torch.split(right, rows), strict=True)
        ]
        return torch.stack(parts).sum() / len(right)

    @torch.inference_mode()
    def score(self, histories: Histories) -> NDArray[np.float32]:
        """Return the logits of every item as the next event [U, N]."""
        empty = np.flatnonzero(histories.lengths == 0)
        if len(empty):
            raise DataError(
                f"{self.name} was asked about {len(empty):,} empty histories, for example user "
                f"{histories.user_ids[empty[0]]!r}. Expected at least one event: a sequence model has "
                "nothing to say about a user without a past; use popularity there."
            )
        self.model_.eval()
        events, lengths = last_events(histories, self.max_len, self.device)
        scores: NDArray[np.float32] = (
            self.model_.logits(self.query(self.model_, events, lengths)).cpu().numpy()
        )
        return scores


def holdout_metrics(
    recommender: ScoringRecommender, holdout: Holdout, *, exclude_seen: bool, k: int = 10
) -> tuple[float, float]:
    """Return the mean HR@k and NDCG@k of a holdout, every item of the catalogue ranked.

    Equal scores rank by catalogue order and seen items not at all, as in
    :meth:`ScoringRecommender.recommend`; counting what is ahead of the target is cheaper than sorting.
    """
    gains = []
    for start in range(0, len(holdout), recommender.batch_size):
        part = holdout.select(np.arange(start, min(start + recommender.batch_size, len(holdout))))
        scores = np.array(recommender.score(part.histories))  # [U, N]; a copy, since it is masked
        users, targets = np.arange(len(part)), part.target_items
        if exclude_seen:
            scores[np.repeat(users, part.histories.lengths), part.histories.items] = -np.inf
        own = scores[users, targets][:, None]  # [U, 1]
        behind = (scores < own) | ((scores == own) & (np.arange(scores.shape[1]) > targets[:, None]))
        # What is not behind is ahead, so that NaN scores rank last rather than first.
        rank = scores.shape[1] - behind.sum(axis=1)  # [U] from 1
        gains.append(np.where((rank <= k) & np.isfinite(own[:, 0]), 1 / np.log2(rank + 1), 0.0))
    gain = np.concatenate(gains)
    return float((gain > 0).mean()), float(gain.mean())
