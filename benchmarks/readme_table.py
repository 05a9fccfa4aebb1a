"""The table of results in the README, from the files in docs/results.

    python benchmarks/readme_table.py            # writes it anew between its two marks
    python benchmarks/readme_table.py --check    # fails if the README has another one

Each column is a table of docs/results, with what made it and where below. Losses and wins alike.
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

# The file, what it is of, and the fusion without a language model there.
TABLES = (
    ("ml-100k-fusion", "MovieLens-100K, leave-one-out, ties in source order", "sasrec_svd"),
    ("ml-100k-fusion-shuffled", "the same, ties shuffled", "sasrec_svd"),
    ("ml-100k-timed-shuffled", "the same, LLM and SASRec told the times", "sasrec_svd"),
    ("ml-100k-fusion-temporal", "MovieLens-100K, one cut in time for all", "sasrec_svd"),
    ("amazon-beauty-fusion", "Amazon Beauty, leave-one-out, ties in source order", "sasrec_content"),
    ("amazon-beauty-fusion-shuffled", "Amazon Beauty, leave-one-out, ties shuffled", "sasrec_content"),
    ("amazon-beauty-cold", "Amazon Beauty, one cut in time for all", "sasrec_content"),
)
COLLABORATIVE = ("sasrec", "svd", "ease", "itemknn", "popularity")
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


def against(system: dict[str, Any] | None) -> str:
    """Return a system's difference from the baseline of its file, with the interval and the corrected p-value."""
    if system is None or METRIC not in system.get("differences", {}):
        return ""
    it = system["differences"][METRIC]
    p, corrected = (
        "< .001" if it[name] < 0.001 else "= " + f"{it[name]:.3f}".replace("0.", ".", 1)
        for name in ("p", "p_holm")
    )
    return f"{it['relative']:+.1%} ({digits(it['low'], True)} to {digits(it['high'], True)}; p {p}, corrected {corrected})"


def new_items(found: dict[str, Any], systems: tuple[str, ...]) -> str:
    """Return the best HR@10 of some systems among users whose target has no training event, and how many users that is."""
    for group in found["slices"]:
        if group["label"].startswith("Cold:"):
            rates = [group["others"]["hr@10"][s] for s in systems if s in group["others"]["hr@10"]]
            return f"{digits(max(rates))} ({group['users']:,} users)" if rates else ""
    return "none asked"


def column(name: str, about: str, without: str) -> tuple[list[str], str]:
    """Return the cells of a table of docs/results, and what made it."""
    path = ROOT / "docs" / "results" / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    systems = found["systems"]

    def beside(baseline: str) -> dict[str, Any]:
        file = path.with_name(f"{name}-beside-{baseline}.json")
        return json.loads(file.read_text(encoding="utf-8"))["systems"] if file.is_file() else {}

    seeds = len(systems["llm"]["seeds"])
    cells = [
        f"[{about}](docs/results/{name}.md)",
        f"{found['users']:,}, {seeds} of each",
        *(cell(systems.get(s)) for s in ("llm", "sasrec", "fused", "two_sasrecs", without, "all_three")),
        against(systems["llm"]),
        against(systems.get("fused")),
        against(beside("two_sasrecs").get("fused")),
        against(beside(without).get("fused")),
        against(beside(without).get("all_three")),
        *(
            new_items(found, it)
            for it in (
                ("llm",),
                ("llm_adjusted",),
                COLLABORATIVE,
                ("content",),
                ("content_adjusted",),
                ("fused", "all_three", "llm_content"),
            )
        ),
    ]
    made = found.get("made on") or f"{found['machine']}, commit {found['commit']}"
    return cells, f"* {about}: `{found['command']}`; {made}."


def table() -> str:
    """Return the Markdown."""
    found = [column(*it) for it in TABLES if (ROOT / "docs" / "results" / f"{it[0]}.json").is_file()]
    head = [
        "NDCG@10",
        "users, trainings",
        "LLM",
        "SASRec",
        "LLM and SASRec fused",
        "two SASRecs fused",
        "SASRec fused with SVD, or with TF-IDF of titles on Beauty",
        "that and the LLM",
        "LLM beside SASRec",
        "LLM and SASRec beside SASRec",
        "LLM and SASRec beside two SASRecs",
        "LLM and SASRec beside the fusion without it",
        "that fusion with the LLM beside the same without",
        "HR@10 where the target is new: LLM",
        "LLM, adjusted for histories with new items",
        "the best that knows events only",
        "TF-IDF of titles",
        "TF-IDF of titles, adjusted alike",
        "the best fusion with the LLM",
    ]
    rows = [list(row) for row in zip(head, *(cells for cells, _ in found), strict=True)]
    rows.insert(1, ["---"] * len(rows[0]))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(made for _, made in found)])


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
