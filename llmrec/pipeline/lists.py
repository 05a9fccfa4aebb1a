"""The recommendation files of a run, told apart by system and training, and their evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.recommendations import Recommendations, read_meta, read_recommendations
from llmrec.data.split import Split
from llmrec.errors import ArtefactError
from llmrec.eval.evaluate import Cost, Evaluation, evaluate, train_counts
from llmrec.pipeline.adapter import check_adapter
from llmrec.pipeline.artefacts import check_key
from llmrec.pipeline.keys import recommend_key
from llmrec.progress import say

__all__ = ["SystemLists", "evaluate_lists", "first_trainings", "pooled", "read_file", "read_lists"]


@dataclass(frozen=True, eq=False)
class SystemLists:
    """The lists of one training of one system."""

    system: str
    seed: int | None  # None where nothing is random, or nothing is known about it
    recs: Recommendations  # its ``system`` is the file's name
    meta: Mapping[str, Any]  # how they were made; empty for lists made elsewhere


def read_file(path: Path, catalog: Catalog, system: str | None = None) -> SystemLists:
    """Read one file; ``NAME.seed3.parquet`` is the training of NAME with seed 3.

    Parameters
    ----------
    system
        The system's name, if it is not to be that of the file.
    """
    name, seed = path.stem, None
    if further := re.fullmatch(r"(.+)\.seed(\d+)", name):
        name, seed = further[1], int(further[2])
    meta = read_meta(path) or {}
    # Lists made before seeds were noted have the run's in their key.
    seed = meta.get("seed", meta.get("key", {}).get("seed", seed))
    return SystemLists(system or name, seed, read_recommendations(path, catalog), meta)


def read_lists(config: RunConfig, catalog: Catalog, *, check_keys: bool = True) -> list[SystemLists]:
    """Read all lists: first those of the config, in its order, then those made elsewhere.

    Those that the run has made of a system which the config no longer has are left out: what made them is not known any more.

    Parameters
    ----------
    check_keys
        Whether to refuse lists that the config as it is now would not make. Needs the model and the data.

    Raises
    ------
    ArtefactError
        A system of the config has no lists yet, or they were made with other settings.
    """
    folder = config.output / "recommendations"
    expected = {
        stem: (name, seed) for name in config.systems for stem, seed in config.trainings(name).items()
    }
    missing = [stem for stem in expected if not (folder / f"{stem}.parquet").is_file()]
    if missing:
        raise ArtefactError(
            f"There are no recommendations of {', '.join(map(repr, missing))} in {str(folder)!r}. Expected a file for "
            "every system of the config, and for each of its seeds: run 'llmrec recommend' first."
        )
    others = sorted(p.stem for p in folder.glob("*.parquet") if p.stem not in expected)
    read = []
    for stem in [*expected, *others]:
        path = folder / f"{stem}.parquet"
        lists = read_file(path, catalog)
        if "key" in lists.meta and lists.system not in config.systems:
            say(f"Left out: {path}, of a system that the config no longer has.")
            continue
        if check_keys and lists.meta and lists.system in config.systems:
            # A training that the config no longer asks for is one of the same system all the same.
            _, seed = expected.get(stem, (lists.system, lists.seed))
            check_key(path, lists.meta.get("key", {}), recommend_key(config, lists.system, seed))
            check_adapter(path, lists.meta, config)
        read.append(lists)
    return read


def evaluate_lists(
    config: RunConfig,
    split: Split,
    catalog: Catalog,
    read: Sequence[SystemLists],
    users: Holdout,
    ks: Sequence[int] | None = None,
) -> list[Evaluation]:
    """Evaluate lists on some users of the split, each under its file's name; at the config's cutoffs if none are given."""
    counts = train_counts(split.train, len(catalog))
    return [
        evaluate(
            lists.recs.for_users(users.histories.user_ids),
            users,
            counts,
            catalog,
            split.protocol,
            ks=config.evaluation.cutoffs if ks is None else ks,
            short_lists="free" in lists.meta,
            cost=Cost(**lists.meta["cost"]) if "cost" in lists.meta else None,
            meta={k: v for k, v in lists.meta.items() if k not in ("cost", "epochs")} | {"seed": lists.seed},
        )
        for lists in read
    ]


def pooled(read: Sequence[SystemLists], evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations under their systems' names, so that trainings of one system share one."""
    return [replace(e, system=lists.system) for lists, e in zip(read, evaluations, strict=True)]


def first_trainings(read: Sequence[SystemLists]) -> dict[str, SystemLists]:
    """Return each system's first training, in order, its lists under the system's name."""
    found: dict[str, SystemLists] = {}
    for lists in read:
        if lists.system not in found:
            found[lists.system] = replace(lists, recs=replace(lists.recs, system=lists.system))
    return found
