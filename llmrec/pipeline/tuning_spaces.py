"""What is tuned: the values that options may take, built in or from the config, and what is wrong with them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_file import validate_config
from llmrec.errors import ConfigError, nearest
from llmrec.pipeline.artefacts import flatten
from llmrec.pipeline.tuning_defaults import SPACES
from llmrec.recommenders.registry import recommender_class, system_problems

__all__ = ["Choices", "Range", "Space", "read_spaces", "with_options"]

Value = None | bool | int | float | str

_LLM_SECTIONS = ("prompt", "identifiers", "model", "finetune", "decoding")
_RANGE = ("low", "high", "step", "log")


@dataclass(frozen=True)
class Choices:
    """Values without an order."""

    values: tuple[Value, ...]

    def points(self) -> list[Value] | None:
        """Return all values."""
        return list(self.values)

    def extremes(self) -> list[Value]:
        """Return values that are good only if all are."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones where both ends are."""

    low: float
    high: float
    step: float | None = None  # distance of neighbouring values
    log: bool = False  # draw the logarithm evenly

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def points(self) -> list[Value] | None:
        """Return all values; ``None`` where they are without number."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        return [self.snap(self.low + i * step) for i in range(round((self.high - self.low) / step) + 1)]

    def snap(self, value: float) -> float:
        """Return a value without the rounding errors of counting steps, so that 0.1 + 0.2 is 0.3."""
        return value if self.whole else float(value) if self.step is None else round(float(value), 12)

    def extremes(self) -> list[Value]:
        """Return values that are good only if all are: both ends, and a fraction if there are any."""
        inside = self.low + (self.high - self.low) / math.e
        return [self.low, self.high] if self.whole else [self.low, inside, self.high]

    def holds(self, value: Any) -> bool:
        """Say whether a value is one of these."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return (
            self.low <= value <= self.high
            and not (self.whole and value != int(value))
            and abs(steps - round(steps)) < 1e-6
        )


Space = dict[str, Choices | Range]


def with_options(config: RunConfig, name: str, options: Mapping[str, Any]) -> RunConfig:
    """Return a config with other options of a system: its own, or for the language model dotted names of settings.

    Raises
    ------
    ConfigError
        They do not fit together.
    """
    content = config.model_dump(mode="json")
    for option, value in options.items():
        *parents, last = option.split(".") if name in config.llm_systems else ("systems", name, option)
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return validate_config(content, "the trial")


def read_spaces(config: RunConfig) -> tuple[dict[str, tuple[Space, dict[str, Any]]], list[str]]:
    """Return for each system what is tuned and the options that the config has now, and all that is wrong.

    Choices gain the value that the config has now, if it is not among them: it is tried first.
    """
    given, problems = config.tuning.spaces, list[str]()
    problems += [
        f"tuning.spaces.{name}: there is no such system{nearest(name, config.systems)}; expected one of "
        f"{', '.join(config.systems)}"
        for name in given
        if name not in config.systems
    ]
    named = [name for name in config.llm_systems if given.get(name)]
    if len(named) > 1:
        problems.append(
            f"tuning.spaces: {' and '.join(named)} are one fine-tuned model; expected options under one of them"
        )
    spaces: dict[str, tuple[Space, dict[str, Any]]] = {}
    for name in config.systems:
        if name in config.llm_systems and name != (named or config.llm_systems)[0]:
            spaces[name] = {}, {}  # the same fine-tuned model, searched in another way
            continue
        if config.has_language_model(name) and name not in config.llm_systems:
            if given.get(name):
                problems.append(
                    f"tuning.spaces.{name}: it has the fine-tuned language model as a part, which there is none of before "
                    f"the run; expected tuning.spaces without {name}, which leaves it as it is"
                )
            spaces[name] = {}, {}
            continue
        written, where = _written(config, name)
        if written is None:
            problems.append(where)
            continue
        if written and config.systems[name].kind_as(name) == "rerank" and config.tuning.metric != "ndcg@10":
            problems.append(
                f"tuning.metric is {config.tuning.metric}, and {name} learns from the validation users, so that only its cross-validated "
                f"ndcg@10 says something; expected metric: ndcg@10, or tuning.spaces: {{{name}: {{}}}}"
            )
        spaces[name] = {}, {}
        for option, value in written.items():
            _add(config, name, option, value, f"{where}.{option}", *spaces[name], problems)
    return spaces, problems


def _written(config: RunConfig, name: str) -> tuple[dict[str, Any] | None, str]:
    """Return a system's space as it is written, and its name for messages; or ``None`` and why there is none."""
    kind = config.systems[name].kind_as(name)
    if name in config.tuning.spaces:
        return config.tuning.spaces[name], f"tuning.spaces.{name}"
    if kind in SPACES:
        return SPACES[kind], f"the built-in space of {name}"
    return None, (
        f"tuning.spaces has nothing about {name}, and the kind {kind} has no space of its own; expected one, for example "
        f"{{{name}: {{OPTION: [1, 2]}}}}, or {{{name}: {{}}}} to leave it as it is"
    )


