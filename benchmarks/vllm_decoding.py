"""The vLLM backend beside the torch decoder: same lists, and users a second. SmolLM2-135M on the titles of MovieLens-100K.

    python benchmarks/vllm_decoding.py           (10 minutes on two cores)

For 100 random users (the last 20 films, beam 10, top 10, seen films excluded, float32): overlap of the lists, whether their order is
equal up to score ties of 1e-3, and whether every item is allowed. Both sides decode the same users one after the other; the engine's
start is not counted. The pretrained model is used as it is: nothing here depends on how good its lists are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import save
from decoding import K, Setting

from llmrec.decoding.beam import beam_search
from llmrec.decoding.vllm import vllm_beam_search
from llmrec.decoding.vllm_engine import prefix_cache_hit_rate, start_engine, stop_engine
from llmrec.models import resolve_model

WIDTH, EVENTS = 10, 20
TORCH_BATCH = 8
MADE_FOR = {"catalogue": "ml-100k titles"}


def order_equal(a: np.ndarray, b: np.ndarray, scores: np.ndarray) -> bool:
    """Say whether two lists differ only among items whose scores tie."""
    return all(
        abs(score - scores[other]) < 1e-3
        for rank, score in enumerate(scores)
        if a[rank] != b[rank]
        for other in ([int(np.flatnonzero(a == b[rank])[0])] if b[rank] in a else [len(scores) - 1])
    )


def main() -> None:
    """Decode on both sides, compare, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=100)
    users = parser.parse_args().users
    setting = Setting()
    prompts, seen = setting.users(users, EVENTS)
    results: dict[str, object] = {
        "users": users,
        "prompt_tokens": float(np.mean([len(p) for p in prompts])),
        "beam_width": WIDTH,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie.safetensors"
        setting.trie.save(path, MADE_FOR)
        engine = start_engine(
            resolve_model("smollm2-135m"), path, MADE_FOR, k=K, width=WIDTH, dtype="float32", max_model_len=1024,
            block_size=32, enforce_eager=True,
        )  # fmt: skip
        for normalisation in ("catalogue", "vocab"):
            options = {"width": WIDTH, "normalisation": normalisation}
            started = time.perf_counter()
            theirs = vllm_beam_search(engine, setting.trie, prompts, K, exclude=seen, **options)
            vllm_seconds = time.perf_counter() - started
            started = time.perf_counter()
            order = np.argsort([len(p) for p in prompts])
            items, scores = np.empty((users, K), np.int32), np.empty((users, K))
            for start in range(0, users, TORCH_BATCH):
                rows = order[start : start + TORCH_BATCH]
                found = beam_search(
                    setting.model, setting.trie, [prompts[r] for r in rows], K,
                    exclude=[seen[r] for r in rows], **options,
                )  # fmt: skip
                items[rows], scores[rows] = found.items, found.scores
            torch_seconds = time.perf_counter() - started
            results[normalisation] = {
                "overlap": float(
                    np.mean([len(set(a) & set(b)) / K for a, b in zip(items, theirs.items, strict=True)])
                ),
                "order equal up to ties": float(
                    np.mean([order_equal(*z) for z in zip(items, theirs.items, scores, strict=True)])
                ),
                "largest difference of scores": float(np.abs(scores - theirs.scores).max()),
                "valid": float(
                    np.mean(
                        [
                            len(set(b)) == K and min(b) >= 0 and not set(b) & set(s.tolist())
                            for b, s in zip(theirs.items.tolist(), seen, strict=True)
                        ]
                    )
                ),
                "users/s vllm": users / vllm_seconds,
                "users/s torch": users / torch_seconds,
            }
            print(normalisation, results[normalisation], flush=True)
        results["prefix cache hit rate"] = prefix_cache_hit_rate(engine)
        stop_engine(engine)
    save("vllm_decoding", results)


if __name__ == "__main__":
    main()
