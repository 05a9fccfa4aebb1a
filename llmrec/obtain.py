"""The files that entries of the cache are made from: found or fetched, and checked.

A file whose digest is published somewhere is used only if it matches. One without is trusted the first
time, as ``ssh`` trusts a host: the SHA-256 it had is kept in a record, and another content under its name is
refused from then on.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import AssetError
from llmrec.places import Unavailable

__all__ = ["File", "Source", "obtain", "read_record", "sha256"]

_KINDS = {"sha256": "SHA-256", "md5": "MD5"}


@dataclass(frozen=True)
class File:
    """One file that an entry is made from.

    Parameters
    ----------
    name
        Path below the cache's ``downloads`` folder where the user can put the file.
    digest
        ``"sha256:..."`` or ``"md5:..."`` as a public source states it; a file that differs is not used,
        wherever it came from. ``None`` where none is stated: trusted the first time only.
    download
        Puts the file somewhere, preferably into the given folder, and returns its path; raises
        :class:`Unavailable` or :class:`OSError`.
    by_hand
        How a person gets the file on another machine.
    """

    name: str
    digest: str | None
    download: Callable[[Path], Path]
    by_hand: str


@dataclass(frozen=True)
class Source:
    """One place where the files of an entry can be had.

    Parameters
    ----------
    place
        What the user reads, for example ``"GroupLens (https://...)"``.
    files
        All of them are needed.
    convert
        Writes the entry's files into a folder, ``convert(file, ..., folder)`` with the files in the order
        above, and may return sentences to be said whenever the entry is used, such as what was left out.
    """

    place: str
    files: tuple[File, ...]
    convert: Callable[..., Sequence[str] | None]


def read_record(record: Path) -> dict[str, str]:
    """Read what ``sha256sum`` would write: the digests of files that were trusted the first time."""
    if not record.exists():
        return {}
    lines = (line.partition("  ") for line in record.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, _, name in lines}


def obtain(
    name: str,
    sources: Sequence[Source],
    downloads: Path,
    record: Path,
    work: Path,
    tried: list[str],
    notify: Callable[[str], None],
) -> tuple[Source, list[Path], str]:
    """Find or fetch the files of the first source that has them.

    Parameters
    ----------
    downloads
        Where the user may have put files; these are used before any network.
    record
        Digests of files that were trusted the first time.
    work
        Folder for what is downloaded.
    tried
        Other places with what is wrong there, for the error; what is tried here is added.

    Returns
    -------
    source, paths, origin
        The source, its files, checked, and where they came from in words.

    Raises
    ------
    AssetError
        No source has its files; the message names each place with its reason, and what to put where.
    """
    seen = read_record(record)
    put: dict[File, Path] = {}
    for file in dict.fromkeys(file for source in sources for file in source.files):
        path = downloads / file.name
        problem = _mismatch(file, path, seen, record) if path.is_file() else "not there"
        if problem is None:
            put[file] = path
        elif (line := f"{path} ({problem})") not in tried:  # two places can have the same file
            tried.append(line)
    for source in sources:
        if all(file in put for file in source.files):
            return source, [put[file] for file in source.files], _in_downloads(source.files)
    for i, source in enumerate(sources):
        notify(f"{name}: trying {source.place}")
        paths = list[Path]()
        for j, file in enumerate(source.files):
            if file in put:
                paths.append(put[file])
                continue
            target = work / f"download-{i}-{j}"  # apart, so that no place's leavings pass for another's
            target.mkdir()
            try:
                path = file.download(target)
                problem = _mismatch(file, path, seen, record)
            except (Unavailable, OSError) as error:
                problem = " ".join(str(error).split()) or type(error).__name__
            if problem is not None:
                what = f"{source.place}, {file.name}" if len(source.files) > 1 else source.place
                tried.append(f"{what} ({problem})")
                break
            paths.append(path)
        else:
            mine = [file for file in source.files if file in put]
            return source, paths, f"{source.place}, with {_in_downloads(mine)}" if mine else source.place
    raise AssetError(
        f"{name} cannot be had. Places tried: {'; '.join(tried)}. Expected one of them to have it. Connect this "
        f"machine to the network (and unset LLMREC_OFFLINE), or {_by_hand(sources, put, downloads)}. "
        "A cache that already holds the entry can be chosen with LLMREC_CACHE."
    )


def _in_downloads(files: Sequence[File]) -> str:
    return f"{' and '.join(file.name for file in files)} in the cache's downloads folder"


def _by_hand(sources: Sequence[Source], put: Mapping[File, Path], downloads: Path) -> str:
    """Say which files a person should get and where to put them."""
    missing = [[file for file in source.files if file not in put] for source in sources]
    offers = " or ".join(" and ".join(f"{f.name} ({f.by_hand})" for f in files) for files in missing)
    if max(map(len, missing)) > 1:
        return (
            f"get these files on another machine, put them into {downloads} under these names, and run again: "
            f"{offers}"
        )
    which = "one of these files" if len(missing) > 1 else "this file"
    return f"get {which} on another machine, put it into {downloads} under this name, and run again: {offers}"


def _mismatch(file: File, path: Path, seen: Mapping[str, str], record: Path) -> str | None:
    """Return how a file differs from what it must be, ``None`` where it does not or nothing is known."""
    if file.digest is not None:
        kind, _, expected = file.digest.partition(":")
        since = ""
    elif file.name in seen:
        kind, expected = "sha256", seen[file.name]
        since = f", which it had when it was first used; to trust the new one delete {record}"
    else:
        return None
    got = _digest(path, kind)
    return None if got == expected else f"{_KINDS[kind]} is {got}, expected {expected}{since}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content (about 1 GB a second); an unchanged file is read once."""
    return _digest(path, "sha256")


def _digest(path: Path, kind: str) -> str:
    stat = path.stat()
    return _read_digest(str(path.absolute()), kind, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=1024)
def _read_digest(path: str, kind: str, size: int, mtime_ns: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
