"""The stages of a run. Each finds what is done, does the rest, and refuses artefacts of another config."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig, System
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import Recommendations, read_meta, write_recommendations
from llmrec.data.split import Split
from llmrec.data.split_files import read_split, write_split
from llmrec.errors import ArtefactError
from llmrec.eval.evaluate import Cost
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.pipeline.artefacts import check_key, read_json, whole_folder, write_text
from llmrec.pipeline.identifiers_stage import (
    identifiers_stage,
    new_token_start,
    read_vectors,
    write_vectors,
)
from llmrec.pipeline.memory import peak_memory, reset_peak_memory
from llmrec.pipeline.model_card import model_card
from llmrec.pipeline.parts import (
    LanguageParts,
    data_digests,
    language_parts,
    load_data,
    load_language_model,
    make_split,
    pick_device,
    sample_rows,
)
from llmrec.pipeline.training_bar import training_bar
from llmrec.progress import bar, clock, say, say_once
from llmrec.recommenders.registry import LLM, build_recommender, kind_of

__all__ = [
    "adapter_meta",
    "collaborative_vectors",
    "finetune_key",
    "finetune_stage",
    "llm_systems",
    "merged_model",
    "prepare",
    "recommend_stage",
    "run_identifiers",
]


def prepare(config: RunConfig) -> tuple[Split, Catalog]:
    """Read the data and split it, or read the split that is there."""
    run = config.output
    folder = run / "split"
    key = prepare_key(config)
    if folder.is_dir():
        check_key(folder, read_json(folder / "meta.json")["key"], key)
        return read_split(folder)
    interactions, catalog, provenance = load_data(config)
    split = make_split(config, interactions, catalog)
    run.mkdir(parents=True, exist_ok=True)
    # Before the folder: once that is there, the stage counts as done.
    write_text(run / "config.yaml", dump_config(config))
    _write_json(run / "protocol.json", split.protocol.to_dict())
    with whole_folder(folder) as work:
        write_split(work, split, catalog)
        _write_json(work / "meta.json", {"key": key, "provenance": provenance})
    p = split.protocol
    say(
        f"Split: {p.users:,} users, {p.items:,} items, {p.interactions:,} interactions; {p.split}, ties in "
        f"{p.ties} order ({p.tie_rate_last_two:.0%} of users have their last two events at the same time)."
    )
    return split, catalog


def finetune_stage(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Fine-tune the language model and write its adapter in PEFT's own format."""
    folder = config.output / "adapter"
    key = finetune_key(config)
    if folder.is_dir():
        adapter_meta(folder, key)
        return
    from llmrec.recommenders.llm import LLMRecommender

    def vectors() -> NDArray[np.float32]:
        return collaborative_vectors(config, split, catalog)

    identifiers = run_identifiers(config, split, catalog)
    parts = language_parts(config, split, catalog, identifiers)
    checkpoints = config.output / ".work" / "finetune"
    if is_main_process():
        _same_work(checkpoints, key)
    model = load_language_model(config, tokens=parts.vocabulary, training=True)
    parameters = model.num_parameters()
    start = new_token_start(model, config, catalog, parts, vectors)
    reset_peak_memory()
    started = time.monotonic()
    with training_bar() as on_step:
        llm = LLMRecommender(
            model,
            parts.verbalizer,
            parts.trie,
            finetune=config.finetune,
            decoding=config.decoding,
            new_tokens=start,
            checkpoints=checkpoints / "checkpoints",
            logs=config.output / "logs",
            seed=config.seed,
            on_step=on_step,
        )
        llm.fit(split)
    seconds = time.monotonic() - started
    if not is_main_process():
        return
    totals = {n: int(sum(e[n] for e in llm.history_)) for n in ("tokens", "padded_tokens", "targets")}
    meta = {
        "key": key,
        "log": llm.history_,
        "validations": llm.validations_,
        "best_step": llm.best_step_,
        "counts": {**totals, "epochs": llm.history_[-1]["epoch"]},
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "parameters": parameters,
        "trainable_parameters": llm.trained_parameters_,
        "changed_titles": {catalog.item_ids[i]: identifiers.texts[i] for i in identifiers.changed}
        if identifiers.scheme == "title"
        else {},
    }
    with whole_folder(folder) as work:
        # Rows of new tokens are in the adapter; PEFT would add the whole matrices that were made larger for them.
        llm.model.save_pretrained(str(work), save_embedding_layers=False)
        _write_json(work / "llmrec.json", meta)
        write_text(
            work / "README.md",
            model_card(config, split.protocol, parts, meta),
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    say(
        f"Fine-tuned in {clock(seconds)}: {totals['targets']:,} next items, {totals['tokens']:,} tokens "
        f"({totals['targets'] / seconds:,.0f} and {totals['tokens'] / seconds:,.0f} a second), "
        f"{1 - totals['tokens'] / totals['padded_tokens']:.1%} padding; loss {llm.history_[0]['loss']:.2f} to "
        f"{llm.history_[-1]['loss']:.2f} nats per item{_best_words(config, meta)}."
    )


def _best_words(config: RunConfig, meta: dict[str, Any]) -> str:
    if not meta["validations"]:
        return ""
    metric = config.finetune.validation.metric
    best = next(v for v in meta["validations"] if v["step"] == meta["best_step"])
    return f"; kept step {meta['best_step']} with a validation {metric} of {best[metric]:.4f}"


def run_identifiers(config: RunConfig, split: Split, catalog: Catalog) -> ItemIdentifiers:
    """Return the identifiers of a run, made now if they are not there."""
    return identifiers_stage(
        config, split, catalog, identifiers_key(config), lambda: collaborative_vectors(config, split, catalog)
    )


def collaborative_vectors(config: RunConfig, split: Split, catalog: Catalog) -> NDArray[np.float32]:
    """Return the item vectors of ``identifiers.collaborative_system`` [N, d]; fits that system if need be."""
    name = config.identifiers.collaborative_system
    path, key = config.output / "vectors" / f"{name}.safetensors", recommend_key(config, name)
    found = read_vectors(path, key)
    if found is None:
        # Its lists are made on the way, so that it is not fitted twice.
        _recommend_one(config, name, split, catalog, again=True)
        found = read_vectors(path, key)
        assert found is not None
    return found


def recommend_stage(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Make the lists of every system that has none yet."""
    for name in config.systems:
        _recommend_one(config, name, split, catalog)


def _recommend_one(
    config: RunConfig, name: str, split: Split, catalog: Catalog, *, again: bool = False
) -> None:
    system = config.systems[name]
    path = config.output / "recommendations" / f"{name}.parquet"
    key = recommend_key(config, name)
    if path.is_file():
        meta = read_meta(path)
        if meta is None:
            raise ArtefactError(
                f"{str(path)!r} was made elsewhere, and the config has a system of the same name. Expected one or "
                f"the other: rename the file, or take {name!r} out of systems."
            )
        check_key(path, meta.get("key", {}), key)
        if not again:
            return
    make = _recommend_llm if kind_of(name, system) == LLM else _recommend_other
    recs, meta = make(config, name, system, split, catalog)
    write_recommendations(path, recs, catalog, {"key": key, **meta})


def _recommend_llm(
    config: RunConfig, name: str, system: System, split: Split, catalog: Catalog
) -> tuple[Recommendations, dict[str, Any]]:
    from llmrec.recommenders.llm import LLMRecommender

    key = finetune_key(config)
    trained = adapter_meta(config.output / "adapter", key)
    parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
    model = merged_model(config, parts)
    holdout = split.test.select(sample_rows(config, split))
    reset_peak_memory()
    started = time.monotonic()
    with bar(f"Decoding for {name}, users") as progress:
        llm = LLMRecommender(
            model, parts.verbalizer, parts.trie,
            finetune=config.finetune, decoding=config.decoding, name=name, on_progress=progress,
        )  # fmt: skip
        recs = llm.recommend(
            holdout.histories,
            config.evaluation.k,
            exclude_seen=config.split.exclude_seen,
            target_timestamps=holdout.target_timestamps if config.prompt.target_time else None,
        )
    seconds = time.monotonic() - started
    cost = Cost(
        fit_seconds=_fit_seconds(config, trained),
        recommend_seconds=seconds,
        recommend_users=len(holdout),
        peak_memory_bytes=max(peak_memory() or 0, trained.get("peak_memory_bytes") or 0) or None,
        tokens_trained=int(trained["counts"]["tokens"]) if "counts" in trained else None,
        tokens_read=llm.prompt_tokens_,
        tokens_generated=llm.beam_tokens_,
        device=device_words(pick_device(config.model.device)),
    )
    say(
        f"{name}: lists for {len(holdout):,} users in {clock(seconds)}; {llm.certified_.mean():.0%} certified to be "
        f"the model's exact top {config.evaluation.k}."
    )
    return recs, {"cost": asdict(cost), "certified": float(llm.certified_.mean())}


def _fit_seconds(config: RunConfig, trained: dict[str, Any]) -> float | None:
    """Return the seconds of the language model's training, and of the system whose vectors it uses."""
    seconds: float | None = trained.get("seconds")
    if seconds is None or not config.collaborative_reasons:
        return seconds
    path = config.output / "recommendations" / f"{config.identifiers.collaborative_system}.parquet"
    meta = (read_meta(path) if path.is_file() else None) or {}
    return seconds + (meta.get("cost", {}).get("fit_seconds") or 0.0)


def merged_model(config: RunConfig, parts: LanguageParts) -> Any:
    """Return the fine-tuned model."""
    from peft import PeftModel

    base = load_language_model(config, tokens=parts.vocabulary)
    model = PeftModel.from_pretrained(base, str(config.output / "adapter"))
    if config.model.quantize == "none":
        # Merged, an adapter costs nothing at decoding time; merged into quantised weights it would be rounded away.
        model = model.merge_and_unload()
    return model.eval()


def _recommend_other(
    config: RunConfig, name: str, system: System, split: Split, catalog: Catalog
) -> tuple[Recommendations, dict[str, Any]]:
    reset_peak_memory()
    with bar(f"Fitting {name}, epochs") as progress:
        recommender = build_recommender(
            name, system, seed=config.seed, on_epoch=lambda epoch, of, metrics: progress(epoch, of)
        )
        started = time.monotonic()
        recommender.fit(split)
        fitted = time.monotonic() - started
    started = time.monotonic()
    recs = recommender.recommend(
        split.test.histories, config.evaluation.k, exclude_seen=config.split.exclude_seen
    )
    seconds = time.monotonic() - started
    device = str(getattr(recommender, "device", "cpu"))
    cost = Cost(
        fit_seconds=fitted,
        recommend_seconds=seconds,
        recommend_users=len(split.test),
        peak_memory_bytes=peak_memory(),
        device=device_words(device),
    )
    if name == config.identifiers.collaborative_system and config.collaborative_reasons:
        write_vectors(
            config.output / "vectors" / f"{name}.safetensors",
            recommender.item_vectors(),
            recommend_key(config, name),
        )
    meta = {"cost": asdict(cost), "epochs": getattr(recommender, "history_", [])}
    if meta["epochs"]:
        meta["best_epoch"] = recommender.best_epoch_
    best = f" (best of {len(meta['epochs'])} epochs: {meta['best_epoch']})" if meta["epochs"] else ""
    say(f"{name}: fitted in {clock(fitted)}{best}, lists for {len(split.test):,} users in {seconds:.1f} s.")
    return recs, meta


def llm_systems(config: RunConfig) -> list[str]:
    """Return the names of the systems that are the language model."""
    return [name for name, system in config.systems.items() if kind_of(name, system) == LLM]


def prepare_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the split."""
    dumped = config.model_dump(mode="json", include={"data", "split", "seed"})
    return {**dumped, "files": data_digests(config)}


def identifiers_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the identifiers."""
    from llmrec.models import fingerprint

    model = config.model.model_dump(mode="json", include={"name", "keep_layers"})
    dumped = config.model_dump(mode="json", include={"identifiers"})
    system = config.identifiers.collaborative_system
    vectors = {"vectors": recommend_key(config, system)} if config.collaborative_reasons else {}
    return {
        **prepare_key(config),
        **dumped,
        **vectors,
        "model": model,
        "model_fingerprint": fingerprint(config.model.name, say_once),
    }


def finetune_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the adapter. How often it is saved, where it runs and in what pieces decide nothing."""
    dumped = config.model_dump(mode="json", include={"prompt", "model", "finetune"})
    for name in ("save_steps", "report_to", "micro_batch_tokens", "gradient_checkpointing"):
        del dumped["finetune"][name]
    for name in ("device", "attention", "trust_remote_code"):
        del dumped["model"][name]
    template = config.prompt.template
    text = Path(template).read_text(encoding="utf-8") if Path(template).is_file() else template
    return {**identifiers_key(config), **dumped, "template_text": text}


def recommend_key(config: RunConfig, name: str) -> dict[str, Any]:
    """Return what decides one system's lists. Batch sizes of decoding decide nothing but speed."""
    system = config.systems[name]
    kind = kind_of(name, system)
    if kind == LLM:
        decoding = config.decoding.model_dump(mode="json", exclude={"batch_size"})
        users = {"users": config.evaluation.users, "k": config.evaluation.k}
        return {**finetune_key(config), "decoding": decoding, "evaluation": users}
    return {
        **prepare_key(config),
        "systems": {name: {"kind": kind, **system.options}},
        "evaluation": {"k": config.evaluation.k},
    }


def device_words(device: str) -> str:
    """Say what a device is."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU cores ({platform.machine()})"


def is_main_process() -> bool:
    """Say whether this is the only process, or the first of several that accelerate launched."""
    return int(os.environ.get("RANK", "0")) == 0


def adapter_meta(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Return what the fine-tune stage wrote beside an adapter; {} for an adapter that was trained elsewhere."""
    if not folder.is_dir():
        raise ArtefactError(
            f"There is no adapter in {str(folder)!r}. Expected the result of fine-tuning: run 'llmrec finetune' with "
            "this config first, or put an adapter in PEFT's format there."
        )
    if not (folder / "llmrec.json").is_file():
        say(f"Using the adapter in {folder} as it is: it was trained elsewhere.")
        return {}
    meta = read_json(folder / "llmrec.json")
    check_key(folder, meta["key"], key)
    return meta


def _same_work(folder: Path, key: dict[str, Any]) -> None:
    """Take up what a killed run left behind only if it was on the way to the same artefact."""
    note = folder / "key.json"
    if note.is_file() and read_json(note) == json.loads(json.dumps(key)):
        say("Going on from the last checkpoint of an interrupted run.")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_json(note, key)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
