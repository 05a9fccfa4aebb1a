"""Compare any runs, and lists made elsewhere, from what is in their directories alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.split import Split
from llmrec.data.split_files import read_split
from llmrec.errors import ArtefactError, DataError
from llmrec.eval.compare import compare
from llmrec.eval.context import ReportContext
from llmrec.eval.evaluate import train_counts
from llmrec.eval.examples import pick_users, user_examples
from llmrec.eval.slices import user_slices
from llmrec.eval.trainings import check_protocols
from llmrec.eval.words import label, sentence_list
from llmrec.pipeline.artefacts import read_json
from llmrec.pipeline.keys import own_settings
from llmrec.pipeline.lists import SystemLists, evaluate_lists, first_trainings, pooled, read_file, read_lists
from llmrec.pipeline.report_notes import adapter_curves, epoch_curves, llm_notes, search_notes, warnings
from llmrec.pipeline.report_stage import today, versions, write_report
from llmrec.progress import say

__all__ = ["compare_runs"]


@dataclass(frozen=True, eq=False)
class _Run:
    """What a run directory holds."""

    name: str  # tells it from the other runs
    config: RunConfig  # with the directory's place of today as ``output``
    split: Split
    catalog: Catalog


@dataclass(frozen=True, eq=False)
class _Entry:
    """A training of a system, and where it comes from."""

    run: _Run  # of lists made elsewhere the first run, whose questions they answer
    origin: str  # name of the run, or path of a file made elsewhere
    lists: SystemLists
    settings: Mapping[str, Any]  # equal for trainings of one system
    own_name: str  # the system's name in its run


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
    read = [_read_run(path, runs) for path in runs]
    first = read[0]
    for run in read[1:]:
        check_protocols(first.split.protocol, run.split.protocol, first.name, run.name)
    entries = [
        _Entry(run, run.name, lists, _settings(lists, run.name), lists.system)
        for run in read
        for lists in read_lists(run.config, run.catalog, check_keys=False)
    ]
    for name, path in made_elsewhere:
        lists = read_file(path, first.catalog, name)
        entries.append(_Entry(first, str(path), lists, _settings(lists, str(path.parent)), lists.system))
    entries, labels = _told_apart(entries)
    users, notes = _users(entries, first, common_users)
    shown = [e.lists for e in entries]
    evaluations = []
    for entry in entries:
        holdout = _questions(entry.run, users)
        evaluations += evaluate_lists(
            entry.run.config, entry.run.split, entry.run.catalog, [entry.lists], holdout
        )
    llms: dict[str, _Entry] = {}
    for entry in entries:
        if entry.origin == entry.run.name and entry.own_name in entry.run.config.llm_systems:
            llms.setdefault(entry.lists.system, entry)
    if baseline is None:
        wanted = first.config.evaluation.baseline
        baseline = next(e.lists.system for e in entries if e.own_name == wanted)
    if subject is None:
        subject = next((name for name in llms if name != baseline), None)
    counts = train_counts(first.split.train, len(first.catalog))
    holdout = _questions(first, users)
    comparison = compare(
        pooled(shown, evaluations),
        baseline,
        metrics,
        seed,
        subject=subject,
        labels=labels,
        slices=user_slices(holdout, counts),
    )
    trainings = first_trainings(shown)
    certified, free = search_notes(shown)
    chosen = pick_users(len(holdout), first.config.evaluation.users_shown, seed)
    elsewhere = [name or path.stem for name, path in made_elsewhere]
    tuned = {e.run.name: e.run for e in llms.values()}
    context = ReportContext(
        run_name=f"Comparison of {sentence_list([*(run.name for run in read), *elsewhere])}",
        created=today(),
        warnings=(*notes, *warnings([run.config for run in read], shown)),
        sample_note="Those that all systems have lists for." if len(users) < len(first.split.test) else "",
        llm=tuple(llm_notes(e.run.config, e.own_name, name) for name, e in llms.items()),
        certified=certified,
        free=free,
        curves=(
            *epoch_curves(trainings, labels),
            *(
                c
                for name, run in tuned.items()
                for c in adapter_curves(run.config, f"Language model of {name}")
            ),
        ),
        users=user_examples(
            holdout,
            [lists.recs for lists in trainings.values()],
            first.catalog,
            chosen,
            details="year" if "year" in first.catalog.attributes else None,
            time_resolution=first.split.protocol.time_resolution,
        ),
        users_seed=seed,
        provenance=tuple(dict.fromkeys(line for run in read for line in _provenance(run))),
        versions=versions(),
        config_yaml="\n".join(f"# {run.name}\n{dump_config(run.config)}" for run in read),
        command=command,
    )
    return write_report(output, comparison, context)


def _read_run(path: Path, all_runs: Sequence[Path]) -> _Run:
    try:
        content = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        config = RunConfig.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ArtefactError(
            f"{str(path)!r} is no run directory that can be read: {error}. Expected the folder that 'llmrec run' has "
            "made, with config.yaml, split/ and recommendations/."
        ) from None
    split, catalog = read_split(path / "split")
    name = path.resolve().name
    if sum(other.resolve().name == name for other in all_runs) > 1:
        name = str(path)
    return _Run(name, config.model_copy(update={"output": path}), split, catalog)


def _settings(lists: SystemLists, folder: str) -> dict[str, Any]:
    """Return what tells the lists' system from others of its name."""
    # Of lists made elsewhere nothing is known but where they are.
    return own_settings(lists.meta["key"]) if "key" in lists.meta else {"folder": folder}


