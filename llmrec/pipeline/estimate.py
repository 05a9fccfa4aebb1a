"""Estimate the time and memory of a run from a short measurement on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.decoding.packed import masked_attention
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
from llmrec.recommenders.guided import Guided
from llmrec.recommenders.llm_scores import LanguageModel, LanguageModelScores
from llmrec.recommenders.parts import MadeOfParts, leaves
from llmrec.recommenders.registry import build_recommender
from llmrec.recommenders.sequential import SequentialRecommender
from llmrec.settings import Distillation

__all__ = ["estimate"]

Row = tuple[str, str, float, str]  # stage, work, seconds, what was measured
Asked = tuple[str, str]  # "valid" or "test", and the user

_ASKED = 256  # users whose scores tell how long a teacher takes for an event
_STEPS = 3  # the first is slower than the rest (memory is laid out), so it is not counted


@dataclass
class Done:
    """What the systems before have done, and is not done again."""

    trainings: set[str] = field(default_factory=set)
    scored: set[tuple[str | None, Asked]] = field(default_factory=set)  # by which normalisation, and who


def estimate(config: RunConfig) -> None:
    """Measure a few steps, epochs and users of every system, and print what the whole run would take."""
    reset_peak_memory()
    data = load_data(config)
    interactions, catalog = data.interactions, data.catalog
    split = make_split(config, interactions, catalog)
    rows: list[Row] = []
    done = Done()
    for name in config.systems:
        if name in {*config.llm_systems, *config.language_systems[:1]}:
            rows += _language_model(config, name, split, catalog)
        if name not in config.llm_systems:
            rows += _other(config, name, split, catalog, done)
    table = Table("stage", "work", "estimated time", "measured on")
    for stage, work, seconds, measured in rows:
        table.add_row(stage, work, clock(seconds), measured)
    console.print(table)
    total = sum(seconds for _, _, seconds, _ in rows)
    peak = peak_memory()
    memory = f"; memory {peak / 2**30:.1f} GiB at the peak so far" if peak else ""
    say(f"About {clock(total)} in all{memory}. Nothing was written; early stopping may end training sooner.")


def _language_model(config: RunConfig, name: str, split: Split, catalog: Catalog) -> list[Row]:
    """Measure the language model by itself: its lists, if it makes any, and for the first of its systems the training."""
    from llmrec.recommenders.llm import LLMRecommender

    vectors = partial(_any_vectors, catalog)
    parts = language_parts(config, split, catalog, identifiers_for(config, split, catalog, vectors))
    model = load_language_model(config, tokens=parts.vocabulary, training=True)
    validation = config.finetune.validation
    unvalidated = validation.model_copy(update={"every": None})
    settings = config.finetune.model_copy(
        update={
            "steps": _STEPS,
            "save_steps": _STEPS + 1,
            "validation": unvalidated,
            "report_to": (),
            "distillation": Distillation(),  # a step takes as long with a teacher as without
        }
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
        batch = split.test.select(some).histories
        make = partial(llm.recommend, batch, config.evaluation.k, exclude_seen=config.split.exclude_seen)
        with masked_attention(model):
            if model.device.type == "cuda":
                make()  # the first pass chooses and loads kernels
            started = time.monotonic()
            make()
        decode = (time.monotonic() - started) / len(some)
        lists = [("recommend " + name, f"{len(users):,} users", decode * len(users), f"{len(some)} users")]
        if name not in config.llm_systems:
            lists = []  # a system that the model is a part of
        if name != config.language_systems[0]:
            return lists  # the same fine-tuned model, searched in another way
        llm.fit(split)
    per_step = float(np.mean([s.seconds for s in steps[1:]]))
    per_epoch = steps[-1].step / steps[-1].epoch
    if not (config.finetune.steps or config.finetune.epochs):
        return lists  # nothing is trained
    epochs = config.finetune.epochs * config.finetune.selection.share
    total = config.finetune.steps or max(1, round(epochs * per_epoch))
    rows = [("finetune", f"{total:,} steps", per_step * total, f"{_STEPS - 1} steps")]
    if validation.every is not None:
        rounds = max(1, int(total / (per_epoch * config.finetune.selection.share) / validation.every))
        asked = min(validation.users or len(split.valid), len(split.valid))
        work = f"at most {rounds} times {asked:,} users"
        if validation.metric == "loss":  # a forward pass, where a list takes a search
            rows.append(("validate", work, 0.0, "not measured: little"))
        else:
            rows.append(("validate", work, decode * rounds * asked, f"{len(some)} users"))
    return [*rows, *lists]


def _other(config: RunConfig, name: str, split: Split, catalog: Catalog, done: Done) -> list[Row]:
    seeds = config.systems[name].seeds
    language_model = None
    if config.has_language_model(name):
        language_model = _untrained(config, split, catalog)
    recommender = build_recommender(
        name, config.systems[name], seed=config.seed, catalog=catalog, language_model=language_model
    )
    users = split.test.select(sample_rows(config, split)).histories.user_ids
    work, seconds, measured = _fit(recommender, split, {("test", user) for user in users}, done)
    times = f"{seeds} times {work}" if seeds > 1 else work
    rows: list[Row] = [(f"recommend {name}", times, seconds * seeds, measured)]
    return [*rows, _teach(name, recommender, split)] if name == config.teacher else rows


def _teach(name: str, teacher: Any, split: Split) -> Row:
    """Estimate how long a teacher takes to be asked about all training events."""
    few = split.valid.histories[:_ASKED]
    seconds = 0.0
    for part in leaves(teacher):
        if isinstance(part, SequentialRecommender):
            part.max_epochs = 1  # one that was "trained before" is not trained yet
            part.fit(split)
        started = time.monotonic()
        part.score(few)
        seconds += time.monotonic() - started
    events = len(split.train.items)
    return f"teach by {name}", f"{events:,} training events", seconds / len(few) * events, f"{len(few)} users"


def _untrained(config: RunConfig, split: Split, catalog: Catalog) -> LanguageModel:
    """Return the pretrained model as a part of a system; it takes as long as a fine-tuned one."""
    from llmrec.recommenders.llm import LLMRecommender

    identifiers = identifiers_for(config, split, catalog, partial(_any_vectors, catalog))
    parts = language_parts(config, split, catalog, identifiers)
    return LanguageModel(
        lambda: LLMRecommender(
            load_language_model(config, tokens=parts.vocabulary),
            parts.verbalizer,
            parts.trie,
            finetune=config.finetune,
            decoding=config.decoding,
        ),
        key="untrained",
    )


def _any_vectors(catalog: Catalog) -> NDArray[np.float32]:
    # Any numbers cost as much as fitted ones.
    return np.random.default_rng(0).standard_normal((len(catalog), 64)).astype(np.float32)


def _fit(recommender: Any, split: Split, asked: Set[Asked], done: Done) -> tuple[str, float, str]:
    """Return what there is to fit, the estimated seconds, and what was measured.

    Parameters
    ----------
    asked
        Who is asked about. Only a language model's time for them counts here.
    done
        Gains what this system does.
    """
    if isinstance(recommender, MadeOfParts):
        # At most: an adjusted system asks about fewer of them, and one whose weights are given about none.
        users = recommender.sample(split.valid).histories.user_ids
        asked = asked | {("valid", user) for user in users}
        if isinstance(recommender, Guided):
            return _guided(recommender, split, asked, done)
        parts = {name: _fit(part, split, asked, done) for name, part in recommender.parts_.items()}
        work = "; ".join(f"{name}: {what}" for name, (what, _, _) in parts.items())
        return work, sum(seconds for _, seconds, _ in parts.values()), "each by itself"
    if isinstance(recommender, LanguageModelScores):
        recommender.fit(split)
        new = {(recommender.normalisation, who) for who in asked} - done.scored
        if not new:
            return "scored before", 0.0, "nothing"
        done.scored |= new
        few = split.test.histories[: recommender.batch_size]
        started = time.monotonic()
        recommender.score(few)
        return f"scores for {len(new):,} users", (time.monotonic() - started) / len(few) * len(new), "a batch"
    if isinstance(recommender, SequentialRecommender):
        if recommender.training_id(split) in done.trainings:
            return "trained before", 0.0, "nothing"
        done.trainings.add(recommender.training_id(split))
    most = getattr(recommender, "max_epochs", None)
    if most is not None:
        recommender.max_epochs = 2
    started = time.monotonic()
    recommender.fit(split)
    seconds = time.monotonic() - started
    if most is None:
        return "fit", seconds, "the whole fit"
    return f"at most {most:,} epochs", seconds / 2 * most, "2 epochs"


def _guided(system: Guided, split: Split, asked: Set[Asked], done: Done) -> tuple[str, float, str]:
    """Estimate a guided search, which is done anew for every user and weight."""
    what, seconds, _ = _fit(system.guide, split, set(), done)
    system.model.fit(split)
    few = split.test.histories[: system.model.batch_size]
    started = time.monotonic()
    # What it is steered by makes no difference to the time.
    system.llm.recommend_guided(few, 10, np.zeros((len(few), split.n_items)), 1.0)
    per_user = (time.monotonic() - started) / len(few)
    searches = sum(system.searches if which == "valid" else 1 for which, _ in asked)
    return f"{what}; {searches:,} searches", seconds + per_user * searches, "each by itself"
