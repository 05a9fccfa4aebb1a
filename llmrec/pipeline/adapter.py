"""The adapter of a run, as later stages use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.errors import ArtefactError
from llmrec.pipeline.artefacts import check_key, read_json
from llmrec.pipeline.parts import LanguageParts, load_language_model
from llmrec.progress import say

__all__ = ["adapter_meta", "merged_model"]


def adapter_meta(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Return what the fine-tune stage wrote beside an adapter; {} for an adapter that was trained elsewhere."""
    if not folder.is_dir():
        raise ArtefactError(
            f"There is no adapter in {str(folder)!r}. Expected the result of fine-tuning: run 'llmrec finetune' with "
            "this config first, or put an adapter in PEFT's format there."
        )
    if not (folder / "llmrec.json").is_file():
        say(f"Using the adapter in {folder} as it is: it was trained elsewhere.")
        return {}
    meta = read_json(folder / "llmrec.json")
    check_key(folder, meta["key"], key)
    return meta


def merged_model(config: RunConfig, parts: LanguageParts) -> Any:
    """Return the fine-tuned model."""
    from peft import PeftModel

    base = load_language_model(config, tokens=parts.vocabulary)
    folder = config.output / "adapter"
    try:
        model = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise ArtefactError(
            f"The adapter in {str(folder)!r} does not fit {config.model.name}: {said[:400]} Expected an adapter of this base "
            "model with these identifiers: correct model.name and identifiers, or train again."
        ) from error
    if config.model.quantize == "none":
        # Merged, an adapter costs nothing at decoding time; merged into quantised weights it would be rounded away.
        model = model.merge_and_unload()
    return model.eval()
