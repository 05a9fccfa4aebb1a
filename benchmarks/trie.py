"""What does the trie cost? A catalogue of 1M items with four codes of 256 values each, in a vocabulary of 152k.

    python benchmarks/trie.py

Build, size, ``advance`` and ``children`` for 20 beams, and the whole logits processor for 512 rows beside transformers'
``PrefixConstrainedLogitsProcessor`` with the two ways of research code: a trie of nested dicts that is walked for each
row (as in LC-Rec), and a dict from prefixes to allowed tokens (as in MiniOneRec). Both sides return the same scores
[512, 152064], which is checked. Times are medians, and the sides take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import save, timed
from transformers import PrefixConstrainedLogitsProcessor

from llmrec.decoding.hf import TrieLogitsProcessor
from llmrec.decoding.trie import CompiledTrie

VOCABULARY, FIRST_CODE = 152_064, 150_000  # Qwen2.5's padded vocabulary; codes take the ids at its end
LEVELS, CODES = 4, 256
BEAMS, ROWS, USERS = 20, 512, 32


def catalogue(n_items: int) -> np.ndarray:
    """Return distinct random codes, every level with token ids of its own [N, 4]."""
    rng = np.random.default_rng(0)
    numbers = rng.choice(CODES**LEVELS, size=n_items, replace=False)
    codes = np.stack([numbers // CODES ** (LEVELS - 1 - level) % CODES for level in range(LEVELS)], axis=1)
    return codes + FIRST_CODE + CODES * np.arange(LEVELS)


def nested_dicts(sequences: list[list[int]]) -> dict[int, Any]:
    """Return a trie of dicts."""
    root: dict[int, Any] = {}
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
    return root


def walk_dicts(root: dict[int, Any]) -> Callable[[int, torch.Tensor], list[int]]:
    """Return a function that walks nested dicts from the root for each row."""

    def allowed(batch: int, ids: torch.Tensor) -> list[int]:
        node = root
        for token in ids.tolist()[1:]:
            node = node[token]
        return list(node)

    return allowed


def prefix_dict(sequences: list[list[int]]) -> Callable[[int, torch.Tensor], list[int]]:
    """Return a function that looks the allowed tokens up by the prefix as a text."""
    table: dict[str, dict[int, None]] = {}
    for sequence in sequences:
        for n in range(len(sequence)):
            table.setdefault("-".join(map(str, sequence[:n])), {})[sequence[n]] = None
    lists = {prefix: list(tokens) for prefix, tokens in table.items()}

    def allowed(batch: int, ids: torch.Tensor) -> list[int]:
        return lists["-".join(map(str, ids.tolist()[1:]))]

    return allowed


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    table = catalogue(arguments.items)
    build = []
    for _ in range(3):
        started = time.perf_counter()
        trie = CompiledTrie.from_sequences(table)
        build.append(time.perf_counter() - started)
    print(f"{trie.n_items:,} items, {trie.n_nodes:,} nodes")
    print(f"build, sort included     {np.median(build):.2f} s")
    print(f"size                     {trie.nbytes / 1e6:.2f} MB")
    results: dict[str, Any] = {
        "items": trie.n_items,
        "nodes": trie.n_nodes,
        "build_seconds": build,
        "nbytes": trie.nbytes,
        "levels": [],
    }

    rng = np.random.default_rng(1)
    print(f"{'tokens before':>13} {'children':>9}   {BEAMS} beams: advance, children (us)")
    for level in range(LEVELS):
        rows = rng.integers(0, trie.n_items, BEAMS)
        nodes = np.array([trie.walk(table[row, :level]) for row in rows])
        tokens = table[rows, level]
        seconds = timed(
            {
                "advance": lambda n=nodes, t=tokens: trie.advance(n, t),
                "children": lambda n=nodes: trie.children(n),
            },
            rounds=arguments.rounds,
            inner=500,
        )
        n_children = len(trie.children(nodes)[0])
        micro = {name: 1e6 * value for name, value in seconds.items()}
        print(f"{level:>13} {n_children:>9}   {micro['advance']:.1f} + {micro['children']:.1f}")
        results["levels"].append({"tokens_before": level, "children": n_children, "microseconds": micro})

    print("building the dicts of the other side ...")
    lists = table.tolist()
    started = time.perf_counter()
    dicts = walk_dicts(nested_dicts(lists))
    results["nested_dicts_build_seconds"] = time.perf_counter() - started
    started = time.perf_counter()
    prefixes = prefix_dict(lists)
    results["prefix_dict_build_seconds"] = time.perf_counter() - started
    print(
        f"build: nested dicts {results['nested_dicts_build_seconds']:.1f} s, prefix dict "
        f"{results['prefix_dict_build_seconds']:.1f} s"
    )
    torch.manual_seed(0)
    scores = torch.randn(ROWS, VOCABULARY).log_softmax(-1)
    theirs = {
        "nested dicts": PrefixConstrainedLogitsProcessor(dicts, ROWS // USERS),
        "prefix dict": PrefixConstrainedLogitsProcessor(prefixes, ROWS // USERS),
    }
    results["masks"] = []
    print(
        f"{'tokens before':>13} {'children':>9}   scores of {ROWS} rows (ms): compiled trie, nested dicts, prefix dict"
    )
    for level in range(LEVELS):
        rows = rng.integers(0, trie.n_items, ROWS)
        ids = torch.as_tensor(np.concatenate([np.zeros((ROWS, 1), np.int64), table[rows, :level]], axis=1))
        ours = TrieLogitsProcessor(trie, 1, 0)
        sides = {"compiled trie": ours, **theirs}
        expected = theirs["nested dicts"](ids, scores)
        if not all(torch.equal(side(ids, scores), expected) for side in sides.values()):
            raise SystemExit("The sides differ.")
        del expected
        calls = {name: (lambda s=side, i=ids: s(i, scores)) for name, side in sides.items()}
        seconds = timed(calls, rounds=arguments.rounds)
        n_children = int(np.diff(trie.children(ours._walk(ids[:, 1:].numpy(), rows))[1]).sum())
        print(
            f"{level:>13} {n_children:>9}   "
            + "  ".join(f"{1e3 * seconds[name]:8.2f}" for name in sides)
            + "   ratios "
            + ", ".join(f"{seconds[name] / seconds['compiled trie']:.0f}x" for name in theirs)
        )
        results["masks"].append(
            {
                "tokens_before": level,
                "children": n_children,
                "milliseconds": {n: 1e3 * s for n, s in seconds.items()},
            }
        )
    whole = {
        name: sum(m["milliseconds"][name] for m in results["masks"]) for name in ("compiled trie", *theirs)
    }
    results["ratios_over_an_identifier"] = {n: whole[n] / whole["compiled trie"] for n in theirs}
    for name, ratio in results["ratios_over_an_identifier"].items():
        print(f"a whole identifier: {name} take {ratio:.0f} times as long as the compiled trie")
    save("trie", results)


if __name__ == "__main__":
    main()
