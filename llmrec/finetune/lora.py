"""Low-rank adapters, and trainable rows for new tokens, through PEFT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers.trainer_utils import set_seed

from llmrec.errors import ConfigError, nearest
from llmrec.settings import Finetune

__all__ = ["add_lora", "target_problems"]


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
    problems = target_problems(
        settings, [n for n, m in model.named_modules() if n and not list(m.children())]
    )
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


def target_problems(settings: Finetune, layers: Iterable[str]) -> list[str]:
    """Return which of the target modules are not among a model's layers (dotted names)."""
    if settings.target_modules == "all-linear":
        return []
    names = {layer.rsplit(".", 1)[-1] for layer in layers}
    return [
        f"finetune.target_modules names {wanted!r}{nearest(wanted, names)}, which this model does not have. Expected "
        f"'all-linear' or some of {', '.join(sorted(names))}."
        for wanted in settings.target_modules
        if wanted not in names
    ]
