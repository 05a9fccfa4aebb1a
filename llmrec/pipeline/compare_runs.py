"""Compare any runs, and lists made elsewhere, from what is in their directories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llmrec.config_file import dump_config
from llmrec.errors import ArtefactError
from llmrec.eval.compare import compare
from llmrec.eval.context import Curve, NoteTable, ReportContext
from llmrec.eval.evaluate import train_counts
from llmrec.eval.examples import pick_users, user_examples
from llmrec.eval.metrics import parse_metric
from llmrec.eval.slices import user_slices
from llmrec.eval.trainings import check_protocols
from llmrec.eval.words import sentence_list, today
from llmrec.pipeline.diagnose_stage import kept_diagnostics
from llmrec.pipeline.gather import Entry, Run, entries_of, questions, read_run, told_apart, users_of
from llmrec.pipeline.lists import evaluate_lists, first_trainings, pooled
from llmrec.pipeline.report_notes import (
    adapter_curves,
    chosen_notes,
    cleaning_notes,
    epoch_curves,
    llm_notes,
    provenance,
    search_notes,
    told_when,
    warnings,
)
from llmrec.pipeline.report_stage import versions, write_report
from llmrec.progress import say

__all__ = ["compare_runs"]


def compare_runs(
    runs: Sequence[Path],
    made_elsewhere: Sequence[tuple[str | None, Path]] = (),
    *,
    output: Path,
    baseline: str | None = None,
    subject: str | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    common_users: bool = False,
    command: str = "",
) -> Path:
    """Write a report on all systems of some runs and return the path of its page.

    Parameters
    ----------
    runs
        Run directories, at least one; all on the same split.
    made_elsewhere
        Recommendation files of other tools, each with a name or ``None`` for the file's own; they answer the
        questions of the first run.
    output
        Folder of the report.
    baseline, subject, metrics
        See :func:`llmrec.eval.compare.compare`; the baseline is that of the first run if left out, the subject
        the first language model.
    seed
        Draws the bootstrap samples and the users shown.
    common_users
        Whether to compare on the users that all systems have lists for, where these differ.
    command
        What to print under "Reproduce".

    Raises
    ------
    ArtefactError
        A directory holds no finished run, or ``output`` is a run directory.
    ConfigError
        The baseline, the subject or a metric is unknown.
    DataError
        The runs were asked different questions or, without ``common_users``, about different users.

    Notes
    -----
    Systems of the same name and settings are one system: with another seed a further training of it, with the
    same seed the same training, which is shown once. Systems of the same name and other settings are told
    apart by the run's name.
    """
    if (output / "config.yaml").exists():
        raise ArtefactError(
            f"{str(output)!r} is a run directory, and has a report of its own. Expected another folder: --output DIR."
        )
    if output.is_file():
        raise ArtefactError(f"{str(output)!r} is a file. Expected the path of a folder: --output DIR.")
    read = [read_run(path, runs) for path in runs]
    first = read[0]
    for run in read[1:]:
        check_protocols(first.split.protocol, run.split.protocol, first.name, run.name)
    entries, labels, notes = told_apart(entries_of(read, made_elsewhere))
    users, about_users = users_of(entries, first, common_users)
    for note in about_users:
        say(note)
    lists = [entry.lists for entry in entries]
    asked = {run.name: questions(run, users) for run in read}
    evaluations = []
    for entry in entries:
        run = entry.run
        # Lists need not be longer than what is asked of them.
        ks = sorted({parse_metric(metric)[1] for metric in metrics}) if metrics else None
        evaluations += evaluate_lists(run.config, run.split, run.catalog, [entry.lists], asked[run.name], ks)
    llms: dict[str, Entry] = {}
    for entry in entries:
        if entry.origin == entry.run.name and entry.own_name in entry.run.config.language_systems:
            llms.setdefault(entry.lists.system, entry)
    if baseline is None:
        wanted = first.config.evaluation.baseline
        baseline = next(e.lists.system for e in entries if e.own_name == wanted)
    if subject is None:
        subject = next((name for name in llms if name != baseline), None)
    holdout = asked[first.name]
    comparison = compare(
        pooled(lists, evaluations),
        baseline,
        metrics,
        seed,
        subject=subject,
        labels=labels,
        slices=user_slices(holdout, train_counts(first.split.train, len(first.catalog))),
    )
    told = {run.name: told_when(run.config) for run in read}
    trainings = first_trainings(lists)
    certified, free = search_notes(lists)
    names = [*(run.name for run in read), *(name or path.stem for name, path in made_elsewhere)]
    context = ReportContext(
        run_name=f"Comparison of {sentence_list(names)}",
        created=today(),
        warnings=(*about_users, *notes, *warnings(lists)),
        told_when=frozenset(
            e.lists.system for e in entries if e.origin == e.run.name and e.own_name in told[e.run.name]
        ),
        sample_note="Those that all systems have lists for." if len(users) < len(first.split.test) else "",
        llm=tuple(llm_notes(e.run.config, e.own_name, name) for name, e in llms.items()),
        certified=certified,
        free=free,
        diagnostics=(*chosen_notes(trainings, labels), *_diagnostics(read)),
        curves=(*epoch_curves(trainings, labels), *_llm_curves(llms)),
        users=user_examples(
            holdout,
            [own.recs for own in trainings.values()],
            first.catalog,
            pick_users(len(holdout), first.config.evaluation.users_shown, seed),
            details="year" if "year" in first.catalog.attributes else None,
            time_resolution=first.split.protocol.time_resolution,
        ),
        users_seed=seed,
        provenance=tuple(dict.fromkeys(line for run in read for line in provenance(run.config))),
        cleaning=cleaning_notes(first.config),
        versions=versions(),
        config_yaml="\n".join(f"# {run.name}\n{dump_config(run.config)}" for run in read),
        command=command,
    )
    return write_report(output, comparison, context)


def _diagnostics(runs: Sequence[Run]) -> list[NoteTable]:
    """Return the diagnostics of each run that has any, which is said where there are several runs."""
    return [
        replace(table, title=f"{table.title} ({run.name})") if len(runs) > 1 else table
        for run in runs
        for table in kept_diagnostics(run.config.output)
    ]


def _llm_curves(llms: Mapping[str, Entry]) -> list[Curve]:
    """Return the curves of each run whose language model is shown."""
    runs = {entry.run.name: entry.run.config for entry in llms.values()}
    return [
        curve
        for name, config in runs.items()
        for curve in adapter_curves(config, f"Language model of {name}")
    ]
