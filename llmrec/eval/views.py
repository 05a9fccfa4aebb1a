"""What each section of a report shows, taken from the comparison; the templates decide how.

Shapes: S systems.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from llmrec.eval import words
from llmrec.eval.compare import Comparison
from llmrec.eval.context import ReportContext
from llmrec.eval.evaluate import Cost
from llmrec.eval.plots import Dot, Point, dot_plot, scatter_plot

__all__ = [
    "CHECKS",
    "CostColumn",
    "check",
    "cost_columns",
    "cost_plot",
    "dot_plots",
    "hardware",
    "kind",
    "legend",
    "result_rows",
    "seed_rows",
    "slice_tables",
]

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
_INVERTED = ("duplicates", "seen")  # measured as a share of faults, shown as a share without fault


@dataclass(frozen=True)
class Cell:
    """One system's value of one metric."""

    metric: str
    value: float
    interval: str
    best: bool
    sd: float  # standard deviation over the trainings' means; NaN for one training
    verdict: str  # "up", "down" or "" where no difference from the baseline is shown


@dataclass(frozen=True)
class ResultRow:
    """One system of a results table."""

    system: str
    label: str
    kind: str
    seeds: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SeedRow:
    """A system that was trained several times, on one metric."""

    label: str
    kind: str
    means: tuple[tuple[str, float], ...]  # seed in words, mean over users
    mean: float
    sd: float

    @property
    def low(self) -> float:
        """The lowest mean of a training."""
        return min(mean for _, mean in self.means)

    @property
    def high(self) -> float:
        """The highest mean of a training."""
        return max(mean for _, mean in self.means)


def kind(comparison: Comparison, system: str) -> str:
    """Return the part that a system plays, which decides its colour."""
    if system == comparison.subject:
        return "subject"
    return "baseline" if system == comparison.baseline else "other"


def result_rows(comparison: Comparison, main: Comparison) -> list[ResultRow]:
    """Return the rows of a results table; the colours are those of the ``main`` comparison."""
    rows = []
    for system in comparison.systems:
        cells = []
        for metric in comparison.metrics:
            interval = comparison.intervals[system][metric]
            difference = comparison.differences.get(system, {}).get(metric)
            shown = difference is not None and difference.shown()
            cells.append(
                Cell(
                    metric,
                    interval.mean,
                    words.interval_text(interval.low, interval.high).replace(" to ", "–"),
                    system in comparison.best(metric),
                    _sd(comparison.seed_means(system, metric)),
                    "" if difference is None or not shown else "up" if difference.mean > 0 else "down",
                )
            )
        label = words.label(system, comparison.labels)
        rows.append(
            ResultRow(system, label, kind(main, system), len(comparison.trainings(system)), tuple(cells))
        )
    return rows


def seed_rows(comparison: Comparison) -> list[SeedRow]:
    """Return each training's mean of the first metric, for the systems with several trainings."""
    rows = []
    for system in comparison.systems:
        means = comparison.seed_means(system, comparison.metrics[0])
        if len(means) > 1:
            seeds = ["unknown" if seed is None else str(seed) for seed in comparison.seeds(system)]
            named = tuple(zip(seeds, means, strict=True))
            label = words.label(system, comparison.labels)
            rows.append(SeedRow(label, kind(comparison, system), named, float(np.mean(means)), _sd(means)))
    return rows


def _sd(means: tuple[float, ...]) -> float:
    return float(np.std(means, ddof=1)) if len(means) > 1 else math.nan


def dot_plots(comparison: Comparison) -> list[Markup]:
    """Return a plot of means with intervals for each of the first two metrics."""
    plots = []
    for metric in comparison.metrics[:2]:
        dots = []
        for system in sorted(comparison.intervals, key=lambda s: -comparison.intervals[s][metric].mean):
            i = comparison.intervals[system][metric]
            label = words.label(system, comparison.labels)
            dots.append(Dot(label, i.mean, i.low, i.high, kind(comparison, system)))
        title = f"{words.metric_label(metric)} with {comparison.confidence:.0%} intervals"
        plots.append(dot_plot(title, dots))
    return plots


def cost_plot(comparison: Comparison) -> Markup | None:
    """Return quality against time to recommend, or ``None`` where fewer than two systems were timed."""
    metric = comparison.metrics[0]
    points = []
    for system in comparison.systems:
        seconds = comparison.cost(system).seconds_per_1000_users
        if math.isfinite(seconds) and seconds > 0:
            i = comparison.intervals[system][metric]
            label = words.label(system, comparison.labels)
            points.append(Point(label, seconds, i.mean, i.low, i.high, kind(comparison, system)))
    if len(points) < 2:
        return None
    name = words.metric_label(metric)
    return scatter_plot(f"{name} against time to recommend", "seconds per 1,000 users", name, points)


@dataclass(frozen=True)
class CostColumn:
    """A heading, which part of a :class:`Cost` it shows, and in which form."""

    title: str
    value: Callable[[Cost], float | None]
    form: Callable[[float | None], str]

    def text(self, cost: Cost) -> str:
        """Return what a cell shows."""
        return self.form(self.value(cost))

    def sort_key(self, cost: Cost) -> float:
        """Return what a cell is sorted by; -1 where nothing was measured."""
        value = self.value(cost)
        return value if value is not None and math.isfinite(value) else -1.0


COST_COLUMNS = (
    CostColumn("Fit", lambda c: c.fit_seconds, words.duration),
    CostColumn("Recommend, per 1,000 users", lambda c: c.seconds_per_1000_users, words.duration),
    CostColumn("Peak memory", lambda c: c.peak_memory_bytes, words.bytes_text),
    CostColumn("Tokens trained", lambda c: c.tokens_trained, words.count),
    CostColumn("Tokens read", lambda c: c.tokens_read, words.count),
    CostColumn("Tokens generated", lambda c: c.tokens_generated, words.count),
)


def cost_columns(comparison: Comparison) -> list[CostColumn]:
    """Return the columns in which at least one system was measured."""
    costs = [comparison.cost(system) for system in comparison.systems]
    return [column for column in COST_COLUMNS if any(column.sort_key(cost) >= 0 for cost in costs)]


def hardware(comparison: Comparison, ctx: ReportContext) -> str:
    """Return what everything was measured on, or nothing where the systems' devices differ."""
    devices = {e.cost.device for e in comparison.evaluations}
    return ctx.hardware or (devices.pop() if len(devices) == 1 else "")


def slice_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one table per grouping, its groups in order."""
    tables: dict[str, dict[str, Any]] = {}
    for group in comparison.slices:
        table = tables.setdefault(group.title, {"title": group.title, "note": group.note, "groups": []})
        top = max(group.means.values())
        # Where all are alike, such as all at 0, none is the best.
        best = {name for name, mean in group.means.items() if mean == top > min(group.means.values())}
        table["groups"].append({"group": group, "best": best})
    return list(tables.values())


def check(comparison: Comparison, system: str, name: str) -> float:
    """Return the share of recommendations without the fault that a check looks for."""
    value = comparison.check(system, name)
    return 1.0 - value if name in _INVERTED else value


def legend(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what the metrics of ranks mean that are shown."""
    return [
        (words.metric_term(name), text)
        for name, text in LEGEND.items()
        if any(metric.startswith(f"{name}@") for metric in comparison.metrics)
    ]
