"""Item identifiers: each item of the catalogue as a short sequence of tokens that the model writes.

A *scheme* turns a catalogue and a tokenizer into :class:`ItemIdentifiers`. Every identifier ends with the same
end token, so none is a prefix of another ("Alien" and "Aliens" part at the end token).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from llmrec.errors import IdentifierError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ItemIdentifiers", "tokenizer_fingerprint"]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of what decides which token ids a text becomes, wherever the tokenizer's files are."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        parts = json.loads(backend.to_str())
        # What the last call asked for, not what the tokenizer is.
        parts.pop("truncation", None)
        parts.pop("padding", None)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class ItemIdentifiers:
    """Identifiers of N items.

    Parameters
    ----------
    scheme
        Name of the scheme that made them.
    texts
        What a person reads [N].
    token_ids
        What the model writes: token ids, the last of which is ``end_token_id`` [N].
    end_token_id
        The token that ends every identifier and occurs nowhere else in it.
    changed
        Item index -> original text, for identifiers that had to be changed to tell items apart.

    Raises
    ------
    IdentifierError
        Two items have the same tokens, or the end token is missing or not at the end alone.
    """

    scheme: str
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    end_token_id: int
    changed: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner: dict[tuple[int, ...], int] = {}
        for item, tokens in enumerate(self.token_ids):
            if tokens.count(self.end_token_id) != 1 or tokens[-1] != self.end_token_id:
                raise IdentifierError(
                    f"The identifier {self.texts[item]!r} of item number {item} does not end with the end token "
                    f"{self.end_token_id}, or holds it inside. Expected it once, at the end. Choose another "
                    "identifiers.end."
                )
            if tokens in owner:
                raise IdentifierError(
                    f"Items number {owner[tokens]} and {item} have the same identifier {self.texts[item]!r}. "
                    "Expected identifiers that tell all items apart."
                )
            owner[tokens] = item

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the token sequences: equal for equal catalogues, schemes and tokenizers only."""
        digest = hashlib.sha256()
        for tokens in self.token_ids:
            digest.update(np.asarray([*tokens, -1], dtype="<i4").tobytes())
        return digest.hexdigest()
