"""User ids as keyed hashes, for privacy.hash_users."""

from __future__ import annotations

import hashlib
import re

import polars as pl

from llmrec.data.sources.base import expand_variables
from llmrec.errors import ConfigError
from llmrec.settings import Privacy

__all__ = ["hash_ids", "hash_key"]


def hash_key(privacy: Privacy) -> bytes | None:
    """Return the key that user ids are hashed with, ``None`` where they are not.

    Raises
    ------
    ConfigError
        The variable of the environment that holds it is not set, or empty.
    """
    if not privacy.hash_users:
        return None
    key = expand_variables(privacy.salt, "data.privacy.salt")
    # Without variables there is left what everybody knows who has the config.
    if key.strip() == re.sub(r"\$\{\w+\}", "", privacy.salt).strip():
        raise ConfigError(
            f"data.privacy.salt is {privacy.salt}, and there is nothing in the environment variable. Expected a key that nobody can guess, "
            "since whoever has it can find the users: export a long random text, and keep it."
        )
    return key.encode()


def hash_ids(ids: pl.Series, salt: bytes) -> pl.Series:
    """Replace ids by their keyed BLAKE2b hashes (RFC 7693), 128 bits in hexadecimal digits."""
    key = hashlib.blake2b(salt, digest_size=32).digest()  # keys have at most 64 bytes, salts any number
    names = ids.drop_nulls().unique()
    hashes = [hashlib.blake2b(n.encode(), key=key, digest_size=16).hexdigest() for n in names.to_list()]
    return ids.replace_strict(names, pl.Series(hashes, dtype=pl.String), return_dtype=pl.String, default=None)
