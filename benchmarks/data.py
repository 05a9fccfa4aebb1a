"""Time and memory from a parquet log to written histories, at growing sizes.

    python benchmarks/data.py                       # 1M, 5M and 25M events; 5 minutes
    python benchmarks/data.py --millions 100        # once, needs 8 GB of disk

Generated logs: 156 events a user on average (25M events are 160,000 users), items drawn from a Zipf law over a catalogue of 100,000,
text ids, times in seconds over three years, rows in order of time, 1% of the rows sent twice. Each size is read, cleaned,
cut to its 5-core, split by leave-one-out and written, by the code of `llmrec prepare` in a process of its own; generating is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from common import save

ITEMS = 100_000
PER_USER = 156.25
START, SECONDS = 1_600_000_000, 3 * 365 * 86_400
CHUNK = 1_000_000


def generate(folder: Path, events: int) -> None:
    """Write a log and a catalogue."""
    rng = np.random.default_rng(0)
    users = round(events / PER_USER)
    weights = 1 / np.arange(1, ITEMS + 1)
    cumulative = np.cumsum(weights) / weights.sum()
    # Activity is uneven too: half of the users are far below the mean.
    activity = np.cumsum(rng.lognormal(0, 1, users))
    activity /= activity[-1]
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(folder / "log.parquet", schema, compression="zstd") as writer:
        for start in range(0, events, CHUNK):
            n = min(CHUNK, events - start)
            when = (
                np.sort(rng.integers(start * SECONDS // events, (start + n) * SECONDS // events, n)) + START
            )
            user = activity.searchsorted(rng.random(n))
            item = cumulative.searchsorted(rng.random(n))
            again = rng.random(n) < 0.01
            again[0] = False
            source = np.where(again, np.arange(n) - 1, np.arange(n))
            frame = pl.DataFrame({"u": user[source], "i": item[source], "timestamp": when[source]}).select(
                pl.format("user-{}", pl.col("u").cast(pl.String).str.zfill(7)).alias("user_id"),
                pl.format("sku{}", pl.col("i").cast(pl.String).str.zfill(6)).alias("item_id"),
                "timestamp",
            )
            writer.write_table(frame.to_arrow().cast(schema))
    pl.DataFrame(
        {"item_id": [f"sku{i:06d}" for i in range(ITEMS)], "title": [f"Article {i}" for i in range(ITEMS)]}
    ).write_parquet(folder / "items.parquet")


def measure(folder: Path) -> None:
    """Do what 'llmrec prepare' does, and print what it took as JSON."""
    from llmrec.data.load import load_data
    from llmrec.data.split import leave_one_out
    from llmrec.data.split_files import write_split
    from llmrec.settings import Data

    data = Data.model_validate(
        {
            "interactions": str(folder / "log.parquet"),
            "items": str(folder / "items.parquet"),
            "cleaning": {"min_user_events": 5, "min_item_events": 5, "unused_items": "drop"},
        }
    )
    marks = [("start", time.perf_counter())]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = load_data(data, rejects=folder / "rejects.parquet", notify=lambda line: None)
    marks.append(("load, clean and 5-core", time.perf_counter()))
    split = leave_one_out(loaded.interactions, loaded.catalog, dataset="generated")
    marks.append(("split", time.perf_counter()))
    target = folder / "split"
    target.mkdir()
    write_split(target, split, loaded.catalog)
    marks.append(("write", time.perf_counter()))
    seconds = {name: round(b - a, 2) for (_, a), (name, b) in itertools.pairwise(marks)}
    print(
        json.dumps(
            {
                "seconds": seconds,
                "total_seconds": round(marks[-1][1] - marks[0][1], 2),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
                "imports_gib": round(before / 2**20, 3),
                "events_kept": split.protocol.interactions,
                "users": split.protocol.all_users,
                "items": split.protocol.items,
                "ledger": {s.step: s.removed for s in loaded.ledger.steps if s.removed},
            }
        )
    )


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 25])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        measure(arguments.folder)
        return
    found = {}
    for millions in arguments.millions:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            events = round(millions * 1e6)
            generate(folder, events)
            command = [sys.executable, __file__, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found[f"{millions:g}M"] = result = json.loads(done.stdout)
            result["bytes_a_row"] = round((result["peak_gib"] - result["imports_gib"]) * 2**30 / events)
            result["seconds_a_million"] = round(result["total_seconds"] / millions, 3)
            print(f"{millions:g}M events: {result}")
    size = "_".join(found) if len(found) < 3 else "sizes"
    save(f"data_{size}", {"sizes": found})


if __name__ == "__main__":
    main()
