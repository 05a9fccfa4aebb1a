"""The lists of several runs and of other tools: which are of one system, and which users all of them have.

All of it is read from the run directories alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.data.split_files import read_split
from llmrec.errors import ArtefactError, DataError
from llmrec.eval.words import label, sentence_list
from llmrec.pipeline.keys import own_settings
from llmrec.pipeline.lists import SystemLists, read_file, read_lists
from llmrec.progress import say
from llmrec.yaml_text import read_yaml

__all__ = ["Entry", "Run", "entries_of", "questions", "read_run", "told_apart", "users_of"]


@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory holds."""

    name: str  # tells it from the other runs
    config: RunConfig  # with the directory's place of today as ``output``
    split: Split
    catalog: Catalog


@dataclass(frozen=True, eq=False)
class Entry:
    """A training of a system, and where it comes from."""

    run: Run  # of lists made elsewhere the first run, whose questions they answer
    origin: str  # name of the run, or path of a file made elsewhere
    lists: SystemLists
    settings: Mapping[str, Any]  # equal for trainings of one system
    own_name: str  # the system's name in its run


def read_run(path: Path, all_runs: Sequence[Path]) -> Run:
    """Read a run directory; it is named by its folder, or by its whole path where another has that name too.

    Raises
    ------
    ArtefactError
        It holds no run.
    """
    try:
        content = read_yaml((path / "config.yaml").read_text(encoding="utf-8"))
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
    return Run(name, config.model_copy(update={"output": path}), split, catalog)


def entries_of(runs: Sequence[Run], made_elsewhere: Sequence[tuple[str | None, Path]]) -> list[Entry]:
    """Return all lists of the runs, and those made elsewhere."""

    def entry(run: Run, origin: str, folder: str, lists: SystemLists) -> Entry:
        # Of lists made elsewhere nothing is known but where they are.
        settings = own_settings(lists.meta["key"]) if "key" in lists.meta else {"folder": folder}
        if lists.meta.get("trained_elsewhere"):  # by settings that nobody knows
            settings["adapter"] = lists.meta["adapter"]
        return Entry(run, origin, lists, settings, lists.system)

    found = [
        entry(run, run.name, run.name, lists)
        for run in runs
        for lists in read_lists(run.config, run.catalog, check_keys=False)
    ]
    for name, path in made_elsewhere:
        lists = read_file(path, runs[0].catalog, name)
        found.append(entry(runs[0], str(path), str(path.parent), lists))
    return found


def told_apart(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, str], list[str]]:
    """Return each training once, under names that no two systems share, the names to print, and what to warn of.

    Raises
    ------
    DataError
        Two files made elsewhere have one name.
    """
    variants: dict[str, list[Entry]] = {}  # name -> the first entry of each of its systems
    for entry in entries:
        known = variants.setdefault(entry.own_name, [])
        if entry.settings not in [other.settings for other in known]:
            known.append(entry)
    kept: dict[tuple[str, int | None], Entry] = {}
    labels, notes = {}, []
    for entry in entries:
        name, known = entry.own_name, variants[entry.own_name]
        if len(known) > 1:
            origin = next(other.origin for other in known if other.settings == entry.settings)
            name = f"{entry.own_name} ({origin})"
            labels[name] = f"{label(entry.own_name)} ({origin})"
        shown = kept.setdefault(
            (name, entry.lists.seed), replace(entry, lists=replace(entry.lists, system=name))
        )
        if shown.lists.recs is entry.lists.recs:
            continue
        if not entry.lists.meta:
            raise DataError(
                f"Lists of {name!r} were given twice: {shown.origin} and {entry.origin}. Expected a name for each: "
                "--lists NAME=FILE.parquet."
            )
        if _differ(shown.lists.recs, entry.lists.recs):
            notes.append(
                f"{name} was trained with the same settings and seed in {shown.origin} and in {entry.origin}, and its lists "
                f"differ. Those of {shown.origin} are shown."
            )
        else:
            say(f"{name} is the same training in {shown.origin} and in {entry.origin}; it is shown once.")
    return list(kept.values()), labels, notes


def _differ(one: Recommendations, other: Recommendations) -> bool:
    """Return whether two files give a user whom both have different items, as far as both lists go."""
    known = set(one.user_ids)
    both = [user for user in other.user_ids if user in known]
    k = min(one.k, other.k)
    return not np.array_equal(one.for_users(both).items[:, :k], other.for_users(both).items[:, :k])


def users_of(entries: Sequence[Entry], first: Run, common_users: bool) -> tuple[list[str], list[str]]:
    """Return the users that all systems have lists for, in the split's order, and what to say about that.

    Raises
    ------
    DataError
        A user is no test user; or there are different samples of users and ``common_users`` is off, or nobody is
        in all of them.
    """
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
    samples = set(asked) - {frozenset(everyone)}
    if len(samples) <= 1:
        by_runs = [users for entry, users in zip(entries, asked, strict=True) if entry.lists.meta]
        if samples <= set(by_runs):
            return found, []
        fewer = sentence_list(
            [repr(e.lists.system) for e, u in zip(entries, asked, strict=True) if u in samples]
        )
        return found, [
            f"{fewer} have lists for {len(found):,} of {len(everyone):,} test users; all numbers here are about these, of every system."
        ]
    if not common_users or not found:
        sizes = sentence_list(
            [
                f"{e.lists.system!r} {len(u):,}"
                for e, u in zip(entries, asked, strict=True)
                if len(u) < len(everyone)
            ]
        )
        raise DataError(
            f"The systems have lists for different users: {sizes} of {len(everyone):,} test users, {len(found):,} in common. "
            "Expected the same users for all systems"
            + (": --common-users compares on those in common" if found else "")
            + "; evaluation.users_seed gives runs of different seeds the same sample."
        )
    return found, [
        f"The systems have lists for different users. All numbers here are about the {len(found):,} of {len(everyone):,} test "
        "users that all of them have."
    ]


def questions(run: Run, users: Sequence[str]) -> Holdout:
    """Return what a run asks of some users."""
    row_of = {user: row for row, user in enumerate(run.split.test.histories.user_ids)}
    return run.split.test.select(np.array([row_of[user] for user in users]))
