"""The stage that fine-tunes the language model."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.pipeline.adapter import adapter_meta
from llmrec.pipeline.artefacts import read_json, whole_folder, write_json, write_text
from llmrec.pipeline.identifiers_stage import new_token_start
from llmrec.pipeline.keys import finetune_key
from llmrec.pipeline.memory import peak_memory, reset_peak_memory
from llmrec.pipeline.model_card import model_card
from llmrec.pipeline.parts import language_parts, load_language_model
from llmrec.pipeline.recommend_stage import chosen_users, collaborative_vectors, run_identifiers, soft_targets
from llmrec.pipeline.training_bar import training_bar
from llmrec.progress import clock, say

__all__ = ["finetune_stage", "is_main_process"]


def finetune_stage(config: RunConfig, split: Split, catalog: Catalog) -> None:
    """Fine-tune the language model and write its adapter in PEFT's own format."""
    folder = config.output / "adapter"
    key = finetune_key(config)
    if folder.is_dir():
        adapter_meta(folder, key)
        return
    from llmrec.finetune.lora import whole_adapter
    from llmrec.recommenders.llm import LLMRecommender

    def vectors() -> NDArray[np.float32]:
        return collaborative_vectors(config, split, catalog)

    identifiers = run_identifiers(config, split, catalog)
    parts = language_parts(config, split, catalog, identifiers)
    checkpoints = config.output / ".work" / "finetune"
    if is_main_process():
        _same_work(checkpoints, key)
    model = load_language_model(config, tokens=parts.vocabulary, training=True)
    parameters = model.num_parameters()
    start = new_token_start(model, config, catalog, parts, vectors)
    taught = soft_targets(config, split, catalog)
    users = chosen_users(config, split, catalog)
    reset_peak_memory()
    started = time.monotonic()
    with training_bar() as on_step:
        llm = LLMRecommender(
            model,
            parts.verbalizer,
            parts.trie,
            finetune=config.finetune,
            decoding=config.decoding,
            new_tokens=start,
            soft_targets=taught,
            users=users,
            checkpoints=checkpoints / "checkpoints",
            logs=config.output / "logs",
            seed=config.seed,
            on_step=on_step,
        )
        llm.fit(split)
    # What was done before a kill is no cheaper for that.
    seconds = max(time.monotonic() - started, sum(step["seconds"] for step in llm.history_))
    weights = whole_adapter(llm.model)
    if not is_main_process():
        return
    totals = {n: int(sum(e[n] for e in llm.history_)) for n in ("tokens", "padded_tokens", "targets")}
    meta = {
        "key": key,
        "log": llm.history_,
        "validations": llm.validations_,
        "best_step": llm.best_step_,
        "counts": {**totals, "epochs": llm.history_[-1]["epoch"] if llm.history_ else 0.0},
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "parameters": parameters,
        "trainable_parameters": llm.trained_parameters_,
        "changed_titles": {catalog.item_ids[i]: identifiers.texts[i] for i in identifiers.changed}
        if identifiers.scheme == "title"
        else {},
    }
    with whole_folder(folder) as work:
        # Rows of new tokens are in the adapter; PEFT would add the whole matrices that were made larger for them.
        llm.model.save_pretrained(str(work), save_embedding_layers=False, state_dict=weights)
        write_json(work / "llmrec.json", meta)
        write_text(
            work / "README.md",
            model_card(config, split.protocol, parts, meta),
        )
    shutil.rmtree(checkpoints, ignore_errors=True)
    if not llm.history_:
        say("Nothing was trained, as finetune.epochs says: the adapter is what it started from.")
        return
    say(
        f"Fine-tuned in {clock(seconds)}: {totals['targets']:,} next items, {totals['tokens']:,} tokens "
        f"({totals['targets'] / seconds:,.0f} and {totals['tokens'] / seconds:,.0f} a second), "
        f"{1 - totals['tokens'] / totals['padded_tokens']:.1%} padding; loss {llm.history_[0]['loss']:.2f} to "
        f"{llm.history_[-1]['loss']:.2f} nats per item{_best_words(config, meta)}."
    )


def _best_words(config: RunConfig, meta: dict[str, Any]) -> str:
    if not meta["validations"]:
        return ""
    metric = config.finetune.validation.metric
    best = next(v for v in meta["validations"] if v["step"] == meta["best_step"])
    return f"; kept step {meta['best_step']} with a validation {metric} of {best[metric]:.4f}"


def _same_work(folder: Path, key: dict[str, Any]) -> None:
    """Take up what a killed run left behind only if it was on the way to the same artefact."""
    note = folder / "key.json"
    if note.is_file() and read_json(note) == json.loads(json.dumps(key)):
        say("Going on from the last checkpoint of an interrupted run.")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(note, key)


def is_main_process() -> bool:
    """Say whether this is the only process, or the first of several that accelerate launched."""
    return int(os.environ.get("RANK", "0")) == 0
