"""The token scheme: each item is a single new token.

A history costs one token per event, and the whole catalogue is scored in one forward pass. What the model knows of an
item is in its embedding, which is trained; how it starts is decided by the section ``finetune.new_tokens``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrec.errors import IdentifierError
from llmrec.identifiers.base import ItemIdentifiers, first_new_token, known_token_problems
from llmrec.settings import Identifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.identifiers.schemes import Material

__all__ = ["TokenScheme"]


class TokenScheme:
    """``<item 0>``, ``<item 1>``, ... in catalogue order."""

    def problems(self, settings: Identifiers, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return why this tokenizer cannot take the new tokens."""
        return known_token_problems("token", "<item 0>", tokenizer)

    def build(self, material: Material) -> ItemIdentifiers:
        """Return one token per item."""
        names = tuple(f"<item {i}>" for i in range(len(material.catalog)))
        first = first_new_token(material.tokenizer)
        return ItemIdentifiers(
            scheme="token",
            texts=names,
            token_ids=tuple((first + i,) for i in range(len(names))),
            new_tokens=names,
        )

    def extend(self, known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
        """Refuse new items: a token that was never trained says nothing."""
        if len(material.catalog) == len(known):
            return known
        raise IdentifierError(
            f"The token scheme cannot give {len(material.catalog) - len(known):,} new items an identifier without "
            "training: their embeddings would be untrained. Expected the items it was trained on; train again, or "
            "use title, index or semantic identifiers for catalogues that grow."
        )
