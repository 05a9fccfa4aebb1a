"""What is wrong with a recipe and its systems, all of it, before a model is loaded or anything is computed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig, System
from llmrec.data.catalog import Catalog
from llmrec.errors import ConfigError, LlmrecError
from llmrec.pipeline.adapter import WEIGHTS, adapter_digest
from llmrec.pipeline.decoder import knows_cold_items
from llmrec.pipeline.parts import (
    checked_template,
    load_base_tokenizer,
    load_catalog,
    model_shape,
    pick_device,
)
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.registry import RECOMMENDERS, build_recommender

__all__ = ["check_systems", "recipe_problems"]


def recipe_problems(config: RunConfig) -> list[str]:
    """Return why this config cannot be trained on this machine with this data and model, one line each.

    Reads the catalogue, the tokenizer and the model's config; no weights.
    """
    if not config.language_systems:
        return []
    problems: list[str] = []

    def attempt(check: Any, *arguments: Any) -> Any:
        """Return what a check returns; its error becomes one more problem."""
        try:
            return check(*arguments)
        except LlmrecError as error:
            problems.append(str(error))
            return None

    attempt(pick_device, config.model.device)
    problems += _missing_parts(config)
    problems += _collaborative(config) + _asked(config) + _start(config)
    model = attempt(model_shape, config)
    tokenizer = attempt(load_base_tokenizer, config)
    scheme = attempt(_scheme, config)
    template = attempt(checked_template, config)
    if model is not None:
        problems += _layers(config, model)
    carried = scheme is not None and tokenizer is not None
    if carried:
        found = scheme.problems(config.identifiers, tokenizer)
        problems += found
        carried = not found
    if carried and template is not None and model is not None:
        context = getattr(model.config, "max_position_embeddings", None)
        problems += attempt(_one_event, config, tokenizer, template, context) or []
    return problems


def check_systems(config: RunConfig, catalog: Catalog) -> None:
    """Build every system once, to find what the catalogue and the rest of the config do not allow.

    Raises
    ------
    ConfigError
        Some cannot be built: names all of them.
    """
    problems = []
    part = LanguageModel(_no_model, "", knows_cold_items(config))
    for name, system in config.systems.items():
        if name in config.llm_systems:
            continue
        try:
            build_recommender(
                name,
                system,
                catalog=catalog,
                language_model=part if config.has_language_model(name) else None,
            )
        except ConfigError as error:
            problems.append(f"  - systems.{name}: {error}")
    if problems:
        raise ConfigError("\n".join(["Some systems cannot be made of this catalogue and config:", *problems]))


def _no_model() -> Any:
    raise AssertionError("what is built here is not fitted")


def _scheme(config: RunConfig) -> Any:
    from llmrec.identifiers.schemes import load_scheme

    return load_scheme(config.identifiers.scheme)


def _layers(config: RunConfig, model: Any) -> list[str]:
    from llmrec.finetune.lora import target_problems

    return target_problems(config.finetune, model)


def _missing_parts(config: RunConfig) -> list[str]:
    """Return which packages and devices the settings need and this machine lacks."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    from llmrec.finetune.spread import will_be_spread

    problems = []
    if config.model.quantize != "none" and importlib.util.find_spec("bitsandbytes") is None:
        problems.append(
            f"model.quantize is {config.model.quantize}, which needs bitsandbytes. Expected it to be installed: "
            "pip install 'llmrec[gpu]' or pip install bitsandbytes."
        )
    if config.model.attention == "flash_attention_2":
        from transformers.utils.import_utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            problems.append(
                "model.attention is flash_attention_2, which is not installed here or finds no GPU. Expected the package "
                "flash-attn on a CUDA machine: install it, or set model.attention to auto."
            )
        if config.model.dtype == "float32":
            problems.append(
                "model.attention is flash_attention_2 and model.dtype is float32, which it does not take. Expected bfloat16 "
                "with it, or attention: auto."
            )
    known = sorted(str(getattr(t, "value", t)) for t in LOGGER_TYPE_TO_CLASS)
    problems += [
        f"finetune.report_to names {name!r}, which is no tracker. Expected some of {', '.join(known)}."
        for name in config.finetune.report_to
        if name not in known
    ]
    problems += [
        f"finetune.report_to names {name!r}, which is not installed. Expected the package: pip install {name}."
        for name in config.finetune.report_to
        if name in known and name != "tensorboard" and importlib.util.find_spec(name) is None
    ]
    if "tensorboard" in config.finetune.report_to and not (
        importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX")
    ):
        problems.append(
            "finetune.report_to names 'tensorboard', which is not installed. Expected it: pip install tensorboard."
        )
    validation = config.finetune.validation
    if will_be_spread() and validation.every is not None and validation.metric != "loss":
        problems.append(
            f"finetune.validation.metric is {validation.metric}, which decodes, and the model is spread over several "
            "devices (FSDP). Expected finetune.validation.metric: loss there."
        )
    return problems


