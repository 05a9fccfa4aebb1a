"""The fine-tuned model as a whole checkpoint, with everything that decodes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.gguf import without_progress_bars
from llmrec.identifiers.files import write_identifiers
from llmrec.pipeline.adapter import merged_model
from llmrec.pipeline.parts import LanguageParts

__all__ = ["trie_made_for", "write_checkpoint"]

TRIE = Path("items") / "trie.safetensors"


def trie_made_for(catalog: Catalog, parts: LanguageParts) -> dict[str, str]:
    """Return what a run's trie belongs to, see :func:`llmrec.decoding.trie_file.save_trie`."""
    from llmrec.identifiers.base import tokenizer_fingerprint

    return {
        "catalogue": catalog.fingerprint,
        "tokenizer": tokenizer_fingerprint(parts.tokenizer),
        "identifiers": parts.identifiers.scheme,
    }


def write_checkpoint(config: RunConfig, catalog: Catalog, parts: LanguageParts, folder: Path) -> None:
    """Write merged weights, the tokenizer, and ``items/`` with identifiers and trie into an empty folder."""
    from llmrec.decoding.trie_file import save_trie

    model: Any = merged_model(config, parts, whole=True)
    with without_progress_bars():
        model.save_pretrained(str(folder))
    parts.tokenizer.save_pretrained(str(folder))
    # In a folder of their own: vLLM takes every *.safetensors beside the weights for weights.
    (folder / TRIE).parent.mkdir()
    write_identifiers(folder / TRIE.parent, parts.identifiers, catalog, {})
    save_trie(parts.trie, folder / TRIE, trie_made_for(catalog, parts))
