"""What decides each artefact of a run: the settings that its key holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrec.config import LLM, RunConfig
from llmrec.pipeline.adapter import adapter_digest
from llmrec.pipeline.artefacts import read_json
from llmrec.pipeline.parts import data_digests
from llmrec.progress import say_once
from llmrec.prompts.template import load_template
from llmrec.recommenders.registry import build_recommender
from llmrec.settings import Decoding

__all__ = [
    "decoding_key",
    "diagnose_key",
    "finetune_key",
    "identifiers_key",
    "own_settings",
    "prepare_key",
    "recommend_key",
    "soft_targets_key",
    "source_key",
    "user_scores_key",
    "weights_key",
]


def prepare_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the split."""
    dumped = config.model_dump(mode="json", include={"data", "split", "seed"})
    return {**dumped, "files": data_digests(config)}


def identifiers_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the identifiers."""
    from llmrec.models import fingerprint

    decides = {"name", "keep_layers"}
    if config.identifiers.scheme not in ("title", "index", "token"):
        decides |= {
            "dtype",
            "quantize",
        }  # of the model that reads titles, where items are told apart by vectors of these
    model = config.model.model_dump(mode="json", include=decides)
    dumped = config.model_dump(mode="json", include={"identifiers"})
    system = config.identifiers.collaborative_system
    vectors = {"vectors": source_key(config, system)} if config.collaborative_reasons else {}
    return {
        **prepare_key(config),
        **dumped,
        **vectors,
        "model": model,
        "model_fingerprint": fingerprint(config.model.name, say_once),
    }


def finetune_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the adapter. How often it is saved, where it runs and in what pieces decide nothing.

    Nor shall the section decoding, though validation searches as it says: lists of one adapter can be made in several ways.
    """
    dumped = config.model_dump(mode="json", include={"prompt", "model", "finetune"})
    for name in ("save_steps", "report_to", "micro_batch_tokens", "gradient_checkpointing"):
        del dumped["finetune"][name]
    for name in ("device", "attention", "trust_remote_code"):
        del dumped["model"][name]
    started = dumped["finetune"].pop("start_from")
    others = {}
    if started is not None:
        # Its weights decide, and not where they lie.
        dumped["finetune"]["start_from"] = adapter_digest(Path(started))
        if (made := Path(started) / "llmrec.json").is_file():
            others["started_from"] = own_settings(read_json(made)["key"])
    if config.teacher is None:
        del dumped["finetune"]["distillation"]
    else:
        others["teacher"] = source_key(config, config.teacher)
    if config.finetune.selection.share == 1:
        del dumped["finetune"]["selection"]
    elif config.surrogate is not None:
        others["surrogate"] = source_key(config, config.surrogate)
    dumped["prompt"]["timezone"] = config.prompt_timezone
    # Whoever edits a template that comes along has another prompt under its name.
    template = load_template(config.prompt.template)
    text = [template.preamble, template.before, template.after]
    return {**identifiers_key(config), **dumped, **others, "template_text": text}


def source_key(config: RunConfig, name: str) -> dict[str, Any]:
    """Return what decides what is learned from a system: not whom the test asks, nor for how many items."""
    return {name: value for name, value in recommend_key(config, name).items() if name != "evaluation"}


def soft_targets_key(config: RunConfig, teacher: str) -> dict[str, Any]:
    """Return what decides what a teacher expects at the training events."""
    top_items = config.finetune.distillation.top_items
    return {**source_key(config, teacher), "top_items": top_items}


def user_scores_key(config: RunConfig, surrogate: str) -> dict[str, Any]:
    """Return what decides how a surrogate scores the training users."""
    return {**source_key(config, surrogate), "by": config.finetune.selection.by}


def weights_key(config: RunConfig) -> dict[str, Any]:
    """Return what decides the fine-tuned model: the adapter that is there, wherever it comes from."""
    return {**finetune_key(config), "adapter": adapter_digest(config.output / "adapter")}


def recommend_key(config: RunConfig, name: str, seed: int | None = None) -> dict[str, Any]:
    """Return what decides one system's lists; ``seed`` is that of the training, the run's own if left out."""
    from llmrec.models import fingerprint

    system = config.systems[name]
    kind = system.kind_as(name)
    if kind == LLM:
        users = config.evaluation.model_dump(mode="json", include={"users", "users_seed", "k"})
        return {
            **finetune_key(config),
            "decoding": decoding_key(config.decoding_for(name)),
            "evaluation": users,
        }
    pretrained = getattr(build_recommender(name, system), "pretrained", ())
    models = {"pretrained": {m: fingerprint(m, say_once) for m in pretrained}} if pretrained else {}
    evaluation: dict[str, Any] = {"k": config.evaluation.k}
    if config.has_language_model(name):
        models["language_model"] = finetune_key(config) | {"normalisation": config.decoding.normalisation}
        if (decoding := config.decoding_for(name)).search != "exact":
            models["decoding"] = decoding_key(decoding)
        evaluation = config.evaluation.model_dump(mode="json", include={"users", "users_seed", "k"})
    return {
        **prepare_key(config),
        **models,
        "systems": {name: {"kind": kind, **system.options}},
        "evaluation": evaluation,
        **({} if seed in (None, config.seed) else {"training_seed": seed}),
    }


def own_settings(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a key is about the system itself, and not about data, users or seeds.

    Lists of two runs whose keys agree in it are of one system, trained twice.
    """
    elsewhere = ("data", "files", "split", "seed", "training_seed", "evaluation")
    found = {
        name: own_settings(value) if name in ("vectors", "teacher", "surrogate", "language_model") else value
        for name, value in key.items()
        if name not in elsewhere
    }
    if "started_from" in key:  # by what settings the weights were made tells more than which they are
        found["finetune"] = {**key["finetune"], "start_from": None}
    return found


def decoding_key(decoding: Decoding) -> dict[str, Any]:
    """Return what decides how lists are searched for; batch sizes and backends decide nothing but speed."""
    return decoding.model_dump(mode="json", exclude={"batch_size", "backend", "vllm"})


def diagnose_key(config: RunConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the diagnostics, of which ``options`` are not in the config.

    ``options["system"]`` is the system that is diagnosed, ``options["beside"]`` those that are fitted again.
    """
    system = options["system"]
    known = system in config.llm_systems
    return {
        **weights_key(config),
        "decoding": decoding_key(config.decoding_for(system)) if known else None,
        "systems": {
            name: {"kind": config.systems[name].kind_as(name), **config.systems[name].options}
            for name in options["beside"]
            if name in config.systems
        },
        "evaluation": config.evaluation.model_dump(mode="json", include={"users", "users_seed"}),
        "diagnose": dict(options),
    }