def _add(
    config: RunConfig,
    name: str,
    option: str,
    written: Any,
    where: str,
    space: Space,
    current: dict[str, Any],
    problems: list[str],
) -> None:
    """Check one option and add it to a space, or what is wrong with it to the problems."""
    parsed = _parse(written)
    if isinstance(parsed, str):
        problems.append(f"{where}: {parsed}")
        return
    found = _option_problems(config, name, option, parsed, where)
    if found:
        problems += found
        return
    now = _current(config, name, option)
    if isinstance(parsed, Choices):
        if now not in parsed.values:
            parsed = Choices((now, *parsed.values))
        now = parsed.values[parsed.values.index(now)]  # 10 and 10.0 are one value
    else:
        if not parsed.holds(now):
            problems.append(
                f"{where}: the value that the config has now, {now!r}, is tried first and is not in it; expected a range "
                "that holds it, or choices"
            )
        elif config.tuning.sampler == "grid" and parsed.step is None:
            problems.append(
                f"{where}: tuning.sampler is grid; expected a range with a step, or choices"
                + ("" if name in config.tuning.spaces else f" (under tuning.spaces.{name})")
            )
        else:
            now = parsed.snap(int(now) if parsed.whole else float(now))
    space[option], current[option] = parsed, now


def _parse(written: Any) -> Choices | Range | str:
    """Return values as the config writes them, or what is wrong with that."""
    if isinstance(written, (list, tuple)):
        values = tuple(written)
        if not values or not all(v is None or isinstance(v, (int, float, str)) for v in values):
            return f"got {written!r}; expected one value or more: numbers, texts, true, false or null"
        if not all(math.isfinite(v) for v in values if isinstance(v, float)):
            return f"got {written!r}; expected finite numbers"
        if len(set(map(repr, values))) < len(values):
            return f"got {written!r}; expected every value once"
        return Choices(values)
    if not isinstance(written, Mapping):
        return (
            f"got {written!r}; expected choices such as [32, 64], or a range such as {{low: 0.1, high: 0.5}}"
        )
    for key in written:
        if key not in _RANGE:
            return f"got {key!r}{nearest(str(key), _RANGE)}; expected a range of {', '.join(_RANGE)}"
    ends: list[Any] = [written.get(key) for key in ("low", "high", "step")]
    low, high, step = ends
    log = written.get("log", False)
    numbers = [v for v in (low, high, step) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < 2 + (step is not None) or not all(map(math.isfinite, numbers)):
        return f"got {dict(written)!r}; expected numbers for low and high, and for step if there is one"
    if not isinstance(log, bool):
        return f"got log: {log!r}; expected true or false"
    if not low < high:
        return f"got low {low!r} and high {high!r}; expected low to be less"
    if log and (low <= 0 or step is not None):
        return f"got {dict(written)!r}; expected low above 0 and no step under log: true"
    if step is not None:
        whole = isinstance(low, int) and isinstance(high, int)
        steps = (high - low) / step if step > 0 else 0.0
        if steps < 1 or abs(steps - round(steps)) > 1e-6 or (whole and not isinstance(step, int)):
            return f"got {dict(written)!r}; expected whole steps from low to high"
    return Range(low, high, step, log)


def _option_problems(
    config: RunConfig, name: str, option: str, parsed: Choices | Range, where: str
) -> list[str]:
    """Return why some value of an option cannot be, by itself: together with all else that the config says."""
    if name not in config.llm_systems:
        system = config.systems[name]
        if option == "kind":
            return [f"{where}: another kind is another system; expected options of {system.kind_as(name)}"]
        for value in parsed.extremes():
            changed = type(system).model_validate({"kind": system.kind, **system.options, option: value})
            found = system_problems(name, changed)
            if found:
                here = f"systems.{name}"
                return [where + p.removeprefix(f"{here}.{option}").removeprefix(here) for p in found]
        return []
    section, _, setting = option.partition(".")
    if section not in _LLM_SECTIONS or not setting:
        sections = ", ".join(_LLM_SECTIONS)
        return [f"{where}: got {option!r}; expected the dotted name of a setting in one of {sections}"]
    known = [name for name in flatten(config.model_dump(mode="json")) if name.startswith(_LLM_SECTIONS)]
    if option not in known:
        return [f"{where}: there is no such setting{nearest(option, known)}; expected the dotted name of one"]
    if section == "decoding" and setting in config.systems[name].options:
        return [f"{where}: systems.{name}.{setting} is set and hides it; expected it to be left out there"]
    if option == "finetune.epochs" and config.finetune.steps is not None:
        return [
            f"{where}: finetune.steps is set and hides it; expected it to be null, or a space without epochs"
        ]
    for value in parsed.extremes():
        try:
            with_options(config, name, {option: value})
        except ConfigError as error:
            # The first line says which config; the others have a problem each.
            return [f"{where}: {line.removeprefix('  - ')}" for line in str(error).split("\n")[1:]]
    return []


def _current(config: RunConfig, name: str, option: str) -> Any:
    """Return the value that an option has now."""
    if name in config.llm_systems:
        return flatten(config.model_dump(mode="json"))[option]
    system = config.systems[name]
    signature = inspect.signature(recommender_class(system.kind_as(name)).__init__)
    default = signature.parameters[option].default
    return system.options.get(option, None if default is inspect.Parameter.empty else default)
