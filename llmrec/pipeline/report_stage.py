"""Evaluate all lists of a run and write its report."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.split import Split
from llmrec.eval.compare import Comparison, compare
from llmrec.eval.context import ReportContext
from llmrec.eval.evaluate import Evaluation, train_counts
from llmrec.eval.examples import pick_users, user_examples
from llmrec.eval.files import write_evaluation
from llmrec.eval.report import render_html, render_json, render_latex, render_markdown
from llmrec.eval.slices import user_slices
from llmrec.eval.words import today
from llmrec.pipeline.artefacts import write_text
from llmrec.pipeline.diagnose_stage import read_diagnostics
from llmrec.pipeline.identifiers_stage import identifiers_at_hand
from llmrec.pipeline.lists import SystemLists, evaluate_lists, first_trainings, pooled
from llmrec.pipeline.parts import language_parts, sample_rows
from llmrec.pipeline.report_notes import (
    adapter_curves,
    chosen_notes,
    cleaning_notes,
    epoch_curves,
    llm_notes,
    provenance,
    search_notes,
    told_when,
    tuning_notes,
    warnings,
)
from llmrec.progress import say

__all__ = ["compare_stage", "evaluate_stage", "versions", "write_evaluations", "write_report"]

_PACKAGES = ("llmrec", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "polars")


def evaluate_stage(
    config: RunConfig, split: Split, catalog: Catalog, read: Sequence[SystemLists]
) -> list[Evaluation]:
    """Evaluate every training of every system on the users of the comparison."""
    return evaluate_lists(config, split, catalog, read, split.test.select(sample_rows(config, split)))


def write_evaluations(config: RunConfig, evaluations: Sequence[Evaluation]) -> None:
    """Write evaluation/, and remove what was evaluated there before and is not any more."""
    folder = config.output / "evaluation"
    for evaluation in evaluations:
        write_evaluation(folder, evaluation)
    written = {evaluation.system for evaluation in evaluations}
    for path in folder.glob("*"):
        if path.suffix in (".json", ".parquet") and path.stem not in written:
            path.unlink()


def compare_stage(
    config: RunConfig,
    split: Split,
    catalog: Catalog,
    read: Sequence[SystemLists],
    evaluations: Sequence[Evaluation],
    command: str,
) -> Path:
    """Write the run's report and return the path of its page."""
    run = config.output
    rows = sample_rows(config, split)
    users = split.test.select(rows)
    llms = config.language_systems
    subject = next((name for name in llms if name != config.evaluation.baseline), None)
    counts = train_counts(split.train, len(catalog))
    options: dict[str, Any] = {"baseline": config.evaluation.baseline, "seed": config.seed}
    comparison = compare(
        pooled(read, evaluations), subject=subject, slices=user_slices(users, counts), **options
    )

    everyone = [lists for lists in read if len(lists.recs) == len(split.test)]
    all_users = None
    if len(rows) < len(split.test) and config.evaluation.baseline in [lists.system for lists in everyone]:
        found = evaluate_lists(config, split, catalog, everyone, split.test)
        all_users = compare(pooled(everyone, found), **options)

    chosen = pick_users(len(users), config.evaluation.users_shown, config.seed)
    prompts = _prompts(config, split, catalog, users, chosen) if llms else None
    sample = ""
    if len(rows) < len(split.test):
        sample = f"Drawn at random with seed {config.sample_seed}; the same users for every system."
    first = first_trainings(read)
    certified, free = search_notes(read)
    context = ReportContext(
        run_name=config.name,
        created=today(),
        warnings=warnings(read),
        told_when=frozenset(told_when(config)),
        sample_note=sample,
        all_users=all_users,
        llm=tuple(llm_notes(config, name) for name in llms),
        certified=certified,
        free=free,
        curves=(*epoch_curves(first, {}), *adapter_curves(config)),
        tuning=tuning_notes(config),
        diagnostics=(*chosen_notes(first), *read_diagnostics(config)),
        users=user_examples(
            users,
            [lists.recs for lists in first.values()],
            catalog,
            chosen,
            prompts=prompts,
            details="year" if "year" in catalog.attributes else None,
            time_resolution=split.protocol.time_resolution,
        ),
        users_seed=config.seed,
        provenance=provenance(config),
        cleaning=cleaning_notes(config),
        versions=versions(),
        config_yaml=dump_config(config),
        command=command,
    )
    # Settings that decide no artefact, such as the users shown, may have changed since the first stage.
    write_text(run / "config.yaml", dump_config(config))
    return write_report(run, comparison, context)


def write_report(folder: Path, comparison: Comparison, context: ReportContext) -> Path:
    """Write a comparison in all its forms and return the path of the page."""
    write_text(folder / "report.json", render_json(comparison))
    write_text(folder / "report.tex", render_latex(comparison, context))
    write_text(folder / "report.md", render_markdown(comparison, context))
    write_text(folder / "report.html", render_html(comparison, context))
    say(comparison.summary_sentence)
    return folder / "report.html"


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide results."""
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


def _prompts(
    config: RunConfig, split: Split, catalog: Catalog, users: Holdout, chosen: np.ndarray
) -> dict[str, str]:
    parts = language_parts(config, split, catalog, identifiers_at_hand(config, split, catalog))
    texts = {}
    for row in chosen:
        history = users.histories[int(row)]
        ids = parts.verbalizer.prompt(history)
        texts[history.user_id] = parts.tokenizer.decode(ids)
    return texts
