"""The settings that all neural sequence models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llmrec.recommenders.losses import LOSSES

__all__ = ["OnEpoch", "TrainingSettings"]

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with its number (from 1), the most epochs there can be, and its metrics."""


@dataclass(kw_only=True, eq=False)
class TrainingSettings:
    """How a sequence model is trained.

    Parameters
    ----------
    max_len
        Events of the past that the model reads. Longer histories are cut into windows for training, and
        to their newest ``max_len`` events for prediction.
    stride
        Targets per training window, at most ``max_len``; ``None`` is ``max_len``. Lower values give the
        early targets of a window context from the window before (see :meth:`Windows.cut`) for
        ``max_len / stride`` times the model's work. On ml-100k half of ``max_len`` took 1.3 times
        as long and moved validation NDCG@10 by no more than another seed does.
    shuffle_ties
        Learn events of one user at one time in another random order in every epoch, since the log does not know theirs. Not for a
        log whose order among ties means something, or is to be learned because the protocol asks for it (``split.ties: source``).
    time_gaps
        Add to what is read of every event a learned vector of how long after the event before it happened, in classes that begin at
        powers of two of a second (like those of ATRank, Zhou et al. 2018), and one for ties. Worth most where the order among ties says nothing.
    target_time
        Add another such vector, of how long after the event the next one happened: the model is told when what it predicts happens. For
        comparisons in which all systems are, with ``prompt.target_time: true``; nobody who serves users knows it.
    loss
        softmax: cross-entropy of all items. sampled: of ``negatives`` items drawn anew in each step, weighted to stand for all;
        for catalogues of tens of thousands of items. bce: as SASRec was published, for comparison.
    negatives
        Items drawn: in a step for ``sampled`` (``None``: 1,024, or the whole catalogue if that is fewer), for each target for
        ``bce`` (``None``: 1); no matter for ``softmax``.
    temperature
        Divides the cosine between features and items; logits lie within plus and minus its inverse. Lower
        values can be more certain and overfit sooner; far above 0.2 the softmax cannot single out an item. ``None``: plain inner
        products.
    label_smoothing
        Probability mass spread evenly over the catalogue in the training target, below 1.
    lr
        Learning rate of AdamW, constant.
    beta2
        Decay of AdamW's mean of squared gradients, below 1. Nearer to 1 where dropout makes gradients noisy: on Amazon Beauty, with a
        dropout of .6, .999 has a validation NDCG@10 of .049 after 10 epochs where .98 has .042 (docs/baselines.md); on ml-100k, with .2,
        it is .1353 and .1372 at the best epoch of seed 0.
    weight_decay
        Decoupled weight decay of matrices (not of biases and norms).
    averaging
        Epochs over which the weights are averaged, exponentially (Izmailov et al. 2018 average evenly; Morales-Brotons et al.
        2024, arXiv 2411.18704). What is validated and kept is the average, which has the quality of a decayed learning rate
        without a schedule. 0: the weights themselves.
    batch_size
        Windows per optimiser step, on average: each step has about as many targets (a window is up to ``stride`` of them).
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
    checkpoint
        File for the state after each epoch: ``fit`` goes on from one that is there, as if it had not been interrupted, and
        has nothing to do where that one was at its end. Or a folder, in which the file is named by what decides the
        training, so that equal trainings of several systems are one.
    name
        The name under which its recommendations are stored.
    """

    name: str
    max_len: int = 50
    stride: int | None = None
    shuffle_ties: bool = False
    time_gaps: bool = False
    target_time: bool = False
    loss: Literal["softmax", "sampled", "bce"] = "softmax"
    negatives: int | None = None
    temperature: float | None = 0.1
    label_smoothing: float = 0.1
    lr: float = 1e-3
    beta2: float = 0.98
    weight_decay: float = 0.0
    averaging: float = 2.0
    batch_size: int = 32
    max_epochs: int = 50
    patience: int = 8
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    on_epoch: OnEpoch | None = None
    checkpoint: Path | None = None

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, all of it."""
        stride = self.max_len if self.stride is None else self.stride
        expected = {
            "max_len": (self.max_len >= 1, "at least 1 event"),
            "stride": (1 <= stride <= max(self.max_len, 1), "1 to max_len targets"),
            "loss": (self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            "negatives": (self.negatives is None or self.negatives >= 1, "at least 1 item"),
            "temperature": (self.temperature is None or self.temperature > 0, "a positive number, or none"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 or more, and below 1"),
            "lr": (self.lr > 0, "a positive learning rate"),
            "beta2": (0 <= self.beta2 < 1, "0 or more, and below 1"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "averaging": (self.averaging >= 0, "0 or more epochs"),
            "batch_size": (self.batch_size >= 1, "at least 1 window"),
            "max_epochs": (self.max_epochs >= 1, "at least 1 epoch"),
            "patience": (self.patience >= 1, "at least 1 epoch"),
            "threads": (self.threads >= 1, "at least 1 thread"),
        }
        found = [
            f"{name}={getattr(self, name)} (expected {what})"
            for name, (good, what) in expected.items()
            if not good
        ]
        if self.loss == "bce" and self.label_smoothing:
            found.append(f"label_smoothing={self.label_smoothing} with loss='bce' (expected 0)")
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        if self.device.partition(":")[0] not in ("auto", *devices):
            found.append(f"device={self.device!r} (expected auto or {' or '.join(devices)}, which is there)")
        return found
