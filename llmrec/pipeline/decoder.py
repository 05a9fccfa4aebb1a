"""The fine-tuned model, ready to recommend: in torch, or in a vLLM engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.pipeline.adapter import check_fits, merged_model
from llmrec.pipeline.artefacts import check_key, read_json, whole_folder, write_json
from llmrec.pipeline.checkpoint import TRIE, trie_made_for, write_checkpoint
from llmrec.pipeline.keys import weights_key
from llmrec.pipeline.memory import free_memory
from llmrec.pipeline.parts import LanguageParts, pick_device
from llmrec.progress import say
from llmrec.recommenders.llm import LLMRecommender
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.registry import build_recommender

__all__ = ["knows_cold_items", "language_model_part", "make_servable", "open_decoder"]


def language_model_part(
    config: RunConfig, parts: LanguageParts, on_users: Callable[[int], None] | None = None
) -> LanguageModel:
    """Return the fine-tuned model of a run as other systems have it as a part."""
    key = json.dumps(weights_key(config), sort_keys=True)
    return LanguageModel(
        lambda: LLMRecommender(
            merged_model(config, parts),
            parts.verbalizer,
            parts.trie,
            finetune=config.finetune,
            decoding=config.decoding,
        ),
        hashlib.sha256(key.encode()).hexdigest()[:32],
        knows_cold_items(config),
        on_users,
    )


def knows_cold_items(config: RunConfig) -> bool:
    """Say whether the model has learned something of items without training events: from titles, or from a teacher that knows them."""
    scheme, vectors = config.identifiers.scheme, config.identifiers.vectors
    teacher = config.finetune.distillation.teacher
    if scheme == "token":
        taught = teacher is not None and build_recommender(teacher, config.systems[teacher]).knows_cold_items
        return taught or config.finetune.negatives == "warm"
    return scheme == "title" or (scheme == "semantic" and vectors != "collaborative")


@contextmanager
def open_decoder(
    config: RunConfig,
    catalog: Catalog,
    parts: LanguageParts,
    *,
    name: str = "llm",
    k: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[LLMRecommender]:
    """Yield the fine-tuned model of a run as a recommender for lists of up to ``k``; an engine is stopped afterwards."""
    common: dict[str, Any] = {
        "finetune": config.finetune,
        "decoding": config.decoding,
        "name": name,
        "on_progress": on_progress,
    }
    if config.decoding.backend == "torch":
        yield LLMRecommender(merged_model(config, parts), parts.verbalizer, parts.trie, **common)
        return
    from llmrec.decoding.vllm_engine import start_engine, stop_engine
    from llmrec.recommenders.vllm import VllmRecommender

    model, trie, adapter = make_servable(config, catalog, parts)
    free_memory()  # for the engine, which may be another process
    options: dict[str, Any] = {"dtype": _dtype(config), **config.decoding.vllm}
    if adapter is not None:
        rank = read_json(adapter / "adapter_config.json")["r"]
        options |= {"enable_lora": True, "max_lora_rank": next((r for r in _RANKS if r >= rank), rank)}
    say("Starting vLLM.")
    engine = start_engine(
        model,
        trie,
        trie_made_for(catalog, parts),
        k=k,
        width=max(config.decoding.beam_width, k),
        until_certified=config.decoding.until_certified,
        trust_remote_code=config.model.trust_remote_code,
        **options,
    )
    request = None
    if adapter is not None:
        from vllm.lora.request import LoRARequest  # only now is it known that vLLM is installed

        request = LoRARequest("adapter", 1, str(adapter))
    try:
        yield VllmRecommender(engine, parts.verbalizer, parts.trie, lora_request=request, **common)
    finally:
        stop_engine(engine)


_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes


def make_servable(
    config: RunConfig, catalog: Catalog, parts: LanguageParts
) -> tuple[Path | str, Path, Path | None]:
    """Write what vLLM reads; return the model, the trie's file, and the adapter where it is served as one.

    vLLM serves no adapter with new tokens, and a pruned or quantised base model is nowhere on the disk: these are merged, once.
    """
    from llmrec.decoding.trie_file import save_trie
    from llmrec.models import resolve_model

    if parts.new_tokens is None and config.model.keep_layers is None and config.model.quantize == "none":
        trie = config.output / ".work" / "vllm" / "trie.safetensors"
        trie.parent.mkdir(parents=True, exist_ok=True)
        save_trie(parts.trie, trie, trie_made_for(catalog, parts))
        check_fits(config)
        return resolve_model(config.model.name), trie, config.output / "adapter"
    folder, key = config.output / "merged", weights_key(config)
    if folder.is_dir():
        check_key(folder, read_json(folder / "llmrec.json")["key"], key)
    else:
        say(f"Merging the adapter into its base model, once, for vLLM: {folder}")
        with whole_folder(folder) as work:
            write_checkpoint(config, catalog, parts, work)
            write_json(work / "llmrec.json", {"key": key})
    return folder, folder / TRIE, None


def _dtype(config: RunConfig) -> str:
    if config.model.dtype != "auto":
        return config.model.dtype
    return "float32" if pick_device(config.model.device) == "cpu" else "bfloat16"
