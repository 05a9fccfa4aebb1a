"""A folder that holds a log and grows: parts in parquet, and a manifest that says which of them count.

A part is written first, then the manifest is replaced in one step. It holds the parts and the state of the source after them, so that
what is stored and where reading goes on are never at odds, wherever a kill hits. Parts are never changed: what a reader has seen stays
as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from llmrec import cache
from llmrec.data.recommendations import replacing
from llmrec.data.sources.base import Batch, BrokenRow
from llmrec.errors import DataError
from llmrec.settings.data import SourceSettings

__all__ = ["MANIFEST", "Manifest", "StoreSource", "add_part", "read_manifest", "write_manifest"]

MANIFEST = "store.json"
_ORIGIN, _ROW, _REASON, _TEXT = "llmrec:origin", "llmrec:row", "llmrec:broken", "llmrec:text"


@dataclass(frozen=True)
class Manifest:
    """What a store holds."""

    source: str  # what it is a copy of, for people
    columns: tuple[str, ...]
    users: dict[str, Any] | None  # how user ids were hashed; None if they were not
    parts: tuple[dict[str, Any], ...] = ()  # file, rows (broken ones included), broken, sha256
    state: dict[str, Any] | None = None  # of the source after the last part

    @property
    def rows(self) -> int:
        """Rows stored, broken ones included."""
        return sum(part["rows"] for part in self.parts)

    def digest(self) -> str:
        """Identify the rows stored: a state that has moved over nothing new changes nothing."""
        content = [list(self.columns), [part["sha256"] for part in self.parts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """Return what a store holds; ``None`` where there is none.

    Raises
    ------
    DataError
        The manifest is damaged.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path):  # not Path.is_file, which raises for a name that is too long
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form = content.pop("format")
        if form != 1:
            raise ValueError(f"its format is {form}, of another version of llmrec")
        return Manifest(**content | {name: tuple(content[name]) for name in ("columns", "parts")})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step."""
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps({"format": 1, **asdict(manifest)}, indent=1) + "\n", encoding="utf-8")


def add_part(folder: Path, manifest: Manifest, batches: Sequence[Batch]) -> Manifest:
    """Write rows as a part, and return the manifest with it; they count once that is written."""
    frame = pl.concat([_stored(batch) for batch in batches], how="diagonal_relaxed")
    name = f"part-{len(manifest.parts) + 1:06}.parquet"
    with replacing(folder / name) as temporary:
        frame.write_parquet(temporary, compression="zstd")
    broken = sum(len(batch.broken) for batch in batches)
    part = {"file": name, "rows": len(frame), "broken": broken, "sha256": cache.sha256(folder / name)}
    return replace(manifest, parts=(*manifest.parts, part))


class StoreSource:
    """The rows of a store, as they were read from their source."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.folder = Path(source.location[0])
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise DataError(
                f"{setting} is {str(self.folder)!r}, and there is no store. Expected a folder that 'llmrec data update CONFIG' "
                "keeps: run it first."
            )
        self.manifest = manifest
        self.name = f"{self.folder} (a copy of {manifest.source})"

    def columns(self) -> list[str]:
        """Return the names of the columns that are stored."""
        return list(self.manifest.columns)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in the order in which they were added."""
        for part in self.manifest.parts:
            path = self.folder / part["file"]
            if not path.is_file() or cache.sha256(path) != part["sha256"]:
                raise _damaged(self.folder, f"{part['file']} is missing, or not what was written")
            frame = pl.read_parquet(path)
            for batch in frame.partition_by(_ORIGIN, maintain_order=True):
                is_broken = batch[_REASON].is_not_null()
                broken = batch.filter(is_broken).select(_ROW, _TEXT, _REASON)
                whole = batch.filter(~is_broken)
                yield Batch(
                    whole.select(columns),
                    batch[_ORIGIN][0],
                    whole[_ROW].to_numpy(),
                    tuple(BrokenRow(*row) for row in broken.iter_rows()),
                )

    def digests(self) -> Mapping[str, str]:
        """Return a digest of the rows that are stored."""
        return {str(self.folder): self.manifest.digest()}


def _stored(batch: Batch) -> pl.DataFrame:
    """Return a batch as a part has it: broken rows are rows without values."""
    rows = batch.frame.with_columns(
        pl.Series(_ROW, batch.rows, dtype=pl.Int64),
        pl.lit(None, pl.String).alias(_REASON),
        pl.lit(None, pl.String).alias(_TEXT),
    )
    columns = {
        _ROW: [row.row for row in batch.broken],
        _REASON: [row.reason for row in batch.broken],
        _TEXT: [row.text for row in batch.broken],
    }
    schema = {_ROW: pl.Int64, _REASON: pl.String, _TEXT: pl.String}
    broken = pl.DataFrame(columns, schema=schema)
    both = pl.concat([rows, broken], how="diagonal") if batch.broken else rows
    return both.with_columns(pl.lit(batch.origin, pl.String).alias(_ORIGIN))


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        f"The store {str(folder)!r} is damaged: {what}. Expected what 'llmrec data update' wrote there. Restore the folder from a backup, "
        "or remove it and update again, which reads everything from the source."
    )
