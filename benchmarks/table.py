"""A table of docs/results: a suite with several seeds, pooled and compared; or variants of one, side by side.

    python benchmarks/table.py eval/ml-100k-fusion.yaml
    python benchmarks/table.py eval/ml-100k-fusion.yaml --name ml-100k-fusion-shuffled --set split.ties=shuffle --set split.seed=0

    python benchmarks/table.py benchmarks/ablations/selection.yaml --seeds 0
    python benchmarks/table.py eval/ml-100k-timed.yaml --name ml-100k-users --seeds 0 --set split.strategy=users --diagnose '--beside sasrec'

Each seed is a run of its own (`llmrec run`) in runs/NAME-seedN, or each seed of each variant in runs/NAME-VARIANT-seedN, and what is done there already is not done again; then `llmrec compare` makes one
comparison of them. Its Markdown and JSON are kept as docs/results/NAME.md and NAME.json, under the command, the commit and what the machine is.
The HTML report stays in runs/NAME. Where every user's target stood is kept as docs/results/ranks/NAME.json (ranks.py), to which trainings of another day can be added. Runs that were made on another machine are put into runs/ and compared with --made-on "one H100, commit abc1234".

A file of variants names a suite and, for each variant, the settings that are its own; the systems of all are compared, told apart by their runs:

    suite: eval/ml-100k-fusion.yaml
    set: [finetune.epochs=2]                   # of all of them
    variants:
      all: []
      a-tenth: [finetune.selection.share=0.1]

With ``source: [settings]`` another model is fine-tuned first, in runs/NAME-source-seedN, and is not compared; settings of variants name its folder as {source}.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from common import machine
from ranks import keep

ROOT = Path(__file__).parents[1]
SOURCE = "-source"  # of the run that is only there for the others


def llmrec(*arguments: str) -> None:
    """Run a command of the library, and stop where it fails."""
    done = subprocess.run([str(Path(sys.executable).parent / "llmrec"), *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def git(*arguments: str) -> str:
    """Return what git says."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def about() -> str:
    """Return what the figures depend on beside the code, in words."""
    it = machine()
    return f"{it['cuda'] + ' and ' if it['cuda'] else ''}{it['cores']} cores of {it['platform']}, torch {it['torch']}"


def shortened(report: str) -> str:
    """Return a report without what the command above it says already, the configs, and without the histories and lists of single users.

    Not every log's licence lets the latter be passed on.
    """
    report = re.sub(r"^### Users, side by side\n.*?(?=^#)", "", report, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<details><summary>Resolved config.*?</details>\n*", "", report, flags=re.DOTALL)


def variants_of(path: Path) -> tuple[Path, dict[str, list[str]]]:
    """Return a suite, and the settings of each of its variants by the end of its name; a suite by itself has one without a name."""
    content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "variants" not in content:
        return path, {"": []}
    shared = content.get("set", [])
    source = {SOURCE: content["source"]} if "source" in content else {}
    variants = source | {f"-{name}": own for name, own in content["variants"].items()}
    return ROOT / content["suite"], {name: [*shared, *own] for name, own in variants.items()}


def main() -> None:
    """Run, compare and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=Path, help="a config, or a file of variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", help="of the table; that of the suite's file if left out")
    parser.add_argument("--set", action="append", default=[], help="as of llmrec run")
    parser.add_argument(
        "--diagnose", metavar="OPTIONS", help="diagnose each run as well, with these of llmrec diagnose"
    )
    parser.add_argument("--subject", help="as of llmrec compare")
    parser.add_argument(
        "--baseline",
        help="as of llmrec compare; kept are the differences from it, as NAME-beside-BASELINE.json",
    )
    parser.add_argument("--with", dest="more", nargs="+", default=[], help="more runs to compare these with")
    parser.add_argument("--made-on", help="the runs are there already, made on this: only compare them")
    arguments = parser.parse_args()
    name = arguments.name or arguments.suite.stem
    began, commit = time.perf_counter(), git("rev-parse", "--short", "HEAD")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
    runs = []
    suite, variants = variants_of(arguments.suite)
    for variant, own in variants.items():
        for seed in arguments.seeds:
            run = f"runs/{name}{variant}-seed{seed}"
            settings = [s.replace("{source}", f"runs/{name}{SOURCE}-seed{seed}") for s in own]
            sets = [*settings, *arguments.set, f"seed={seed}", f"output={run}"]
            stages = [["prepare"], ["finetune"]] if variant == SOURCE else [["run"]]
            if arguments.diagnose is not None and variant != SOURCE:
                stages.append(["diagnose", *shlex.split(arguments.diagnose)])
            if arguments.made_on is None:
                for stage, *options in stages:
                    llmrec(stage, str(suite), *options, *(part for s in sets for part in ("--set", s)))
            if variant != SOURCE:
                runs.append(run)
    absent = [run for run in runs if not (ROOT / run).is_dir()] if arguments.made_on else []
    runs = [run for run in runs if run not in absent]
    beside = []
    if arguments.subject:
        beside += ["--subject", arguments.subject]
    if arguments.baseline:
        beside += ["--baseline", arguments.baseline]
        # A system of one variant is called "sasrec (runs-name)".
        name += "-beside-" + re.sub(r"[^\w.-]+", "-", arguments.baseline).strip("-")
    llmrec("compare", *runs, *arguments.more, "--output", f"runs/{name}", *beside)
    command = [a for a in sys.argv[1:] if a not in ("--made-on", arguments.made_on)]
    made = {"command": shlex.join(["python", "benchmarks/table.py", *command])}
    if arguments.made_on is None:
        made |= {
            "commit": commit + (" and changes that were not committed" if changed else ""),
            "seconds": round(time.perf_counter() - began),
            "machine": about(),
        }
    else:
        made["made on"] = arguments.made_on + (f"; not made: {', '.join(absent)}" if absent else "")
    results = ROOT / "docs" / "results"
    results.mkdir(exist_ok=True)
    where = (
        f"commit {made['commit']}, {made['seconds']} s (what was done before not counted) on {made['machine']}"
        if arguments.made_on is None
        else f"made on {made['made on']}"
    )
    head = (
        f"<!-- Written by {made['command']}: change that, not this. -->\n\n`{made['command']}`, {where}.\n\n"
    )
    found = json.loads((ROOT / "runs" / name / "report.json").read_text())
    if arguments.baseline:
        # Of the same lists as the table without it: what is different.
        systems = {
            system: {"differences": it.get("differences", {})} for system, it in found["systems"].items()
        }
        found = {"baseline": found["baseline"], "summary": found["summary"], "systems": systems}
    else:
        report = (ROOT / "runs" / name / "report.md").read_text()
        (results / f"{name}.md").write_text(head + shortened(report))
        keep([ROOT / run for run in runs], results / "ranks" / f"{name}.json", made)
    (results / f"{name}.json").write_text(json.dumps({**made, **found}, indent=1) + "\n")
    print(f"kept in docs/results as {name}")


if __name__ == "__main__":
    main()
