"""What does decoding in a catalogue cost, and how often is it exact? SmolLM2-135M on the titles of MovieLens-100K.

    python benchmarks/decoding.py [speed] [overhead] [exact] [certificates]      # all four if none is named

speed         beam search of transformers' ``generate`` (20 beams, length penalty 0, never stopping early, the same
              constraint through ``TrieLogitsProcessor``) beside ours, at prompts of 500 tokens and more: the same lists
              when ours drops finished items as it does, better ones when it does not
overhead      share of a decode step that is not the model: trie, softmax, exclusions, selection
exact         all titles of the catalogue scored for one user, in tokens that go through the model beside one forward
              pass per title; a sample of titles is checked against such passes
certificates  how often the top 10 is proven exact at widths 10, 20 and 50, what it costs, and what it costs to go on
              until it is proven

The pretrained model is used as it is, without an adapter: nothing here depends on how good its lists are.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import load_folder, save, timed
from decoding_cases import brute_force, generate

from llmrec.data.datasets import load_dataset
from llmrec.data.split import leave_one_out
from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.hf import TrieLogitsProcessor
from llmrec.decoding.trie import CompiledTrie
from llmrec.identifiers.title import title_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer

BEAMS, K = 20, 10


class Setting:
    """Model, catalogue and prompts.

    Parameters
    ----------
    data
        Folder with interactions.parquet (user_id, item_id, timestamp) and items.parquet (item_id, title); ml-100k if left
        out.
    template
        Of the prompts.
    """

    def __init__(self, data: Path | None = None, template: str = "films") -> None:
        if data is None:
            interactions, self.catalog = load_dataset("ml-100k", notify=print)
        else:
            loaded = load_folder(data)
            interactions, self.catalog = loaded.interactions, loaded.catalog
        self.split = leave_one_out(
            interactions,
            self.catalog,
            dataset="ml-100k" if data is None else data.name,
            short_histories="train",
        )
        self.template = template
        self.tokenizer, self.model = load_tokenizer("smollm2-135m"), load_model("smollm2-135m").eval()
        identifiers = title_identifiers(self.catalog, self.tokenizer)
        self.ids, self.end = identifiers.token_ids, identifiers.end_token_id
        self.trie = CompiledTrie.from_sequences(self.ids)

    def users(self, n: int, max_events: int, shortest: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return prompts of at least ``shortest`` tokens and seen items of n random users."""
        verbalizer = Verbalizer(
            load_template(self.template),
            self.tokenizer,
            self.catalog,
            self.ids,
            time="date",
            max_events=max_events,
        )
        prompts, seen = [], []
        for user in np.random.default_rng(0).permutation(len(self.split.test.histories)):
            history = self.split.test.histories[int(user)]
            prompt = verbalizer.prompt(history)
            if len(prompt) >= shortest:
                prompts.append(prompt)
                seen.append(history.items)
            if len(prompts) == n:
                break
        return prompts, seen


def speed(setting: Setting) -> dict[str, Any]:
    """Compare with generate."""
    prompts, seen = setting.users(4, max_events=90, shortest=500)
    print(f"speed: prompts of {[len(p) for p in prompts]} tokens, {BEAMS} beams, lists of {BEAMS}")
    rows = []
    for prompt, hidden in zip(prompts, seen, strict=True):
        kept: dict[str, Any] = {}

        def theirs(p: np.ndarray = prompt, h: np.ndarray = hidden, kept: dict[str, Any] = kept) -> None:
            items, scores = generate(setting.model, setting.trie, [p], BEAMS, BEAMS, [h], end=setting.end)
            kept["generate"] = items[0], scores[0]

        def search(
            like: bool, p: np.ndarray = prompt, h: np.ndarray = hidden, kept: dict[str, Any] = kept
        ) -> None:
            kept["llmrec, pruning alike" if like else "llmrec"] = beam_search(
                setting.model,
                setting.trie,
                [p],
                BEAMS,
                width=BEAMS,
                exclude=[h],
                prune_like_transformers=like,
            )

        seconds = timed(
            {
                "generate": theirs,
                "llmrec, pruning alike": lambda f=search: f(True),
                "llmrec": lambda f=search: f(False),
            },
            rounds=1,
        )
        items, scores = kept["generate"]
        alike, found = kept["llmrec, pruning alike"], kept["llmrec"]
        same = bool((items == alike.items[0]).all())
        gap = float(np.abs(scores - alike.scores[0]).max())
        gain = found.scores[0] - scores
        ratios = {name: seconds["generate"] / value for name, value in seconds.items()}
        print(
            f"  {len(prompt)} tokens: generate {seconds['generate']:.1f} s; llmrec pruning alike "
            f"{seconds['llmrec, pruning alike']:.2f} s ({ratios['llmrec, pruning alike']:.1f}x), same list: {same}, "
            f"largest difference of scores {gap:.1e}; llmrec {seconds['llmrec']:.2f} s ({ratios['llmrec']:.1f}x), scores "
            f"higher by {gain.mean():.2f} on average, never lower than by {max(0.0, -gain.min()):.0e}",
            flush=True,
        )
        rows.append(
            {
                "prompt_tokens": len(prompt), "seconds": seconds, "ratios": ratios, "same_items_and_order": same,
                "largest_score_difference": gap, "gain_of_not_dropping_finished_items": gain.tolist(),
            }
        )  # fmt: skip
    return {"users": rows}


