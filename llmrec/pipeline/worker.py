"""One copy of the fine-tuned model that makes the lists of a batch job, shard by shard."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import Recommendations
from llmrec.errors import PromptError
from llmrec.pipeline.decoder import open_decoder
from llmrec.pipeline.parts import LanguageParts
from llmrec.pipeline.shards import Shard
from llmrec.recommenders.llm import LLMRecommender

__all__ = ["COUNTS", "Worker"]

COUNTS = ("users", "prompt_tokens", "beam_tokens", "certified", "seconds")
"""What is counted of each shard; seconds are those of decoding."""


class Worker:
    """Makes shards; the model is loaded for the first one.

    Parameters
    ----------
    k
        Length of the lists.
    """

    def __init__(self, config: RunConfig, catalog: Catalog, parts: LanguageParts, k: int) -> None:
        self.config, self.catalog, self.parts, self.k = config, catalog, parts, k
        self._open = ExitStack()

    @cached_property
    def _decoder(self) -> LLMRecommender:
        return self._open.enter_context(open_decoder(self.config, self.catalog, self.parts, k=self.k))

    def close(self) -> None:
        """Give the model's memory back."""
        self._open.close()

    def make(self, shard: Shard) -> dict[str, Any]:
        """Write a shard's lists and return what is noted with them: ``rejects``, ``counts``, ``prefix_cache_hit_rate``."""
        reasons = [self._reason(shard, row) for row in range(len(shard.histories))]
        fine = np.array([row for row, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        recs = Recommendations("llm", (), np.empty((0, self.k), np.int32), np.empty((0, self.k)))
        counts: dict[str, float] = dict.fromkeys(COUNTS, 0)
        hit_rate = None
        if len(fine):
            decoder = self._decoder
            started = time.monotonic()
            recs = decoder.recommend(
                shard.histories[fine], self.k, exclude_seen=self.config.split.exclude_seen
            )
            counts = {
                "users": len(fine),
                "prompt_tokens": decoder.prompt_tokens_,
                "beam_tokens": decoder.beam_tokens_,
                "certified": int(decoder.certified_.sum()),
                "seconds": time.monotonic() - started,
            }
            hit_rate = getattr(decoder, "prefix_cache_hit_rate", None)
        rejects = [
            {"user_id": shard.histories.user_ids[row], "reason": reason}
            for row, reason in enumerate(reasons)
            if reason is not None
        ]
        noted = {"rejects": rejects, "counts": counts, "prefix_cache_hit_rate": hit_rate}
        return shard.write(recs, self.catalog, noted)

    def _reason(self, shard: Shard, row: int) -> str | None:
        """Return why a user can get no list."""
        history = shard.histories[row]
        if history.user_id in shard.unknown:
            return f"item {shard.unknown[history.user_id]!r} is not in the catalogue that the model was trained on"
        if self.config.split.exclude_seen and len(np.unique(history.items)) == len(self.catalog):
            return "the history holds every item of the catalogue"
        try:
            self.parts.verbalizer.prompt(history)
        except PromptError as error:
            return str(error)
        return None
