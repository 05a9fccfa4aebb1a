"""A vLLM engine that knows a trie: how it is started, asked and stopped.

The only module, with those of the processors and of the search, that imports vllm, and it does so when it is called.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import ConfigError, LlmrecError, nearest

__all__ = [
    "children_asked",
    "generate",
    "prefix_cache_hit_rate",
    "start_engine",
    "stop_engine",
    "walk_is_over",
]


def start_engine(
    model: str | Path,
    trie: Path,
    made_for: Mapping[str, str],
    *,
    k: int,
    width: int,
    until_certified: bool = False,
    **options: Any,
) -> Any:
    """Start a vLLM engine that knows a trie.

    Parameters
    ----------
    model
        A model directory or hub id.
    trie, made_for
        A file that ``CompiledTrie.save`` wrote, and what it was made for.
    k, width, until_certified
        Largest values of the searches to come.
    **options
        More for ``vllm.LLM``: ``dtype``, ``max_model_len``, ``enable_lora``, ...

    Returns
    -------
    vllm.LLM

    Raises
    ------
    ConfigError
        vLLM is not installed, or has not enough memory.
    TrieError
        The trie is damaged, or was made for something else.
    """
    compiled = CompiledTrie.load(trie, made_for)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # An engine in a process of its own outlives a parent that is killed, and keeps its memory (vllm-project/vllm#55510); a
    # job that is killed is to be able to start again.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        from vllm import LLM, EngineArgs
    except ImportError as error:
        raise ConfigError(
            f"The vLLM backend needs the package vllm, which cannot be imported: {error}. Expected it to be installed: pip "
            "install 'llmrec[gpu]' on a machine with a GPU; docs/vllm.md says how on a CPU."
        ) from error
    known = [field.name for field in dataclasses.fields(EngineArgs)]
    if unknown := [f"{name}{nearest(name, known)}" for name in options if name not in known]:
        raise ConfigError(
            f"decoding.vllm has {', '.join(unknown)}, which this version of vLLM does not know. Expected arguments of its engine."
        )
    from vllm.platforms import current_platform

    from llmrec.decoding.vllm_processors import TRIE_KEY

    if current_platform.is_cpu():
        # vLLM's 0.92 is meant for a GPU of its own; of a machine's memory others use much, this process included.
        options.setdefault("gpu_memory_utilization", 0.4)
    settings: dict[str, Any] = {
        "model": str(model),
        "logprobs_mode": "processed_logits",
        "max_logprobs": int(
            max(
                children_asked(compiled, np.arange(compiled.n_nodes), k, width, until_certified).max(),
                2 * width,
            )
        ),
        "enable_prefix_caching": True,
        # Most requests are a single step; and the processors must see every token before the next.
        "async_scheduling": False,
        "disable_log_stats": False,
        "use_tqdm_on_load": False,
        "additional_config": {TRIE_KEY: {"path": str(trie), "made_for": dict(made_for)}},
        **options,
    }
    if settings.get("tensor_parallel_size", 1) > 1:
        # Whoever has asked PyTorch for a GPU cannot fork, and to know the machine's GPUs is to have asked.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        newer = EngineArgs(**settings).create_engine_config().use_v2_model_runner
        name = "TrieProcessorV2" if newer else "TrieProcessorV1"
        return LLM(**settings, logits_processors=[f"llmrec.decoding.vllm_processors:{name}"])
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"The vLLM engine did not start: {said} Expected a model that vLLM serves and memory for it and its cache: "
            "lower max_model_len, max_num_seqs or gpu_memory_utilization in decoding.vllm."
        ) from error


def stop_engine(engine: Any) -> None:
    """End the engine's processes and give its memory back."""
    engine.llm_engine.engine_core.shutdown()


def prefix_cache_hit_rate(engine: Any) -> float | None:
    """Return the share of prompt tokens that were in the prefix cache, since the engine was started."""
    counts = {m.name: getattr(m, "value", 0) for m in engine.get_metrics()}
    asked = counts.get("vllm:prefix_cache_queries", 0)
    return counts.get("vllm:prefix_cache_hits", 0) / asked if asked else None


def generate(engine: Any, prompts: list[Any], params: list[Any], lora_request: Any) -> list[Any]:
    """Return the outputs of ``LLM.generate``; what may go wrong becomes a message that says what to do."""
    import torch
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        outputs: list[Any] = engine.generate(prompts, params, use_tqdm=False, lora_request=lora_request)
    except (EngineDeadError, MemoryError, torch.OutOfMemoryError) as error:
        raise LlmrecError(
            f"The vLLM engine died: {' '.join(str(error).split())} Expected it to run on: where memory ran out, lower "
            "max_num_seqs or gpu_memory_utilization in decoding.vllm, and the same command goes on from the last shard."
        ) from error
    except ValueError as error:
        raise LlmrecError(f"vLLM refused a request: {error} Set what it names in decoding.vllm.") from error
    return outputs


def walk_is_over(trie: CompiledTrie, nodes: NDArray[np.integer], normalisation: str) -> NDArray[np.bool_]:
    """Say below which nodes nothing is left to be scored [n]: leaves, and over the catalogue what has one end only."""
    return trie.decided[nodes] if normalisation == "catalogue" else trie.is_leaf(nodes)


def children_asked(
    trie: CompiledTrie, nodes: NDArray[np.int64], k: int, width: int, all_children: bool
) -> NDArray[np.int64]:
    """Return how many of the best children of each node to ask for, at least 1 [n].

    Where all children are whole items the best ``k`` are enough, and ``width`` where all are prefixes. Where they are mixed,
    as a title is among its sequels, a low item may still be kept beside better prefixes: all. And so where items share
    identifiers, since these are ranked by their share of the probability.
    """
    edges = trie.edges(nodes)
    leaves = np.add.reduceat(np.append(trie.is_leaf(edges.nodes), False).astype(np.int64), edges.offsets[:-1])
    children = np.diff(edges.offsets)
    leaves[children == 0] = 0  # reduceat gives an empty range its first value
    limit = np.where(leaves == children, k, np.where(leaves == 0, width, children))
    every = all_children or trie.shares_leaves
    return np.maximum(children if every else np.minimum(children, limit), 1)
