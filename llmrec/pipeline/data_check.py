"""Look at data before anything is trained: what is in it, and what of it would bite."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.data.check.splits import STRATEGIES, SplitCheck, check_split
from llmrec.data.check.whole import DataCheck, check_log
from llmrec.data.cleaning.ledger import Ledger
from llmrec.data.load import Loaded, check_faults, load_data
from llmrec.errors import DataError
from llmrec.eval.data_page import render_check_html, render_check_json
from llmrec.eval.data_sections import CheckSection, CheckTable, check_sections, ledger_words
from llmrec.eval.data_warnings import DataWarning, find_warnings
from llmrec.eval.words import today
from llmrec.pipeline.artefacts import locked, write_text
from llmrec.pipeline.parts import make_split
from llmrec.progress import console, say, say_once
from llmrec.settings import SourceSettings

__all__ = ["data_check", "examine"]


def data_check(config_path: Path, overrides: Sequence[str] = ()) -> Path:
    """Check a config's data, print what is found, and write data-check.html and data-check.json into its run directory.

    Rows that cleaning leaves out go to data-check.rejects.parquet there.

    Returns
    -------
    The page.

    Raises
    ------
    LlmrecError
        The config or the data cannot be read; or more rows are unusable than ``data.cleaning.max_rejected`` allows, in
        which case everything is printed and written before.
    """
    config = load_config(config_path, overrides)
    run, strategy = config.output, config.split.strategy
    with locked(run):
        for name in ("data-check.json", "data-check.html"):  # of an earlier check, if this one fails
            (run / name).unlink(missing_ok=True)
        ledger = Ledger(run / "data-check.rejects.parquet")
        check, warnings = examine(config, ledger)
        command = shlex.join(
            ["llmrec", "data", "check", str(config_path), *(f"--set={o}" for o in overrides)]
        )
        page = render_check_html(
            check, warnings, strategy, title=config.name, created=today(), command=command
        )
        write_text(run / "data-check.json", render_check_json(check, warnings))
        write_text(run / "data-check.html", page)
    for section in [*check_sections(check, strategy), ledger_words(check.ledger)]:
        _print(section)
    _print_warnings([w.sentence for w in warnings])
    say(f"Page: {run / 'data-check.html'}")
    check_faults("items", _name(config, config.data.items), config.data, ledger)
    check_faults("interactions", _name(config, config.data.interactions), config.data, ledger)
    return run / "data-check.html"


def examine(config: RunConfig, ledger: Ledger) -> tuple[DataCheck, tuple[DataWarning, ...]]:
    """Read a config's data however much of it is unusable, and return what is in it and what would bite."""
    data = _load(config, ledger)
    splits = [_try_split(config, data, strategy) for strategy in STRATEGIES]
    check = check_log(data, splits, config.data.label)
    return check, find_warnings(check, config.data, config.split)


def _load(config: RunConfig, ledger: Ledger) -> Loaded:
    """Read the data; what was done before an error is printed."""
    tolerant = config.data.cleaning.model_copy(update={"max_rejected": 1.0})
    data = config.data.model_copy(update={"cleaning": tolerant})
    try:
        return load_data(data, ledger=ledger, notify=say_once)
    except DataError:
        if (done := ledger_words(ledger.steps)).facts:
            _print(done)
        raise


def _name(config: RunConfig, source: SourceSettings | None) -> str:
    return config.data.label if source is None else ", ".join(source.location)


def _try_split(config: RunConfig, data: Loaded, strategy: str) -> SplitCheck:
    changes = {"strategy": strategy, "short_histories": "train"}  # how many are too short is counted
    settings = config.split.model_copy(update=changes)
    try:
        return check_split(
            make_split(config.model_copy(update={"split": settings}), data.interactions, data.catalog)
        )
    except DataError as error:
        return SplitCheck(strategy, None, problem=str(error))


def _print(section: CheckSection) -> None:
    console.print(Text(f"\n{section.title}", style="bold"))
    if section.note:
        console.print(Padding(Text(section.note, style="dim"), (0, 0, 0, 2)), soft_wrap=False)
    if section.facts:
        grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for term, text in section.facts:
            grid.add_row(Text(term), Text(text))
        console.print(Padding(grid, (0, 0, 0, 2)), soft_wrap=False)
    if section.table is not None:
        console.print(Padding(_table(section.table), (0, 0, 0, 2)), soft_wrap=False)


def _table(table: CheckTable) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if place in table.words else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _print_warnings(sentences: Sequence[str]) -> None:
    console.print(Text(f"\nWarnings: {len(sentences)}" if sentences else "\nNo warnings", style="bold"))
    grid = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for sentence in sentences:
        grid.add_row(Text("!", style="yellow"), Text(sentence))
    if sentences:
        console.print(Padding(grid, (0, 0, 1, 2)), soft_wrap=False)
