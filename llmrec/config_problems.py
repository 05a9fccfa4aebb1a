"""What must fit together in a config, section by section."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

if TYPE_CHECKING:
    from llmrec.config import RunConfig

__all__ = ["config_problems"]


def config_problems(config: RunConfig) -> list[str]:
    """Return what does not fit together, one line each."""
    return [
        *_systems(config),
        *_decoding(config),
        *_prompt(config),
        *_new_tokens(config),
        *_teacher(config),
        *_selection(config),
        *_negatives(config),
    ]


def _systems(config: RunConfig) -> list[str]:
    problems = []
    if not config.systems:
        problems.append("systems: expected at least one")
    if config.evaluation.baseline not in config.systems:
        known, baseline = ", ".join(config.systems), config.evaluation.baseline
        given = "baseline" in config.evaluation.model_fields_set
        is_ = (
            f"is {baseline!r}"
            if given
            else f"is not set, and its default, {baseline!r}, is none of the systems"
        )
        problems.append(f"evaluation.baseline {is_}; expected one of {known}")
    problems += [
        f"systems.{name}: names that end in .seed and a number are those of a system's further trainings; expected "
        "another name"
        for name in config.systems
        if re.search(r"\.seed\d+$", name)
    ]
    problems += [
        f"systems.{name or repr(name)}: its lists are a file of that name; expected one without a slash that begins with none of .~-"
        for name in config.systems
        if not name or name[0] in ".~-" or "/" in name or "\\" in name
    ]
    if max(config.evaluation.cutoffs, default=0) > config.evaluation.k:
        problems.append(
            f"evaluation.cutoffs go up to {max(config.evaluation.cutoffs)}; expected none above evaluation.k = "
            f"{config.evaluation.k}"
        )
    return problems


def _prompt(config: RunConfig) -> list[str]:
    problems = []
    if not config.prompt.target_time:
        problems += [
            f"systems.{name} is to be told when the target happens (target_time), and prompt.target_time, by which the questions tell "
            "it, is false; expected both or neither"
            for name in config.told_when
        ]
    if config.split.target_event is not None and config.data.columns.event is None:
        problems.append(
            "split.target_event is set; expected data.columns.event, the column that says what kind an event is"
        )
    if "age" in config.prompt.time_styles and config.finetune.examples != "one-target":
        problems.append(
            "prompt.time has age, which is relative to the moment of asking, and with finetune.examples: every-event each "
            "event of a document is asked for at a moment of its own; expected finetune.examples: one-target with it, or "
            "gap, bucket or date"
        )
    return problems


def _new_tokens(config: RunConfig) -> list[str]:
    problems = []
    aligned = "finetune.new_tokens.start: collaborative" in config.collaborative_reasons
    if aligned and config.finetune.loss == "vocab":
        problems.append(
            "finetune.loss is vocab and finetune.new_tokens.start is collaborative; expected loss: catalogue with "
            "it, or start: title"
        )
    if config.finetune.new_tokens.temperature is not None and not (
        aligned and config.identifiers.scheme == "token"
    ):
        problems.append(
            "finetune.new_tokens.temperature is set; expected identifiers.scheme: token and "
            "finetune.new_tokens.start: collaborative with it, or null"
        )
    if config.collaborative_reasons and config.identifiers.collaborative_system not in config.systems:
        known = ", ".join(config.systems)
        problems.append(
            f"identifiers.collaborative_system is {config.identifiers.collaborative_system!r} and "
            f"{config.collaborative_reasons[0]} needs its item vectors; expected one of the systems: {known}"
        )
    return problems


def _other_system(config: RunConfig, where: str, name: str) -> list[str]:
    if name not in config.systems:
        return [f"{where} is {name!r}; expected one of the systems: {', '.join(config.systems)}"]
    if config.has_language_model(name):
        return [
            f"{where} is {name!r}, which is the language model itself or has it as a part; expected another system"
        ]
    return []


def _selection(config: RunConfig) -> list[str]:
    selection, where = config.finetune.selection, "finetune.selection.surrogate"
    if config.surrogate is not None:
        return _other_system(config, where, config.surrogate)
    if selection.share < 1 and selection.by != "random":
        return [
            f"finetune.selection.by is {selection.by} and {where} is not set; expected a cheap one of the systems, which chooses: "
            f"{', '.join(name for name in config.systems if not config.has_language_model(name))}"
        ]
    return []


def _teacher(config: RunConfig) -> list[str]:
    name, where = config.teacher, "finetune.distillation.teacher"
    if name is None:
        return []
    problems = _other_system(config, where, name)
    if config.identifiers.scheme != "token" or config.finetune.loss != "catalogue":
        problems.append(
            f"{where} is set; expected identifiers.scheme: token and finetune.loss: catalogue with it, since a teacher speaks "
            "of items and not of the tokens of their names"
        )
    return problems


def _negatives(config: RunConfig) -> list[str]:
    if config.finetune.negatives == "all":
        return []
    problems = []
    if config.identifiers.scheme != "token" or config.finetune.loss != "catalogue":
        problems.append(
            "finetune.negatives is warm; expected identifiers.scheme: token and finetune.loss: catalogue with it, since parts of "
            "longer identifiers are shared by items with and without events"
        )
    if config.finetune.validation.every is not None and config.finetune.validation.metric == "loss":
        problems.append(
            "finetune.negatives is warm and finetune.validation.metric is loss, which is infinite where the target is an item "
            "without training events; expected metric: ndcg@10"
        )
    return problems


def _decoding(config: RunConfig) -> list[str]:
    problems = []
    # Without a language model the section decides nothing.
    ways = {"decoding": config.decoding} if config.llm_systems else {}
    for name in config.llm_systems:
        if config.systems[name].options:
            # A value that makes no sense is reported with the other options of systems.
            with contextlib.suppress(ValidationError):
                ways[f"systems.{name}"] = config.decoding_for(name)
    for where, decoding in ways.items():
        if decoding.search != "exact" and decoding.beam_width < config.evaluation.k:
            problems.append(
                f"{where}.beam_width is {decoding.beam_width}; expected at least evaluation.k = "
                f"{config.evaluation.k}, or lists would be too short"
            )
        if decoding.search == "exact" and decoding.backend == "vllm":
            problems.append(
                f"{where}.search is exact and decoding.backend is vllm; expected backend: torch with it, or search: "
                "beam with until_certified: true, which is exact too"
            )
    return problems
