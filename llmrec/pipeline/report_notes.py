"""What a report says about how a run's systems were made, read from the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from llmrec.config import RunConfig
from llmrec.data.cleaning.ledger import Step
from llmrec.errors import LlmrecError
from llmrec.eval.context import Curve, LLMNotes, NoteTable, Tuning
from llmrec.eval.words import label, sentence_list
from llmrec.identifiers.files import read_identifiers_meta
from llmrec.pipeline.artefacts import read_json
from llmrec.pipeline.lists import SystemLists
from llmrec.pipeline.tuning import tuning_rows
from llmrec.prompts.template import load_template
from llmrec.settings import TIME_STYLES, Decoding

__all__ = [
    "adapter_curves",
    "chosen_notes",
    "cleaning_notes",
    "epoch_curves",
    "llm_notes",
    "provenance",
    "search_notes",
    "told_when",
    "tuning_notes",
    "warnings",
]


def warnings(read: Sequence[SystemLists]) -> tuple[str, ...]:
    """Return what a reader must know before the numbers."""
    elsewhere = list(dict.fromkeys(lists.system for lists in read if not lists.meta))
    found = []
    if elsewhere:
        found.append(f"Lists of {sentence_list(elsewhere)} were made elsewhere; nothing is known about how.")
    return tuple(found)


def told_when(config: RunConfig) -> set[str]:
    """Return the names of the systems that are told when the target happens."""
    if not config.prompt.target_time:
        return set()
    try:
        reveals = load_template(config.prompt.template).reveals_target_time
    except LlmrecError:  # the file of a run that was made elsewhere
        reveals = True
    systems = filter(config.has_language_model, config.systems) if reveals else ()
    return {*systems, *config.told_when}


def provenance(config: RunConfig) -> tuple[str, ...]:
    """Return where a run's data come from, one line each."""
    return tuple(read_json(config.output / "split" / "meta.json").get("provenance", ()))


def cleaning_notes(config: RunConfig) -> tuple[NoteTable, ...]:
    """Return the ledger of a run's data as a table; nothing for a run of a version that kept none."""
    path = config.output / "split" / "ledger.json"
    if not path.is_file():
        return ()
    steps = [Step(**step) for step in json.loads(path.read_text(encoding="utf-8"))]
    rows = tuple(
        (f"{s.table}: {s.step}", s.setting or "always", s.removed, s.changed, s.left, s.note) for s in steps
    )
    removed = sum(s.removed for s in steps)
    note = (
        f"{removed:,} rows were left out; each is in rejects.parquet of the run, with the step that left it out."
        if removed
        else "No row was left out."
    )
    header = ("step", "setting", "left out", "changed", "rows after it", "")
    return (NoteTable("Cleaning", note, header, rows),)


def tuning_notes(config: RunConfig) -> dict[str, Tuning]:
    """Return what choosing each system's settings took; systems that nobody tuned as they are now are not in it."""
    return {
        name: Tuning(tuned.trials, tuned.seconds, tuned.best, tuned.metric, tuned.sampler)
        for name, tuned in tuning_rows(config).items()
    }


def chosen_notes(
    first: Mapping[str, SystemLists], labels: Mapping[str, str] | None = None
) -> tuple[NoteTable, ...]:
    """Return what systems that are made of others chose on the validation users, a table for each."""
    tables = []
    for name, lists in first.items():
        chosen = dict(lists.meta.get("chosen") or {})
        if not chosen:
            continue
        note = "The weights with the best NDCG@10 of a grid; alone: what each part has by itself on the same users."
        if "cold" in chosen:
            note += " Cold: the weights of items without training events."
        if "constant" in chosen:
            note = (
                "What is added to the scores of items without training events, in standard deviations, for histories that have such items: "
                "the best NDCG@10 of those users."
            )
        if "weight" in chosen:
            note = "The weight of the guide with the best NDCG@10 there; 0 is the language model alone."
        if "beats the plain fusion" in chosen:
            better = chosen.pop("beats the plain fusion")
            note = (
                "Cross-validated on the validation users, the re-ranker "
                + (
                    "beats the plain fusion of its parts"
                    if better
                    else "does not beat the plain fusion of its parts, which it therefore is"
                )
                + ". Importance is a feature's share of the trees' gain, of the ten largest."
            )
        chosen["importance"] = dict(list(chosen.get("importance", {}).items())[:10])
        rows = [
            (f"{what}: {part}", value)
            for what, values in chosen.items()
            for part, value in (values.items() if isinstance(values, Mapping) else [("", values)])
        ]
        title = f"{label(name, labels)}: chosen on the validation users"
        shown = tuple((what.removesuffix(": "), value) for what, value in rows)
        tables.append(NoteTable(title, note, ("", "value"), shown))
    return tuple(tables)


