"""Histograms and counts over time as inline SVG, in the manner of :mod:`llmrec.eval.plots`."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from llmrec.eval.plots import framed, horizontal_grid, ticks
from llmrec.eval.words import count

__all__ = ["bar_plot"]

_HEIGHT = 150
_UNITS = ((1_000_000, "million "), (1_000, "thousand "), (1, ""))


def bar_plot(title: str, x_label: str, y_label: str, bars: Sequence[tuple[str, int]]) -> Markup:
    """Return counts as bars, left to right, each with a label; where labels would touch on a phone, only every nth has one."""
    most = max(bars, key=lambda bar: bar[1])
    unit, prefix = next(
        (u, p) for u, p in _UNITS if most[1] >= 100 * u or u == 1
    )  # longer numbers have no room
    marks = ticks(0, (most[1] or 1) / unit, 4)
    step = 100 / len(bars)
    svg = [f'<svg class="plot" width="100%" height="{_HEIGHT + 26}" aria-hidden="true">']
    svg.extend(horizontal_grid(marks, lambda value: round(_HEIGHT * (1 - value / marks[-1]), 1)))
    width = 0.82 * step if len(bars) <= 40 else step  # gaps between many thin bars are stripes
    room = 2.2 * (2 + max(len(label) for label, _ in bars))  # per cent of a phone's width that a label takes
    stride = max(1, -(-int(room * len(bars)) // 100))
    for place, (label, value) in enumerate(bars):
        height = max(_HEIGHT * value / unit / marks[-1], 1.0 if value else 0.0)  # few are not none
        svg.append(
            f'<rect class="column" x="{place * step + (step - width) / 2:.3f}%" y="{_HEIGHT - height:.1f}" '
            f'width="{width:.3f}%" height="{height:.1f}"><title>{label}: {value:,}</title></rect>'
        )
        if place % stride == 0:
            svg.append(
                f'<text class="tick" x="{(place + 0.5) * step:.2f}%" y="{_HEIGHT + 18}" text-anchor="middle">{label}</text>'
            )
    svg.append("</svg>")
    spoken = f"{bars[0][0]} to {bars[-1][0]}, the most {count(most[1])} at {most[0]}"
    return framed(title, x_label, prefix + y_label, svg, spoken)
