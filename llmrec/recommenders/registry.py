"""The built-in recommenders by name; anybody else's by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmrec.config import LLM, System
from llmrec.errors import ConfigError, nearest
from llmrec.plugins import load_class
from llmrec.settings import Decoding

__all__ = ["RECOMMENDERS", "build_recommender", "recommender_class", "system_problems", "takes_seed"]

RECOMMENDERS = {
    "popularity": "llmrec.recommenders.popularity:Popularity",
    "trend": "llmrec.recommenders.trend:Trend",
    "markov": "llmrec.recommenders.markov:Markov",
    "itemknn": "llmrec.recommenders.itemknn:ItemKNN",
    "userknn": "llmrec.recommenders.userknn:UserKNN",
    "ease": "llmrec.recommenders.ease:EASE",
    "svd": "llmrec.recommenders.svd:SVD",
    "content": "llmrec.recommenders.content:Content",
    "sasrec": "llmrec.recommenders.sasrec:SASRec",
    "gru4rec": "llmrec.recommenders.gru4rec:GRU4Rec",
    "bert4rec": "llmrec.recommenders.bert4rec:BERT4Rec",
    "hybrid": "llmrec.recommenders.hybrid:Hybrid",
    "adjusted": "llmrec.recommenders.adjusted:Adjusted",
    "guided": "llmrec.recommenders.guided:Guided",
    "rerank": "llmrec.recommenders.rerank:Rerank",
}

# By itself it makes lists by a search of its own; as a part of another system, of which this is the class, it scores all items.
_LLM_AS_A_PART = "llmrec.recommenders.llm_scores:LanguageModelScores"

# Given by the run, not by the config of a system.
_INJECTED = ("self", "name", "seed", "catalog", "on_epoch", "checkpoint", "language_model")


def build_recommender(name: str, system: System, **injected: Any) -> Any:
    """Make a recommender; ``injected`` keywords reach it if its constructor takes them, and options go before them."""
    cls = recommender_class(system.kind_as(name))
    accepted = inspect.signature(cls.__init__).parameters
    given = {k: v for k, v in {"name": name, **injected}.items() if k in accepted}
    return cls(**(given | _typed(cls, system.options)[0]))


def _typed(cls: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return options with the types of a constructor's parameters, and what is wrong with those that cannot have them.

    64.0 is the whole number that a parameter asks for.
    """
    try:
        # A dataclass has its types at the class, each to be read where it was written.
        hints = get_type_hints(cls if is_dataclass(cls) else cls.__init__)
    except NameError:  # somebody else's, with names that are there for type checkers only
        hints = {}
    typed, problems = dict(options), {}
    for option in options.keys() & hints.keys():
        try:
            adapter = TypeAdapter(hints[option], config=ConfigDict(arbitrary_types_allowed=True))
            typed[option] = adapter.validate_python(options[option])
        except ValidationError as error:
            problems[option] = error.errors()[0]["msg"].lower()
    return typed, problems


def takes_seed(system: System, name: str) -> bool:
    """Return whether anything random decides what a system learns: whether its constructor takes a seed."""
    return "seed" in inspect.signature(recommender_class(system.kind_as(name)).__init__).parameters


def system_problems(name: str, system: System, where: str | None = None, *, part: bool = False) -> list[str]:
    """Return what is wrong with a system's kind and options, one line each.

    Parameters
    ----------
    where
        Dotted name of the system's place in the config; ``systems.<name>`` if left out.
    part
        Whether it is a part of another system: one that is trained once, with a ``seed`` of its own if it sets one.
    """
    kind, where = system.kind_as(name), where or f"systems.{name}"
    if kind == LLM and not part:
        return _llm_problems(where, system)
    try:
        cls = recommender_class(kind)
    except ConfigError as error:
        return [f"{where}: {error}"]
    parameters = inspect.signature(cls.__init__).parameters
    valid = [p for p in parameters if p not in _INJECTED or (part and p == "seed")]
    typed, mistyped = _typed(cls, system.options)
    problems = []
    if system.seeds > 1 and part:
        problems.append(
            f"{where}.seeds is {system.seeds}; expected 1 for a part: for two trainings give two parts, each with its seed"
        )
    elif system.seeds > 1 and not takes_seed(system, name):
        problems.append(
            f"{where}.seeds is {system.seeds}, and {kind} takes no seed, so that every training would give the same "
            "lists; expected 1"
        )
    for option, value in system.options.items():
        if option not in valid:
            problems.append(
                f"{where}.{option}: {kind} has no such setting{nearest(option, valid)}; expected one of "
                f"{', '.join(valid)}"
            )
        elif option in mistyped:
            problems.append(f"{where}.{option}: got {value!r}; {mistyped[option]}")
        elif option == "seed" and typed[option] is not None and typed[option] < 0:
            problems.append(f"{where}.seed: got {value}; expected 0 or more")
    if not problems and hasattr(cls, "option_problems"):
        problems += cls.option_problems(typed, where)
    if not problems:
        try:
            build_recommender(name, system)
        except (ConfigError, ValueError, TypeError) as error:
            problems.append(f"{where}: {error}")
    return problems


# What systems that are the same fine-tuned model may differ in.
_LLM_OPTIONS = ("search", "beam_width", "until_certified", "normalisation")


def _llm_problems(where: str, system: System) -> list[str]:
    problems = []
    if system.seeds > 1:
        problems.append(
            f"{where}.seeds is {system.seeds}; expected 1 for a language model, whose run directory holds one "
            "adapter: run the config again with --set seed=1 --set output=..., and 'llmrec compare' both run directories"
        )
    for option, value in system.options.items():
        if option not in _LLM_OPTIONS:
            problems.append(
                f"{where}.{option}: expected one of {', '.join(_LLM_OPTIONS)}, which say how this system's lists are searched for; "
                "all else about the language model is in the sections prompt, identifiers, model, finetune and decoding"
            )
            continue
        try:
            Decoding.model_validate({option: value})
        except ValidationError as error:
            problems.append(f"{where}.{option}: got {value!r}; {error.errors()[0]['msg'].lower()}")
    return problems


def recommender_class(kind: str) -> Any:
    """Return the class of a kind: a built-in one, or that of ``package.module:Class``."""
    return load_class("recommender", _LLM_AS_A_PART if kind == LLM else kind, RECOMMENDERS, also=[LLM])
