"""Users a second of our beam loop in vLLM, beside vLLM's own constrained beam search and the way of transformers.

    python benchmarks/vllm_peers.py [--users 32] [--limit 900]
    python benchmarks/vllm_peers.py --data FOLDER/amazon-beauty --template products --users 4

SmolLM2-135M in float32 on the titles of MovieLens-100K or of a data set of your own, beam 10, the last 20 items in the prompt,
nothing excluded. Sides, in one run:

llmrec            ``vllm_beam_search``, normalised over the vocabulary and over the catalogue
vLLM              ``LLM.beam_search`` with ``structured_outputs`` = a grammar that is the choice of the titles, in an engine of the
                  same settings
transformers      ``generate`` with ``prefix_allowed_tokens_fn`` that looks prefixes up in a dictionary

Every side gets all users at once, transformers one at a time and a quarter of them. If vLLM's does not finish within ``--limit``
seconds it is stopped, and the results say so. Every list is checked: how many of its places hold an item, and on
MovieLens-100K which share of the exact top 10 is in it (``until_certified`` under the vocabulary's normalisation, which all three
rank by). Kept in results/vllm_peers_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from common import save
from decoding import Setting

from llmrec.decoding.beam import beam_search
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.vllm import vllm_beam_search
from llmrec.decoding.vllm_engine import start_engine, stop_engine
from llmrec.models import resolve_model

K = WIDTH = 10
EVENTS = 20
ENGINE = {"dtype": "float32", "max_model_len": 1024, "block_size": 32, "enforce_eager": True}
MADE_FOR = {"catalogue": "ml-100k titles"}


def llmrec_side(setting: Setting, trie: CompiledTrie, prompts: list[np.ndarray]) -> dict[str, Any]:
    """Search with our loop."""
    sides = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie.safetensors"
        trie.save(path, MADE_FOR)
        engine = start_engine(resolve_model("smollm2-135m"), path, MADE_FOR, k=K, width=WIDTH, **ENGINE)
        vllm_beam_search(engine, trie, [np.arange(2, 40)], K, width=WIDTH)  # warm
        for normalisation in ("vocab", "catalogue"):
            started = time.perf_counter()
            found = vllm_beam_search(engine, trie, prompts, K, width=WIDTH, normalisation=normalisation)
            sides[f"llmrec, {normalisation}"] = {
                "users/s": len(prompts) / (time.perf_counter() - started),
                "items": found.items.tolist(),
            }
        stop_engine(engine)
    return sides


def grammar_of(titles: list[str]) -> str:
    """Return the choice of the titles as a grammar, which is what vLLM makes of it for other requests than a beam search."""
    quoted = " | ".join(json.dumps(title, ensure_ascii=False) for title in titles)
    return f"root ::= {quoted}"


def vllm_side(titles: list[str], prompts: list[list[int]], depth: int, results: Any) -> None:
    """Run vLLM's own search, in a process of its own, so that it can be stopped."""
    from vllm import LLM
    from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams

    engine = LLM(
        str(resolve_model("smollm2-135m")), enable_prefix_caching=True, gpu_memory_utilization=0.4,
        max_logprobs=2 * WIDTH, structured_outputs_config={"backend": "xgrammar"}, **ENGINE,
    )  # fmt: skip
    params = BeamSearchParams(
        beam_width=WIDTH, max_tokens=depth + 1, length_penalty=0.0,
        structured_outputs=StructuredOutputsParams(grammar=grammar_of(titles)),
    )  # fmt: skip
    results.put("ready")
    began = time.perf_counter()
    batch = [{"prompt_token_ids": p} for p in prompts]
    found = engine.beam_search(batch, params)
    seconds = time.perf_counter() - began
    results.put(
        (seconds, [[b.tokens[len(p) :] for b in o.sequences] for p, o in zip(prompts, found, strict=True)])
    )


