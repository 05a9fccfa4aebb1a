"""Estimate the time and memory of a run from a short measurement on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.finetune.train import Step
from llmrec.pipeline.identifiers_stage import identifiers_for, new_token_start
from llmrec.pipeline.memory import peak_memory, reset_peak_memory
from llmrec.pipeline.parts import (
    language_parts,
    load_data,
    load_language_model,
    make_split,
    sample_rows,
)
from llmrec.progress import clock, console, say
from llmrec.recommenders.registry import build_recommender

__all__ = ["estimate"]

_STEPS = 3  # the first is slower than the rest (memory is laid out), so it is not counted


def estimate(config: RunConfig) -> None:
    """Measure a few steps, epochs and users of every system, and print what the whole run would take."""
    reset_peak_memory()
    data = load_data(config)
    interactions, catalog = data.interactions, data.catalog
    split = make_split(config, interactions, catalog)
    rows: list[tuple[str, str, float, str]] = []
    for name in config.systems:
        if name in config.llm_systems:
            rows += _language_model(config, name, split, catalog)
        else:
            rows.append(_other(config, name, split, catalog))
    table = Table("stage", "work", "estimated time", "measured on")
    for stage, work, seconds, measured in rows:
        table.add_row(stage, work, clock(seconds), measured)
    console.print(table)
    total = sum(seconds for _, _, seconds, _ in rows)
    peak = peak_memory()
    memory = f"; memory {peak / 2**30:.1f} GiB at the peak so far" if peak else ""
    say(f"About {clock(total)} in all{memory}. Nothing was written; early stopping may end training sooner.")


def _language_model(
    config: RunConfig, name: str, split: Split, catalog: Catalog
) -> list[tuple[str, str, float, str]]:
    from llmrec.recommenders.llm import LLMRecommender

    def vectors() -> NDArray[np.float32]:
        # Any numbers cost as much as fitted ones.
        return np.random.default_rng(0).standard_normal((len(catalog), 64)).astype(np.float32)

    parts = language_parts(config, split, catalog, identifiers_for(config, split, catalog, vectors))
    model = load_language_model(config, tokens=parts.vocabulary, training=True)
    validation = config.finetune.validation
    unvalidated = validation.model_copy(update={"every": None})
    settings = config.finetune.model_copy(
        update={"steps": _STEPS, "save_steps": _STEPS + 1, "validation": unvalidated, "report_to": ()}
    )
    steps: list[Step] = []
    users = sample_rows(config, split)
    # A random batch, since that is what the run will see on average.
    some = np.random.default_rng(0).choice(
        users, size=min(config.decoding.batch_size, len(users)), replace=False
    )
    with tempfile.TemporaryDirectory() as folder:
        llm = LLMRecommender(
            model,
            parts.verbalizer,
            parts.trie,
            finetune=settings,
            decoding=config.decoding_for(name),
            new_tokens=new_token_start(model, config, catalog, parts, vectors),
            checkpoints=Path(folder),
            name=name,
            on_step=steps.append,
        )
        started = time.monotonic()
        llm.recommend(
            split.test.select(some).histories, config.evaluation.k, exclude_seen=config.split.exclude_seen
        )
        decode = (time.monotonic() - started) / len(some)
        lists = ("recommend " + name, f"{len(users):,} users", decode * len(users), f"{len(some)} users")
        if name != config.llm_systems[0]:
            return [lists]  # the same fine-tuned model, searched in another way
        llm.fit(split)
    per_step = float(np.mean([s.seconds for s in steps[1:]]))
    per_epoch = steps[-1].step / steps[-1].epoch
    total = config.finetune.steps or max(1, round(config.finetune.epochs * per_epoch))
    rows = [("finetune", f"{total:,} steps", per_step * total, f"{_STEPS - 1} steps")]
    if validation.every is not None:
        rounds = max(1, int(total / per_epoch / validation.every))
        asked = min(validation.users or len(split.valid), len(split.valid))
        rows.append(
            (
                "validate",
                f"at most {rounds} times {asked:,} users",
                decode * rounds * asked,
                f"{len(some)} users",
            )
        )
    return [*rows, lists]


def _other(config: RunConfig, name: str, split: Split, catalog: Catalog) -> tuple[str, str, float, str]:
    seeds = config.systems[name].seeds
    recommender = build_recommender(name, config.systems[name], seed=config.seed, catalog=catalog)
    work, seconds, measured = _fit(recommender, split)
    return f"recommend {name}", (f"{seeds} times {work}" if seeds > 1 else work), seconds * seeds, measured


def _fit(recommender: Any, split: Split) -> tuple[str, float, str]:
    """Return what there is to fit, the estimated seconds, and what was measured."""
    if hasattr(recommender, "parts_"):
        parts = [_fit(part, split) for part in recommender.parts_.values()]
        return f"fit of {len(parts)} parts", sum(seconds for _, seconds, _ in parts), "each by itself"
    most = getattr(recommender, "max_epochs", None)
    if most is not None:
        recommender.max_epochs = 2
    started = time.monotonic()
    recommender.fit(split)
    seconds = time.monotonic() - started
    if most is None:
        return "fit", seconds, "the whole fit"
    return f"at most {most:,} epochs", seconds / 2 * most, "2 epochs"
