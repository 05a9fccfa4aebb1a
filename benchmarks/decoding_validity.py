"""Is every output an allowed catalogue item, once? 10,000 random cases for each way to decode.

    python benchmarks/decoding_validity.py

A case is a user: a random catalogue (2 to 40 identifiers, some of them prefixes of others but for the end token), a
random prompt, random exclusions, width and list length, on tiny random models of the Llama, Qwen and GPT-2 families,
with both normalisations. Scores are compared with exact ones, and each certificate with the true best list; the exact
scores of one user of each catalogue are compared with one forward pass per item.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import save
from decoding_cases import END, FAMILIES, VOCAB, brute_force, generate, model_of

from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.scores import NORMALISATIONS
from llmrec.decoding.trie import CompiledTrie

USERS = 20  # of one catalogue


def cases(n: int) -> Iterator[dict[str, Any]]:
    """Yield batches of USERS cases until there are n."""
    rng = np.random.default_rng(0)
    for number in range(-(-n // USERS)):
        alphabet = rng.integers(1, 7)
        sequences = {
            (*map(int, rng.integers(2, 2 + alphabet, rng.integers(0, 6))), END)
            for _ in range(rng.integers(2, 41))
        }
        table = sorted(sequences | {(2, END)})
        rng.shuffle(table)
        width = int(rng.integers(1, len(table) + 3))
        yield {
            "model": model_of(list(FAMILIES)[number % len(FAMILIES)]),
            "normalisation": list(NORMALISATIONS)[number // len(FAMILIES) % len(NORMALISATIONS)],
            "sequences": [tuple(s) for s in table],
            "trie": CompiledTrie.from_sequences([tuple(s) for s in table]),
            "prompts": [rng.integers(2, VOCAB, rng.integers(1, 10)) for _ in range(USERS)],
            "exclude": [rng.permutation(len(table))[: rng.integers(0, len(table))] for _ in range(USERS)],
            "width": width,
            "k": int(rng.integers(1, width + 1)),
        }


def by_beam(c: dict[str, Any], **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items, scores, certificates."""
    found = beam_search(
        c["model"], c["trie"], c["prompts"], c["k"], width=c["width"], exclude=c["exclude"],
        normalisation=c["normalisation"], **options,
    )  # fmt: skip
    return found.items, found.scores, found.certified


def by_exact(c: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items, scores, certificates."""
    items, scores = top_items(c["true"], c["exclude"], c["k"])
    return items, scores, np.ones(USERS, bool)


def by_generate(c: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return items, scores, certificates."""
    items, scores = generate(
        c["model"], c["trie"], c["prompts"], max(2, c["width"]), c["k"], c["exclude"], c["normalisation"]
    )
    return items, scores, np.zeros(USERS, bool)


BACKENDS: dict[str, Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
    "beam": by_beam,
    "beam until certified": lambda c: by_beam(c, until_certified=True),
    "exact": by_exact,
    "generate with TrieLogitsProcessor": by_generate,
}


def check(
    c: dict[str, Any], items: np.ndarray, scores: np.ndarray, certified: np.ndarray
) -> dict[str, float]:
    """Count what went wrong."""
    counts = dict.fromkeys(("outside", "repeated", "excluded", "too_short", "false_certificates"), 0.0)
    counts["score_error"] = 0.0
    for row in range(USERS):
        got = items[row][items[row] >= 0]
        counts["outside"] += int((got >= c["trie"].n_items).sum())
        counts["repeated"] += len(got) - len(set(got))
        counts["excluded"] += int(np.isin(got, c["exclude"][row]).sum())
        counts["too_short"] += len(got) < min(c["k"], c["trie"].n_items - len(c["exclude"][row]))
        counts["score_error"] = max(
            counts["score_error"], np.abs(scores[row, : len(got)] - c["true"][row, got]).max(initial=0)
        )
        best = np.sort(np.delete(c["true"][row], c["exclude"][row]))[::-1][: len(got)]
        counts["false_certificates"] += (
            bool(certified[row]) and np.abs(scores[row, : len(got)] - best).max() > 1e-4
        )
    return counts


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="for each backend")
    arguments = parser.parse_args()
    totals: dict[str, dict[str, float]] = {
        name: {"cases": 0, "recommendations": 0, "certified": 0, "seconds": 0.0} for name in BACKENDS
    }
    gap = 0.0
    for c in cases(arguments.cases):
        c["true"] = score_catalogue(
            c["model"], c["trie"], c["prompts"], normalisation=c["normalisation"]
        ).scores
        by_hand = brute_force(c["model"], c["sequences"], c["prompts"][0], c["normalisation"])
        gap = max(gap, float(np.abs(c["true"][0] - by_hand).max()))
        for name, backend in BACKENDS.items():
            total, started = totals[name], time.perf_counter()
            items, scores, certified = backend(c)
            total["seconds"] += time.perf_counter() - started
            total["cases"] += USERS
            total["recommendations"] += int((items >= 0).sum())
            total["certified"] += int(certified.sum())
            for key, value in check(c, items, scores, certified).items():
                total[key] = (
                    max(total.get(key, 0), value) if key == "score_error" else total.get(key, 0) + value
                )
    for name, total in totals.items():
        print(
            f"{name}: "
            + ", ".join(f"{k} {v:,.0f}" if v == int(v) else f"{k} {v:.2g}" for k, v in total.items())
        )
    print(f"exact scores and one forward pass per item differ by {gap:.1e} at most")
    save("decoding_validity", {"backends": totals, "largest_difference_from_brute_force": gap})
    faults = ("outside", "repeated", "excluded", "too_short", "false_certificates")
    if gap > 1e-4 or any(total[f] for total in totals.values() for f in faults):
        raise SystemExit("There are faults.")


if __name__ == "__main__":
    main()
