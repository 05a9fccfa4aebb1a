"""The stage that makes every system's lists, and on the way the vectors and identifiers that come from one."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig, System
from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import Recommendations, read_meta, write_recommendations
from llmrec.data.split import Split
from llmrec.errors import ArtefactError
from llmrec.eval.evaluate import Cost
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.pipeline.adapter import adapter_digest, adapter_meta, check_adapter
from llmrec.pipeline.artefacts import check_key
from llmrec.pipeline.decoder import language_model_part, open_decoder
from llmrec.pipeline.identifiers_stage import identifiers_stage
from llmrec.pipeline.keys import finetune_key, identifiers_key, recommend_key
from llmrec.pipeline.memory import peak_memory, reset_peak_memory
from llmrec.pipeline.parts import language_parts, pick_device, sample_rows
from llmrec.pipeline.sources import leave, products
from llmrec.progress import bar, clock, say
from llmrec.recommenders.parts import MadeOfParts
from llmrec.recommenders.registry import build_recommender, takes_seed
from llmrec.recommenders.selection import within_budget

__all__ = [
    "chosen_users",
    "collaborative_vectors",
    "make_sources",
    "recommend_stage",
    "run_identifiers",
    "soft_targets",
]


def recommend_stage(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Make the lists of every system, and of every training of it, that has none yet."""
    for name in config.systems:
        for seed in config.trainings(name).values():
            _recommend_one(config, name, seed, split, catalog)
    # What an interrupted run would have gone on from, and what several systems share.
    shutil.rmtree(config.output / "checkpoints", ignore_errors=True)


def run_identifiers(config: RunConfig, split: Split, catalog: Catalog) -> ItemIdentifiers:
    """Return the identifiers of a run, made now if they are not there."""
    return identifiers_stage(
        config, split, catalog, identifiers_key(config), lambda: collaborative_vectors(config, split, catalog)
    )


def collaborative_vectors(config: RunConfig, split: Split, catalog: Catalog) -> NDArray[np.float32]:
    """Return the item vectors of ``identifiers.collaborative_system`` [N, d]; fits that system if need be."""
    vectors: NDArray[np.float32] = _left(config, "vectors", split, catalog)["items"]
    return vectors


def soft_targets(config: RunConfig, split: Split, catalog: Catalog) -> SoftTargets | None:
    """Return what the teacher of ``finetune.distillation`` expects at the training events; fits it if need be."""
    if config.teacher is None:
        return None
    found = _left(config, "soft targets", split, catalog)
    return SoftTargets(found["items"], found["probabilities"])


def chosen_users(config: RunConfig, split: Split, catalog: Catalog) -> NDArray[np.int64] | None:
    """Return the training users that ``finetune.selection`` takes, ``None`` for all; fits the surrogate if need be."""
    selection = config.finetune.selection
    if selection.share == 1:
        return None
    if config.surrogate is None:
        scores = np.random.default_rng(config.seed).random(len(split.train))
    else:
        scores = _left(config, "user scores", split, catalog)["users"]
    return within_budget(scores, split.train, selection.share)


