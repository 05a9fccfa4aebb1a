"""What the language model takes from other systems of the run: item vectors, a view of the training events, a choice of users.

A system leaves what is wanted of it when it is fitted for its lists, so that it is fitted once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig
from llmrec.data.split import Split
from llmrec.pipeline.keys import soft_targets_key, source_key, user_scores_key
from llmrec.pipeline.tensor_files import read_tensors, write_tensors
from llmrec.progress import bar, clock, say
from llmrec.recommenders.selection import influence, uncertainty
from llmrec.recommenders.teacher import Opinions, teach

__all__ = ["Product", "leave", "products"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Product:
    """Arrays that a system leaves for the language model."""

    system: str
    path: Path  # in a run directory
    key: dict[str, Any]
    make: Callable[[Any, Split], Arrays]  # of the fitted recommender

    def read(self, folder: Path) -> Arrays | None:
        """Return the arrays in a run directory; ``None`` if they are not there."""
        return read_tensors(folder / self.path, self.key)

    def is_in(self, folder: Path) -> bool:
        """Say whether the arrays are in a run directory, without reading them."""
        return read_tensors(folder / self.path, self.key, ()) is not None

    def seconds(self, folder: Path) -> float:
        """Return how long it took to make them of the fitted system; 0 where that was not worth counting."""
        found = read_tensors(folder / self.path, self.key, ("seconds",)) or {}
        return float(found["seconds"][0]) if found else 0.0


def products(config: RunConfig) -> dict[str, Product]:
    """Return what the language model of a run needs of other systems: ``vectors``, ``soft targets``, ``user scores``."""
    found = {}
    if config.collaborative_reasons:
        name = config.identifiers.collaborative_system
        path = Path("vectors") / f"{name}.safetensors"
        found["vectors"] = Product(name, path, source_key(config, name), _vectors)
    if (teacher := config.teacher) is not None:
        path = Path("teacher") / f"{teacher}.safetensors"
        found["soft targets"] = Product(
            teacher,
            path,
            soft_targets_key(config, teacher),
            lambda recommender, split: _taught(config, recommender, split),
        )
    if (surrogate := config.surrogate) is not None:
        by = config.finetune.selection.by
        path = Path("selection") / f"{surrogate}-{by}.safetensors"
        key = user_scores_key(config, surrogate)
        found["user scores"] = Product(
            surrogate, path, key, lambda recommender, split: _scored(config, recommender, split)
        )
    return found


def leave(config: RunConfig, name: str, recommender: Any, split: Split, folder: Path) -> None:
    """Write what is wanted of a fitted system, if anything is."""
    for product in products(config).values():
        if product.system == name:
            write_tensors(folder / product.path, product.make(recommender, split), product.key)


def _vectors(recommender: Any, split: Split) -> Arrays:
    return {"items": recommender.item_vectors()}


def _scored(config: RunConfig, recommender: Any, split: Split) -> Arrays:
    started = time.monotonic()
    if config.finetune.selection.by == "influence":
        scores = influence(recommender, split)
    else:
        scores = uncertainty(recommender, split, config.seed)
    return {"users": scores, "seconds": np.array([time.monotonic() - started])}


def _taught(config: RunConfig, recommender: Any, split: Split) -> Arrays:
    started = time.monotonic()
    with bar(f"Asking {recommender.name} about the training, events") as progress:
        opinions = Opinions(recommender, split, config.seed)
        targets = teach(opinions, config.finetune.distillation.top_items, progress)
    seconds = time.monotonic() - started
    kept = float(targets.probabilities.sum(axis=1, dtype=np.float64).mean())
    say(
        f"{recommender.name}: asked about {len(targets.items):,} training events in {clock(seconds)}; temperature {opinions.temperature:.2f}, "
        f"{kept:.0%} of the probability is on the {targets.items.shape[1]:,} items that are kept."
    )
    return {"items": targets.items, "probabilities": targets.probabilities, "seconds": np.array([seconds])}
