"""Files that are added to: new ones in a folder, and rows at the end of text files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from llmrec.data.sources.base import Batch
from llmrec.data.sources.files import FileSource
from llmrec.data.sources.records import BEHIND_QUOTE, UNCLOSED
from llmrec.data.sources.text import line_ends_at
from llmrec.data.sources.values import keyed
from llmrec.errors import DataError
from llmrec.settings.data import SourceSettings

__all__ = ["GrowingFiles"]


@dataclass(frozen=True)
class _Read:
    """What has been read of a file."""

    rows: int  # number of the last row taken
    size: int  # bytes that it had when reading began, and ...
    sha256: str  # ... what they were
    mtime: int | None  # nanoseconds; None while there may be more to read
    half: Literal["", "left", "taken"] = ""  # what was done about rows that may be half a row
    open: int = 0  # a row whose quote was not closed: not taken yet, or taken as broken; 0 for none


class GrowingFiles:
    """The files of a setting, as a source that tells what is new.

    Parameters
    ----------
    source
        Its settings; each file is opened with them.
    files
        What it is as a plain source.
    """

    def __init__(self, source: SourceSettings, setting: str, files: FileSource) -> None:
        self.source = source
        self.setting = setting
        self.files = files
        self.paths = [file.path for file in files.files]
        # Written once: rows at their end would not be bytes at their end.
        self.whole = {f.path for f in files.files if f.format == "parquet" or f.packed}
        self.name = files.name
        self.key: bytes | None = None

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return self.files.columns()

    def further_columns(self, wanted: Sequence[str]) -> list[str]:
        """Return those of some columns that are not among the first file's, but are in it."""
        return self.files.further_columns(wanted)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        return self.files.batches(columns)

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file."""
        return self.files.digests()

    def new_batches(
        self, columns: Sequence[str], since: Mapping[str, Any] | None, key: bytes | None = None
    ) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield the rows of new files, and those at the end of text files that have grown.

        The state has, for each file, the last row taken and a digest of the bytes that were there. The last row of a text file is
        left for the next time while it has no line end or the file is being written to: it may be half a row. It is taken where
        a later file is there and the next update finds no more of it.

        A record in quotes that is half written may have many lines, and each would pass for a row. So everything from the
        first row with a quote that is not closed on is left too, until there is more of the file: if the quote is still open then,
        it is a stray one, and costs its own line.
        """
        if since is not None and since.get("kind") != "files":
            raise DataError(
                f"{self.setting} is files, and what has been read until now was {since.get('kind')}. Expected the same: go back to "
                "it, or remove the folder data.store and update again, which reads everything."
            )
        self.key = key
        known = {path: _Read(**was) for path, was in ({} if since is None else since["files"]).items()}
        if since is not None and not since.get("keyed"):
            known = {path: replace(was, sha256=keyed(was.sha256, key)) for path, was in known.items()}
        self._check_missing(known)
        left: list[str] = []
        for path in self.paths:
            was = known.get(str(path), _Read(0, 0, self._digest(path, 0), None))
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) == (was.size, was.mtime):
                continue
            self._check_grown(path, was, stat.st_size)
            grew = stat.st_size > was.size
            waited = was.half == "left" and not grew and path != self.paths[-1]
            stray = was.open if grew else 0
            begun = replace(
                was,
                size=stat.st_size,
                sha256=self._digest(path, stat.st_size),
                mtime=None,
                half="",
                open=was.open if was.open <= was.rows else 0,
            )
            for batch, is_last in _ahead(self._rows(path, columns, was)):
                unclosed = [] if path in self.whole else _unclosed(batch)
                first = 0 if waited else next((row for row in unclosed if row != stray), 0)
                held = ""
                done = begun = replace(begun, open=max(unclosed, default=begun.open))
                if first:
                    batch = _before(batch, first)
                    held = (
                        f"Row {first:,} of {path} and all behind it are left for the next update: it has a quote that is not "
                        "closed, and may be half a row. If the quote is still open when the file has grown, it is a broken row; "
                        f"where nothing is quoted, set {self.setting}.quote to null."
                    )
                    # What came while the file was read is no reason to call it a stray one.
                    being_written = path.stat().st_size != stat.st_size
                    done = replace(begun, half="left", open=0 if being_written else first)
                elif is_last:
                    half = self._half_row(batch, path, stat)
                    if half and not waited:
                        batch, held = _before(batch, _last_row(batch)), half
                        done = replace(begun, half="left")
                    else:
                        done = replace(begun, mtime=stat.st_mtime_ns, half="taken" if half else "")
                left += [held] if held else []
                last = _last_row(batch)
                if last or held:
                    known[str(path)] = replace(done, rows=max(last, was.rows))
                state = {name: vars(read) for name, read in known.items()}
                mark = f"{path.name}, row {max(last, was.rows):,}"
                said = {"watermark": mark, "left": " ".join(left)}
                yield batch, {"kind": "files", "files": state, "keyed": key is not None, **said}
                if first:
                    break

    def _rows(self, path: Path, columns: Sequence[str], was: _Read) -> Iterator[Batch]:
        """Yield the rows of a file behind those taken."""
        one = self.source.model_copy(update={"location": (str(path),)})
        for batch in FileSource(one, self.setting).batches(columns):
            if was.rows:
                if 0 < was.open <= was.rows and not _costs_one_line(batch, was.open):
                    raise self._changed(
                        f"row {was.open:,} of {path} was taken as broken, because its quote was not closed, and goes on over "
                        "rows that have been taken, because it is closed now"
                    )
                batch = _picked(batch, lambda row: row > was.rows)
            if _last_row(batch):
                yield batch

    def _half_row(self, batch: Batch, path: Path, before: os.stat_result) -> str:
        """Say why the last row of a file may be half a row; nothing where it is a whole one."""
        if path in self.whole:
            return ""
        grew = path.stat().st_size != before.st_size
        if not grew and line_ends_at(path, self.source.encoding, before.st_size):
            return ""
        return f"Row {_last_row(batch):,} of {path} is left for the next update: " + (
            "the file is being written to." if grew else "it has no line end, and may be half a row."
        )

    def _check_missing(self, known: Mapping[str, _Read]) -> None:
        """Stop where files are gone, or have another name now."""
        missing = known.keys() - set(map(str, self.paths))
        new = [path for path in self.paths if str(path) not in known]
        for name in sorted(missing):
            was = known[name]
            for path in new:
                if path.stat().st_size >= was.size and self._digest(path, was.size) == was.sha256:
                    raise self._changed(f"{name} is called {path} now", "Give it its old name back")
            if not self.source.trimmed:
                raise self._changed(
                    f"{name} is gone", "Bring it back; if old files are deleted on purpose, set trimmed"
                )

    def _check_grown(self, path: Path, was: _Read, size: int) -> None:
        """Stop where the bytes that were read are not those that are there."""
        if size < was.size:
            raise self._changed(f"{path} had {was.size:,} bytes and has {size:,}")
        if self._digest(path, was.size) != was.sha256:
            raise self._changed(f"the first {was.size:,} bytes of {path} have changed")
        if was.size and size > was.size and path in self.whole:
            raise self._changed(f"{path} has grown, and a file of this kind is written once")
        goes_on = was.half == "taken" and size > was.size
        if goes_on and not line_ends_at(path, self.source.encoding, was.size):
            raise self._changed(
                f"{path} goes on in the middle of its last row, which has been taken as it was"
            )

    def _digest(self, path: Path, size: int) -> str:
        """Return a digest of a file's first bytes, the SHA-256 where there is no key."""
        return keyed(_sha256(path, size), self.key)

    def _changed(
        self, what: str, advice: str = "Put new events into new files, or at the end of text files"
    ) -> DataError:
        return DataError(
            f"{self.setting} has changed since it was read last: {what}. Expected files that only grow. {advice}; to read "
            "everything again, remove the folder data.store and update."
        )


