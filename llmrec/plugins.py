"""What can be had by a built-in name, or by the dotted path of somebody else's class."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from llmrec.errors import ConfigError, nearest

__all__ = ["load_class"]


def load_class(what: str, name: str, builtin: Mapping[str, str], also: Iterable[str] = ()) -> Any:
    """Return the class of a built-in name, or that of ``package.module:Class``.

    Parameters
    ----------
    what
        What it is, for messages.
    builtin
        Path of each built-in class.
    also
        More names that would have been right, for messages.

    Raises
    ------
    ConfigError
        There is none of that name, or it cannot be imported.
    """
    module, _, attribute = builtin.get(name, name).partition(":")
    if not module or not attribute:
        known = [*also, *builtin]
        raise ConfigError(
            f"there is no {what} {name!r}{nearest(name, known)}; expected one of {', '.join(known)}, or "
            "package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"the {what} {name!r} cannot be imported: {error}") from None
    if not isinstance(found, type):
        raise ConfigError(f"the {what} {name!r} is a {type(found).__name__}; expected a class")
    return found
