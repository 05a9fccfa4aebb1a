"""The run directory: artefacts that are whole or absent, and that belong to one config.

A stage writes into a temporary sibling and renames it, so a kill leaves nothing that looks finished. Each artefact
carries a *key*, the settings that decided it; a stage that finds one with another key refuses to go on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError

__all__ = [
    "check_key",
    "flatten",
    "locked",
    "read_json",
    "remove_unfinished",
    "whole_folder",
    "write_json",
    "write_text",
]


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``final`` when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp"))
    try:
        yield work
        work.chmod(0o755)
        for file in filter(Path.is_file, work.rglob("*")):
            file.chmod(0o644)  # some libraries write for the owner alone
        os.rename(work, final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old one or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that a stage wrote; a damaged one raises :class:`ArtefactError`."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # What says how a folder was made belongs to all of it.
        damaged = path.parent if path.name in ("llmrec.json", "meta.json", "key.json") else path
        raise ArtefactError(
            f"{str(path)!r} cannot be read: {error}. Expected what the stage before wrote there: remove "
            f"{str(damaged)!r} and run again."
        ) from None
    return content


def remove_unfinished(run: Path) -> None:
    """Remove what killed processes left half-written, but in folders that have a lock of their own."""
    inside = (path for path in run.glob("*/.*.tmp") if not (path.parent / ".lock").exists())
    for left in [*run.glob(".*.tmp"), *inside]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a second process out of a run directory, and remove what a killed one left half-written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ArtefactError(f"{str(run)!r} is a file, or below one. Expected the path of a folder.") from None
    except OSError as error:
        raise ArtefactError(
            f"{str(run)!r} cannot be made: {error}. Expected a folder that may be written."
        ) from None
    lock = FileLock(run / ".lock")
    try:
        with lock.acquire(timeout=0):
            remove_unfinished(run)
            yield
    except Timeout:
        raise ArtefactError(
            f"Another process is working in {str(run)!r}. Expected to have it alone: wait for it, or give this run "
            "another directory with --set output=..."
        ) from None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_key(
    artefact: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    advice: str = "Give this config a directory of its own with --set output=...",
) -> None:
    """Refuse an artefact that other settings, or other data, have made.

    Raises
    ------
    ArtefactError
        Names the settings that differ.
    """
    # Through JSON, as the found key was: tuples become lists.
    old, new = flatten(found), flatten(json.loads(json.dumps(wanted)))
    different = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if different:
        said = list(dict.fromkeys(_change(name, old.get(name), new.get(name)) for name in different))
        changes = "; ".join(said[:5])
        more = f" (and {len(said) - 5} more)" if len(said) > 5 else ""
        raise ArtefactError(
            f"{str(artefact)!r} was made with another config: {changes}{more}. Expected the same settings and data, because "
            f"results of different ones must not be mixed. {advice}, or remove {str(artefact)!r} to make it again."
        )


def _change(name: str, old: Any, new: Any) -> str:
    """Say what has become of a setting, or of a file that is known by its digest."""
    if file := re.fullmatch(r"(?:.*\.)?(?:files|histories)\.(.+)", name):
        if old is None or new is None:
            return f"{file[1]} {'is new' if old is None else 'was one of the files and is none now'}"
        return f"what is in {file[1]} has changed"
    return f"{name} was {old!r} and is now {new!r}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read too, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
