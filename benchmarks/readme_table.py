"""The tables of results in the README, from the files in docs/results.

    python benchmarks/readme_table.py            # writes it anew between its two marks
    python benchmarks/readme_table.py --check    # fails if the README has another one

Each row is a table of docs/results, with what made it and where below. Losses and wins alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- results: benchmarks/readme_table.py -->", "<!-- end of results -->"

# The file, what it is of, the fusion without a language model there, and the same with one, where it is not all_three: new items weighed alike.
TABLES = (
    ("ml-100k-fusion", "MovieLens-100K, ties in source order", "sasrec_svd"),
    ("ml-100k-fusion-shuffled", "MovieLens-100K, ties shuffled", "sasrec_svd"),
    ("ml-100k-timed", "MovieLens-100K, ties in source order, both told the times", "sasrec_svd"),
    ("ml-100k-gaps", "MovieLens-100K, ties in source order, SASRec told the times", "sasrec_svd"),
    ("ml-100k-gaps-shuffled", "MovieLens-100K, ties shuffled, SASRec told the times", "sasrec_svd"),
    ("ml-100k-timed-shuffled", "MovieLens-100K, ties shuffled, both told the times", "sasrec_svd"),
    ("ml-100k-fusion-temporal", "MovieLens-100K, one cut in time", "sasrec_svd"),
    ("amazon-beauty-fusion", "Amazon Beauty, ties in source order", "sasrec_content"),
    ("amazon-beauty-fusion-shuffled", "Amazon Beauty, ties shuffled", "sasrec_content"),
    ("amazon-beauty-cold", "Amazon Beauty, one cut in time", "sasrec_content", "all_three_in_full"),
)
WITHOUT = "SASRec and SVD (Beauty: titles)"
# Whose best rate among users with a new target is shown.
NEW = (
    ("LLM", ("llm",)),
    ("LLM, adjusted for histories with new items", ("llm_adjusted",)),
    ("the best that knows events only", ("sasrec", "svd", "ease", "itemknn", "popularity")),
    ("titles (TF-IDF)", ("content",)),
    ("titles, adjusted alike", ("content_adjusted",)),
    ("the best fusion with the LLM", ("fused", "all_three", "all_three_in_full", "llm_content")),
    ("the best fusion without it", ("two_sasrecs", "sasrec_svd", "sasrec_content", "teacher", "scored")),
)
FEW = 10  # users among whom a rate says nothing
METRIC = "ndcg@10"


def digits(value: float, signed: bool = False) -> str:
    """Return a number below 1 with four digits."""
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.replace("0.", ".", 1)


def cell(system: dict[str, Any] | None) -> str:
    """Return a system's NDCG@10 with its values by seed, where there are several."""
    if system is None:
        return ""
    seeds = system["seed_means"][METRIC]
    spread = f" ({digits(min(seeds))}-{digits(max(seeds))})" if len(seeds) > 1 else ""
    return digits(system["means"][METRIC]) + spread


def against(systems: dict[str, Any], name: str) -> str:
    """Return a system's difference from the baseline of its file, in bold where it is shown after the correction."""
    if METRIC not in systems.get(name, {}).get("differences", {}):
        return ""
    it = systems[name]["differences"][METRIC]
    corrected = it["p_holm"]
    p = "p < .001" if corrected < 0.001 else f"p = {corrected:.3f}".replace("0.", ".", 1)
    relative = f"{it['relative']:+.1%}"
    relative = f"**{relative}**" if corrected < 0.05 else relative
    return f"{relative} ({digits(it['low'], True)} to {digits(it['high'], True)}, {p})"


def new_items(found: dict[str, Any]) -> list[str]:
    """Return how many users have a target without a training event, and the HR@10 of systems among them, the best of each group."""
    groups = [group for group in found["slices"] if group["label"].startswith("Cold:")]
    if not groups or groups[0]["users"] < FEW:
        return []
    rates = groups[0]["others"]["hr@10"]
    best = [[rates[s] for s in systems if s in rates] for _, systems in NEW]
    return [f"{groups[0]['users']:,}", *(digits(max(some)) if some else "" for some in best)]


def rows(
    name: str, about: str, without: str, three: str = "all_three"
) -> tuple[list[str], list[str], list[str], str]:
    """Return a row of each table, and what made it; the last table has no row (empty) where hardly a target is new."""
    path = ROOT / "docs" / "results" / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    systems = found["systems"]

    def beside(baseline: str) -> dict[str, Any]:
        file = path.with_name(f"{name}-beside-{baseline}.json")
        return json.loads(file.read_text(encoding="utf-8"))["systems"] if file.is_file() else {}

    here = f"[{about}](docs/results/{name}.md)"
    asked = f"{found['users']:,}, {len(systems['llm']['seeds'])}"
    means = [cell(systems.get(s)) for s in ("llm", "sasrec", "fused", "two_sasrecs", without, three)]
    differences = [
        against(systems, "llm"),
        against(systems, "fused"),
        against(beside("two_sasrecs"), "fused"),
        against(beside(without), "fused"),
        against(beside(without), three),
    ]
    new = new_items(found)
    made = found.get("made on") or f"{found['machine']}, commit {found['commit']}"
    return (
        [here, asked, *means],
        [about, *differences],
        [about, *new] if new else [],
        f"* {about}: `{found['command']}`; {made}.",
    )


def markdown(head: list[str], body: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table() -> str:
    """Return the Markdown."""
    found = [rows(*it) for it in TABLES]
    means = [
        "NDCG@10",
        "users, trainings",
        "LLM",
        "SASRec",
        "LLM and SASRec",
        "two SASRecs",
        WITHOUT,
        "these two and the LLM",
    ]
    differences = [
        "difference",
        "LLM beside SASRec",
        "LLM and SASRec beside SASRec",
        "LLM and SASRec beside two SASRecs",
        f"LLM and SASRec beside {WITHOUT}",
        "all three beside the two without the LLM",
    ]
    new = ["HR@10 where the target is new", "such users", *(about for about, _ in NEW)]
    return "\n\n".join(
        [
            markdown(means, [it[0] for it in found]),
            markdown(differences, [it[1] for it in found]),
            markdown(new, [it[2] for it in found if it[2]]),
            "<details>\n<summary>The command of each, on what and at which commit it was run</summary>",
            "\n".join(it[3] for it in found),
            "</details>",
        ]
    )


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the README has another table"
    )
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    if arguments.check:
        if new != text:
            sys.exit(
                "The table of results in README.md is not that of docs/results. Expected: python benchmarks/readme_table.py"
            )
        return
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
