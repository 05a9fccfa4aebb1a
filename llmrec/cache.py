"""The cache of named data sets and models: fetched from the first place that has them, checked, converted once.

An entry is a folder with a manifest of the SHA-256 of each of its files. It is built in a temporary
folder beside its final place and renamed into it, under a lock: a reader finds either no entry or a
whole one. An entry that does not match its manifest is rebuilt, never used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from llmrec.errors import AssetError
from llmrec.places import Unavailable

__all__ = [
    "MANIFEST",
    "Source",
    "cache_dir",
    "entry",
    "manifest",
    "sha256",
]

log = logging.getLogger("llmrec")

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """One place where an entry's file can be had.

    Parameters
    ----------
    place
        What the user reads, for example ``"GroupLens (https://...)"``.
    filename
        The name the file has when the user puts it into the cache's ``downloads`` folder.
    sha256
        Of the file; a file that differs is not used, wherever it came from.
    download
        Puts the file somewhere, preferably into the given folder, and returns its path; raises
        :class:`Unavailable` or :class:`OSError`.
    convert
        Writes the entry's files into a folder: ``convert(file, folder)``.
    by_hand
        How a person gets the file on another machine.
    """

    place: str
    filename: str
    sha256: str
    download: Callable[[Path], Path]
    convert: Callable[[Path, Path], None]
    by_hand: str


def cache_dir() -> Path:
    """Return the cache folder: ``$LLMREC_CACHE``, else the platform's cache folder for users."""
    chosen = os.environ.get("LLMREC_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("llmrec", False)


def entry(
    name: str,
    version: str,
    sources: Sequence[Source],
    *,
    licence: str,
    notify: Callable[[str], None] = log.info,
) -> Path:
    """Return the folder of an entry, building it first where it is absent or damaged.

    A whole entry is only read: no lock, no network, and a read-only cache will do.

    Parameters
    ----------
    name
        Path of the entry in the cache, such as ``"datasets/ml-100k"``.
    version
        Names the form of the converted files; another version is another entry.
    sources
        Tried in this order, each after the ``downloads`` folder has been looked at for all of them.
    licence
        Said in the one line that tells where the entry came from.
    notify
        Takes progress and that line.

    Raises
    ------
    AssetError
        No source has the file; the message names each place with its reason.
    """
    place = cache_dir() / f"{name}-{version}"
    kept = _problem(place) is None
    if not kept:
        try:
            kept = not _build_once(place, name, sources, licence, notify)
        except OSError as error:
            raise AssetError(
                f"The cache entry {place} cannot be written: {error}. Expected a folder that may be written, "
                "with room for the entry. Free some room, or choose another folder with LLMREC_CACHE."
            ) from error
    origin = manifest(place)["source"]
    notify(f"{name}: from {'the cache, first taken from ' if kept else ''}{origin}; licence: {licence}")
    return place


def manifest(place: Path) -> dict[str, Any]:
    """Read an entry's manifest: ``source``, ``licence`` and ``files`` (path -> size, sha256)."""
    found: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    return found


def _problem(place: Path) -> str | None:
    """Return what is wrong with an entry, ``None`` where all of its files are what they were when built."""
    if not place.is_dir():
        return "absent"
    try:
        about = manifest(place)
        files, _source = about["files"], about["source"]
        # A stray file counts too: beside a model, an adapter_config.json changes what is loaded.
        if stray := sorted(set(_files(place)) ^ set(files)):
            return f"{stray[0]} {'is missing' if stray[0] in files else 'does not belong to it'}"
        for path, expected in files.items():
            size = (place / path).stat().st_size
            if size != expected["size"]:
                return f"{path} has {size:,} bytes, not {expected['size']:,}"
        for path, expected in files.items():
            if sha256(place / path) != expected["sha256"]:
                return f"the content of {path} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    # Dot files belong to the system (.DS_Store, .nfs...), not to entries.
    return sorted(p.as_posix() for p in found if p.name != MANIFEST and not p.name.startswith("."))


def _build_once(
    place: Path, name: str, sources: Sequence[Source], licence: str, notify: Callable[[str], None]
) -> bool:
    """Build an entry unless another process does so meanwhile; tell whether it was built here."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        notify(f"{name}: waiting for another process that builds it")
        lock.acquire()
    try:
        problem = _problem(place)  # again: the look before the lock may be out of date
        if problem is None:
            return False
        if place.exists():
            notify(f"{name}: the cache entry is damaged ({problem}); rebuilding it")
        _build(place, problem, name, sources, licence, notify)
        return True
    finally:
        lock.release()


def _build(
    place: Path,
    problem: str,
    name: str,
    sources: Sequence[Source],
    licence: str,
    notify: Callable[[str], None],
) -> None:
    # The lock is held, so whatever an earlier build left behind belongs to a process that was killed.
    for left in place.parent.glob(f".{place.name}.build-*"):
        shutil.rmtree(left, ignore_errors=True)
    # Beside the final place, because a rename is atomic only within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.build-", dir=place.parent))
    try:
        source, file, origin = _obtain(name, sources, work, [f"the cache, {place} ({problem})"], notify)
        new = work / "new"
        new.mkdir()
        notify(f"{name}: converting {source.filename}")
        source.convert(file, new)
        files = {p: {"size": (new / p).stat().st_size, "sha256": sha256(new / p)} for p in _files(new)}
        about = {"name": name, "source": origin, "licence": licence, "files": files}
        (new / MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        # safetensors writes for the owner only; a cache may be shared, as far as the umask lets it.
        mode = (new / MANIFEST).stat().st_mode
        for path in files:
            (new / path).chmod(mode)
        if place.exists():  # damaged; a folder can only be renamed onto nothing
            place.rename(work / "old")
        new.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _obtain(
    name: str, sources: Sequence[Source], work: Path, tried: list[str], notify: Callable[[str], None]
) -> tuple[Source, Path, str]:
    """Return the first source whose file can be had, the file, checked, and where it came from."""
    downloads = cache_dir() / "downloads"
    for source in sources:
        file = downloads / source.filename
        if not file.is_file():
            tried.append(f"{file} (not there)")
        elif (got := sha256(file)) != source.sha256:
            tried.append(f"{file} (SHA-256 is {got}, expected {source.sha256})")
        else:
            return source, file, f"{source.filename} in the cache's downloads folder"
    for i, source in enumerate(sources):
        notify(f"{name}: trying {source.place}")
        target = work / f"download-{i}"  # apart, so that no place's leavings pass for another's
        target.mkdir()
        try:
            file = source.download(target)
            got = sha256(file)
        except (Unavailable, OSError) as error:
            tried.append(f"{source.place} ({' '.join(str(error).split()) or type(error).__name__})")
            continue
        if got == source.sha256:
            return source, file, source.place
        tried.append(f"{source.place} (SHA-256 is {got}, expected {source.sha256})")
    offers = " or ".join(f"{s.filename} ({s.by_hand})" for s in sources)
    raise AssetError(
        f"{name} cannot be had. Places tried: {'; '.join(tried)}. Expected one of them to have the file. "
        f"Connect this machine to the network (and unset LLMREC_OFFLINE), or get one of these files on "
        f"another machine, put it into {downloads} under this name, and run again: {offers}. "
        "A cache that already holds the entry can be chosen with LLMREC_CACHE."
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content (about 1 GB a second); an unchanged file is read once."""
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
