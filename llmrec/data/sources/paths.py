"""Which files a setting means: paths, patterns and folders, and what is in them by their endings."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrec.data.sources.problems import shown
from llmrec.errors import DataError, nearest

__all__ = ["DataFile", "find_files"]

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".inter": "recbole",
    ".item": "recbole",
    ".user": "recbole",
}
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_ENDINGS = f"{', '.join(_FORMATS)}, each also with {' or '.join(_PACKED)} after it"


@dataclass(frozen=True)
class DataFile:
    """A file, and how it is read."""

    path: Path
    format: str
    packed: str | None  # gzip, zstd


def find_files(locations: Sequence[str], form: str, setting: str) -> list[DataFile]:
    """Return the files of paths, patterns and folders in the order of their names, each once.

    Parameters
    ----------
    form
        csv, tsv, jsonl, parquet or recbole; auto goes by the endings.

    Raises
    ------
    DataError
        Nothing is there, or files are of no format or of several.
    """
    found: dict[str, Path] = {}
    try:
        paths = [path for location in locations for path in _expanded(location, form, setting)]
        for path in sorted(paths):
            found.setdefault(os.path.realpath(path), path)
    except (OSError, ValueError) as error:  # a folder that may not be read, a name with a NUL in it
        what = getattr(error, "strerror", None) or error
        raise DataError(
            f"{setting} is {', '.join(locations)!r}, which cannot be looked up: {what}. Expected paths of files that exist and "
            "may be read."
        ) from None
    files = [_as_file(path, form, setting) for path in found.values()]
    kinds = {file.format: file.path for file in files}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise DataError(
            f"{setting} means files of different formats: {shown(first)!r} is {one}, {shown(second)!r} is {other}. Expected one format: "
            f"name only those, for example with a pattern (*{first.suffix})."
        )
    return files


def _expanded(location: str, form: str, setting: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_file():  # even if its name has brackets, as a pattern would
        return [path]
    if path.is_dir():
        return _inside(path, form, setting)
    if glob.has_magic(location):
        matched = [Path(p) for p in glob.glob(str(path), recursive=True)]
        files = [p for p in matched if p.is_file()]
        if not files:
            what = "only folders" if matched else "nothing"
            raise DataError(
                f"{setting} is the pattern {location!r}, which matches {what}. Expected it to match files, relative to the working "
                "directory; ** matches folders within folders."
            )
        return files
    if path.exists():
        raise DataError(
            f"{setting} is {location!r}, which is neither a file nor a folder. Expected a regular file."
        )
    near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
    raise DataError(
        f"{setting} is {location!r}, and there is no such file{near}. Expected a path relative to the working directory, a "
        f"folder or a pattern, of files that end in {_ENDINGS}."
    )


def _inside(folder: Path, form: str, setting: str) -> list[Path]:
    """Return the files of a folder, without those that writers leave beside them (_SUCCESS, .part.crc)."""
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(("_", "."))]
    readable = [p for p in files if form != "auto" or _endings(p)[0] is not None]
    if not readable:
        raise DataError(
            f"{setting} is the folder {shown(folder)!r}, in which no file ends in {_ENDINGS}. Expected some, all of one format; for "
            f"files in folders further down use a pattern ({shown(folder)}/**/*.parquet)."
        )
    return readable


def _endings(path: Path) -> tuple[str | None, str | None]:
    """Return the format and the compression that a name says."""
    name, ending = os.path.splitext(path.name.lower())
    packed = _PACKED.get(ending)
    return _FORMATS.get(os.path.splitext(name)[1] if packed else ending), packed


def _as_file(path: Path, form: str, setting: str) -> DataFile:
    by_name, packed = _endings(path)
    if form != "auto":
        return DataFile(path, form, packed)
    if by_name is None:
        raise DataError(
            f"{setting} reads {shown(path)!r}, whose name does not say what it is. Expected {_ENDINGS}: rename it, convert it, or set "
            f"{setting}.format."
        )
    return DataFile(path, by_name, packed)
