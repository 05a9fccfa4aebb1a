"""Read a config: a YAML file and ``--set`` overrides; all problems are reported at once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from llmrec.config import RunConfig, System
from llmrec.errors import ConfigError, nearest
from llmrec.yaml_text import read_yaml, write_yaml

__all__ = ["Check", "dump_config", "load_config", "validate_config"]

Check = Callable[[RunConfig], list[str]]
"""Returns what is wrong with a config, one line each."""


def load_config(path: str | Path, overrides: Sequence[str] = (), check: Check | None = None) -> RunConfig:
    """Read a YAML file and apply overrides of the form ``finetune.steps=50``.

    Parameters
    ----------
    check
        Finds more problems of a config that is well formed, or of what is left of one without its malformed settings.

    Raises
    ------
    ConfigError
        The file is missing or no YAML mapping, or there are problems with its settings: all of them in one message.
    """
    path = Path(path)
    if not path.is_file():
        here = [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        raise ConfigError(
            f"There is no config file {str(path)!r}{nearest(str(path), here)}. Expected the path of a YAML file such as "
            "eval/demo.yaml."
        )
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config {str(path)!r} is not valid YAML: {error}. Expected one.") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"The config {str(path)!r} holds a {type(content).__name__}. Expected settings as 'name: value'."
        )
    for override in overrides:
        _apply(content, override)
    return validate_config(content, str(path), check)


def validate_config(
    content: dict[str, Any], source: str = "the config", check: Check | None = None
) -> RunConfig:
    """Check a nested dict of settings; raise one :class:`ConfigError` with everything that is wrong."""
    problems: list[str] = []
    config = None
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        problems = [line for e in error.errors() for line in _explain(e)]
    # Options of systems belong to their classes; they are checked even if something else is wrong.
    from llmrec.recommenders.registry import system_problems

    systems = content.get("systems") if config is None else config.systems
    if isinstance(systems, dict):
        for name, value in systems.items():
            # What is no valid System at all is among the problems already.
            with contextlib.suppress(ValidationError):
                problems += system_problems(str(name), System.model_validate({} if value is None else value))
    if check is not None:
        rest = config if config is not None else _without_malformed(content)
        if rest is not None:
            problems += check(rest)
    if problems:
        listed = "\n".join(f"  - {p}" for p in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(f"{source} has {count}:\n{listed}")
    assert config is not None
    return config


def _without_malformed(content: dict[str, Any]) -> RunConfig | None:
    """Return a config with defaults in the place of malformed settings, if that makes one."""
    content = copy.deepcopy(content)
    for _ in range(3):  # a setting may be judged only when others are well formed
        try:
            return RunConfig.model_validate(content)
        except ValidationError as error:
            for wrong in error.errors():
                place: Any = content
                *parents, last = wrong["loc"] or ("",)
                for name in parents:
                    place = place.get(name) if isinstance(place, dict) else None
                if isinstance(place, dict):
                    place.pop(last, None)
    return None


def dump_config(config: RunConfig) -> str:
    """Return the resolved config as YAML."""
    return write_yaml(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(
            f"The override {override!r} has no '='. Expected key=value, for example finetune.steps=50."
        )
    *parents, last = key.strip().split(".")
    place = content
    for i, name in enumerate(parents):
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise ConfigError(
                f"The override {override!r} goes below {'.'.join(parents[: i + 1])}, which is a value. Expected the "
                "dotted name of a setting."
            )
    try:
        place[last] = read_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(f"The value of the override {override!r} is not valid YAML. Quote it.") from None


def _explain(error: Any) -> list[str]:
    where = [str(part) for part in error["loc"]]
    name = ".".join(where)
    if error["type"] == "extra_forbidden":
        valid = _fields(where[:-1])
        hint = nearest(where[-1], valid)
        return [f"{name}: there is no such setting{hint}; expected one of {', '.join(valid)}"]
    if error["type"] == "missing":
        return [f"{name}: missing; {_doc(where)}"]
    if error["type"] == "value_error":
        lines = str(error["ctx"]["error"]).split("\n")
        return [f"{name}: {line}" if name else line for line in lines]
    doc = _doc(where)
    message = error["msg"][:1].lower() + error["msg"][1:]
    return [f"{name}: got {error['input']!r}; {message}" + (f" ({doc})" if doc else "")]


def _model(where: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = RunConfig
    for name in where:
        field = model.model_fields.get(name) if model is not None else None
        kinds: tuple[Any, ...] = ()
        if field is not None:
            # A section that may be left out is one of several kinds.
            kinds = get_args(field.annotation) or (field.annotation,)
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _fields(where: Sequence[str]) -> list[str]:
    model = _model(where)
    return list(model.model_fields) if model is not None else []


def _doc(where: Sequence[str]) -> str:
    model = _model(where[:-1])
    field = model.model_fields.get(where[-1]) if model is not None and where else None
    text = (field.description or "") if field is not None else ""
    return " ".join(text.split()).rstrip(".")
