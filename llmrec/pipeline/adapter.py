"""The adapter of a run, as later stages use it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrec import cache
from llmrec.config import RunConfig
from llmrec.errors import ArtefactError
from llmrec.pipeline.artefacts import check_key, read_json
from llmrec.pipeline.parts import LanguageParts, load_language_model, model_shape
from llmrec.progress import say

__all__ = ["adapter_digest", "adapter_meta", "check_adapter", "check_fits", "merged_model", "WEIGHTS"]

WEIGHTS = "adapter_model.safetensors"


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


def adapter_digest(folder: Path) -> str | None:
    """Return what tells an adapter's weights from others, ``None`` where there are none."""
    return cache.sha256(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else None


def check_adapter(lists: Path, meta: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse lists that were made with another adapter than the one that is there; settings that agree do not say which it was.

    Raises
    ------
    ArtefactError
        It is another one.
    """
    if "adapter" in meta and (adapter := adapter_digest(config.output / "adapter")) is not None:
        check_key(lists, {"adapter": meta["adapter"]}, {"adapter": adapter})


def check_fits(config: RunConfig) -> None:
    """Raise :class:`ArtefactError` where the adapter's matrices are not of the base model's shapes; loads no weights."""
    from safetensors import safe_open

    folder, name = config.output / "adapter", config.model.name
    layers = dict(model_shape(config).named_modules())
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors' own error is not exported
        raise _does_not_fit(folder, name, str(error)) from error
    for key, shape in shapes.items():
        if not (found := re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)):
            continue
        layer = layers.get(found[1])
        width = _width(layer, found[2])
        if width != shape[1 if found[2] == "A" else 0]:
            there = "no such layer" if layer is None else f"a layer of width {width}"
            raise _does_not_fit(folder, name, f"{key} has shape {shape} and the model has {there}.")

    targets = _targets(folder)
    for path, layer in layers.items():
        lacks = f"base_model.model.{path}.lora_A.weight" not in shapes
        if lacks and path.rsplit(".", 1)[-1] in targets and _width(layer, "A") is not None:
            raise _does_not_fit(folder, name, f"It has nothing for {path}.")


def _width(layer: Any, side: str) -> int | None:
    """Return how wide a linear layer's input (A) or output (B) is; ``None`` where it is no such layer."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0 if side == "A" else 1])
    return getattr(layer, "in_features" if side == "A" else "out_features", None)


def _targets(folder: Path) -> set[str]:
    """Return the names of the layers that an adapter is for, where it is for all of them."""
    config = read_json(folder / "adapter_config.json")
    names = config.get("target_modules")
    every = not config.get("layers_to_transform") and not config.get("exclude_modules")
    return {name.rsplit(".", 1)[-1] for name in names} if isinstance(names, list) and every else set()


def _does_not_fit(folder: Path, name: str, why: str) -> ArtefactError:
    return ArtefactError(
        f"The adapter in {str(folder)!r} does not fit {name}: {' '.join(why.split())[:400]} Expected an adapter of this base "
        "model with these identifiers: correct model.name and identifiers, or train again."
    )


def merged_model(config: RunConfig, parts: LanguageParts, *, whole: bool = False) -> Any:
    """Return the fine-tuned model; for decoding its logits are in float32, whatever its weights are in.

    Parameters
    ----------
    whole
        Whether nothing of PEFT or bitsandbytes may be left in it. Quantised weights are then written out in ``model.dtype``, as
        they are and not as they were before: it is to these that the adapter was fitted.
    """
    from peft import PeftModel

    from llmrec.decoding.head import with_float32_logits

    base = load_language_model(config, tokens=parts.vocabulary)
    quantised = config.model.quantize != "none"
    if quantised and whole:
        base = base.dequantize(dtype=base.dtype)
    folder = config.output / "adapter"
    if not (folder / "llmrec.json").is_file():  # trained elsewhere
        check_fits(config)
    try:
        model = PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise _does_not_fit(folder, config.model.name, str(error)) from error
    if whole or not quantised:
        # Merged, an adapter costs nothing at decoding time; merged into quantised weights it would be rounded away.
        model = model.merge_and_unload()
    return model.eval() if whole else with_float32_logits(model.eval())
