"""A fine-tuned model in one folder, for programs that know nothing of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmrec.config_file import load_config
from llmrec.errors import ArtefactError
from llmrec.pipeline.adapter import adapter_digest, adapter_meta
from llmrec.pipeline.artefacts import read_json, whole_folder, write_text
from llmrec.pipeline.checkpoint import write_checkpoint
from llmrec.pipeline.keys import finetune_key
from llmrec.pipeline.model_card import model_card
from llmrec.pipeline.parts import language_parts
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.progress import say

__all__ = ["export"]


def export(config_path: Path, overrides: Sequence[str], output: Path) -> None:
    """Merge a run's adapter into its base model and write what transformers and vLLM load.

    Beside weights, tokenizer and a model card the folder has ``items/`` with the identifiers and the compiled trie.

    Raises
    ------
    ArtefactError
        There is no adapter yet, or something is in ``output`` already.
    """
    config = load_config(config_path, overrides)
    trained = adapter_meta(config.output / "adapter", finetune_key(config))
    if output.exists():
        raise ArtefactError(
            f"There is something at {str(output)!r} already. Expected a folder that is not there yet."
        )
    split, catalog = prepare(config)
    identifiers = run_identifiers(config, split, catalog)
    parts = language_parts(config, split, catalog, identifiers)
    name = config.served_system
    measured = None if name is None else config.output / "evaluation" / f"{name}.json"
    evaluated = read_json(measured) if measured is not None and measured.is_file() else {}
    # Those of an adapter that was there before say nothing of this one.
    ours = evaluated.get("meta", {}).get("adapter") == adapter_digest(config.output / "adapter")
    means = evaluated.get("means", {}) if ours else {}
    with whole_folder(output) as work:
        write_checkpoint(config, catalog, parts, work)
        card = model_card(config, split.protocol, parts, trained, merged=True, measured=means)
        write_text(work / "README.md", card)
    say(f"Wrote the merged model, its tokenizer, identifiers and trie to {output}.")
