"""The stages of a run. Each finds what is done, does the rest, and refuses artefacts of another config."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig, System
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import Recommendations, read_meta, write_recommendations
from llmrec.data.split import Split
from llmrec.data.split_files import read_split, write_split
from llmrec.errors import ArtefactError
from llmrec.eval.evaluate import Cost
from llmrec.pipeline.artefacts import check_key, read_json, whole_folder, write_text
from llmrec.pipeline.memory import peak_memory, reset_peak_memory
from llmrec.pipeline.parts import (
    context_length,
    data_digests,
    language_parts,
    load_data,
    load_language_model,
    make_split,
    pick_device,
    sample_rows,
)
from llmrec.progress import bar, clock, say, say_once
from llmrec.recommenders.registry import LLM, build_recommender, kind_of

__all__ = ["finetune_stage", "llm_systems", "prepare", "recommend_stage"]


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
        _adapter_meta(folder, key)
        return
    from llmrec.recommenders.llm import LLMRecommender

    checkpoints = config.output / ".work" / "finetune"
    _same_work(checkpoints, key)
    model = load_language_model(config)
    parts = language_parts(config, split, catalog, context_length(model))
    parameters = model.num_parameters()
    reset_peak_memory()
    started = time.monotonic()
    with bar("Fine-tuning the language model, steps") as progress:
        llm = LLMRecommender(
            model,
            parts.verbalizer,
            parts.trie,
            finetune=config.finetune,
            decoding=config.decoding,
            checkpoints=checkpoints / "checkpoints",
            seed=config.seed,
            on_progress=progress,
        )
        llm.fit(split)
    seconds = time.monotonic() - started
    trainable = sum(p.numel() for p in llm.model.parameters() if p.requires_grad)
    with whole_folder(folder) as work:
        llm.model.save_pretrained(str(work))
        _write_json(
            work / "llmrec.json",
            {
                "key": key,
                "log": llm.history_,
                "counts": llm.counts_,
                "seconds": seconds,
                "peak_memory_bytes": peak_memory(),
                "parameters": parameters,
                "trainable_parameters": trainable,
                "changed_titles": {
                    catalog.item_ids[i]: parts.identifiers.texts[i] for i in parts.identifiers.changed
                },
            },
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    tokens = llm.counts_["tokens"]
    say(
        f"Fine-tuned in {clock(seconds)}: {llm.counts_['targets']:,.0f} next items, {tokens:,.0f} tokens "
        f"({tokens / seconds:,.0f} tokens/s); loss {llm.history_[0]['loss']:.2f} to {llm.history_[-1]['loss']:.2f}."
    )


def recommend_stage(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Make the lists of every system that has none yet."""
    for name, system in config.systems.items():
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
            continue
        make = _recommend_llm if kind_of(name, system) == LLM else _recommend_other
        recs, meta = make(config, name, system, split, catalog)
        write_recommendations(path, recs, catalog, {"key": key, **meta})


def _recommend_llm(
    config: RunConfig, name: str, system: System, split: Split, catalog: Catalog
) -> tuple[Recommendations, dict[str, Any]]:
    from peft import PeftModel

    from llmrec.recommenders.llm import LLMRecommender

    folder = config.output / "adapter"
    trained = _adapter_meta(folder, finetune_key(config))
    base = load_language_model(config)
    parts = language_parts(config, split, catalog, context_length(base))
    # Merged, an adapter costs nothing at decoding time.
    model = PeftModel.from_pretrained(base, str(folder)).merge_and_unload().eval()
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
        fit_seconds=trained.get("seconds"),
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


def finetune_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the adapter. ``save_steps`` and the device decide nothing."""
    from llmrec.models import fingerprint

    dumped = config.model_dump(mode="json", include={"prompt", "identifiers", "model", "finetune"})
    del dumped["finetune"]["save_steps"], dumped["model"]["device"]
    template = config.prompt.template
    text = Path(template).read_text(encoding="utf-8") if Path(template).is_file() else template
    return {
        **prepare_key(config),
        **dumped,
        "model_fingerprint": fingerprint(config.model.name, say_once),
        "template_text": text,
    }


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


def _adapter_meta(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
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
