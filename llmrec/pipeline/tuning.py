"""Choose every system's settings on the validation users, with the same budget for all."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from llmrec.config import RunConfig
from llmrec.config_file import dump_config, load_config
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.eval.metrics import parse_metric
from llmrec.eval.words import label, metric_label, number
from llmrec.pipeline.artefacts import flatten, locked, write_text
from llmrec.pipeline.checks import recipe_problems
from llmrec.pipeline.keys import source_key
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.tuning_spaces import Choices, Space, read_spaces, with_options
from llmrec.pipeline.tuning_study import Measure, OnEpoch, Study, Trial
from llmrec.progress import clock, console, say
from llmrec.settings import Tuned

__all__ = ["tune", "tuning_problems", "tuning_rows"]


def tune(config_path: Path, overrides: Sequence[str] = ()) -> Path:
    """Tune all systems of a config; return the path of the config with what was found, ``OUTPUT/tuned.yaml``.

    The language model comes last, so that it starts from the item vectors of a system that is tuned already.

    Parameters
    ----------
    config_path, overrides
        See :func:`llmrec.config_file.load_config`.

    Raises
    ------
    LlmrecError
        The config, the data or what an earlier tuning has left cannot be used.
    """
    config = load_config(config_path, overrides, check=tuning_problems)
    spaces, _ = read_spaces(config)
    with locked(config.output):
        split, catalog = prepare(config)
        tuned, record = config, dict[str, Tuned]()
        for name in sorted(config.systems, key=lambda name: name in config.llm_systems):
            space, current = spaces[name]
            if not space:
                say(f"{label(name)}: left as it is.")
                continue
            study = _study(tuned, name, space, current)
            study.run(_measure(tuned, name, split, catalog), partial(_say_trial, config, name))
            if study.exhausted:
                say(f"{label(name)}: there are no other combinations.")
            shutil.rmtree(config.output / "tuning" / name, ignore_errors=True)  # of trials given up on
            found = _found(config, name, study, split)
            if found is None:
                say(f"{label(name)}: no trial succeeded, so it is left as it is.")
                continue
            record[name] = found
            tuned = with_options(tuned, name, found.options)
        tuned = tuned.model_copy(
            update={
                "output": config.output / "tuned",
                "tuning": config.tuning.model_copy(update={"record": record}),
            }
        )
        path = config.output / "tuned.yaml"
        write_text(path, dump_config(tuned))
    _print_table(config, record)
    say(f"The config with these settings: {path}. Next: llmrec run {path}")
    return path


def tuning_rows(config: RunConfig) -> Mapping[str, Tuned]:
    """Return for every tuned system what its tuning took, for the report.

    A system whose options are no longer those that were chosen is not among them: nobody has tuned it as it is.
    """
    return {
        name: tuned
        for name, tuned in config.tuning.record.items()
        if name in config.systems and _options(config, name, tuned.options) == tuned.options
    }


def tuning_problems(config: RunConfig) -> list[str]:
    """Return all that keeps a config from being tuned on this machine, one line each."""
    spaces, problems = read_spaces(config)
    if importlib.util.find_spec("optuna") is None:
        problems.append("tuning needs Optuna; expected it to be installed: pip install 'llmrec[tune]'")
    try:
        _, k = parse_metric(config.tuning.metric)
    except ConfigError as error:
        problems.append(f"tuning.metric: {error}")
    else:
        for name in config.llm_systems:
            decoding = config.decoding_for(name)
            if spaces.get(name, ({},))[0] and decoding.search != "exact" and decoding.beam_width < k:
                problems.append(
                    f"decoding.beam_width is {decoding.beam_width}; expected at least the cutoff of tuning.metric, {k}"
                )
    return problems + recipe_problems(config)


def _study(config: RunConfig, name: str, space: Space, current: dict[str, Any]) -> Study:
    """Return the study of a system, with what an earlier process has done of it."""
    tuning = config.tuning
    written = {
        option: list(s.values) if isinstance(s, Choices) else vars(s) | {"whole": s.whole}
        for option, s in space.items()
    }
    return Study(
        config.output / "tuning" / f"{name}.json",
        {
            **source_key(config, name),
            "spaces": written,
            "tuning": tuning.model_dump(mode="json", include={"sampler", "metric", "prune"})
            | ({"users": tuning.users} if name in config.llm_systems else {}),
        },
        space,
        current,
        tuning,
        config.seed,
    )


def _measure(config: RunConfig, name: str, split: Split, catalog: Catalog) -> Measure:
    from llmrec.pipeline.tuning_trial import measure_language_model, measure_other

    folder = config.output / "tuning"

    def measure(number: int, options: dict[str, Any], on_epoch: OnEpoch) -> float:
        trial = with_options(config, name, options)
        if name not in config.llm_systems:
            return measure_other(trial, name, split, catalog, on_epoch)
        unseen = trial.finetune.model_copy(update={"report_to": ()})  # trackers are for the run itself
        output = folder / name / f"trial-{number}"
        trial = trial.model_copy(update={"output": output, "finetune": unseen})
        return measure_language_model(trial, name, split, catalog, folder)

    return measure


def _found(config: RunConfig, name: str, study: Study, split: Split) -> Tuned | None:
    from llmrec.pipeline.tuning_trial import validation_users

    best = study.best
    if best is None:
        return None
    assert best.value is not None
    return Tuned(
        options=best.options,
        trials=len(study.finished),
        failed=study.count("failed"),
        pruned=study.count("pruned"),
        seconds=round(study.seconds, 3),
        sampler=config.tuning.sampler,
        metric=config.tuning.metric,
        users=len(validation_users(config, name, split)),
        default=study.trials[0].value,
        best=best.value,
    )


def _options(config: RunConfig, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a config gives to some options."""
    if name in config.llm_systems:
        given = flatten(config.model_dump(mode="json"))
    else:
        given = config.systems[name].options
    return {option: given.get(option) for option in wanted}


def _say_trial(config: RunConfig, name: str, trial: Trial) -> None:
    of = f" of {config.tuning.trials}" if config.tuning.trials else ""
    what = {"failed": f"failed: {trial.reason}", "pruned": f"stopped at {number(trial.value)}"}.get(
        trial.state, number(trial.value)
    )
    options = "as it is now" if not trial.number else ", ".join(f"{k} {v}" for k, v in trial.options.items())
    say(f"{label(name)}, trial {trial.number + 1}{of}: {what} in {clock(trial.seconds)} ({options})")


def _print_table(config: RunConfig, record: Mapping[str, Tuned]) -> None:
    metric = metric_label(config.tuning.metric)
    table = Table(title=f"{metric} on validation users, {config.tuning.sampler}")
    for title in ("system", "as it was", "best", "trials", "failed or pruned", "time", "users"):
        table.add_column(title, justify="left" if title == "system" else "right")
    for name in config.systems:
        if name not in record:
            table.add_row(label(name), *["-"] * 2, "not tuned", *["-"] * 3)
            continue
        t = record[name]
        table.add_row(
            label(name),
            number(t.default),
            number(t.best),
            str(t.trials),
            str(t.failed + t.pruned),
            clock(t.seconds),
            f"{t.users:,}",
        )
    console.print(table)
