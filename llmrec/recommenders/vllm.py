"""The language model as a recommender, decoded by a vLLM engine instead of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.free import Scored
from llmrec.decoding.search import BeamResult
from llmrec.decoding.vllm import vllm_beam_search, vllm_free_search
from llmrec.decoding.vllm_engine import prefix_cache_hit_rate
from llmrec.recommenders.llm import LLMRecommender
from llmrec.tensors import batches_by_length

__all__ = ["VllmRecommender"]

_USERS = 512  # of a round of requests; the engine makes batches of them as memory allows


class VllmRecommender(LLMRecommender):
    """An :class:`~llmrec.recommenders.llm.LLMRecommender` whose model is an engine; it recommends and does not train.

    Parameters
    ----------
    model
        What :func:`llmrec.decoding.vllm_engine.start_engine` returned, for the same trie.
    lora_request
        The adapter to serve, as ``vllm.lora.request.LoRARequest``; ``None`` where it is merged.
    """

    def __init__(self, model: Any, *arguments: Any, lora_request: Any = None, **options: Any) -> None:
        super().__init__(model, *arguments, **options)
        self.lora_request = lora_request

    @property
    def prefix_cache_hit_rate(self) -> float | None:
        """Share of prompt tokens that were in the engine's prefix cache so far."""
        return prefix_cache_hit_rate(self.model)

    def batches(self, prompts: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of prompts that the engine gets together; it pads nothing."""
        return batches_by_length(prompts, _USERS)

    def _beam_search(self, prompts: list[NDArray[np.int64]], k: int, **options: Any) -> BeamResult:
        return vllm_beam_search(self.model, self.trie, prompts, k, lora_request=self.lora_request, **options)

    def _free_search(self, prompts: list[NDArray[np.int64]], width: int) -> list[list[Scored]]:
        return vllm_free_search(self.model, prompts, width, lora_request=self.lora_request, **self._ends)
