"""Identifiers in a run directory: a table that a person can read, and what later items need.

``identifiers.parquet`` has one row per item (``item_id``, ``text``, ``token_ids``), ``identifiers.json`` the rest, and
``state.safetensors`` the scheme's arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmrec.data.catalog import Catalog
from llmrec.errors import ArtefactError
from llmrec.identifiers.base import ItemIdentifiers

__all__ = ["read_identifiers", "read_identifiers_meta", "write_identifiers"]


def write_identifiers(
    folder: Path, identifiers: ItemIdentifiers, catalog: Catalog, meta: Mapping[str, Any]
) -> None:
    """Write into an existing folder; ``meta`` is kept beside, see :func:`read_identifiers_meta`."""
    table = {
        "item_id": catalog.item_ids,
        "text": identifiers.texts,
        "token_ids": [list(t) for t in identifiers.token_ids],
    }
    pl.DataFrame(table, schema_overrides={"token_ids": pl.List(pl.Int32)}).write_parquet(
        folder / "identifiers.parquet"
    )
    if identifiers.state:
        # safetensors writes the memory as it lies, whatever the strides say.
        state = {name: np.ascontiguousarray(array) for name, array in identifiers.state.items()}
        save_file(state, folder / "state.safetensors")
    content = {
        "scheme": identifiers.scheme,
        "end_token_id": identifiers.end_token_id,
        "changed": {str(i): text for i, text in identifiers.changed.items()},
        "new_tokens": identifiers.new_tokens,
        "fingerprint": identifiers.fingerprint,
        **meta,
    }
    (folder / "identifiers.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8"
    )


def read_identifiers_meta(folder: Path) -> dict[str, Any]:
    """Return ``identifiers.json``."""
    try:
        meta: dict[str, Any] = json.loads((folder / "identifiers.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    return meta


def read_identifiers(folder: Path, catalog: Catalog) -> ItemIdentifiers:
    """Read what :func:`write_identifiers` wrote.

    Raises
    ------
    ArtefactError
        The files are damaged or belong to another catalogue.
    """
    meta = read_identifiers_meta(folder)
    try:
        table = pl.read_parquet(folder / "identifiers.parquet")
        state = folder / "state.safetensors"
        identifiers = ItemIdentifiers(
            scheme=meta["scheme"],
            texts=tuple(table["text"]),
            token_ids=tuple(map(tuple, table["token_ids"].to_list())),
            end_token_id=meta["end_token_id"],
            changed={int(i): text for i, text in meta["changed"].items()},
            new_tokens=tuple(meta["new_tokens"]),
            state=load_file(state) if state.is_file() else {},
        )
    except (OSError, KeyError, pl.exceptions.PolarsError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    if tuple(table["item_id"]) != tuple(catalog.item_ids) or identifiers.fingerprint != meta["fingerprint"]:
        raise ArtefactError(
            f"The identifiers in {str(folder)!r} belong to another catalogue or were changed. Expected those of "
            f"this run's {len(catalog):,} items: remove the folder and everything made with it, and run again."
        )
    return identifiers


def _damaged(folder: Path, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"The identifiers in {str(folder)!r} cannot be read: {error}. Expected what an earlier stage wrote: remove the "
        "folder and everything made with it, and run again."
    )
