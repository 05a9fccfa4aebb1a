"""Render a comparison as one HTML file, as Markdown, as LaTeX tables and as JSON.

Nothing is computed here that is not in the :class:`~llmrec.eval.compare.Comparison`; ``views`` decides what is
shown and the templates decide how. The HTML loads nothing: style, pictures and the few lines of script are
inside, so it can be mailed, archived and opened offline.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jinja2

from llmrec.eval import views, words
from llmrec.eval.compare import Comparison
from llmrec.eval.context import ReportContext
from llmrec.eval.files import without_nan
from llmrec.eval.item_columns import item_columns
from llmrec.eval.markup import LINE, fenced, latex_text, markdown_text
from llmrec.eval.notes import has_numbers, note_pairs, note_rows
from llmrec.eval.plots import curve_plot
from llmrec.eval.protocol_words import protocol_words, sample_words, told_words
from llmrec.eval.verdict import training_words

__all__ = ["environment", "render_html", "render_json", "render_latex", "render_markdown"]


def render_html(comparison: Comparison, ctx: ReportContext | None = None) -> str:
    """Return the report as one self-contained HTML page.

    Parameters
    ----------
    comparison
        The numbers.
    ctx
        What else is known; whatever it lacks is left out of the page.

    Notes
    -----
    Every text is escaped: titles, prompts and configs may hold markup.
    """
    return environment(autoescape=True).get_template("report.html.j2").render(_view(comparison, ctx))


def render_markdown(comparison: Comparison, ctx: ReportContext | None = None) -> str:
    """Return the same facts as Markdown tables, short enough for a comment on GitHub."""
    text = environment(autoescape=False).get_template("report.md.j2").render(_view(comparison, ctx))
    return re.sub(r"\n{3,}", "\n\n", text).strip().replace(LINE, "\n") + "\n"


def render_latex(comparison: Comparison, ctx: ReportContext | None = None) -> str:
    r"""Return the results as LaTeX tables.

    The file compiles as it is and can be ``\input`` into a paper that loads booktabs.
    """
    for_latex = environment(autoescape=False).overlay(
        variable_start_string="<<",  # braces are LaTeX's own
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    return for_latex.get_template("report.tex.j2").render(_view(comparison, ctx))


def render_json(comparison: Comparison) -> str:
    """Return all numbers as JSON, undefined ones as null."""
    return json.dumps(without_nan(comparison.to_dict()), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def environment(*, autoescape: bool) -> jinja2.Environment:
    """Return what renders the templates: numbers as readers want them, and an error for a name that is not there."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmrec.eval", "templates"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": words.number,
        "percent": words.percent,
        "count": words.count,
        "duration": words.duration,
        "bytes": words.bytes_text,
        "metric": words.metric_label,
        "p": words.p_text,
        "md": markdown_text,
        "fenced": fenced,
        "tex": latex_text,
    }
    environment.globals |= {"interval": words.interval_text, "finite": math.isfinite}
    return environment


def _view(comparison: Comparison, ctx: ReportContext | None) -> dict[str, Any]:
    """Return everything the templates show."""
    ctx = ctx or ReportContext()

    def label(system: str) -> str:
        return words.label(system, comparison.labels)

    systems = comparison.systems
    others = [s for s in systems if s not in (comparison.subject, comparison.baseline)]
    k = int(comparison.metrics[0].rpartition("@")[2])
    return {
        "comparison": comparison,
        "ctx": ctx,
        "label": label,
        "kind": lambda system: views.kind(comparison, system),
        "verdict": comparison.summary_sentence,
        "protocol": comparison.evaluations[0].protocol,
        "table": views.result_rows(comparison, comparison),
        "all_table": views.result_rows(ctx.all_users, comparison) if ctx.all_users is not None else None,
        "seeds": views.seed_rows(comparison),
        "users_line": sample_words(comparison, ctx),
        "dot_plots": views.dot_plots(comparison),
        "cost_plot": views.cost_plot(comparison),
        "costs": [(s, comparison.cost(s)) for s in systems],
        "cost_columns": views.cost_columns(comparison),
        "devices_differ": len({e.cost.device for e in comparison.evaluations}) > 1,
        "hardware": views.hardware(comparison, ctx),
        "item_columns": item_columns(comparison, k),
        "overlap": comparison.overlap(comparison.subject, comparison.baseline, k)
        if comparison.subject
        else None,
        "overlap_k": k,
        "slices": views.slice_tables(comparison),
        "checks": views.CHECKS,
        "check": lambda system, name: views.check(comparison, system, name),
        "has_numbers": has_numbers,
        "note_rows": note_rows,
        "curves": [plot for plot in map(curve_plot, ctx.curves) if plot],
        "example_systems": [s for s in (comparison.subject, comparison.baseline) if s] + others,
        "llm_notes": [(note, note_pairs(note)) for note in ctx.llm],
        "protocol_words": protocol_words(comparison, ctx),
        "warnings": (*ctx.warnings, *([told_words(comparison, ctx.told_when)] if ctx.told_when else ())),
        "training_words": training_words(comparison),
        "slug": re.sub(r"[^a-z0-9]+", "-", ctx.run_name.lower()).strip("-"),
        "legend": views.legend(comparison),
    }
