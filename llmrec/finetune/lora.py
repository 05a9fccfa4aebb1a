"""Low-rank adapters, and trainable rows for new tokens, through PEFT."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import set_seed

from llmrec.errors import ConfigError, nearest
from llmrec.finetune.spread import is_spread, whole_weights
from llmrec.settings import Finetune

__all__ = ["add_lora", "go_on_from", "target_problems", "whole_adapter"]

_MATRIX = re.compile(r"(.+\.lora_[AB])\.weight")


def add_lora(model: Any, settings: Finetune, seed: int, new_tokens: range | None = None) -> Any:
    """Wrap a model with trainable low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    Parameters
    ----------
    new_tokens
        Ids of tokens whose embeddings are trained, in the input embedding and in the head. The model must have rows for
        them, and a head of its own: :func:`llmrec.new_rows.make_room`.

    Raises
    ------
    ConfigError
        The model has no layer of a name in ``settings.target_modules``.
    """
    problems = target_problems(settings, model)
    if problems:
        raise ConfigError(problems[0])
    modules = settings.target_modules
    if getattr(model, "quantization_method", None) is not None:
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    indices = None
    if new_tokens is not None:
        layers = (model.get_input_embeddings(), model.get_output_embeddings())
        names = [next(n for n, m in model.named_modules() if m is layer) for layer in layers]
        indices = {name.rsplit(".", 1)[-1]: list(new_tokens) for name in names}
    set_seed(seed)  # the adapters' first matrices are random
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=modules if modules == "all-linear" else list(modules),
            trainable_token_indices=indices,
        ),
    )


@torch.no_grad()
def go_on_from(model: Any, folder: Path) -> None:
    """Replace the fresh adapters of :func:`add_lora` by those of an adapter in PEFT's format.

    Rows of new tokens in it are those of other items, and stay behind.

    Raises
    ------
    ConfigError
        There is no adapter, or it has other matrices than the model's (of another model, rank or other layers), or counts
        otherwise (another alpha).
    """
    where, expected = f"finetune.start_from is {str(folder)!r}", "Expected an adapter in PEFT's format"
    try:
        found = load_file(folder / "adapter_model.safetensors")
        theirs_config: Any = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{where}, and no adapter can be read there ({error}). {expected}.") from None
    theirs = {m[1]: tensor for name, tensor in found.items() if (m := _MATRIX.fullmatch(name))}
    ours = {
        name.removesuffix(".default.weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    different = sorted(
        name
        for name in theirs.keys() | ours.keys()
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape
    )
    if different:
        here, there = (tuple(x[different[0]].shape) if different[0] in x else "none" for x in (ours, theirs))
        raise ConfigError(
            f"{where}, and {len(different)} of its matrices differ from this model's: {different[0]} is {there} there and {here} "
            f"here. {expected} of the same model.name, model.keep_layers, finetune.lora_rank and finetune.target_modules."
        )
    config = model.peft_config["default"]
    for name in ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora"):
        as_trained, as_set = (getattr(it, name, None) for it in (theirs_config, config))
        if as_trained != as_set:
            raise ConfigError(
                f"{where}, whose {name} is {as_trained!r} and not {as_set!r}, so that its matrices would count otherwise than they were "
                f"trained to. {expected} of the same finetune.lora_alpha."
            )
    for name, parameter in ours.items():
        parameter.copy_(theirs[name])


def target_problems(settings: Finetune, model: Any) -> list[str]:
    """Return which of the target modules are not among a model's linear layers, and whether the head is one of them."""
    if settings.target_modules == "all-linear":
        return []
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    head = next((n.rsplit(".", 1)[-1] for n, m in linear.items() if m is model.get_output_embeddings()), None)
    names = {name.rsplit(".", 1)[-1] for name in linear} - {head}
    problems = [
        f"finetune.target_modules names {wanted!r}{nearest(wanted, names)}, which is no linear layer of this model. Expected "
        f"'all-linear' or some of {', '.join(sorted(names))}."
        for wanted in settings.target_modules
        if wanted not in names and wanted != head
    ]
    if head in settings.target_modules:
        problems.append(
            f"finetune.target_modules names the head, {head!r}, whose rows finetune.loss: catalogue computes for the "
            "catalogue's tokens only. Expected layers of the backbone: leave it out."
        )
    return problems


def whole_adapter(model: Any) -> dict[str, Tensor] | None:
    """Return from what PEFT is to save an adapter whose weights are spread over processes; ``None`` where they are not.

    Every process has to ask for it.
    """
    if not is_spread(model):
        return None
    parts = ("lora_", "trainable_tokens_delta")
    return whole_weights({n: p for n, p in model.named_parameters() if any(part in n for part in parts)})