def overhead(setting: Setting) -> dict[str, Any]:
    """Measure what is not the model."""
    clock = {"inside": 0.0, "since": 0.0}

    def enter(*_: Any) -> None:
        clock["since"] = time.perf_counter()

    def leave(*_: Any) -> None:
        clock["inside"] += time.perf_counter() - clock["since"]

    handles = [setting.model.register_forward_pre_hook(enter), setting.model.register_forward_hook(leave)]
    rows = []
    for max_events, normalisation in ((20, "vocab"), (20, "catalogue"), (90, "vocab")):
        prompts, seen = setting.users(8, max_events=max_events, shortest=6 * max_events)
        for prompt, hidden in zip(prompts, seen, strict=True):
            for _ in range(2):  # the first one only warms up
                clock.update(inside=0.0)
                started = time.perf_counter()
                found = beam_search(
                    setting.model, setting.trie, [prompt], BEAMS, width=BEAMS, exclude=[hidden],
                    normalisation=normalisation,
                )  # fmt: skip
                seconds = time.perf_counter() - started
            rows.append(
                {
                    "normalisation": normalisation, "prompt_tokens": len(prompt), "seconds": seconds,
                    "model_seconds": clock["inside"], "forward_passes": found.forward_passes,
                    "outside_model": 1 - clock["inside"] / seconds,
                }
            )  # fmt: skip
    for handle in handles:
        handle.remove()

    # One step of 20 beams: the processor beside the forward pass it constrains.
    prompts, seen = setting.users(1, max_events=20)
    ids = torch.as_tensor(prompts[0])[None].repeat(BEAMS, 1)
    with torch.inference_mode():
        cache = setting.model(ids, use_cache=True, logits_to_keep=1).past_key_values
        step = torch.full((BEAMS, 1), int(prompts[0][-1]))

        def forward() -> torch.Tensor:
            logits = setting.model(step, past_key_values=cache, use_cache=True).logits[:, -1]
            cache.crop(-1)
            return logits.log_softmax(-1)

        scores = forward()
        first = setting.trie.children(np.zeros(1, np.int64))[0][:BEAMS]
        sequences = torch.cat([ids, torch.as_tensor(first, dtype=torch.long)[:, None]], dim=1)
        processors = {
            "root": (
                TrieLogitsProcessor(setting.trie, ids.shape[1], setting.end, exclude=[seen[0]] * BEAMS),
                ids,
            ),
            "first token": (TrieLogitsProcessor(setting.trie, ids.shape[1], setting.end), sequences),
        }
        processors["first token"][0](ids, scores)
        calls = {name: (lambda p=p, s=s: p(s, scores)) for name, (p, s) in processors.items()}
        seconds = timed({"forward pass": forward, **calls}, rounds=25)
    shares = {name: seconds[name] / seconds["forward pass"] for name in calls}
    print("overhead: everything outside the model in our beam search, share of the time")
    for normalisation in ("vocab", "catalogue"):
        values = [r["outside_model"] for r in rows if r["normalisation"] == normalisation]
        print(
            f"  {normalisation}: median {np.median(values):.1%}, largest {max(values):.1%} of {len(values)} users"
        )
    print(
        f"  one step of {BEAMS} beams: forward pass {1e3 * seconds['forward pass']:.1f} ms; TrieLogitsProcessor "
        + ", ".join(f"{1e3 * seconds[n]:.2f} ms at the {n} ({s:.2%})" for n, s in shares.items())
    )
    return {"users": rows, "step_seconds": seconds, "processor_share_of_a_step": shares}