def make_sources(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Make all that the language model takes from other systems, if it is not there."""
    for what in products(config):
        _left(config, what, split, catalog)


def _left(config: RunConfig, what: str, split: Split, catalog: Catalog) -> dict[str, NDArray[Any]]:
    product = products(config)[what]
    found = product.read(config.output)
    if found is None:
        # Its lists are made on the way, so that it is not fitted twice.
        _recommend_one(config, product.system, config.seed, split, catalog, again=True)
        found = product.read(config.output)
        assert found is not None
    return found


def _recommend_one(
    config: RunConfig, name: str, seed: int, split: Split, catalog: Catalog, *, again: bool = False
) -> None:
    stem = next(stem for stem, its in config.trainings(name).items() if its == seed)
    path = config.output / "recommendations" / f"{stem}.parquet"
    key = recommend_key(config, name, seed)
    if path.is_file():
        meta = read_meta(path)
        if meta is None:
            raise ArtefactError(
                f"{str(path)!r} was made elsewhere, and the config has a system of the same name. Expected one or "
                f"the other: rename the file, or take {name!r} out of systems."
            )
        check_key(path, meta.get("key", {}), key)
        check_adapter(path, meta, config)
        if not again:
            return
    if name in config.llm_systems:
        recs, meta = _recommend_llm(config, name, split, catalog)
    else:
        recs, meta = _recommend_other(config, name, seed, split, catalog)
    write_recommendations(path, recs, catalog, {"key": key, **meta})


def _recommend_llm(
    config: RunConfig, name: str, split: Split, catalog: Catalog
) -> tuple[Recommendations, dict[str, Any]]:
    key = finetune_key(config)
    trained = adapter_meta(config.output / "adapter", key)
    parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
    holdout = split.test.select(sample_rows(config, split))
    config = config.model_copy(update={"decoding": config.decoding_for(name)})
    reset_peak_memory()
    with (
        bar(f"Decoding for {name}, users") as progress,
        open_decoder(config, catalog, parts, name=name, k=config.evaluation.k, on_progress=progress) as llm,
    ):
        started = time.monotonic()
        recs = llm.recommend(
            holdout.histories,
            config.evaluation.k,
            exclude_seen=config.split.exclude_seen,
        )
    seconds = time.monotonic() - started
    cost = Cost(
        fit_seconds=_fit_seconds(config, name, trained),
        recommend_seconds=seconds,
        recommend_users=len(holdout),
        peak_memory_bytes=max(peak_memory() or 0, trained.get("peak_memory_bytes") or 0) or None,
        tokens_trained=int(trained["counts"]["tokens"]) if "counts" in trained else None,
        tokens_read=llm.prompt_tokens_,
        tokens_generated=llm.beam_tokens_,
        device=_device_words(pick_device(config.model.device)),
    )
    meta: dict[str, Any] = {
        "cost": asdict(cost),
        **_adapter_facts(config, trained),
        "seed": config.seed,
    }
    if config.decoding.search == "free":
        meta["free"] = llm.free_.rates()
        found = f"{meta['free']['valid']:.0%} of the texts are items"
    else:
        meta["certified"] = float(llm.certified_.mean())
        found = f"{meta['certified']:.0%} certified to be the model's exact top {config.evaluation.k}"
    say(f"{name}: lists for {len(holdout):,} users in {clock(seconds)}; {found}.")
    return recs, meta


def _recommend_other(
    config: RunConfig, name: str, seed: int, split: Split, catalog: Catalog
) -> tuple[Recommendations, dict[str, Any]]:
    reset_peak_memory()
    system = config.systems[name]
    which = f"{name}, seed {seed}" if system.seeds > 1 else name
    has_llm, holdout = config.has_language_model(name), split.test
    checkpoints = config.output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    trained: dict[str, Any] = {}
    language_model = None
    if has_llm:
        trained = adapter_meta(config.output / "adapter", finetune_key(config))
        holdout = split.test.select(sample_rows(config, split))
    with bar(f"Fitting {which}, epochs" + (" and users" if has_llm else "")) as progress:
        if has_llm:
            language_model = language_model_part(
                config,
                language_parts(config, split, catalog, run_identifiers(config, split, catalog)),
                lambda users: progress(min(users, asked), asked),  # a re-ranker asks about some twice
            )
        recommender = build_recommender(
            name,
            system,
            seed=seed,
            catalog=catalog,
            checkpoint=checkpoints,
            language_model=language_model,
            on_epoch=lambda epoch, of, metrics: progress(epoch, of),
        )
        if has_llm:
            chosen_by = (
                recommender.sample(split.valid) if isinstance(recommender, MadeOfParts) else split.valid
            )
            asked = len(chosen_by) + len(holdout)  # fewer where nothing is chosen
        started = time.monotonic()
        recommender.fit(split)
        fitted = time.monotonic() - started
        spared = getattr(recommender, "spared_seconds_", 0.0)
        started = time.monotonic()
        recs = recommender.recommend(
            holdout.histories, config.evaluation.k, exclude_seen=config.split.exclude_seen
        )
        seconds = time.monotonic() - started
    # What another system of the run has done already is no cheaper for that.
    seconds += getattr(recommender, "spared_seconds_", 0.0) - spared
    finetuned = _fit_seconds(config, name, trained) if has_llm else 0.0
    cost = Cost(
        fit_seconds=None if finetuned is None else fitted + spared + finetuned,
        recommend_seconds=seconds,
        recommend_users=len(holdout),
        peak_memory_bytes=max(peak_memory() or 0, trained.get("peak_memory_bytes") or 0) or None,
        tokens_trained=int(trained["counts"]["tokens"]) if "counts" in trained else None,
        device=_device_words(str(getattr(recommender, "device_", "cpu"))),
    )
    if seed == config.seed:
        leave(config, name, recommender, split, config.output)
    meta: dict[str, Any] = {
        "cost": asdict(cost),
        "epochs": getattr(recommender, "history_", []),
        "seed": seed if takes_seed(system, name) else None,
    }
    if has_llm:
        meta |= _adapter_facts(config, trained)
    if chosen := getattr(recommender, "chosen_", None):
        meta["chosen"] = chosen
    if meta["epochs"]:
        meta["best_epoch"] = recommender.best_epoch_
    best = f" (best of {len(meta['epochs'])} epochs: {meta['best_epoch']})" if meta["epochs"] else ""
    say(
        f"{which}: fitted in {clock(fitted + spared)}{best}, lists for {len(holdout):,} users in {seconds:.1f} s."
        + (f" {clock(spared)} of the former are of an earlier fit of the same." if spared else "")
    )
    if chosen:
        say(f"{which}: chosen on the validation users: {_chosen_words(chosen)}.")
    return recs, meta


def _adapter_facts(config: RunConfig, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return what lists say of the adapter that they were made with; ``trained`` is what was written beside it."""
    return {"adapter": adapter_digest(config.output / "adapter"), "trained_elsewhere": not trained}


def _fit_seconds(config: RunConfig, name: str, trained: dict[str, Any]) -> float | None:
    """Return the seconds of the language model's training, and of the systems that it takes something from.

    A system ``name`` that has one of the latter as a part has counted it.
    """
    seconds: float | None = trained.get("seconds")
    if seconds is None:
        return None
    needed = products(config)
    parts = [_training(config, *part) for part in config.systems[name].flattened(name)]
    for source in {product.system for product in needed.values()}:
        if _training(config, source, config.systems[source]) in parts:
            continue
        path = config.output / "recommendations" / f"{source}.parquet"
        meta = (read_meta(path) if path.is_file() else None) or {}
        seconds += meta.get("cost", {}).get("fit_seconds") or 0.0
    return seconds + sum(product.seconds(config.output) for product in needed.values())


def _chosen_words(chosen: Mapping[str, Any]) -> str:
    """Say what a system has chosen; which features its trees look at is for the report."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {words(its)}" for name, its in value.items())
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    if not chosen.get("users", 1):
        return "nothing, since no history there has an item without training events"
    return "; ".join(f"{what}: {words(value)}" for what, value in chosen.items() if what != "importance")


def _training(config: RunConfig, name: str, system: System) -> tuple[str, dict[str, Any]]:
    """Return what tells the first training of a system, or of a part, from others of the run."""
    return system.kind_as(name), {"seed": config.seed, **system.options}


def _device_words(device: str) -> str:
    """Say what a device is."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU core{'s' if threads != 1 else ''} ({platform.machine()})"
