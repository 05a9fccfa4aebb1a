"""Build the parts of a run from its config."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.interactions import Interactions
from llmrec.data.split import Policies, Split, hold_out_users, leave_one_out, temporal
from llmrec.errors import ConfigError
from llmrec.progress import say_once

if TYPE_CHECKING:
    from llmrec.data.load import Loaded
    from llmrec.decoding.trie import CompiledTrie
    from llmrec.identifiers.base import ItemIdentifiers
    from llmrec.prompts.template import PromptTemplate
    from llmrec.prompts.verbalize import Verbalizer

__all__ = [
    "LanguageParts",
    "checked_template",
    "data_digests",
    "language_parts",
    "load_base_tokenizer",
    "load_catalog",
    "load_data",
    "load_language_model",
    "make_split",
    "model_shape",
    "pick_device",
    "sample_rows",
    "told_split",
]


@dataclass(frozen=True)
class LanguageParts:
    """What stands between histories and a language model."""

    tokenizer: Any  # with the new tokens
    identifiers: ItemIdentifiers
    trie: CompiledTrie
    verbalizer: Verbalizer
    tied_head: bool  # whether the pretrained head is the input embedding's matrix

    @property
    def new_tokens(self) -> range | None:
        """Ids of the new tokens, or ``None``."""
        names = self.identifiers.new_tokens
        if not names:
            return None
        first = self.tokenizer.convert_tokens_to_ids(names[0])
        return range(first, first + len(names))

    @property
    def vocabulary(self) -> int | None:
        """Size of a vocabulary with the new tokens; ``None`` where the pretrained one is enough."""
        return None if self.new_tokens is None else self.new_tokens.stop


def load_data(config: RunConfig, rejects: Path | None = None) -> Loaded:
    """Return the clean log and catalogue; rows left out go to the file ``rejects``."""
    from llmrec.data.load import load_data

    return load_data(config.data, rejects=rejects, notify=say_once)


def load_catalog(config: RunConfig) -> Catalog:
    """Return the catalogue, without reading the log of the user's own."""
    from llmrec.data.load import load_catalog

    return load_catalog(config.data, notify=say_once)


def data_digests(config: RunConfig) -> dict[str, str]:
    """Return SHA-256 digests of the user's files, so that a changed file is noticed."""
    from llmrec.data.load import open_items, open_log

    if config.files is not None:
        return config.files
    if config.data.dataset is not None:
        return {}
    return {**open_log(config.data).digests(), **open_items(config.data).digests()}


def make_split(config: RunConfig, interactions: Interactions, catalog: Catalog) -> Split:
    """Split the log as the config says, which may be that questions tell when their targets happen."""
    return told_split(config, _split(config, interactions, catalog))


def told_split(config: RunConfig, split: Split) -> Split:
    """Return a split whose questions tell when their targets happen where ``prompt.target_time`` says so."""
    return split.told() if config.prompt.target_time else split


def _split(config: RunConfig, interactions: Interactions, catalog: Catalog) -> Split:
    data, settings = config.data, config.split
    policies: Policies = {
        "dataset": data.label,
        "ties": settings.ties,
        "seed": config.split_seed,
        "exclude_seen": settings.exclude_seen,
        "repeats": settings.repeats,
        "cold_items": settings.cold_items,
        "target_event": settings.target_event,
    }
    if settings.strategy == "temporal":
        moments = {"valid_quantile": settings.valid_quantile, "test_quantile": settings.test_quantile}
        return temporal(interactions, catalog, **moments, **policies)
    if settings.strategy == "users":
        shares = {"valid_users": settings.valid_users, "test_users": settings.test_users}
        return hold_out_users(interactions, catalog, **shares, **policies)
    return leave_one_out(
        interactions,
        catalog,
        short_histories=settings.short_histories,
        valid_share=settings.valid_share,
        **policies,
    )


def language_parts(
    config: RunConfig, split: Split, catalog: Catalog, identifiers: ItemIdentifiers
) -> LanguageParts:
    """Return tokenizer, trie and verbalizer for a run's identifiers.

    Raises
    ------
    ConfigError
        The template states the target's time although ``prompt.target_time`` is off, or the log is too coarse for
        ``prompt.time``.
    """
    from llmrec.decoding.trie import CompiledTrie
    from llmrec.identifiers.base import with_new_tokens
    from llmrec.models import load_model_config
    from llmrec.prompts.verbalize import Verbalizer

    tokenizer = with_new_tokens(load_base_tokenizer(config), identifiers.new_tokens)
    model = load_model_config(config.model.name, say_once, trust_remote_code=config.model.trust_remote_code)
    verbalizer = Verbalizer(
        checked_template(config),
        tokenizer,
        catalog,
        identifiers.token_ids,
        time=config.prompt.time,
        resolution=split.protocol.time_resolution,
        min_gap=config.prompt.min_gap,
        timezone=config.prompt_timezone,
        hemisphere=config.prompt.hemisphere,
        max_events=config.prompt.max_events,
        # None where the model's config does not say.
        context_length=getattr(model, "max_position_embeddings", None),
    )
    return LanguageParts(
        tokenizer,
        identifiers,
        CompiledTrie.from_sequences(identifiers.token_ids),
        verbalizer,
        tied_head=bool(getattr(model, "tie_word_embeddings", True)),
    )


