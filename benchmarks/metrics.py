"""What do all metrics of many users cost? ``evaluate`` on 1M users, lists of 100, 100k items, in time and memory.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/metrics.py

Made-up data of the real thing's shape: item popularity is Zipf's, histories have 20 events on average, and each item has one
to three of 20 genres. Ranking metrics, list metrics and checks at cutoffs 1, 5, 10, 20 and 50, then the slices. They run in a
process of their own that loads nothing else, so its peak memory is theirs and the data's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import Recommendations
from llmrec.eval.evaluate import evaluate
from llmrec.eval.slices import user_slices

KS = (1, 5, 10, 20, 50)
N_GENRES = 20
_TARGET = {"seconds": 10.0, "gib": 4.0}


def make(folder: Path, users: int, items: int, k: int) -> None:
    """Write the arrays of one evaluation."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, items // k + 1)
    cumulated = np.cumsum(weights / weights.sum())

    def zipf(size: tuple[int, ...]) -> np.ndarray:
        return np.minimum(np.searchsorted(cumulated, rng.random(size)), items // k - 1)

    lists = np.empty((users, k), dtype=np.int32)
    for start in range(0, users, 10_000):
        block = lists[start : start + 10_000]
        # Every place draws from items of its own, so no list holds an item twice; then places are shuffled.
        block[:] = k * zipf(block.shape) + rng.permuted(np.tile(np.arange(k), (len(block), 1)), axis=1)
    lengths = 1 + rng.poisson(19, users)
    events = int(lengths.sum())
    history = (k * zipf((events,)) + rng.integers(0, k, events)).astype(np.int32)
    targets = (k * zipf((users,)) + rng.integers(0, k, users)).astype(np.int32)
    hit = np.flatnonzero(rng.random(users) < 0.2)
    targets[hit] = lists[hit, rng.integers(0, k, len(hit))]
    arrays = {
        "lists": lists,
        "indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "history": history,
        "times": np.arange(events, dtype=np.int64) * 100,
        "targets": targets,
        "counts": np.bincount(history, minlength=items),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def measure(folder: Path) -> dict[str, Any]:
    """Evaluate the arrays of ``folder`` and return seconds, memory and a few means."""
    a = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    users, items = len(a["lists"]), len(a["counts"])
    rng = np.random.default_rng(1)
    names = tuple(f"i{i}" for i in range(items))
    genres = tuple(
        "|".join(f"g{g}" for g in row[:n])
        for row, n in zip(
            rng.integers(0, N_GENRES, (items, 3)).tolist(), rng.integers(1, 4, items).tolist(), strict=True
        )
    )
    catalog = Catalog(names, names, {"genres": genres})
    ids = tuple(f"u{u}" for u in range(users))
    later = a["times"][a["indptr"][1:] - 1] + rng.integers(0, 10**7, users)
    holdout = Holdout(Histories(ids, a["indptr"], a["history"], a["times"]), a["targets"], later)
    scores = np.tile(-np.arange(a["lists"].shape[1], dtype=np.float64), (users, 1))
    recs = Recommendations("made-up", ids, a["lists"], scores)
    facts: dict[str, Any] = dict.fromkeys(Protocol.__dataclass_fields__, 0)
    protocol = Protocol(
        **facts | {"dataset": "made-up", "exclude_seen": False, "items": items, "users": users}
    )
    before = peak()
    started, busy = time.perf_counter(), time.process_time()
    evaluation = evaluate(recs, holdout, a["counts"], catalog, protocol, KS)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    after = peak()
    started = time.perf_counter()
    user_slices(holdout, a["counts"])
    return {
        "evaluate_seconds": seconds,
        "evaluate_cpu_seconds": busy,  # of all threads; what is left of the wall clock went to other programs
        "slices_seconds": time.perf_counter() - started,
        "peak_gib_of_the_data": before,
        "peak_gib_after_evaluate": after,
        "peak_gib": peak(),
        "metrics": len(evaluation.means),
        "means@10": {m: v for m, v in evaluation.means.items() if m.endswith("@10")},
        "checks": dict(evaluation.checks),
    }


def peak() -> float:
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--length", type=int, default=100, help="of the lists")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return

    from common import save  # brings torch, which the measured process is to be without

    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.users, arguments.items, arguments.length)
        command = [sys.executable, __file__, "--measure", folder]
        rounds = []
        for _ in range(arguments.rounds):
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rounds.append(found)
            print(
                f"{found['metrics']} metrics of {arguments.users:,} users: {found['evaluate_seconds']:.1f} s "
                f"({found['evaluate_cpu_seconds']:.1f} s of them on the processor), slices "
                f"{found['slices_seconds']:.1f} s, peak {found['peak_gib']:.2f} GiB "
                f"({found['peak_gib_of_the_data']:.2f} GiB for the data)"
            )
    best = min(rounds, key=lambda found: found["evaluate_seconds"])
    save(
        "metrics",
        {
            "users": arguments.users,
            "items": arguments.items,
            "list_length": arguments.length,
            "cutoffs": KS,
            "target": _TARGET,
            "evaluate_seconds_of_all_rounds": [found["evaluate_seconds"] for found in rounds],
            **best,
        },
    )


if __name__ == "__main__":
    main()
