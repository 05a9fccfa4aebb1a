"""Errors a user can act on.

Every error that a user's input can cause is a :class:`LlmrecError`: one paragraph that says what was
got, what was expected and what to do. The command line prints it without a traceback and exits with
code 2; anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtefactError",
    "AssetError",
    "ConfigError",
    "DataError",
    "IdentifierError",
    "LlmrecError",
    "PromptError",
    "TrieError",
    "nearest",
]


class LlmrecError(Exception):
    """Base of all errors with a message meant for the user."""


class ConfigError(LlmrecError):
    """A config file or an override that cannot be used; carries *all* problems found at once."""


class DataError(LlmrecError):
    """An interaction log or a catalogue that cannot be used as it is."""


class AssetError(LlmrecError):
    """A named data set or model that cannot be had, or whose files are not what they should be."""


class IdentifierError(LlmrecError):
    """Items that cannot be told apart, or cannot be written with this tokenizer."""


class PromptError(LlmrecError):
    """A template or a prompt that cannot be built."""


class TrieError(LlmrecError):
    """A token that is not allowed at a trie node, or sequences that make no valid trie."""


class ArtefactError(LlmrecError):
    """A run directory whose files are missing, damaged or made with another config."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of ``valid``, or an empty string."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