def search_notes(read: Sequence[SystemLists]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return each language model's share of certified lists, and what a search without the trie wrote.

    Means over the trainings of a system.
    """
    certified: dict[str, list[float]] = {}
    free: dict[str, list[Mapping[str, float]]] = {}
    for lists in read:
        if "certified" in lists.meta:
            certified.setdefault(lists.system, []).append(lists.meta["certified"])
        if "free" in lists.meta:
            free.setdefault(lists.system, []).append(lists.meta["free"])
    return (
        {system: float(np.mean(shares)) for system, shares in certified.items()},
        {
            system: {name: float(np.mean([r[name] for r in rates])) for name in rates[0]}
            for system, rates in free.items()
        },
    )


def llm_notes(config: RunConfig, name: str, shown_as: str | None = None) -> LLMNotes:
    """Return how a language-model system of a run was made; ``shown_as`` is its name in the report."""
    path = config.output / "adapter" / "llmrec.json"
    trained = read_json(path) if path.is_file() else {}
    counts = trained.get("counts", {})
    modules = config.finetune.target_modules
    where = "all linear layers" if modules == "all-linear" else ", ".join(modules)
    layers = f", its first {config.model.keep_layers} layers" if config.model.keep_layers else ""
    return LLMNotes(
        system=shown_as or name,
        model=config.model.name + layers,
        parameters=trained.get("parameters"),
        trainable_parameters=trained.get("trainable_parameters"),
        adapter=f"LoRA, rank {config.finetune.lora_rank}, {where}{_lesson_words(config)}"
        if trained
        else "trained elsewhere",
        identifiers=_identifier_words(config),
        tokens_trained=int(counts["tokens"]) if counts else None,
        targets_trained=int(counts["targets"]) if counts else None,
        epochs=round(counts["epochs"], 2) if counts else None,
        decoding=_decoding_words(config.decoding_for(name), config.prompt.max_events),
        template=_template_text(config),
        time_in_words=_time_words(config),
    )


def _time_words(config: RunConfig) -> str:
    words = "; ".join(f"{style}: {TIME_STYLES[style]}" for style in config.prompt.time_styles)
    return words if config.prompt_timezone == "UTC" else f"{words}; times of {config.prompt_timezone}"


def _template_text(config: RunConfig) -> str:
    try:
        template = load_template(config.prompt.template)
    except LlmrecError as error:  # the file of a run that was made elsewhere
        return str(error)
    return f"{template.preamble}{template.before}<identifier>\n{template.after}"


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


def _lesson_words(config: RunConfig) -> str:
    words, selection = "", config.finetune.selection
    if selection.share < 1:
        by = f"{selection.by} as {label(config.surrogate)} has it" if config.surrogate else "a random draw"
        words += f"; learns from {selection.share:.0%} of the training events, those of users chosen by {by}"
    if config.teacher is not None:
        weight = config.finetune.distillation.weight
        words += f"; {weight:.0%} of what it learns is the view of {label(config.teacher)}, whose time is counted in"
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


def epoch_curves(first: Mapping[str, SystemLists], labels: Mapping[str, str]) -> list[Curve]:
    """Return the validation curve of each system that trains in epochs."""
    return [
        Curve(
            f"{label(name, labels)}: NDCG@10 on the validation targets",
            "epoch",
            "NDCG@10",
            tuple(e["epoch"] for e in lists.meta["epochs"]),
            tuple(e["ndcg@10"] for e in lists.meta["epochs"]),
            float(lists.meta["best_epoch"]),
        )
        for name, lists in first.items()
        if lists.meta.get("epochs")
    ]


def adapter_curves(config: RunConfig, title: str = "Language model") -> list[Curve]:
    """Return the curves of a run's fine-tuning."""
    curves = []
    path = config.output / "adapter" / "llmrec.json"
    trained = read_json(path) if path.is_file() else {}
    log, validations = trained.get("log", []), trained.get("validations", [])
    if validations:
        metric = config.finetune.validation.metric
        best = next(v["epoch"] for v in validations if v["step"] == trained["best_step"])
        curves.append(
            Curve(
                f"{title}: {metric.upper() if metric != 'loss' else metric} on the validation targets",
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
                f"{title}: training loss, mean of ten steps",
                "step",
                "nats per item",
                tuple(e["step"] for e in log),
                smooth,
            )
        )
    return curves
