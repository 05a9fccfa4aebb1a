"""Render a comparison as one HTML file or as Markdown.

Nothing is computed here that is not in the :class:`~llmrec.eval.compare.Comparison`; this module decides
what is shown and the templates decide how. The HTML loads nothing: style, pictures and the few lines of
script are inside, so it can be mailed, archived and opened offline.

Shapes: S systems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from llmrec.eval import words
from llmrec.eval.compare import Comparison
from llmrec.eval.context import LLMNotes, ReportContext
from llmrec.eval.evaluate import Cost
from llmrec.eval.item_columns import item_columns
from llmrec.eval.plots import Dot, Point, curve_plot, dot_plot, scatter_plot
from llmrec.eval.protocol_words import protocol_words, sample_words

__all__ = ["render_html", "render_markdown"]

LEGEND = {
    "ndcg": "1 / log2(1 + rank) of the true next item if it is among the first k, else 0; averaged over users. "
    "1 would mean that it is always first.",
    "hr": "hit rate: share of users whose true next item is among the first k (recall with one target).",
    "mrr": "mean reciprocal rank: 1 / rank of the true next item if it is among the first k, else 0.",
    "map": "mean average precision at k; with one true next item the same number as MRR.",
    "precision": "share of the first k places that hold the true next item; with one of them, HR / k.",
}
CHECKS = {
    "validity": "in the catalogue",
    "duplicates": "not repeated",
    "seen": "new to the user",
    "filled": "places filled",
}
_LINE = "\x00"  # a line break in a code block, whose blank lines must survive the tidying of the others
_INVERTED = ("duplicates", "seen")  # measured as a share of faults, shown as a share without fault


@dataclass(frozen=True)
class _Row:
    """One system of a results table."""

    system: str
    label: str
    kind: str
    cells: tuple[dict[str, Any], ...]


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
    return _environment(autoescape=True).get_template("report.html.j2").render(_view(comparison, ctx))


def render_markdown(comparison: Comparison, ctx: ReportContext | None = None) -> str:
    """Return the same facts as Markdown tables, short enough for a comment on GitHub."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(_view(comparison, ctx))
    return re.sub(r"\n{3,}", "\n\n", text).strip().replace(_LINE, "\n") + "\n"


def _environment(*, autoescape: bool) -> jinja2.Environment:
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
        "md": _markdown_text,
        "fenced": _fenced,
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
        "kind": lambda system: _kind(comparison, system),
        "verdict": comparison.summary_sentence,
        "protocol": comparison.evaluations[0].protocol,
        "table": _table(comparison, comparison),
        "all_table": _table(ctx.all_users, comparison) if ctx.all_users is not None else None,
        "users_line": sample_words(comparison, ctx),
        "dot_plots": [
            dot_plot(_dot_title(comparison, m), _dots(comparison, m)) for m in comparison.metrics[:2]
        ],
        "cost_plot": _cost_plot(comparison),
        "costs": [(s, comparison.evaluation(s).cost) for s in systems],
        "cost_columns": _cost_columns(comparison),
        "devices_differ": len({e.cost.device for e in comparison.evaluations}) > 1,
        "hardware": _hardware(comparison, ctx),
        "item_columns": item_columns(comparison, k),
        "overlap": comparison.overlap(comparison.subject, comparison.baseline, k)
        if comparison.subject
        else None,
        "overlap_k": k,
        "slices": _slices(comparison),
        "checks": CHECKS,
        "mean": lambda system, metric: comparison.evaluation(system).means.get(metric, math.nan),
        "check": lambda system, name: _check(comparison, system, name),
        "curves": [plot for plot in map(curve_plot, ctx.curves) if plot],
        "example_systems": [s for s in (comparison.subject, comparison.baseline) if s] + others,
        "llm_notes": [(note, _notes(note)) for note in ctx.llm],
        "protocol_words": protocol_words(comparison, ctx),
        "legend": [
            (words.metric_term(name), text)
            for name, text in LEGEND.items()
            if any(m.startswith(f"{name}@") for m in comparison.metrics)
        ],
    }


def _kind(comparison: Comparison, system: str) -> str:
    if system == comparison.subject:
        return "subject"
    return "baseline" if system == comparison.baseline else "other"


def _table(comparison: Comparison, main: Comparison) -> list[_Row]:
    """Return the rows of a results table; the colours are those of the ``main`` comparison."""
    rows = []
    for system in comparison.systems:
        cells = []
        for metric in comparison.metrics:
            interval = comparison.intervals[system][metric]
            cells.append(
                {
                    "metric": metric,
                    "value": interval.mean,
                    "interval": words.interval_text(interval.low, interval.high).replace(" to ", "–"),
                    "best": system in comparison.best(metric),
                }
            )
        label = words.label(system, comparison.labels)
        rows.append(_Row(system, label, _kind(main, system), tuple(cells)))
    return rows


def _dot_title(comparison: Comparison, metric: str) -> str:
    return f"{words.metric_label(metric)} with {comparison.confidence:.0%} intervals"


