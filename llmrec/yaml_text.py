"""YAML as people mean it: 1e-3 is a number, a date is a text, and no key is there twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["read_yaml", "write_yaml"]

# PyYAML is YAML 1.1, where 1e-3 lacks a point and 1.5e3 a sign; in YAML 1.2, which everybody has in mind, both are numbers.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which YAML's own loader keeps the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there a second time", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would not read as a text."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
# No setting is a moment: those that say one are texts, with a check of their own.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """Return what a YAML text says.

    Raises
    ------
    yaml.YAMLError
        It is none, or says the same key twice.
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def write_yaml(content: Any, **options: Any) -> str:
    """Return the YAML of plain values, which :func:`read_yaml` reads as they are; ``options`` are those of PyYAML."""
    text: str = yaml.dump(content, Dumper=_Dumper, **options)
    return text
