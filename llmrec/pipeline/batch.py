"""The nightly job: lists for every user of a file of histories, in shards, with rejects."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache as cache_once
from pathlib import Path
from typing import Any

import numpy as np

from llmrec import cache
from llmrec.config_file import load_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.recommendations import Recommendations
from llmrec.data.sources import read_histories
from llmrec.errors import ConfigError, PromptError
from llmrec.pipeline.adapter import adapter_meta
from llmrec.pipeline.artefacts import locked, write_json, write_text
from llmrec.pipeline.decoder import open_decoder
from llmrec.pipeline.keys import decoding_key, finetune_key
from llmrec.pipeline.parts import language_parts
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.pipeline.shards import in_shards
from llmrec.progress import bar, clock, say
from llmrec.prompts.verbalize import Verbalizer
from llmrec.recommenders.llm import LLMRecommender

__all__ = ["recommend_file"]


def recommend_file(
    config_path: Path,
    overrides: Sequence[str],
    histories_path: Path,
    output: Path,
    *,
    k: int | None = None,
    shard_users: int = 1024,
) -> None:
    """Recommend to every user of a log with a run's fine-tuned model.

    Writes ``part-00000.parquet`` and so on, a shard of users each, as they are made; then ``rejects.jsonl``, one line for
    each user without a list, with the reason, and ``summary.json``, which says that the job is complete. Killed at any
    point, the same command goes on behind the last whole shard.

    Parameters
    ----------
    histories_path
        A log, with columns as the config names them. All events of a user are its history.
    k
        Length of the lists; ``evaluation.k`` if left out.
    shard_users
        Users of a shard.

    Raises
    ------
    LlmrecError
        There is no adapter yet, the log cannot be read, or ``output`` holds another job's lists.
    """
    config = load_config(config_path, overrides)
    k = config.evaluation.k if k is None else k
    if k < 1 or shard_users < 1:
        raise ConfigError(f"Got k={k} and {shard_users} users a shard. Expected 1 or more of both.")
    if config.prompt.target_time:
        raise ConfigError(
            "prompt.target_time is on, and nobody knows when the next event of a user is. Expected it off."
        )
    with locked(output):
        adapter_meta(config.output / "adapter", finetune_key(config))
        split, catalog = prepare(config)
        parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
        histories, unknown = read_histories(
            histories_path,
            config.data.columns.model_dump(),
            catalog,
            ties=config.split.ties,
            seed=config.seed,
        )
        key = {
            **finetune_key(config),
            "decoding": decoding_key(config),
            "k": k,
            "shard_users": shard_users,
            "histories": cache.sha256(histories_path),
        }
        job = _Job(parts.verbalizer, catalog, config.split.exclude_seen, k, unknown)
        started = time.monotonic()
        rejects: list[dict[str, str]] = []
        totals: dict[str, float] = {
            "users": 0,
            "prompt_tokens": 0,
            "beam_tokens": 0,
            "certified": 0,
            "seconds": 0.0,
        }
        with bar("Users", lambda: job.words) as progress, ExitStack() as stack:

            @cache_once  # a job that is complete needs no model
            def decoder() -> LLMRecommender:
                return stack.enter_context(open_decoder(config, catalog, parts, k=k))

            shards = in_shards(
                output, key, catalog, histories, shard_users, lambda part: job.make(decoder(), part)
            )
            for noted in shards:
                rejects += noted["rejects"]
                for name in totals:
                    totals[name] += noted["counts"][name]
                progress(int(totals["users"]) + len(rejects), len(histories))
        write_text(
            output / "rejects.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects)
        )
        write_json(
            output / "summary.json", {"histories": len(histories), "rejects": len(rejects), "k": k, **totals}
        )
    took = time.monotonic() - started
    say(
        f"Lists for {totals['users']:,} users in {output}, {clock(took)}; {len(rejects):,} users without one"
        f"{', see rejects.jsonl' if rejects else ''}."
    )


class _Job:
    """Makes a shard's lists."""

    def __init__(
        self, verbalizer: Verbalizer, catalog: Catalog, exclude_seen: bool, k: int, unknown: dict[str, str]
    ) -> None:
        self.verbalizer, self.catalog, self.exclude_seen, self.k = verbalizer, catalog, exclude_seen, k
        self.unknown = unknown
        self.words = ""

    def reason(self, histories: Histories, row: int) -> str | None:
        """Return why a user can get no list."""
        history = histories[row]
        if history.user_id in self.unknown:
            return f"item {self.unknown[history.user_id]!r} is not in the catalogue that the model was trained on"
        if self.exclude_seen and len(np.unique(history.items)) == len(self.catalog):
            return "the history holds every item of the catalogue"
        try:
            self.verbalizer.prompt(history)
        except PromptError as error:
            return str(error)
        return None

    def make(self, recommender: Any, histories: Histories) -> tuple[Recommendations, dict[str, Any]]:
        """Return the lists of those who can get one, and what to note."""
        started = time.monotonic()
        reasons = [self.reason(histories, row) for row in range(len(histories))]
        fine = np.array([row for row, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        recs = Recommendations(
            recommender.name, (), np.empty((0, self.k), np.int32), np.empty((0, self.k), np.float64)
        )
        counts: dict[str, float] = {
            "users": len(fine),
            "prompt_tokens": 0,
            "beam_tokens": 0,
            "certified": 0,
            "seconds": 0.0,
        }
        if len(fine):
            recs = recommender.recommend(histories[fine], self.k, exclude_seen=self.exclude_seen)
            counts |= {
                "prompt_tokens": recommender.prompt_tokens_,
                "beam_tokens": recommender.beam_tokens_,
                "certified": int(recommender.certified_.sum()),
            }
        counts["seconds"] = seconds = time.monotonic() - started
        tokens = counts["prompt_tokens"] + counts["beam_tokens"]
        self.words = (
            f"{len(fine) / seconds:,.1f} users/s, {tokens / seconds:,.0f} tokens/s{_hits(recommender)}"
        )
        rejects = [
            {"user_id": histories.user_ids[row], "reason": reason}
            for row, reason in enumerate(reasons)
            if reason is not None
        ]
        return recs, {"rejects": rejects, "counts": counts}


def _hits(recommender: Any) -> str:
    rate = getattr(recommender, "prefix_cache_hit_rate", None)
    return "" if rate is None else f", {rate:.0%} of prompt tokens from the prefix cache"