def _collaborative(config: RunConfig) -> list[str]:
    """Return why the collaborative system has no item vectors."""
    name = config.identifiers.collaborative_system
    if not config.collaborative_reasons or name not in config.systems:
        return []
    from llmrec.recommenders.registry import recommender_class

    def lacking(name: str, system: System) -> list[str]:
        kind = system.kind_as(name)
        if not hasattr(recommender_class(kind), "item_vectors"):
            return [kind]
        return [k for part, inner in system.parts().items() for k in lacking(part, inner)]

    without = lacking(name, config.systems[name])
    if not without:
        return []
    able = [k for k in RECOMMENDERS if hasattr(recommender_class(k), "item_vectors")]
    kind = config.systems[name].kind_as(name)
    made_of = f" with {without[0]}" if kind != without[0] else ""
    return [
        f"identifiers.collaborative_system is {name!r}, a {kind}{made_of}, which has no item vectors. Expected a system of the "
        f"kind {' or '.join(able)}."
    ]


def _asked(config: RunConfig) -> list[str]:
    """Return why a system that is asked about the training events has no answer."""
    from llmrec.recommenders.registry import recommender_class
    from llmrec.recommenders.sequential import SequentialRecommender

    by = config.finetune.selection.by
    chooser = SequentialRecommender if by == "influence" else ScoringRecommender
    words = {
        ScoringRecommender: "does not score all items. Expected a recommender that does (a ScoringRecommender)",
        SequentialRecommender: f"has no gradients, by which {by} is told. Expected a sequence model, such as sasrec",
    }
    wanted = (
        ("distillation.teacher", config.teacher, ScoringRecommender),
        ("selection.surrogate", config.surrogate, chooser),
    )
    return [
        f"finetune.{where} is {name!r}, which {words[able]}."
        for where, name, able in wanted
        if name is not None and not issubclass(recommender_class(config.systems[name].kind_as(name)), able)
    ]


def _start(config: RunConfig) -> list[str]:
    """Return why there is nothing to go on from."""
    folder = config.finetune.start_from
    if folder is None or adapter_digest(Path(folder)) is not None:
        return []
    return [
        f"finetune.start_from is {folder!r}, where no {WEIGHTS} is. Expected the folder of an adapter in PEFT's format, such as the "
        "OUTPUT/adapter of another run."
    ]


def _one_event(config: RunConfig, tokenizer: Any, template: Any, context: int | None) -> list[str]:
    """Return whether a single event is too long for the model or for a batch."""
    from llmrec.identifiers.title import title_identifiers
    from llmrec.prompts.template import render

    catalog = load_catalog(config)
    template.check_fields({"title": catalog.titles, **catalog.attributes})

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0

    scheme, settings = config.identifiers.scheme, config.identifiers
    longest = {"token": 1, "semantic": settings.levels}.get(scheme, 1)
    if scheme == "title":
        titles = title_identifiers(
            catalog, tokenizer, end=settings.end, distinguish_by=settings.distinguish_by
        )
        longest = max(map(len, titles.token_ids))
    elif scheme == "index":
        longest = length("0" * len(str(2 * len(catalog) - 1))) + 1
    # The words about time and title differ between events; without them nothing is shorter.
    empty = dict.fromkeys(template.fields(), "")
    around = length(render(template.before, empty)) + length(render(template.after, empty))
    need = (
        len(tokenizer("", add_special_tokens=True)["input_ids"])
        + length(template.preamble)
        + around
        + 2 * longest
    )
    problems = []
    if context is not None and need > context:
        problems.append(
            f"A prompt of one event and the longest identifier take at least {need:,} tokens, and {config.model.name} "
            f"reads {context:,}. Expected both to fit: a shorter template, a model with a longer context, or "
            "identifiers.scheme: token."
        )
    if need > config.finetune.batch_tokens:
        problems.append(
            f"finetune.batch_tokens is {config.finetune.batch_tokens:,}, and a document of two events may take {need:,} "
            "tokens. Expected room for whole documents: raise it."
        )
    return problems
