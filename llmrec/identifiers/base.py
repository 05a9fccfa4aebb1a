"""Item identifiers: each item of the catalogue as a short sequence of tokens that the model writes.

A *scheme* (see :mod:`llmrec.identifiers.schemes`) turns a catalogue and a tokenizer into :class:`ItemIdentifiers`. No
identifier is the beginning of another, so the model always knows where one ends: "Alien" and "Aliens" part at an
end token; identifiers of a fixed number of codes need none.

Shapes: N items, D features.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import IdentifierError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ItemIdentifiers",
    "first_new_token",
    "known_token_problems",
    "tokenizer_fingerprint",
    "with_new_tokens",
]


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
        What the model writes [N].
    end_token_id
        The token that ends every identifier and occurs nowhere else in it; ``None`` where none is needed.
    changed
        Item index -> original text, for identifiers that had to be changed to tell items apart.
    new_tokens
        Tokens that the pretrained tokenizer lacks; their ids follow each other from :func:`first_new_token`.
    state
        Arrays that the scheme needs to give identifiers to further items, for example codebooks.

    Raises
    ------
    IdentifierError
        Two items have the same tokens, one identifier is the beginning of another, or the end token is missing or
        not at the end alone.
    """

    scheme: str
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    end_token_id: int | None = None
    changed: Mapping[int, str] = field(default_factory=dict)
    new_tokens: tuple[str, ...] = ()
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        end = self.end_token_id
        for item, tokens in enumerate(self.token_ids):
            if end is not None and (tokens.count(end) != 1 or tokens[-1] != end):
                raise IdentifierError(
                    f"The identifier {self.texts[item]!r} of item number {item} does not end with the end token "
                    f"{end}, or holds it inside. Expected it once, at the end. Choose another identifiers.end."
                )
            if not tokens:
                raise IdentifierError(f"The identifier of item number {item} is empty. Expected tokens.")
        # In sorted order whatever begins with a sequence stands right behind it.
        order = sorted(range(len(self.token_ids)), key=self.token_ids.__getitem__)
        for one, two in pairwise(order):
            a, b = self.token_ids[one], self.token_ids[two]
            if a == b:
                raise IdentifierError(
                    f"Items number {one} and {two} have the same identifier {self.texts[one]!r}. "
                    "Expected identifiers that tell all items apart."
                )
            if a == b[: len(a)]:
                raise IdentifierError(
                    f"The identifier {self.texts[one]!r} of item number {one} is the beginning of "
                    f"{self.texts[two]!r} of item number {two}, so the model could not say where it ends. Expected "
                    "an end token, or identifiers of equal length."
                )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the token sequences: equal for equal catalogues, schemes and tokenizers only."""
        digest = hashlib.sha256()
        for tokens in self.token_ids:
            digest.update(np.asarray([*tokens, -1], dtype="<i4").tobytes())
        return digest.hexdigest()


def known_token_problems(scheme: str, token: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return why a tokenizer cannot be given a scheme's new tokens, of which ``token`` is one."""
    if token not in tokenizer.get_vocab():
        return []
    return [
        f"identifiers.scheme is {scheme!r}, and the tokenizer has a token {token!r} already. Expected a pretrained model "
        "that does not know the scheme's new tokens."
    ]


def first_new_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that the next token added to a tokenizer gets."""
    return max(tokenizer.get_vocab().values()) + 1


def with_new_tokens(
    tokenizer: PreTrainedTokenizerBase, new_tokens: tuple[str, ...]
) -> PreTrainedTokenizerBase:
    """Return a copy of a pretrained tokenizer that knows ``new_tokens``.

    Raises
    ------
    IdentifierError
        The tokenizer knows one of them already, so it would not be new.
    """
    if not new_tokens:
        return tokenizer
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    known = [t for t in new_tokens if t in vocabulary]
    if known:
        raise IdentifierError(
            f"The tokenizer has a token {known[0]!r} already ({len(known):,} of {len(new_tokens):,} of the new ones). "
            "Expected a pretrained tokenizer without the tokens of this scheme: give the base model, not one that "
            "was fine-tuned with them."
        )
    first = first_new_token(tokenizer)
    extended: PreTrainedTokenizerBase = copy.deepcopy(tokenizer)
    # Not normalised: a tokenizer that changes letters or spaces must not change an identifier.
    extended.add_tokens([AddedToken(t, normalized=False) for t in new_tokens])
    ids = [extended.convert_tokens_to_ids(t) for t in new_tokens]
    if ids != list(range(first, first + len(new_tokens))):
        raise IdentifierError(
            f"The tokenizer gave new tokens the ids {ids[:3]} ... instead of {first}, {first + 1}, ... Expected ids in "
            "a row: choose a scheme without new tokens (title or index) for this model."
        )
    return extended
