"""Build the parts of a run from its config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec import cache
from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.interactions import Interactions
from llmrec.data.split import Split, leave_one_out
from llmrec.errors import ConfigError
from llmrec.progress import say_once

if TYPE_CHECKING:
    from llmrec.decoding.trie import CompiledTrie
    from llmrec.identifiers.base import ItemIdentifiers
    from llmrec.prompts.verbalize import Verbalizer

__all__ = [
    "LanguageParts",
    "context_length",
    "data_digests",
    "language_parts",
    "load_data",
    "load_language_model",
    "make_split",
    "pick_device",
    "sample_rows",
]


@dataclass(frozen=True)
class LanguageParts:
    """What stands between histories and a language model."""

    tokenizer: Any
    identifiers: ItemIdentifiers
    trie: CompiledTrie
    verbalizer: Verbalizer


def load_data(config: RunConfig) -> tuple[Interactions, Catalog, list[str]]:
    """Return the log, the catalogue, and lines that say where they come from."""
    data = config.data
    if data.dataset is not None:
        from llmrec.data.datasets import load_dataset

        lines: list[str] = []

        def notify(line: str) -> None:
            lines.append(line)
            say_once(line)

        interactions, catalog = load_dataset(data.dataset, notify=notify)
        return interactions, catalog, lines[-1:]
    from llmrec.data.sources import read_catalog, read_interactions

    assert data.interactions is not None
    assert data.items is not None
    columns = data.columns.model_dump()
    interactions = read_interactions(data.interactions, columns)
    catalog = read_catalog(data.items, columns, data.columns.attributes)
    return interactions, catalog, [f"interactions from {data.interactions}, items from {data.items}"]


def data_digests(config: RunConfig) -> dict[str, str]:
    """Return SHA-256 digests of the user's files, so that a changed file is noticed."""
    paths = [p for p in (config.data.interactions, config.data.items) if p is not None]
    return {str(p): cache.sha256(p) for p in paths if p.is_file()}


def make_split(config: RunConfig, interactions: Interactions, catalog: Catalog) -> Split:
    """Split the log as the config says."""
    data = config.data
    return leave_one_out(
        interactions,
        catalog,
        dataset=data.dataset or Path(str(data.interactions)).stem,
        ties=config.split.ties,
        seed=config.seed,
        exclude_seen=config.split.exclude_seen,
        short_histories=config.split.short_histories,
    )


def language_parts(
    config: RunConfig, split: Split, catalog: Catalog, context_length: int | None
) -> LanguageParts:
    """Return tokenizer, identifiers, trie and verbalizer.

    Raises
    ------
    ConfigError
        The template states the target's time although ``prompt.target_time`` is off.
    """
    from llmrec.decoding.trie import CompiledTrie
    from llmrec.identifiers.title import title_identifiers
    from llmrec.models import load_tokenizer
    from llmrec.prompts.template import load_template
    from llmrec.prompts.verbalize import Verbalizer

    template = load_template(config.prompt.template)
    if template.reveals_target_time and not config.prompt.target_time:
        raise ConfigError(
            f"The prompt template {template.name!r} tells the model when the target happens, which the other systems "
            "do not know. Expected {time} in the part 'after'; or set prompt.target_time to true, and the report will "
            "say so."
        )
    tokenizer = load_tokenizer(config.model.name, notify=say_once)
    identifiers = title_identifiers(
        catalog, tokenizer, end=config.identifiers.end, distinguish_by=config.identifiers.distinguish_by
    )
    verbalizer = Verbalizer(
        template,
        tokenizer,
        catalog,
        identifiers.token_ids,
        time=config.prompt.time,
        resolution=split.protocol.time_resolution,
        min_gap=config.prompt.min_gap,
        max_events=config.prompt.max_events,
        context_length=context_length,
    )
    return LanguageParts(
        tokenizer, identifiers, CompiledTrie.from_sequences(identifiers.token_ids), verbalizer
    )


def load_language_model(config: RunConfig) -> Any:
    """Load the pretrained model on its device."""
    from llmrec.models import load_model

    device = pick_device(config.model.device)
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    return load_model(config.model.name, dtype=dtype, device=device, notify=say_once)


def context_length(model: Any) -> int | None:
    """Return the longest sequence a model can read, in tokens; ``None`` where its config does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def pick_device(device: str) -> str:
    """Resolve ``auto``; a GPU that is not there raises :class:`ConfigError`."""
    import torch

    found = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if found else "cpu"
    if device.startswith("cuda") and not found:
        raise ConfigError(
            f"model.device is {device!r}, and PyTorch finds no CUDA GPU on this machine. Expected one: check the driver "
            "and that the CUDA build of torch is installed, or set model.device to cpu or auto."
        )
    return device


def sample_rows(config: RunConfig, split: Split) -> NDArray[np.int64]:
    """Return the rows of the test users under comparison, ascending: all, or a seeded random sample."""
    wanted, total = config.evaluation.users, len(split.test)
    if wanted is None or wanted >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(config.seed).choice(total, size=wanted, replace=False))
