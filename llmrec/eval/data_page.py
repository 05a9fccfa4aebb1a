"""A data check as one HTML file, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmrec.data.check.whole import DataCheck
from llmrec.eval.data_sections import check_sections, ledger_section
from llmrec.eval.data_warnings import DataWarning
from llmrec.eval.files import without_nan
from llmrec.eval.report import environment

__all__ = ["render_check_html", "render_check_json"]


def render_check_html(
    check: DataCheck,
    warnings: Sequence[DataWarning],
    strategy: str,
    *,
    title: str = "",
    created: str = "",
    command: str = "",
) -> str:
    """Return a check as one self-contained HTML page, in the style of the report.

    Parameters
    ----------
    strategy
        The config's way to split, which is marked.
    title
        The run's name; the data's where it is empty.
    created, command
        The date in words and the command that makes the page again; left out where they are empty.
    """
    sections = [*check_sections(check, strategy), ledger_section(check.ledger)]
    template = environment(autoescape=True).get_template("data-check.html.j2")
    return template.render(
        check=check,
        warnings=warnings,
        strategy=strategy,
        title=title or check.dataset,
        sections=sections,
        created=created,
        command=command,
    )


def render_check_json(check: DataCheck, warnings: Sequence[DataWarning]) -> str:
    """Return all numbers and the warnings as JSON, undefined numbers as null."""
    found = [{"name": w.name, "sentence": w.sentence, "setting": w.setting} for w in warnings]
    content = without_nan({"warnings": found, **check.to_dict()})
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
