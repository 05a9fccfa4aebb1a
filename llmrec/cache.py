"""The cache of named data sets and models: fetched from the first place that has them, checked, converted once.

An entry is a folder with a manifest of the SHA-256 of each of its files. It is built in a temporary
folder beside its final place and renamed into it, under a lock: a reader finds either no entry or a
whole one. An entry that does not match its manifest is rebuilt, never used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from llmrec.errors import AssetError
from llmrec.obtain import File, Source, obtain, read_record, sha256

__all__ = [
    "MANIFEST",
    "File",
    "Source",
    "cache_dir",
    "entry",
    "manifest",
    "sha256",
]

log = logging.getLogger("llmrec")

MANIFEST = "manifest.json"


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

    A whole entry is only read: no lock, no network, and a read-only cache will do. The digests of files that
    no one publishes are kept in ``NAME.sha256`` beside it, see :mod:`llmrec.obtain`.

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
        Takes progress, what the conversion had to say, and that line.

    Raises
    ------
    AssetError
        No source has its files; the message names each place with its reason.
    """
    place = cache_dir() / f"{name}-{version}"
    kept = _problem(place) is None
    if not kept:
        try:
            kept = not _build_once(place, name, sources, licence, notify)
        except OSError as error:
            raise AssetError(
                f"The cache entry {place} cannot be made: {error}. Expected files that can be read, and a folder that may be written, "
                "with room for the entry. Free some room, choose another folder with LLMREC_CACHE, or fetch the files again."
            ) from error
    about = manifest(place)
    for note in about.get("notes", ()):
        notify(f"{name}: {note}")
    origin = about["source"]
    notify(f"{name}: from {'the cache, first taken from ' if kept else ''}{origin}; licence: {licence}")
    return place


def manifest(place: Path) -> dict[str, Any]:
    """Read an entry's manifest.

    ``source``, ``licence``, ``notes``, ``taken`` (name of a file it was made from -> sha256) and ``files``
    (path -> size, sha256).
    """
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
        record = cache_dir() / f"{name}.sha256"
        tried = [f"the cache, {place} ({problem})"]
        downloads = cache_dir() / "downloads"
        source, paths, origin = obtain(name, sources, downloads, record, work, tried, notify)
        new = work / "new"
        new.mkdir()
        notify(f"{name}: converting {' and '.join(file.name for file in source.files)}")
        notes = source.convert(*paths, new)
        taken = {file.name: sha256(path) for file, path in zip(source.files, paths, strict=True)}
        files = {p: {"size": (new / p).stat().st_size, "sha256": sha256(new / p)} for p in _files(new)}
        about = {
            "name": name,
            "source": origin,
            "licence": licence,
            "notes": list(notes or ()),
            "taken": taken,
            "files": files,
        }
        (new / MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        # safetensors writes for the owner only; a cache may be shared, as far as the umask lets it.
        mode = (new / MANIFEST).stat().st_mode
        for path in files:
            (new / path).chmod(mode)
        if trusted := {file.name: taken[file.name] for file in source.files if file.digest is None}:
            lines = (f"{digest}  {path}\n" for path, digest in (read_record(record) | trusted).items())
            (work / "seen").write_text("".join(lines), encoding="utf-8")
            (work / "seen").replace(record)
        if place.exists():  # damaged; a folder can only be renamed onto nothing
            place.rename(work / "old")
        new.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
