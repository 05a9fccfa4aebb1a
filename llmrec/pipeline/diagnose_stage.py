"""What the language model of a finished run makes use of, and what it knew before it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.diagnostics.ablation import CUTOFF, Ask, Variant, ablate
from llmrec.diagnostics.few_events import EVENTS, Values, beside_each_other, with_few_events
from llmrec.diagnostics.histories import ORDER, TIME, Change, vary
from llmrec.diagnostics.memory import RECORDS, Record, has_fields, parse_record, probe_records, probe_titles
from llmrec.diagnostics.probes import Probe
from llmrec.diagnostics.tables import diagnostic_tables
from llmrec.errors import ConfigError, nearest
from llmrec.eval.context import NoteTable
from llmrec.eval.files import without_nan
from llmrec.pipeline.adapter import adapter_digest, adapter_meta
from llmrec.pipeline.artefacts import check_key, locked, read_json, write_json
from llmrec.pipeline.decoder import open_decoder
from llmrec.pipeline.keys import diagnose_key, finetune_key
from llmrec.pipeline.parts import (
    checked_template,
    language_parts,
    load_base_tokenizer,
    load_language_model,
    sample_rows,
)
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.progress import bar, say
from llmrec.recommenders.base import Recommender
from llmrec.recommenders.parts import leaves
from llmrec.recommenders.registry import build_recommender

__all__ = ["diagnose", "kept_diagnostics", "read_diagnostics"]

FILE = "diagnostics.json"
USERS = 300  # diagnosed unless told otherwise; nine or eleven times their decoding is what it costs, five of them with short prompts


def diagnose(
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    users: int = USERS,
    titles: int = 300,
    beside: Sequence[str] | None = None,
    record: str | None = None,
) -> Path:
    """Write OUTPUT/diagnostics.json, print its tables, and return its path; what is there already is only printed.

    Parameters
    ----------
    config_path, overrides
        See :func:`llmrec.config_file.load_config`.
    users
        Diagnosed test users: a seeded random sample of those of the run's comparison.
    titles
        Titles, and records, that the pretrained model is asked for.
    beside
        Names of systems whose use of order is the yardstick; they are fitted again. The run's baseline if left out.
    record
        How a line of the data set's own file of items begins, see :func:`llmrec.diagnostics.memory.parse_record`; that
        of :data:`llmrec.diagnostics.memory.RECORDS` if left out.

    Raises
    ------
    ConfigError
        The config has no language model, or no such system, or the record cannot be read.
    ArtefactError
        There is no adapter yet, or the diagnostics that are there belong to other settings.
    """
    config = load_config(config_path, overrides)
    if not config.llm_systems:
        raise ConfigError(
            f"The config {str(config_path)!r} has no language model among its systems, and that is what is diagnosed. "
            "Expected one: add 'llm: {}' to systems."
        )
    names = _yardsticks(config, beside)
    adapter_meta(config.output / "adapter", finetune_key(config))
    options = {
        # Lists of a free search would differ in what is no item too.
        "system": config.served_system,
        "users": users,
        "titles": titles,
        "beside": list(names),
        "record": record or RECORDS.get(config.data.dataset or ""),
    }
    path = config.output / FILE
    with locked(config.output):
        key = diagnose_key(config, options)
        if path.is_file():
            check_key(path, read_json(path)["key"], key)
        else:
            split, catalog = prepare(config)
            write_json(path, without_nan({"key": key, **_diagnose(config, split, catalog, options)}))
    for table in diagnostic_tables(read_json(path)):
        _show(table)
    return path


def read_diagnostics(config: RunConfig) -> tuple[NoteTable, ...]:
    """Return the tables of a run's diagnostics; none where there are none.

    Raises
    ------
    ArtefactError
        They were made with other settings, or with another adapter.
    """
    path = config.output / FILE
    if not path.is_file():
        return ()
    found = read_json(path)
    check_key(path, found["key"], diagnose_key(config, found["key"]["diagnose"]))
    return diagnostic_tables(found)


def kept_diagnostics(run: Path) -> tuple[NoteTable, ...]:
    """Return the tables of the diagnostics in a run directory, whose data need not be there; none where there are none.

    Raises
    ------
    ArtefactError
        They were made with another adapter than the one beside them.
    """
    path = run / FILE
    if not path.is_file():
        return ()
    found = read_json(path)
    if adapter := adapter_digest(run / "adapter"):
        check_key(path, {"adapter": found["key"]["adapter"]}, {"adapter": adapter})
    return diagnostic_tables(found)


def _yardsticks(config: RunConfig, beside: Sequence[str] | None) -> tuple[str, ...]:
    others = [name for name in config.systems if not config.has_language_model(name)]
    if beside is None:
        return tuple(name for name in others if name == config.evaluation.baseline)
    for name in beside:
        if name not in others:
            raise ConfigError(
                f"There is no system {name!r} to put beside the language model{nearest(name, others)}. Expected some of "
                f"{', '.join(others) or '(the config has no other system)'}."
            )
    return tuple(beside)


def _diagnose(config: RunConfig, split: Split, catalog: Catalog, options: dict[str, Any]) -> dict[str, Any]:
    record, form = None, options["record"]
    # A catalogue without the attributes of the data set's own file has no lines of it to ask for.
    built_in = form == RECORDS.get(config.data.dataset or "")
    if form is not None and not (built_in and not has_fields(form, catalog)):
        record = parse_record(form, catalog)
    everybody = split.test.select(sample_rows(config, split))
    users = everybody.select(everybody.sample_rows(options["users"], config.seed))
    # Before the language model decodes, which takes longest: what is wrong with them is known at once.
    others = _fitted(config, split, catalog, options["beside"])
    # No system may come to see other items, see `vary`.
    limits = [getattr(leaf, "max_len", None) for system in others.values() for leaf in leaves(system)]
    window = min([config.prompt.max_events, *filter(None, limits)])
    order = _varied(users.histories, ORDER, window, config.seed)
    time = {}
    if config.prompt.time != "none" and "time" in checked_template(config).fields():
        time = _varied(users.histories, TIME, config.prompt.max_events, config.seed)

    few: dict[str, Values] = {}
    name = options["system"]
    with _asked_llm(
        config, name, split, catalog, len(users), 1 + len(order) + len(time) + len(EVENTS)
    ) as ask:
        by_question, few[name] = _answers(name, ask, users, {"order": order, "time": time}, config.seed)
    for name, recommender in others.items():
        ask = partial(recommender.recommend, k=CUTOFF, exclude_seen=config.split.exclude_seen)
        of_order, few[name] = _answers(name, ask, users, {"order": order}, config.seed)
        by_question["order"] += of_order["order"]
    return {
        "users": len(users),
        "evaluation_users": len(everybody),
        "known_users": split.protocol.known_users,
        "seed": config.seed,
        "window": window,
        "prompt_events": config.prompt.max_events,
        "order": [asdict(v) for v in by_question["order"]],
        "time": [asdict(v) for v in by_question["time"]] if time else [],
        "few_events": [asdict(known) for known in beside_each_other(few, config.seed)],
        "memory": {
            "model": config.model.name,
            "record": options["record"],
            "probes": [asdict(p) for p in _ask_pretrained(config, catalog, record, options["titles"])],
        },
    }


def _fitted(
    config: RunConfig, split: Split, catalog: Catalog, names: Sequence[str]
) -> dict[str, Recommender]:
    """Fit systems without a language model; parts that are trained alike are trained once."""
    fitted = {}
    with TemporaryDirectory() as checkpoints:
        for name in names:
            with bar(f"Fitting {name}, a yardstick, epochs") as progress:
                fitted[name] = build_recommender(
                    name,
                    config.systems[name],
                    seed=config.seed,
                    catalog=catalog,
                    checkpoint=Path(checkpoints),
                    on_epoch=lambda epoch, of, _, show=progress: show(epoch, of),
                )
                fitted[name].fit(split)
    return fitted


def _answers(
    name: str, ask: Ask, users: Holdout, families: Mapping[str, Mapping[str, Histories]], seed: int
) -> tuple[dict[str, list[Variant]], Values]:
    """Return what a system loses on changed histories, and what its lists are worth where few events are known."""
    true = ask(users.histories)
    return ablate(name, ask, true, users, families, seed), with_few_events(ask, true, users)


def _varied(
    histories: Histories, changes: Mapping[str, Change], window: int, seed: int
) -> dict[str, Histories]:
    return {name: vary(histories, change, window, seed) for name, change in changes.items()}


@contextmanager
def _asked_llm(
    config: RunConfig, name: str, split: Split, catalog: Catalog, users: int, times: int
) -> Iterator[Ask]:
    """Open the language model, to be asked for the lists of so many users so many times."""
    parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
    config = config.model_copy(update={"decoding": config.decoding_for(name)})
    finished = 0
    with bar(f"Decoding for {name}, histories") as progress:

        def on_progress(done: int, of: int) -> None:
            progress(finished + done, users * times)

        with open_decoder(config, catalog, parts, name=name, k=CUTOFF, on_progress=on_progress) as llm:

            def ask(histories: Histories) -> Recommendations:
                nonlocal finished
                lists = llm.recommend(histories, CUTOFF, exclude_seen=config.split.exclude_seen)
                finished += len(histories)
                return lists

            yield ask


def _ask_pretrained(config: RunConfig, catalog: Catalog, record: Record | None, most: int) -> list[Probe]:
    # The model that the run cuts its own from: a pruned one can write nothing that it knows.
    whole = config.model_copy(update={"model": config.model.model_copy(update={"keep_layers": None})})
    model, tokenizer = load_language_model(whole), load_base_tokenizer(whole)
    with bar("Asking the pretrained model for titles") as progress:
        probes = probe_titles(model, tokenizer, catalog.titles, config.seed, most=most, on_progress=progress)
    if record is None:
        return probes
    with bar("Asking the pretrained model for records") as progress:
        return probes + probe_records(
            model, tokenizer, catalog, record, config.seed, most=most, on_progress=progress
        )


def _show(table: NoteTable) -> None:
    say(f"\n{table.title}\n{table.note}")
    for row in table.rows:
        # A line per row: as a table it would be wider than most terminals.
        say("  " + "; ".join(f"{name}: {text}" for name, text in zip(table.header, row, strict=True)))
