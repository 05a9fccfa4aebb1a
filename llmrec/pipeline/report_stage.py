"""Evaluate all lists of a run and write its report."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.recommendations import Recommendations, read_meta, read_recommendations
from llmrec.data.split import Split
from llmrec.errors import ArtefactError
from llmrec.eval.compare import compare
from llmrec.eval.context import Curve, LLMNotes, ReportContext
from llmrec.eval.evaluate import Cost, Evaluation, evaluate, train_counts
from llmrec.eval.examples import pick_users, user_examples
from llmrec.eval.files import write_evaluation
from llmrec.eval.report import render_html, render_markdown
from llmrec.eval.slices import user_slices
from llmrec.eval.words import label
from llmrec.identifiers.files import read_identifiers_meta
from llmrec.pipeline.artefacts import check_key, read_json, write_text
from llmrec.pipeline.identifiers_stage import identifiers_at_hand
from llmrec.pipeline.keys import recommend_key
from llmrec.pipeline.parts import language_parts, sample_rows
from llmrec.progress import say
from llmrec.prompts.template import load_template
from llmrec.prompts.time import TIME_STYLES
from llmrec.settings import Decoding

__all__ = ["compare_stage", "evaluate_stage", "read_lists", "write_evaluations"]

_PACKAGES = ("llmrec", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "polars")


Lists = list[tuple[Recommendations, dict[str, Any]]]  # of each system, with how they were made


def evaluate_stage(config: RunConfig, split: Split, catalog: Catalog, read: Lists) -> list[Evaluation]:
    """Evaluate every system on the users of the comparison."""
    return _evaluate(config, split, catalog, read, split.test.select(sample_rows(config, split)))


def write_evaluations(config: RunConfig, evaluations: Sequence[Evaluation]) -> None:
    """Write evaluation/."""
    for evaluation in evaluations:
        write_evaluation(config.output / "evaluation", evaluation)


def compare_stage(
    config: RunConfig,
    split: Split,
    catalog: Catalog,
    read: Lists,
    evaluations: Sequence[Evaluation],
    command: str,
) -> Path:
    """Write report.html and report.md and return the former's path."""
    run = config.output
    rows = sample_rows(config, split)
    users = split.test.select(rows)
    llms = config.llm_systems
    subject = next(
        (e.system for e in evaluations if e.system in llms and e.system != config.evaluation.baseline), None
    )
    counts = train_counts(split.train, len(catalog))
    options: dict[str, Any] = {"baseline": config.evaluation.baseline, "seed": config.seed}
    comparison = compare(evaluations, subject=subject, slices=user_slices(users, counts), **options)

    everyone = [(lists, meta) for lists, meta in read if len(lists) == len(split.test)]
    all_users = None
    if len(rows) < len(split.test) and config.evaluation.baseline in [lists.system for lists, _ in everyone]:
        all_users = compare(_evaluate(config, split, catalog, everyone, split.test), **options)

    chosen = pick_users(len(users), config.evaluation.users_shown, config.seed)
    prompts = _prompts(config, split, catalog, users, chosen) if llms else None
    sample = ""
    if len(rows) < len(split.test):
        sample = f"Drawn at random with seed {config.seed}; the same users for every system."
    metas = {lists.system: meta for lists, meta in read}
    context = ReportContext(
        run_name=config.name,
        created=datetime.datetime.now(datetime.UTC).strftime("%-d %B %Y"),
        warnings=_warnings(config, metas),
        sample_note=sample,
        all_users=all_users,
        llm=tuple(_llm_notes(config, name) for name in llms),
        certified={s: m["certified"] for s, m in metas.items() if "certified" in m},
        free={s: m["free"] for s, m in metas.items() if "free" in m},
        curves=_curves(config, metas),
        users=user_examples(
            users,
            [lists for lists, _ in read],
            catalog,
            chosen,
            prompt=prompts,
            details="year" if "year" in catalog.attributes else None,
            time_resolution=split.protocol.time_resolution,
        ),
        users_seed=config.seed,
        provenance=tuple(read_json(run / "split" / "meta.json").get("provenance", ())),
        versions={p: importlib.metadata.version(p) for p in _PACKAGES},
        config_yaml=dump_config(config),
        command=command,
    )
    # Settings that decide no artefact, such as the users shown, may have changed since the first stage.
    write_text(run / "config.yaml", dump_config(config))
    write_text(run / "report.md", render_markdown(comparison, context))
    write_text(run / "report.html", render_html(comparison, context))
    say(comparison.summary_sentence)
    return run / "report.html"


def read_lists(config: RunConfig, catalog: Catalog) -> Lists:
    """Read all lists: first those of the config, in its order, then those made elsewhere."""
    folder = config.output / "recommendations"
    missing = [name for name in config.systems if not (folder / f"{name}.parquet").is_file()]
    if missing:
        raise ArtefactError(
            f"There are no recommendations of {', '.join(map(repr, missing))} in {str(folder)!r}. Expected a file for "
            "every system of the config: run 'llmrec recommend' first."
        )
    others = sorted(p.stem for p in folder.glob("*.parquet") if p.stem not in config.systems)
    read = []
    for name in [*config.systems, *others]:
        path = folder / f"{name}.parquet"
        meta = read_meta(path)
        if meta is not None and name in config.systems:
            check_key(path, meta.get("key", {}), recommend_key(config, name))
        read.append((read_recommendations(path, catalog), meta or {}))
    return read


