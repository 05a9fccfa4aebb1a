"""The stage between the split and the language model: identifiers, and the vectors that some of them are made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.identifiers.files import read_identifiers, read_identifiers_meta, write_identifiers
from llmrec.identifiers.schemes import Material, build_identifiers
from llmrec.pipeline.artefacts import check_key, whole_folder
from llmrec.pipeline.parts import LanguageParts, load_base_tokenizer, load_language_model
from llmrec.progress import say

__all__ = [
    "identifiers_at_hand",
    "identifiers_for",
    "identifiers_stage",
    "new_token_start",
]

Vectors = Callable[[], NDArray[np.float32]]


def identifiers_stage(
    config: RunConfig, split: Split, catalog: Catalog, key: dict[str, Any], vectors: Vectors
) -> ItemIdentifiers:
    """Make the identifiers of a run, or read those that are there.

    Parameters
    ----------
    key
        The settings that decide them.
    vectors
        Returns the item vectors of the collaborative system; called only if the scheme asks.
    """
    folder = config.output / "identifiers"
    if folder.is_dir():
        check_key(folder, read_identifiers_meta(folder)["key"], key)
        return read_identifiers(folder, catalog)
    identifiers = identifiers_for(config, split, catalog, vectors)
    with whole_folder(folder) as work:
        write_identifiers(work, identifiers, catalog, {"key": key})
    lengths = np.array([len(t) for t in identifiers.token_ids])
    new = f", {len(identifiers.new_tokens):,} new tokens" if identifiers.new_tokens else ""
    changed = f"; {len(identifiers.changed):,} changed to tell items apart" if identifiers.changed else ""
    say(
        f"Identifiers: {identifiers.scheme}, {lengths.mean():.1f} tokens on average, {lengths.max()} at most{new}{changed}."
    )
    return identifiers


def identifiers_for(config: RunConfig, split: Split, catalog: Catalog, vectors: Vectors) -> ItemIdentifiers:
    """Make identifiers."""
    tokenizer = load_base_tokenizer(config)

    @cache  # schemes may ask several times
    def title_vectors() -> NDArray[np.float32]:
        from llmrec.identifiers.vectors import title_vectors

        say("Reading all titles with the language model.")
        return title_vectors(load_language_model(config), tokenizer, catalog.titles)

    return build_identifiers(
        Material(
            catalog, tokenizer, config.identifiers, split.train, title_vectors, vectors, seed=config.seed
        )
    )


def identifiers_at_hand(config: RunConfig, split: Split, catalog: Catalog) -> ItemIdentifiers:
    """Return the identifiers of the run, or what they would be if nothing has to be fitted for them."""
    folder = config.output / "identifiers"
    if folder.is_dir():
        return read_identifiers(folder, catalog)

    def vectors() -> NDArray[np.float32]:
        raise ConfigError(
            f"The identifiers of this config are made from the item vectors of "
            f"{config.identifiers.collaborative_system}, which is not fitted yet. Expected a run: do 'llmrec prepare' and "
            "'llmrec finetune' first."
        )

    return identifiers_for(config, split, catalog, vectors)


def new_token_start(
    model: Any, config: RunConfig, catalog: Catalog, parts: LanguageParts, vectors: Vectors
) -> Any:
    """Return what the embeddings of new tokens start from; ``None`` where there are none."""
    from llmrec.finetune.new_tokens import mean_of_items, title_rows
    from llmrec.recommenders.llm_training import NewTokenStart

    new = parts.new_tokens
    if new is None:
        return None
    ids = parts.identifiers.token_ids
    titles = parts.tokenizer(list(catalog.titles), add_special_tokens=False)["input_ids"]
    rows = title_rows(model.get_input_embeddings().weight[: new.start], titles)
    aligned = config.finetune.new_tokens.start == "collaborative"
    return NewTokenStart(
        new,
        mean_of_items(rows, ids, new.start, len(new)),
        mean_of_items(vectors(), ids, new.start, len(new)) if aligned else None,
    )
