"""What listing and scoring a catalogue of one-token items costs beside reading the prompts.

    python benchmarks/single_tokens.py

Eight layers of SmolLM2-135M with 12,000 new tokens, one an item, and prompts as long as the histories of Amazon Beauty (10 tokens on
average, few of 50). Reading the prompts is the model without its head; what comes on top is the head, the softmax over the
catalogue and the selection.

lists     the best 20 of 256 users, in batches of like length, 128 at most, as a system's lists are made
scores    all scores of 128 users at once in the order in which they come, as a hybrid asks for them: in one batch, and in batches of
          like length
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import save, timed

from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue
from llmrec.decoding.packed import PackedPrompts
from llmrec.decoding.trie import CompiledTrie
from llmrec.models import load_model
from llmrec.new_rows import make_room
from llmrec.tensors import batches_by_length, tokens_per_pass

ITEMS, AT_ONCE = 12_000, 128


def read(model: Any, prompts: list[np.ndarray], batches: list[np.ndarray]) -> None:
    """Put prompts through the model without its head, padded on the left."""
    for rows in batches:
        width = max(len(prompts[r]) for r in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for place, r in enumerate(rows):
            ids[place, width - len(prompts[r]) :] = torch.as_tensor(prompts[r])
        with torch.inference_mode():
            model.model(input_ids=ids, attention_mask=(ids > 0).long(), use_cache=True)


def main() -> None:
    """Run the benchmark."""
    model = load_model("smollm2-135m", keep_layers=8).eval()
    first = model.config.vocab_size
    make_room(model, first + ITEMS)
    trie = CompiledTrie.from_sequences([(first + item,) for item in range(ITEMS)])
    rng = np.random.default_rng(0)
    lengths = np.clip(4 + rng.geometric(0.22, 2 * AT_ONCE), 5, 50)
    lengths[:AT_ONCE:32] = 50
    prompts = [rng.integers(first, first + ITEMS, n) for n in lengths]
    seen = [np.unique(p - first) for p in prompts]
    few = prompts[:AT_ONCE]
    per_batch = tokens_per_pass(model.device)
    sorted_ = list(batches_by_length(prompts, AT_ONCE, per_batch=per_batch))
    alike = list(batches_by_length(few, AT_ONCE, per_batch=per_batch))

    def lists() -> None:
        for rows in sorted_:
            beam_search(model, trie, [prompts[r] for r in rows], 20, width=20, exclude=[seen[r] for r in rows], normalisation="catalogue")  # fmt: skip

    def scores(batches: list[np.ndarray]) -> None:
        for rows in batches:
            score_catalogue(model, trie, [few[r] for r in rows], normalisation="catalogue")

    sides = {
        "lists: reading": lambda: read(model, prompts, sorted_),
        "lists: reading and the head": lambda: [
            PackedPrompts(model, [prompts[r] for r in rows]) for rows in sorted_
        ],
        "lists": lists,
        "scores: reading, in one batch": lambda: read(model, few, [np.arange(AT_ONCE)]),
        "scores: in one batch": lambda: scores([np.arange(AT_ONCE)]),
        "scores: reading": lambda: read(model, few, alike),
        "scores": lambda: scores(alike),
    }
    with torch.inference_mode():
        seconds = timed(sides, rounds=3)
    ratios = {
        "lists over reading": seconds["lists"] / seconds["lists: reading"],
        "scores over reading": seconds["scores"] / seconds["scores: reading"],
        "scores in one batch over batches of like length": seconds["scores: in one batch"]
        / seconds["scores"],
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    shape = {"items": ITEMS, "layers": 8, "tokens": int(lengths.sum()), "batches of like length": len(alike)}
    save("single_tokens", {**shape, "seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()