def _evaluate(
    config: RunConfig, split: Split, catalog: Catalog, read: Lists, users: Holdout
) -> list[Evaluation]:
    counts = train_counts(split.train, len(catalog))
    return [
        evaluate(
            lists.for_users(users.histories.user_ids),
            users,
            counts,
            catalog,
            split.protocol,
            ks=config.evaluation.cutoffs,
            short_lists="free" in meta,
            cost=Cost(**meta["cost"]) if "cost" in meta else None,
            meta={k: v for k, v in meta.items() if k not in ("cost", "epochs")},
        )
        for lists, meta in read
    ]


def _prompts(
    config: RunConfig, split: Split, catalog: Catalog, users: Holdout, chosen: np.ndarray
) -> dict[str, str]:
    parts = language_parts(config, split, catalog, identifiers_at_hand(config, split, catalog))
    texts = {}
    for row in chosen:
        history = users.histories[int(row)]
        ids = parts.verbalizer.prompt(history, int(users.target_timestamps[row]))
        texts[history.user_id] = parts.tokenizer.decode(ids)
    return texts


def _warnings(config: RunConfig, metas: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    elsewhere = [name for name, meta in metas.items() if not meta]
    found = []
    if elsewhere:
        found.append(f"Lists of {', '.join(elsewhere)} were made elsewhere; nothing is known about how.")
    if config.prompt.target_time:
        found.append(
            "The prompt tells the language model when the target happens; the other systems do not know that."
        )
    return tuple(found)


def _llm_notes(config: RunConfig, name: str) -> LLMNotes:
    path = config.output / "adapter" / "llmrec.json"
    trained = read_json(path) if path.is_file() else {}
    counts = trained.get("counts", {})
    template = load_template(config.prompt.template)
    modules = config.finetune.target_modules
    where = "all linear layers" if modules == "all-linear" else ", ".join(modules)
    layers = f", its first {config.model.keep_layers} layers" if config.model.keep_layers else ""
    return LLMNotes(
        system=name,
        model=config.model.name + layers,
        parameters=trained.get("parameters"),
        trainable_parameters=trained.get("trainable_parameters"),
        adapter=f"LoRA, rank {config.finetune.lora_rank}, {where}" if trained else "trained elsewhere",
        identifiers=_identifier_words(config),
        tokens_trained=int(counts["tokens"]) if counts else None,
        targets_trained=int(counts["targets"]) if counts else None,
        epochs=round(counts["epochs"], 2) if counts else None,
        decoding=_decoding_words(config.decoding_for(name), config.prompt.max_events),
        template=f"{template.preamble}{template.before}<identifier>\n{template.after}",
        time_in_words=f"{config.prompt.time}: {TIME_STYLES[config.prompt.time]}",
        target_time_in_prompt=config.prompt.target_time,
    )


def _identifier_words(config: RunConfig) -> str:
    """Say what the model writes for an item, and where that comes from."""
    settings, folder = config.identifiers, config.output / "identifiers"
    meta = read_identifiers_meta(folder) if folder.is_dir() else {"changed": {}}
    changed = len(meta["changed"])
    source = {"title": "titles", "both": "titles and item vectors", "collaborative": "item vectors"}
    words = {
        "title": "titles" + (f"; {changed} told apart by year or number" if changed else ""),
        "index": f"numbers, {settings.numbering}",
        "semantic": f"{settings.levels} of {settings.codes} cluster codes from {source[settings.vectors]}; {changed} "
        "moved to a free code",
        "token": "one new token per item",
    }.get(settings.scheme, settings.scheme)
    if config.collaborative_reasons:
        words += (
            f"; uses the item vectors of {label(settings.collaborative_system)}, whose time is counted in"
        )
    return words


def _decoding_words(decoding: Decoding, max_events: int) -> str:
    shown = f"the newest {max_events} events in the prompt"
    if decoding.search == "free":
        return (
            f"beam search over all texts, {decoding.beam_width} written, those kept that are items; {shown}"
        )
    search = f"constrained beam search, width {decoding.beam_width}"
    if decoding.search == "exact":
        search = "every item of the catalogue scored"
    elif decoding.until_certified:
        search += ", widened until the list is the exact best"
    over = {"vocab": "vocabulary", "catalogue": "catalogue"}[decoding.normalisation]
    return f"{search}, normalised over the {over}; {shown}"


def _curves(config: RunConfig, metas: dict[str, dict[str, Any]]) -> tuple[Curve, ...]:
    curves = []
    for name, meta in metas.items():
        epochs = meta.get("epochs")
        if epochs:
            curves.append(
                Curve(
                    f"{label(name)}: NDCG@10 on the validation targets",
                    "epoch",
                    "NDCG@10",
                    tuple(e["epoch"] for e in epochs),
                    tuple(e["ndcg@10"] for e in epochs),
                    float(meta["best_epoch"]),
                )
            )
    path = config.output / "adapter" / "llmrec.json"
    trained = read_json(path) if path.is_file() else {}
    log, validations = trained.get("log", []), trained.get("validations", [])
    if validations:
        metric = config.finetune.validation.metric
        best = next(v["epoch"] for v in validations if v["step"] == trained["best_step"])
        curves.append(
            Curve(
                f"Language model: {metric.upper() if metric != 'loss' else metric} on the validation targets",
                "epoch",
                "nats per item" if metric == "loss" else metric.upper(),
                tuple(v["epoch"] for v in validations),
                tuple(v[metric] for v in validations),
                float(best),
            )
        )
    if log:
        y = [e["loss"] for e in log]
        # One batch is noise; a running mean of ten shows the trend.
        smooth = tuple(float(np.mean(y[max(0, i - 9) : i + 1])) for i in range(len(y)))
        curves.append(
            Curve(
                "Language model: training loss, mean of ten steps",
                "step",
                "nats per item",
                tuple(e["step"] for e in log),
                smooth,
            )
        )
    return tuple(curves)
