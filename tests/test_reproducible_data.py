"""Same input, same output, byte for byte: whatever the number of threads and the order in which files are named."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

SCRIPT = """
import hashlib, sys
from pathlib import Path
from llmrec.data.load import load_data
from llmrec.data.split import leave_one_out
from llmrec.data.split_files import write_split
from llmrec.settings import Data
target = Path(sys.argv[1])
data = Data.model_validate({
    "interactions": sys.argv[2:], "items": "items.parquet", "columns": {"event": "kind"},
    "cleaning": {"min_user_events": 5, "min_item_events": 5, "unused_items": "drop", "latest": "2030-01-01"},
})
loaded = load_data(data, rejects=target / "rejects.parquet")
write_split(target, leave_one_out(loaded.interactions, loaded.catalog, dataset="x"), loaded.catalog)
for file in sorted(target.iterdir()):
    print(file.name, hashlib.sha256(file.read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four files, 60,000 events of 900 users: many ties, duplicates, rows without an id, and a time that is none."""
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    n = 60_000
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u}" if u else "" for u in rng.integers(0, 900, n)],
            "item_id": [f"i{i}" for i in np.minimum(rng.zipf(1.3, n), 500)],
            "timestamp": [str(1_600_000_000 + 86_400 * t) for t in rng.integers(0, 90, n)],
            "kind": rng.choice(["view", "buy"], n),
        }
    )
    frame[7, "timestamp"] = "never"
    for part in range(4):
        frame[part::4].write_csv(folder / f"log{part}.csv")
    pl.DataFrame(
        {"item_id": [f"i{i}" for i in range(1, 501)], "title": [f"Title {i}" for i in range(1, 501)]}
    ).write_parquet(folder / "items.parquet")
    return folder


def digests(folder, threads, names):
    target = folder / f"out-{threads}-{'-'.join(n.split('.')[0] for n in names)}"
    target.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(target), *names],
        cwd=folder,
        env={**os.environ, "POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_threads_and_the_order_of_files_decide_nothing(folder):
    names = [f"log{n}.csv" for n in range(4)]
    one = digests(folder, 1, names)
    assert one.count("\n") == 4
    assert digests(folder, 2, names) == one
    assert digests(folder, 5, names[::-1]) == one
