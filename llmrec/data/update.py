"""Keep a copy of a log, and add to it what is new at its source: every row once, wherever a kill hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import polars as pl

from llmrec.data.cleaning.pseudonyms import hash_ids, hash_key
from llmrec.data.cleaning.rows import as_ids
from llmrec.data.load import log_columns
from llmrec.data.sources.base import Batch, GrowingSource
from llmrec.data.sources.opening import open_growing, pick_columns
from llmrec.data.sources.store import Manifest, add_part, read_manifest, write_manifest
from llmrec.errors import ConfigError, DataError
from llmrec.settings.data import Data

__all__ = ["Update", "update_store"]

_PART = 500_000  # rows that are gathered before they are written


@dataclass(frozen=True)
class Update:
    """What an update has done."""

    added: int  # rows, broken ones included
    total: int
    watermark: str  # up to where the source has been read, for people; "" where it had nothing
    left: str  # what has been left for the next time, and why; "" if nothing


def update_store(data: Data, notify: Callable[[int], None] = lambda rows: None) -> Update:
    """Add to the folder ``data.store`` what its source has that is new; everything the first time.

    Parameters
    ----------
    notify
        Takes the number of rows added so far whenever some are safe.

    Raises
    ------
    ConfigError
        ``data.store`` is not set, or the source cannot tell what is new.
    DataError
        The source cannot be read to its end or has changed where it should only grow, the store was made with other settings or is
        damaged, or another update is at work. What has been added until then stays, and is not added again.
    """
    if data.store is None or data.interactions is None:
        raise ConfigError(
            "data.store is not set. Expected the folder that is to keep a copy of data.interactions, for example "
            "store: stores/shop."
        )
    source = open_growing(data.interactions, "data.interactions", data.columns.timestamp)
    columns = pick_columns(source, log_columns(data.columns))
    try:
        data.store.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(data.store / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise DataError(
            f"Another process is updating {str(data.store)!r}. Expected to have it alone: wait for it, and run again."
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"data.store is {str(data.store)!r}, which is a file, or below one. Expected a folder."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"data.store is {str(data.store)!r}, which cannot be made or written to: {error.strerror or error}. Expected a folder that "
            "may be written to: give it another place, or change the permissions there."
        ) from None
    with lock:
        return _update(data, source, columns, data.store, notify)


def _update(
    data: Data, source: GrowingSource, columns: list[str], folder: Path, notify: Callable[[int], None]
) -> Update:
    key = hash_key(data.privacy)
    users = None if key is None else {"key": _hash_of(key), "missing": list(data.cleaning.missing)}
    manifest = read_manifest(folder) or Manifest(source.name, tuple(columns), users)
    _check_same(manifest, columns, users, folder)
    _remove_uncounted(folder, manifest)
    before = manifest.rows
    gathered: list[Batch] = []
    state = manifest.state

    def keep() -> None:
        nonlocal manifest
        new = replace(manifest, state=state)
        if any(len(batch.rows) + len(batch.broken) for batch in gathered):
            new = add_part(folder, new, gathered)
        if new != manifest or not new.parts:
            write_manifest(folder, new)
            notify(new.rows - before)
        manifest = new
        gathered.clear()

    for batch, after in source.new_batches(columns, manifest.state, key):
        if key is not None:
            batch = _hashed(batch, data, key)
        if gathered and not _fits(gathered, batch):
            keep()
        gathered.append(batch)
        state = after
        if sum(len(b.rows) + len(b.broken) for b in gathered) >= _PART:
            keep()
    keep()
    said = state or {}
    return Update(manifest.rows - before, manifest.rows, said.get("watermark", ""), said.get("left", ""))


def _check_same(manifest: Manifest, columns: list[str], users: dict[str, Any] | None, folder: Path) -> None:
    problems = []
    if list(manifest.columns) != columns:
        problems.append(
            f"its columns are {', '.join(manifest.columns)}, and data.columns has {', '.join(columns)}"
        )
    if (manifest.users is None) != (users is None):
        problems.append(
            f"its user ids are {'plain' if manifest.users is None else 'hashed'}, against privacy.hash_users"
        )
    elif manifest.users != users:
        problems.append("its user ids are hashed with another key, or with another cleaning.missing")
    if problems:
        raise DataError(
            f"The store {str(folder)!r} was made with other settings: {'; '.join(problems)}. Expected the same. Give this config "
            "another data.store, or remove the folder and update again, which reads everything."
        )


def _remove_uncounted(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed update has left."""
    counted = {part["file"] for part in manifest.parts}
    for path in [*folder.glob("part-*.parquet"), *folder.glob(".*.tmp")]:
        if path.name not in counted:
            path.unlink()


def _fits(gathered: list[Batch], batch: Batch) -> bool:
    """Tell whether a part can hold a batch beside those before it with every value as it is.

    Whole numbers of any width can share a column. Beside floats they would become floats, which cannot tell ids of 17 digits apart.
    """
    for name, dtype in batch.frame.schema.items():
        others = {b.frame.schema[name] for b in gathered} - {pl.Null(), dtype}
        if dtype != pl.Null() and any(not (dtype.is_integer() and other.is_integer()) for other in others):
            return False
    return True


def _hash_of(key: bytes) -> str:
    """Return what tells whether another key is the same, and not what it is."""
    return str(hash_ids(pl.Series(["llmrec store"]), key)[0])


def _hashed(batch: Batch, data: Data, key: bytes) -> Batch:
    """Hash the ids of users, as reading does, before they are written."""
    name = data.columns.user_id
    users = hash_ids(as_ids(batch.frame[name], data.cleaning.missing), key)
    broken = tuple(replace(row, text="") for row in batch.broken)  # ids could stand anywhere in it
    return Batch(batch.frame.with_columns(users.alias(name)), batch.origin, batch.rows, broken)