def transformers_side(
    setting: Setting, trie: CompiledTrie, ids: list[tuple[int, ...]], prompts: list[np.ndarray]
) -> dict[str, Any]:
    """Search the usual way: with a function of the prefix."""
    following: dict[tuple[int, ...], list[int]] = defaultdict(set)
    for tokens in ids:
        for position in range(len(tokens)):
            following[tokens[:position]].add(tokens[position])
    allowed = {prefix: sorted(tokens) for prefix, tokens in following.items()}
    items, started = [], time.perf_counter()
    for prompt in prompts:
        length = len(prompt)

        def function(batch: int, tokens: torch.Tensor, length: int = length) -> list[int]:
            return allowed.get(tuple(tokens[length:].tolist()), [setting.end])

        with torch.inference_mode():
            found = setting.model.generate(
                torch.as_tensor(prompt)[None], attention_mask=torch.ones(1, length, dtype=torch.long),
                prefix_allowed_tokens_fn=function, num_beams=WIDTH, num_return_sequences=K, length_penalty=0.0,
                early_stopping="never", max_new_tokens=trie.depth, eos_token_id=setting.end, pad_token_id=0,
                do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=None,
            )  # fmt: skip
        items.append([item_of(trie, row, setting.end) for row in found[:, length:].tolist()])
    return {"users/s": len(prompts) / (time.perf_counter() - started), "items": items}


def item_of(trie: CompiledTrie, tokens: list[int], end: int) -> int:
    """Return the item that tokens write, -1 for none."""
    if end not in tokens:
        return -1
    node = np.array([0])
    for token in tokens[: tokens.index(end) + 1]:
        node = trie.try_advance(node, np.array([token]))
        if node[0] < 0:
            return -1
    return int(trie.items(int(node[0]))[0])


def run(setting: Setting, users: int, limit: float, with_exact: bool) -> dict[str, Any]:
    """Compare all sides."""
    ids, trie = setting.ids, setting.trie
    prompts, _ = setting.users(users, EVENTS)
    exact = None
    if with_exact:
        exact = beam_search(setting.model, trie, prompts, K, width=WIDTH, until_certified=True).items
    sides = llmrec_side(setting, trie, prompts)
    sides["transformers"] = transformers_side(setting, trie, ids, prompts[: max(4, users // 4)])

    # Texts are told apart by what they are, not by their tokens: the grammar also admits other spellings.
    texts = [setting.tokenizer.decode(list(t)) for t in ids]
    item_of_text = {text: item for item, text in enumerate(texts)}
    queue: Any = multiprocessing.get_context("spawn").Queue()
    arguments = (texts, [p.tolist() for p in prompts], trie.depth, queue)
    process = multiprocessing.get_context("spawn").Process(target=vllm_side, args=arguments)
    process.start()
    assert queue.get(timeout=600) == "ready"
    seconds, items = 0.0, []
    try:
        seconds, written = queue.get(timeout=limit)
    except Empty:
        print(f"vLLM did not finish {users} users in {limit:.0f} s", flush=True)
        process.kill()
    else:
        for tokens in written:
            decoded = [setting.tokenizer.decode(t, skip_special_tokens=True) for t in tokens]
            items.append([item_of_text.get(text, -1) for text in decoded])
    process.join()
    sides["vLLM"] = {"users/s": len(items) / seconds if seconds else None, "items": items}

    ours = sides["llmrec, vocab"]["users/s"]
    for name, side in sides.items():
        lists = side.pop("items")
        side["users"] = len(lists)
        side["places filled"] = float(np.mean([[i >= 0 for i in row] for row in lists])) if lists else None
        side["of the exact top 10"] = (
            float(np.mean([len(set(a) & set(b.tolist())) / K for a, b in zip(lists, exact, strict=False)]))
            if lists and exact is not None
            else None
        )
        if side["users/s"]:
            side["llmrec (vocab) is faster by"] = ours / side["users/s"]
        print(name, side, flush=True)
    return sides


def main() -> None:
    """Compare and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--template", default="films", help="of the prompts")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--limit", type=float, default=900, help="seconds for vLLM's side")
    arguments = parser.parse_args()
    setting = Setting(arguments.data, arguments.template)
    name = arguments.data.name if arguments.data else "ml-100k"
    about = {
        "titles": len(setting.catalog),
        "tokens_of_a_title": {
            "mean": float(np.mean([len(t) for t in setting.ids])), "most": setting.trie.depth,
        },
        "beam_width": WIDTH,
        "users": arguments.users,
    }  # fmt: skip
    save(
        f"vllm_peers_{name}",
        about | {"sides": run(setting, arguments.users, arguments.limit, arguments.data is None)},
    )


if __name__ == "__main__":
    main()