def _dots(comparison: Comparison, metric: str) -> list[Dot]:
    dots = []
    for system in sorted(comparison.intervals, key=lambda s: -comparison.intervals[s][metric].mean):
        i = comparison.intervals[system][metric]
        label = words.label(system, comparison.labels)
        dots.append(Dot(label, i.mean, i.low, i.high, _kind(comparison, system)))
    return dots


def _cost_plot(comparison: Comparison) -> Markup | None:
    metric = comparison.metrics[0]
    points = []
    for system in comparison.systems:
        seconds = comparison.evaluation(system).cost.seconds_per_1000_users
        if math.isfinite(seconds) and seconds > 0:
            i = comparison.intervals[system][metric]
            label = words.label(system, comparison.labels)
            points.append(Point(label, seconds, i.mean, i.low, i.high, _kind(comparison, system)))
    if len(points) < 2:
        return None
    name = words.metric_label(metric)
    return scatter_plot(f"{name} against time to recommend", "seconds per 1,000 users", name, points)


@dataclass(frozen=True)
class _CostColumn:
    """A heading, which part of a :class:`Cost` it shows, and in which form."""

    title: str
    value: Callable[[Cost], float | None]
    form: Callable[[float | None], str]

    def text(self, cost: Cost) -> str:
        return self.form(self.value(cost))

    def sort_key(self, cost: Cost) -> float:
        value = self.value(cost)
        return value if value is not None and math.isfinite(value) else -1.0


_COST_COLUMNS = (
    _CostColumn("Fit", lambda c: c.fit_seconds, words.duration),
    _CostColumn("Recommend, per 1,000 users", lambda c: c.seconds_per_1000_users, words.duration),
    _CostColumn("Peak memory", lambda c: c.peak_memory_bytes, words.bytes_text),
    _CostColumn("Tokens trained", lambda c: c.tokens_trained, words.count),
    _CostColumn("Tokens read", lambda c: c.tokens_read, words.count),
    _CostColumn("Tokens generated", lambda c: c.tokens_generated, words.count),
)


def _cost_columns(comparison: Comparison) -> list[_CostColumn]:
    """Return the columns in which at least one system was measured."""
    costs = [e.cost for e in comparison.evaluations]
    return [column for column in _COST_COLUMNS if any(column.sort_key(cost) >= 0 for cost in costs)]


def _hardware(comparison: Comparison, ctx: ReportContext) -> str:
    devices = {e.cost.device for e in comparison.evaluations}
    return ctx.hardware or (devices.pop() if len(devices) == 1 else "")


def _slices(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one table per grouping, its groups in order."""
    tables: dict[str, dict[str, Any]] = {}
    for group in comparison.slices:
        table = tables.setdefault(group.title, {"title": group.title, "note": group.note, "groups": []})
        top = max(group.means.values())
        best = {name for name, mean in group.means.items() if mean == top}
        table["groups"].append({"group": group, "best": best})
    return list(tables.values())


def _check(comparison: Comparison, system: str, name: str) -> float:
    value = comparison.evaluation(system).checks.get(name, math.nan)
    return 1.0 - value if name in _INVERTED else value


def _notes(note: LLMNotes) -> list[tuple[str, str]]:
    """Return what is known about a language model as terms and texts."""
    share = ""
    if note.parameters and note.trainable_parameters:
        share = f" ({words.percent(note.trainable_parameters / note.parameters, 2)} of {words.count(note.parameters)})"
    trained = (
        f"{words.count(note.targets_trained)} next items, {words.count(note.tokens_trained)} tokens"
        if note.targets_trained and note.tokens_trained
        else words.count(note.tokens_trained) + " tokens"
        if note.tokens_trained
        else words.count(note.targets_trained) + " next items"
        if note.targets_trained
        else ""
    )
    pairs = [
        ("Model", note.model),
        ("Parameters", words.count(note.parameters) if note.parameters and not share else ""),
        (
            "Trained parameters",
            f"{words.count(note.trainable_parameters)}{share}" if note.trainable_parameters else "",
        ),
        ("Adapter", note.adapter),
        ("Items are written as", note.identifiers),
        (
            "Trained on",
            trained
            + (
                f" in {note.epochs:g} epoch{'s' if note.epochs != 1 else ''}"
                if trained and note.epochs
                else ""
            ),
        ),
        ("Decoding", note.decoding),
        ("Time in the prompt", note.time_in_words),
    ]
    return [(term, text) for term, text in pairs if text]


def _markdown_text(text: object) -> str:
    """Return text that Markdown shows as it is, also within a table."""
    flat = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"(?<!\w)@", "@\u2060", flat)  # a word joiner, so that GitHub notifies nobody


def _fenced(text: str, language: str = "") -> str:
    """Return text as a code block whose fence is longer than any run of backticks in it."""
    runs: Sequence[str] = re.findall(r"`+", text)
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}".replace("\n", _LINE)
