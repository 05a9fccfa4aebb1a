"""All stages in order."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.errors import ArtefactError, ConfigError
from llmrec.pipeline.artefacts import locked
from llmrec.pipeline.parts import pick_device
from llmrec.pipeline.prepare_stage import prepare
from llmrec.progress import say

__all__ = ["dry_run", "finetune", "run"]


def run(config_path: Path, overrides: Sequence[str] = (), until: str | None = None) -> None:
    """Do all stages, or a single one.

    Parameters
    ----------
    config_path, overrides
        See :func:`llmrec.config_file.load_config`.
    until
        Name of a single stage to do (prepare, finetune, recommend, evaluate or compare); its inputs must be there.

    Raises
    ------
    LlmrecError
        The config, the data or the artefacts in the run directory cannot be used.
    """
    trains = until in (None, "finetune")
    config = load_config(config_path, overrides, check=_recipe_problems if trains else None)
    if until == "finetune":
        _need_language_model(config, config_path)
    # A mistake in a config is said before the stages are imported, which takes seconds.
    from llmrec.pipeline.checks import check_systems
    from llmrec.pipeline.finetune_stage import finetune_stage
    from llmrec.pipeline.recommend_stage import recommend_stage

    with locked(config.output):
        if until not in (None, "prepare"):
            _need_split(config)
        split, catalog = prepare(config)
        if trains or until == "recommend":
            check_systems(config, catalog)
        if trains and config.language_systems:
            finetune_stage(config, split, catalog)
        if until in (None, "recommend"):
            recommend_stage(config, split, catalog)
        if until in (None, "evaluate", "compare"):
            from llmrec.pipeline.lists import read_lists
            from llmrec.pipeline.report_stage import compare_stage, evaluate_stage, write_evaluations

            read = read_lists(config, catalog)
            evaluations = evaluate_stage(config, split, catalog, read)
            if until != "compare":
                write_evaluations(config, evaluations)
            if until != "evaluate":
                sets = (part for override in overrides for part in ("--set", override))
                command = shlex.join(["llmrec", "run", str(config_path), *sets])
                say(f"Report: {compare_stage(config, split, catalog, read, evaluations, command)}")


def dry_run(config_path: Path, overrides: Sequence[str] = ()) -> None:
    """Estimate time and memory of all stages from a short measurement; writes nothing into the run directory."""
    from llmrec.pipeline.estimate import estimate

    estimate(load_config(config_path, overrides, check=_recipe_problems))


def finetune(config_path: Path, overrides: Sequence[str] = ()) -> Path:
    """Do the stages up to the adapter, in one process or in each of several that accelerate has launched.

    Returns the adapter's folder.
    """
    from accelerate import PartialState

    from llmrec.pipeline.checks import check_systems
    from llmrec.pipeline.finetune_stage import finetune_stage
    from llmrec.pipeline.recommend_stage import make_sources, run_identifiers

    config = load_config(config_path, overrides, check=_recipe_problems)
    _need_language_model(config, config_path)
    cpu = pick_device(config.model.device) == "cpu"
    # The first process fits baselines and asks teachers, while the others wait: for longer than the ten minutes that NCCL allows.
    state = PartialState(cpu=cpu, timeout=timedelta(days=1))
    with locked(config.output) if state.is_main_process else nullcontext():
        if state.is_main_process:
            split, catalog = prepare(config)
            check_systems(config, catalog)
            run_identifiers(config, split, catalog)
            make_sources(config, split, catalog)
        # The others read what the first has written.
        state.wait_for_everyone()
        if not state.is_main_process:
            split, catalog = prepare(config)
        finetune_stage(config, split, catalog)
        state.wait_for_everyone()
    return config.output / "adapter"


def _recipe_problems(config: RunConfig) -> list[str]:
    """Return what is wrong with a recipe; nothing is asked about one whose adapter is there."""
    from llmrec.pipeline.checks import recipe_problems

    return [] if (config.output / "adapter").is_dir() else recipe_problems(config)


def _need_language_model(config: RunConfig, path: Path) -> None:
    if not config.language_systems:
        raise ConfigError(
            f"The config {str(path)!r} has no language model among its systems. Expected one: add 'llm: {{}}' to systems."
        )


def _need_split(config: RunConfig) -> None:
    if not (config.output / "split").is_dir():
        raise ArtefactError(
            f"There is no split in {str(config.output / 'split')!r}. Expected the result of the first stage: run "
            "'llmrec prepare' with this config first, or 'llmrec run' for everything."
        )
