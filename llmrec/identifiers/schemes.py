"""The built-in identifier schemes by name; anybody else's by its dotted path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.errors import ConfigError, IdentifierError
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.plugins import load_class
from llmrec.settings import Identifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SCHEMES", "Material", "Scheme", "build_identifiers", "extend_identifiers", "load_scheme"]

SCHEMES = {
    "title": "llmrec.identifiers.title:TitleScheme",
    "index": "llmrec.identifiers.index:IndexScheme",
    "semantic": "llmrec.identifiers.semantic:SemanticScheme",
    "token": "llmrec.identifiers.token:TokenScheme",
}


@dataclass(frozen=True)
class Material:
    """What a scheme may build identifiers from; vectors are computed when they are asked for.

    Nothing in it knows of a held-out interaction.
    """

    catalog: Catalog  # N items
    tokenizer: PreTrainedTokenizerBase
    settings: Identifiers
    histories: Histories  # for training
    title_vectors: Callable[[], NDArray[np.float32]]  # [N, D] from the language model
    collaborative_vectors: Callable[[], NDArray[np.float32]]  # [N, D] from the system that the config names
    seed: int = 0


class Scheme(Protocol):
    """How identifiers are made."""

    def problems(self, settings: Identifiers, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return why this tokenizer cannot carry the scheme, all of it; asked before anything is computed."""
        ...

    def build(self, material: Material) -> ItemIdentifiers:
        """Return identifiers for all items of ``material.catalog``."""
        ...

    def extend(self, known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
        """Return identifiers for a catalogue that begins with the ``known`` items, theirs unchanged.

        Raises
        ------
        IdentifierError
            The scheme needs training to add an item.
        """
        ...


def load_scheme(name: str) -> Scheme:
    """Return a built-in scheme, or ``package.module:Class`` of somebody else's."""
    try:
        scheme: Scheme = load_class("scheme", name, SCHEMES)()
    except ConfigError as error:
        raise ConfigError(f"identifiers.scheme: {error}") from None
    return scheme


def build_identifiers(material: Material) -> ItemIdentifiers:
    """Return the identifiers that ``material.settings`` ask for."""
    return load_scheme(material.settings.scheme).build(material)


def extend_identifiers(known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
    """Return identifiers for a grown catalogue; the items that were there keep theirs.

    Raises
    ------
    IdentifierError
        The scheme cannot do that without training, or the catalogue has become smaller.
    """
    if len(material.catalog) < len(known):
        raise IdentifierError(
            f"The catalogue has {len(material.catalog):,} items, and {len(known):,} have identifiers. Expected those and "
            "new ones behind them."
        )
    return load_scheme(material.settings.scheme).extend(known, material)
