"""Where every user's next item stood, kept beside a table of docs/results: what is needed to test it again, or to add trainings to it.

    python benchmarks/ranks.py docs/results/ranks/ml-100k-fusion.json --baseline two_sasrecs
    python benchmarks/ranks.py FILE [FILE ...] --systems fused llm --metric hr@10

table.py writes these files. They name neither users nor items, since not every log's licence lets them be passed on: users are in the order of their ids, and what
they were asked is there as a digest. Trainings of a system with the same settings are pooled, from all files; one that is in several of them is counted once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data.protocol import Protocol
from llmrec.errors import ConfigError, LlmrecError, nearest
from llmrec.eval.compare import Comparison, compare
from llmrec.eval.evaluate import Evaluation
from llmrec.eval.files import read_evaluation
from llmrec.eval.words import interval_text, metric_label, number, p_text, percent
from llmrec.pipeline.keys import own_settings


def digest(content: Any) -> str:
    """Return what tells a JSON-ready value from others."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def keep(runs: Iterable[Path], path: Path, made: dict[str, Any]) -> None:
    """Write the ranks of all systems of some runs; 0 is a target that is not in the list."""
    trainings = []
    for run in runs:
        for file in sorted((run / "evaluation").glob("*.json")):
            found = read_evaluation(file.parent, file.stem)
            order = sorted(range(len(found)), key=found.user_ids.__getitem__)
            trainings.append(
                {
                    "system": re.sub(r"\.seed\d+$", "", found.system),  # a further training's file
                    "seed": found.meta.get("seed"),
                    "run": run.name,
                    "settings": digest(own_settings(found.meta["key"]) if "key" in found.meta else run.name),
                    "questions": digest([(found.user_ids[row], found.target_items[row]) for row in order]),
                    "protocol": found.protocol.to_dict(),
                    "k": found.k_max,
                    "ranks": np.nan_to_num(found.target_ranks[order]).astype(int).tolist(),
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(training) for training in trainings)
    path.write_text(f'{{"made": {json.dumps(made)},\n"trainings": [\n{lines}\n]}}\n', encoding="utf-8")


def pooled(paths: Sequence[Path], systems: Sequence[str] = ()) -> list[Evaluation]:
    """Return the trainings of some files, each once; systems of one name and other settings are told apart by their first run.

    Raises
    ------
    ConfigError
        One of ``systems`` is in none of the files.
    """
    names: dict[tuple[str, str], str] = {}  # (system, settings) -> name
    seen: set[tuple[str, str]] = set()  # (name, ranks)
    found: list[Evaluation] = []
    trainings = [it for path in paths for it in json.loads(path.read_text(encoding="utf-8"))["trainings"]]
    for it in trainings:
        system, settings = it["system"], it["settings"]
        if (system, settings) not in names:
            labels = (system, f"{system} ({it['run']})", f"{system} ({settings})")
            names[system, settings] = next(label for label in labels if label not in names.values())
    known = sorted({name for (system, _), label in names.items() for name in (system, label)})
    if unknown := [f"{name!r}{nearest(name, known)}" for name in systems if name not in known]:
        raise ConfigError(f"No file has {', '.join(unknown)}. Expected some of {', '.join(known)}.")
    for it in trainings:
        name = names[it["system"], it["settings"]]
        if systems and it["system"] not in systems and name not in systems:
            continue
        if (name, key := digest(it["ranks"])) in seen:
            continue
        seen.add((name, key))
        ranks = np.array(it["ranks"], dtype=np.float64)
        ranks[ranks == 0] = np.nan
        found.append(
            Evaluation(
                system=name,
                user_ids=tuple(map(str, range(len(ranks)))),
                target_items=(it["questions"],) * len(ranks),
                target_ranks=ranks,
                k_max=it["k"],
                ks=(),
                protocol=Protocol(**it["protocol"]),
                means={},
                counts={},
                checks={},
                meta={"seed": sum(e.system == name for e in found)},  # files may have one seed twice
            )
        )
    return found


def table(comparison: Comparison) -> str:
    """Return the Markdown of the first metric."""
    metric = comparison.metrics[0]
    head = ["system", "trainings", metric_label(metric), f"beside {comparison.baseline}"]
    lines = [head, ["---"] * len(head)]
    for system in comparison.systems:
        means = comparison.seed_means(system, metric)
        spread = f" ({number(min(means))} to {number(max(means))})" if len(means) > 1 else ""
        beside = ""
        if system != comparison.baseline:
            it = comparison.differences[system][metric]
            beside = f"{percent(it.relative, sign=True)} ({interval_text(it.low, it.high)}), p {p_text(it.p)}, corrected {p_text(it.p_holm)}"
        lines.append([system, str(len(means)), number(np.mean(means)) + spread, beside])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Pool and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--baseline", default="sasrec")
    parser.add_argument(
        "--systems", nargs="+", help="beside the baseline; all if left out. The correction counts these"
    )
    parser.add_argument("--metric", default="ndcg@10")
    arguments = parser.parse_args()
    systems = [*arguments.systems, arguments.baseline] if arguments.systems else []
    try:
        print(table(compare(pooled(arguments.files, systems), arguments.baseline, [arguments.metric])))
    except (LlmrecError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