def exact(setting: Setting) -> dict[str, Any]:
    """Score the whole catalogue."""
    prompts, _ = setting.users(1, max_events=20)
    prompt = prompts[0]
    brute = sum(len(prompt) + len(i) - 1 for i in setting.ids)
    results: dict[str, Any] = {
        "prompt_tokens": len(prompt),
        "brute_force_tokens": brute,
        "items": len(setting.ids),
    }
    sample = np.random.default_rng(0).choice(len(setting.ids), 20, replace=False)
    for normalisation in ("vocab", "catalogue"):
        started = time.perf_counter()
        found = score_catalogue(setting.model, setting.trie, [prompt], normalisation=normalisation)
        seconds = time.perf_counter() - started
        tokens = len(prompt) + found.fed_tokens
        results[normalisation] = {
            "tokens": tokens, "ratio": brute / tokens, "seconds": seconds, "probability": np.exp(found.scores).sum(),
        }  # fmt: skip
        print(
            f"exact, {normalisation}: {len(setting.ids):,} titles in {tokens:,} tokens and {seconds:.1f} s; one forward "
            f"pass per title takes {brute:,} tokens, {brute / tokens:.0f}x; probabilities sum to "
            f"{np.exp(found.scores).sum():.6f}"
        )
        if normalisation == "vocab":
            by_hand = brute_force(setting.model, [setting.ids[i] for i in sample], prompt, normalisation)
            gap = float(np.abs(by_hand - found.scores[0, sample]).max())
            print(f"  largest difference from one forward pass, {len(sample)} titles: {gap:.1e}")
            results["largest_difference_from_brute_force"] = gap
    return results


def certificates(setting: Setting, n_users: int) -> dict[str, Any]:
    """Count certificates, and check them against exact scores."""
    prompts, seen = setting.users(n_users, max_events=20)
    order = np.argsort([len(p) for p in prompts])
    batches = [order[start : start + 8] for start in range(0, len(order), 8)]
    rows = []
    for normalisation in ("catalogue", "vocab"):
        for width, until in ((10, False), (20, False), (50, False), (20, True)):
            started = time.perf_counter()
            certified, tokens, items = [], 0, []
            for batch in batches:
                found = beam_search(
                    setting.model, setting.trie, [prompts[u] for u in batch], K, width=width,
                    exclude=[seen[u] for u in batch], normalisation=normalisation, until_certified=until,
                )  # fmt: skip
                certified += found.certified.tolist()
                items += found.items.tolist()
                tokens += found.beam_tokens
            seconds = (time.perf_counter() - started) / n_users
            rows.append(
                {
                    "normalisation": normalisation, "width": width, "until_certified": until,
                    "certified": float(np.mean(certified)), "tokens_per_user": tokens / n_users,
                    "seconds_per_user": seconds, "items": items,
                }
            )  # fmt: skip
            print(
                f"certificates, {normalisation}, width {width}{' and on' if until else ''}: {np.mean(certified):.0%} of "
                f"{n_users} users, {tokens / n_users:.0f} tokens and {seconds:.2f} s per user",
                flush=True,
            )
        sure = np.array(rows[-1]["items"])
        for row in rows[-4:]:
            row["users_with_the_exact_list"] = float((np.array(row.pop("items")) == sure).all(axis=1).mean())
            print(
                f"  width {row['width']}: the exact list for {row['users_with_the_exact_list']:.0%} of users"
            )
    few = order[:3]
    true, _ = top_items(
        score_catalogue(
            setting.model, setting.trie, [prompts[u] for u in few], normalisation="catalogue"
        ).scores,
        [seen[u] for u in few],
        K,
    )
    found = beam_search(
        setting.model, setting.trie, [prompts[u] for u in few], K, width=K, exclude=[seen[u] for u in few],
        normalisation="catalogue", until_certified=True,
    )  # fmt: skip
    print(
        f"  until certified is what the exact scorer says, {len(few)} users: {bool((true == found.items).all())}"
    )
    return {"users": n_users, "k": K, "rows": rows}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", help="speed, overhead, exact, certificates; all if left out")
    parser.add_argument("--users", type=int, default=64, help="users of the certificates")
    arguments = parser.parse_args()
    setting = Setting()
    parts = {
        "speed": speed,
        "overhead": overhead,
        "exact": exact,
        "certificates": lambda s: certificates(s, arguments.users),
    }
    unknown = set(arguments.parts) - set(parts)
    if unknown:
        parser.error(f"unknown parts {sorted(unknown)}; expected some of {', '.join(parts)}")
    kept = Path(__file__).parent / "results" / "decoding.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in arguments.parts or parts:
        results[name] = parts[name](setting)
    results.pop("machine", None)
    save("decoding", results)


if __name__ == "__main__":
    main()