def checked_template(config: RunConfig) -> PromptTemplate:
    """Load the prompt's template.

    Raises
    ------
    ConfigError
        It states the target's time although ``prompt.target_time`` is off.
    """
    from llmrec.prompts.template import load_template

    template = load_template(config.prompt.template)
    if template.reveals_target_time and not config.prompt.target_time:
        raise ConfigError(
            f"The prompt template {template.name!r} tells the model when the target happens, which the other systems "
            "do not know. Expected {time} in the part 'after'; or set prompt.target_time to true, and the report will say who is told; "
            "sequence models are with target_time: true."
        )
    return template


def load_base_tokenizer(config: RunConfig) -> Any:
    """Load the pretrained model's tokenizer."""
    from llmrec.models import load_tokenizer

    return load_tokenizer(config.model.name, say_once, trust_remote_code=config.model.trust_remote_code)


def model_shape(config: RunConfig) -> Any:
    """Return the pretrained model without weights, on the device ``meta``."""
    import torch
    from transformers import AutoModelForCausalLM

    from llmrec.models import load_model_config

    settings = config.model
    shape = load_model_config(
        settings.name,
        say_once,
        keep_layers=settings.keep_layers,
        trust_remote_code=settings.trust_remote_code,
    )
    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(shape, trust_remote_code=settings.trust_remote_code)


def load_language_model(config: RunConfig, *, tokens: int | None = None, training: bool = False) -> Any:
    """Load the pretrained model on its device.

    Parameters
    ----------
    tokens
        Size of a vocabulary with new tokens, for which the model is to have room.
    training
        Whether it will be fine-tuned: only then ``model.attention`` counts.
    """
    from llmrec.finetune.spread import will_be_spread
    from llmrec.models import load_model
    from llmrec.new_rows import make_room

    settings = config.model
    device = pick_device(settings.device)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    if training and will_be_spread():
        device = "cpu"  # from where each process moves its part only
    options: dict[str, Any] = {"attn_implementation": "sdpa"}
    if training and settings.attention != "auto":
        options["attn_implementation"] = settings.attention
    if settings.quantize != "none":
        options["quantization_config"] = quantisation(settings.quantize, dtype)
    model = load_model(
        settings.name,
        dtype=dtype,
        device=device,
        notify=say_once,
        keep_layers=settings.keep_layers,
        trust_remote_code=settings.trust_remote_code,
        **options,
    )
    return model if tokens is None else make_room(model, tokens)


def quantisation(kind: str, dtype: str) -> Any:
    """Return the settings of bitsandbytes (Dettmers et al. 2022, arXiv 2208.07339; 2023, arXiv 2305.14314)."""
    import torch
    import transformers

    make: Any = transformers.BitsAndBytesConfig
    if kind == "8bit":
        return make(load_in_8bit=True)
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def pick_device(device: str) -> str:
    """Resolve ``auto``; a device that is not there raises :class:`ConfigError`."""
    import torch

    found = torch.cuda.is_available()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(
            f"model.device is {device!r}. Expected auto, cpu, cuda, or cuda:1 for the second GPU."
        )
    if found and device in ("auto", "cuda") and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"  # one of several processes: its own GPU
    if device == "auto":
        return "cuda" if found else "cpu"
    if device.startswith("cuda") and not found:
        raise ConfigError(
            f"model.device is {device!r}, and PyTorch finds no CUDA GPU on this machine. Expected one: check the driver "
            "and that the CUDA build of torch is installed, or set model.device to cpu or auto."
        )
    if ":" in device and int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise ConfigError(
            f"model.device is {device!r}, and PyTorch finds {torch.cuda.device_count()} GPUs, of which the first is cuda:0. "
            "Expected one of them, or auto."
        )
    return device


def sample_rows(config: RunConfig, split: Split) -> NDArray[np.int64]:
    """Return the rows of the test users under comparison, ascending: all, or a seeded random sample."""
    return split.test.sample_rows(config.evaluation.users, config.sample_seed)