def _ahead(batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Yield each batch, and whether it is the last."""
    before: Batch | None = None
    for batch in batches:
        if before is not None:
            yield before, False
        before = batch
    if before is not None:
        yield before, True


def _picked(batch: Batch, wanted: Callable[[Any], Any]) -> Batch:
    """Return the rows, broken or not, whose numbers are wanted; they come as one number or as an array."""
    keep = wanted(batch.rows)
    broken = tuple(row for row in batch.broken if wanted(row.row))
    return Batch(batch.frame.filter(pl.Series(keep)), batch.origin, batch.rows[keep], broken)


def _before(batch: Batch, row: int) -> Batch:
    """Return the rows before one."""
    return _picked(batch, lambda number: number < row)


def _unclosed(batch: Batch) -> list[int]:
    """Return the numbers of the rows with a quote that is not closed."""
    return [row.row for row in batch.broken if row.reason == UNCLOSED]


def _costs_one_line(batch: Batch, row: int) -> bool:
    """Tell whether a row, if it is in the batch, is one whose quotes do not match, so that the rows behind it keep their numbers."""
    others = {it.row for it in batch.broken if it.reason not in (UNCLOSED, BEHIND_QUOTE)}
    return row not in batch.rows and row not in others


def _last_row(batch: Batch) -> int:
    """Return the number of the last row, broken ones included; 0 where there is none."""
    return max(int(np.max(batch.rows, initial=0)), max((row.row for row in batch.broken), default=0))


def _sha256(path: Path, size: int) -> str:
    """Return the SHA-256 of a file's first bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, 1 << 20))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest()
