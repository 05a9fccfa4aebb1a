"""The two files of an evaluation: per-user ranks as parquet, and the rest as JSON.

``<system>.parquet`` has ``user_id`` (string), ``target_item`` (string, the item's id) and ``target_rank``
(int, from 1; null where the target is not in the list). ``<system>.json`` has means, counts, checks, cost,
protocol and meta; a value that is undefined (NaN in memory) is ``null`` there.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError, nearest
from llmrec.eval.evaluate import Cost, Evaluation

__all__ = ["read_evaluation", "without_nan", "write_evaluation"]

_SCHEMA = pa.schema([("user_id", pa.string()), ("target_item", pa.string()), ("target_rank", pa.int32())])
_FACTS = ("system", "k_max", "ks", "protocol", "means", "counts", "checks", "cost", "meta")


def write_evaluation(folder: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write ``<system>.parquet`` and ``<system>.json`` into ``folder``, each atomically."""
    folder = Path(folder)
    missed = np.isnan(evaluation.target_ranks)
    ranks = np.where(missed, 0, evaluation.target_ranks).astype(np.int32)
    table = pa.Table.from_arrays(
        [
            pa.array(evaluation.user_ids, pa.string()),
            pa.array(evaluation.target_items, pa.string()),
            pa.array(ranks, pa.int32(), mask=missed),
        ],
        schema=_SCHEMA,
    )
    facts = {
        "system": evaluation.system,
        "k_max": evaluation.k_max,
        "ks": list(evaluation.ks),
        "protocol": evaluation.protocol.to_dict(),
        "means": dict(evaluation.means),
        "counts": dict(evaluation.counts),
        "checks": dict(evaluation.checks),
        "cost": evaluation.cost.to_dict(),
        "meta": dict(evaluation.meta),
    }
    with replacing(folder / f"{evaluation.system}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    with replacing(folder / f"{evaluation.system}.json") as temporary:
        text = json.dumps(without_nan(facts), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_evaluation(folder: str | os.PathLike[str], system: str) -> Evaluation:
    """Read what :func:`write_evaluation` has written.

    Raises
    ------
    ArtefactError
        A file is missing or damaged, or the two do not belong together.
    """
    folder = Path(folder)
    facts = _read_facts(folder, system)
    path = folder / f"{system}.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtefactError(
            f"{path.name} cannot be read as parquet ({error}). Expected the ranks beside {system}.json: "
            "evaluate this system again."
        ) from None
    missing = [name for name in _SCHEMA.names if name not in table.column_names]
    if missing or not pa.types.is_integer(table["target_rank"].type):
        raise ArtefactError(
            f"{path.name} has the columns {', '.join(map(str, table.schema))}. Expected user_id and "
            "target_item as strings and target_rank as whole numbers: evaluate this system again."
        )
    ranks = np.array(table["target_rank"].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    users = tuple(table["user_id"].to_pylist())
    if (
        facts["counts"].get("users") != len(users)
        or facts["counts"].get("in_list") != np.isfinite(ranks).sum()
    ):
        raise ArtefactError(
            f"{path.name} holds {len(users):,} users, {int(np.isfinite(ranks).sum()):,} of them with their "
            f"target in the list, but {system}.json speaks of {facts['counts']}. Expected two files of one "
            "evaluation: evaluate this system again."
        )
    if (ranks < 1).any() or (ranks > facts["protocol"].items).any():
        raise ArtefactError(
            f"{path.name} has a target_rank outside 1 to {facts['protocol'].items}. Expected ranks from 1, and "
            "null where the target is not in the list: evaluate this system again."
        )
    return Evaluation(
        user_ids=users, target_items=tuple(table["target_item"].to_pylist()), target_ranks=ranks, **facts
    )


def _read_facts(folder: Path, system: str) -> dict[str, Any]:
    path = folder / f"{system}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["system"] != system:
            raise ValueError(f"it is about {facts['system']!r}")
        return {
            **{name: facts[name] for name in _FACTS},
            "ks": tuple(facts["ks"]),
            "protocol": Protocol(**facts["protocol"]),
            "means": _with_nan(facts["means"]),
            "checks": _with_nan(facts["checks"]),
            "cost": Cost(**facts["cost"]),
        }
    except FileNotFoundError:
        there = sorted(p.stem for p in folder.glob("*.json"))
        raise ArtefactError(
            f"There is no evaluation of {system!r} in {folder.name}{nearest(system, there)}. Expected "
            f"{path.name}; there are {', '.join(there) or 'none'}. Evaluate this system first."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path.name} is no evaluation of {system!r} ({error}). Expected JSON with "
            f"{', '.join(_FACTS)} and the protocol's {len(fields(Protocol))} fields: evaluate this system again."
        ) from None


def without_nan(value: Any) -> Any:
    """Return ``value`` with every NaN as ``None``: JSON has no NaN, and readers reject it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(numbers: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in numbers.items()}