def _told_apart(entries: Sequence[_Entry]) -> tuple[list[_Entry], dict[str, str]]:
    """Return each training once, under names that no two systems share, and the names to print."""
    variants: dict[str, list[_Entry]] = {}  # name -> the first entry of each of its systems
    for entry in entries:
        known = variants.setdefault(entry.own_name, [])
        if entry.settings not in [other.settings for other in known]:
            known.append(entry)
    kept: dict[tuple[str, int | None], _Entry] = {}
    labels = {}
    for entry in entries:
        name, known = entry.own_name, variants[entry.own_name]
        if len(known) > 1:
            origin = next(other.origin for other in known if other.settings == entry.settings)
            name = f"{entry.own_name} ({origin})"
            labels[name] = f"{label(entry.own_name)} ({origin})"
        training = (name, entry.lists.seed)
        if training in kept and not entry.lists.meta:
            raise DataError(
                f"Lists of {name!r} were given twice: {kept[training].origin} and {entry.origin}. Expected a name for each: "
                "--lists NAME=FILE.parquet."
            )
        if training in kept:
            say(f"{name} of {entry.origin} and of {kept[training].origin} is the same training; shown once.")
        else:
            kept[training] = replace(entry, lists=replace(entry.lists, system=name))
    return list(kept.values()), labels


def _users(entries: Sequence[_Entry], first: _Run, common_users: bool) -> tuple[list[str], list[str]]:
    """Return the users that all systems have lists for, in the split's order, and what to say about that."""
    everyone = first.split.test.histories.user_ids
    asked = [frozenset(entry.lists.recs.user_ids) for entry in entries]
    for entry, users in zip(entries, asked, strict=True):
        if strangers := users.difference(everyone):
            raise DataError(
                f"{entry.lists.system!r} of {entry.origin} has lists for {len(strangers):,} users that are no test users of "
                f"{first.name}, for example user {min(strangers)!r}. Expected lists for its {len(everyone):,} test users, "
                "or for some of them."
            )
    common = frozenset.intersection(*asked)
    found = [user for user in everyone if user in common]
    if len(set(asked) - {frozenset(everyone)}) <= 1:
        return found, []
    if not common_users or not found:
        sizes = sentence_list([f"{e.lists.system!r} {len(u):,}" for e, u in zip(entries, asked, strict=True)])
        raise DataError(
            f"The systems have lists for different users: {sizes} of {len(everyone):,} test users, {len(found):,} in common. "
            "Expected the same users for all systems"
            + (": --common-users compares on those in common" if found else "")
            + "; evaluation.users_seed gives runs of different seeds the same sample."
        )
    return found, [
        f"The runs asked different samples of users. All numbers here are about the {len(found):,} of {len(everyone):,} test "
        "users that all systems have lists for."
    ]


def _questions(run: _Run, users: Sequence[str]) -> Holdout:
    """Return what a run asks of some users."""
    row_of = {user: row for row, user in enumerate(run.split.test.histories.user_ids)}
    return run.split.test.select(np.array([row_of[user] for user in users]))


def _provenance(run: _Run) -> Sequence[str]:
    found: Sequence[str] = read_json(run.config.output / "split" / "meta.json").get("provenance", ())
    return found
