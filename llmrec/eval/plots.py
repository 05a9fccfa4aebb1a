"""Plots as inline SVG that fits any width, follows the page's colours and needs no script.

Horizontal positions are per cent and vertical ones pixels, so text keeps its size on a phone; a fixed
``viewBox`` would shrink it. Colours are CSS classes (``subject``, ``baseline``, ``other``), so that dark mode
and print need no second picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from llmrec.eval.context import Curve
from llmrec.eval.words import duration, number

__all__ = ["Dot", "Point", "curve_plot", "dot_plot", "framed", "horizontal_grid", "scatter_plot", "ticks"]

_ROW = 30  # pixels per system in a dot plot
_CURVE_POINTS = 300  # more cannot be told apart at the width of a column


@dataclass(frozen=True)
class Dot:
    """One system in a dot-and-whisker plot."""

    label: str
    mean: float
    low: float  # NaN draws no whisker
    high: float
    kind: str  # "subject", "baseline" or "other"


@dataclass(frozen=True)
class Point:
    """One system in the plot of quality against cost."""

    label: str
    x: float
    y: float
    low: float
    high: float
    kind: str


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Return about ``n`` round numbers whose first is at most ``low`` and whose last is at least ``high``."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def dot_plot(title: str, dots: Sequence[Dot]) -> Markup:
    """Return means with their intervals, one row per system; a dashed line continues the baseline's mean."""
    ends = [v for d in dots for v in (d.mean, d.low, d.high) if math.isfinite(v)]
    marks = ticks(_zero_or_zoom(min(ends), max(ends)), max(ends))
    scale = _Scale(marks[0], marks[-1])
    height = _ROW * len(dots)
    svg = [f'<svg class="plot" width="100%" height="{height + 26}" aria-hidden="true">']
    for mark in marks:
        x = scale(mark)
        svg.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
        svg.append(f'<text class="tick" x="{x}" y="{height + 18}" text-anchor="middle">{_short(mark)}</text>')
    for d in dots:
        if d.kind == "baseline":
            x = scale(d.mean)
            svg.append(f'<line class="mark baseline" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
    for row, d in enumerate(dots):
        y = _ROW * row + _ROW // 2
        if math.isfinite(d.low) and math.isfinite(d.high):
            svg.append(
                f'<line class="bar {d.kind}" x1="{scale(d.low)}" x2="{scale(d.high)}" y1="{y}" y2="{y}"/>'
            )
        svg.append(f'<circle class="dot {d.kind}" cx="{scale(d.mean)}" cy="{y}" r="5"/>')
    svg.append("</svg>")
    names = "".join(f'<li class="{d.kind}" title="{escape(d.label)}">{escape(d.label)}</li>' for d in dots)
    values = "".join(f'<li class="{d.kind}">{number(d.mean)}</li>' for d in dots)
    spoken = ", ".join(f"{d.label} {number(d.mean)}" for d in dots)
    return Markup(
        f'<figure class="dots"><figcaption>{escape(title)}</figcaption>'
        f'<div class="dotgrid" role="img" aria-label="{escape(title + ": " + spoken)}"><ul>{names}</ul>'
        f'<div class="pad">{"".join(svg)}</div><ul class="num">{values}</ul></div></figure>'
    )


def scatter_plot(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> Markup:
    """Return quality against cost; ``x`` must be positive and is drawn on a logarithmic scale."""
    height = 270
    xs = [math.log10(p.x) for p in points]
    first, last = math.floor(min(xs) - 0.1), math.ceil(max(xs) + 0.1)
    x_scale = _Scale(first, last)
    ends = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    marks = ticks(_zero_or_zoom(min(ends), max(ends)), max(ends))

    def y_of(value: float) -> float:
        return round(height * (1 - (value - marks[0]) / (marks[-1] - marks[0])), 1)

    svg = [f'<svg class="plot" width="100%" height="{height + 26}" aria-hidden="true">']
    svg.extend(horizontal_grid(marks, y_of))
    stride = max(1, round((last - first) / 6))
    for power in range(first, last + 1, stride):
        at = x_scale(power)
        svg.append(f'<line class="grid" x1="{at}" x2="{at}" y1="0" y2="{height}"/>')
        svg.append(
            f'<text class="tick" x="{at}" y="{height + 18}" text-anchor="middle">{_power(power)}</text>'
        )
    drawn = [(x_scale.share(math.log10(p.x)), y_of(p.y), y_of(p.high), y_of(p.low), p) for p in points]
    boxes: list[_Box] = []
    for x, y, top, bottom, p in drawn:
        boxes.append((x - 1, y - 6, x + 1, y + 6))
        if math.isfinite(p.low) and math.isfinite(p.high):
            boxes.append((x - 0.5, top, x + 0.5, bottom))
            svg.append(
                f'<line class="bar thin {p.kind}" x1="{x:.2f}%" x2="{x:.2f}%" y1="{top}" y2="{bottom}"/>'
            )
        svg.append(f'<circle class="dot {p.kind}" cx="{x:.2f}%" cy="{y}" r="5"/>')
    for x, y, top, bottom, p in drawn:
        anchor, dx, text_y, box = _place(p.label, x, y, top, bottom, boxes)
        boxes.append(box)
        svg.append(
            f'<text class="name {p.kind}" x="{x:.2f}%" dx="{dx}" y="{round(text_y, 1)}" '
            f'text-anchor="{anchor}">{escape(p.label)}</text>'
        )
    svg.append("</svg>")
    spoken = "; ".join(f"{p.label}: {duration(p.x)}, {number(p.y)}" for p in points)
    return framed(title, x_label, y_label, svg, spoken)


def curve_plot(curve: Curve) -> Markup:
    """Return one training curve; a ring marks the kept epoch. Points that are not finite are left out."""
    height = 150
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) == 0:
        return Markup("")
    if len(x) > _CURVE_POINTS:  # means of neighbours keep the level of a noisy loss; picking points would not
        x, y = (np.array([part.mean() for part in np.array_split(v, _CURVE_POINTS)]) for v in (x, y))
    marks = ticks(float(y.min()), float(y.max()), 4)
    scale = _Scale(float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1)

    def y_of(value: float) -> float:
        return round(height * (1 - (value - marks[0]) / (marks[-1] - marks[0])), 1)

    svg = [f'<svg class="plot" width="100%" height="{height + 26}" aria-hidden="true">']
    svg.extend(horizontal_grid(marks, y_of))
    for mark in ticks(float(x[0]), float(x[-1]), 5):
        if x[0] <= mark <= x[-1]:
            svg.append(
                f'<text class="tick" x="{scale(mark)}" y="{height + 18}" text-anchor="middle">{_short(mark)}</text>'
            )
    line = " ".join(f"{10 * scale.share(a):.1f},{y_of(b)}" for a, b in zip(x, y, strict=True))
    svg.append(
        f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
        f'overflow="visible"><polyline class="curve" points="{line}"/></svg>'
    )
    if curve.chosen_x is not None:
        at = int(np.argmin(np.abs(x - curve.chosen_x)))
        svg.append(f'<circle class="ring" cx="{scale(x[at])}" cy="{y_of(y[at])}" r="6"/>')
    elif len(x) == 1:
        svg.append(f'<circle class="dot other" cx="{scale(x[0])}" cy="{y_of(y[0])}" r="4"/>')
    svg.append("</svg>")
    spoken = f"from {number(float(y[0]))} to {number(float(y[-1]))}"
    return framed(curve.title, curve.x_label, curve.y_label, svg, spoken)


_Box = tuple[float, float, float, float]  # left and right in per cent, top and bottom in pixels


def _place(
    text: str, x: float, y: float, top: float, bottom: float, boxes: Sequence[_Box]
) -> tuple[str, int, float, _Box]:
    """Return anchor, offset and baseline of a label where it covers least, and the box that it takes.

    The width in per cent is that on the narrow plot of a phone; on a wide one there is only more room.
    """
    width = 2.2 * len(text)
    top, bottom = (v if math.isfinite(v) else y for v in (top, bottom))
    places: list[tuple[str, int, float, _Box]] = []
    for shift in (0, 14, -14, 28, -28):
        places.append(("start", 10, y + 4 + shift, (x + 2, y - 8 + shift, x + 2 + width, y + 6 + shift)))
        places.append(("end", -10, y + 4 + shift, (x - 2 - width, y - 8 + shift, x - 2, y + 6 + shift)))
        if shift == 0:
            places.append(("middle", 0, top - 6, (x - width / 2, top - 18, x + width / 2, top - 3)))
            places.append(("middle", 0, bottom + 14, (x - width / 2, bottom + 2, x + width / 2, bottom + 17)))

    def covered(place: tuple[str, int, float, _Box]) -> float:
        left, upper, right, lower = place[3]
        outside = max(0.0, -left) + max(0.0, right - 100) + max(0.0, -upper)
        return 20 * outside + sum(
            max(0.0, min(right, b[2]) - max(left, b[0])) * max(0.0, min(lower, b[3]) - max(upper, b[1]))
            for b in boxes
        )

    return min(places, key=covered)  # the first of equals: right of the dot, if that is free


class _Scale:
    """A number to a horizontal position in per cent."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def share(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def __call__(self, value: float) -> str:
        return f"{self.share(value):.2f}%"


def _zero_or_zoom(low: float, high: float) -> float:
    # Systems far apart are shown from 0, so that lengths can be compared; systems close together would
    # then be indistinguishable, so the axis starts near them.
    return min(low, 0.0) if low < 0.4 * high else low


def horizontal_grid(marks: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    """Return lines at ``marks`` with their numbers to the left, at the heights that ``y_of`` gives."""
    parts = []
    for mark in marks:
        y = y_of(mark)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="-8" y="{y + 4}" text-anchor="end">{_short(mark)}</text>')
    return parts


def _short(value: float) -> str:
    return f"{value:,.10g}".replace("-", "\u2212")


def _power(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:.{-power}f}"


def framed(title: str, x_label: str, y_label: str, svg: Sequence[str], spoken: str) -> Markup:
    """Return a plot with its title and the names of its axes; ``spoken`` is what a screen reader says."""
    return Markup(
        f'<figure class="framed"><figcaption>{escape(title)}</figcaption><p class="axis">{escape(y_label)}</p>'
        f'<div class="frame" role="img" aria-label="{escape(title + ": " + spoken)}">{"".join(svg)}</div>'
        f'<p class="axis x">{escape(x_label)}</p></figure>'
    )
