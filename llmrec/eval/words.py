"""Numbers and names as a reader wants them: digits that mean something, units, no jargon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

__all__ = [
    "MISSING",
    "RESOLUTIONS",
    "SYSTEM_LABELS",
    "bytes_text",
    "count",
    "date",
    "duration",
    "interval_text",
    "label",
    "metric_label",
    "metric_term",
    "number",
    "p_text",
    "percent",
    "sentence_list",
    "today",
]

SYSTEM_LABELS = {
    "llm": "LLM",
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "bert4rec": "BERT4Rec",
    "ease": "EASE",
    "svd": "SVD",
    "itemknn": "ItemKNN",
    "userknn": "UserKNN",
    "content": "Content-based",
    "popularity": "Popularity",
    "trend": "Trend",
    "markov": "Markov chain",
    "hybrid": "Hybrid",
    "adjusted": "Adjusted",
    "guided": "Guided LLM",
    "rerank": "Re-ranker",
    "random": "Random",
}
RESOLUTIONS = {1: "one second", 60: "one minute", 3600: "one hour", 86400: "one day"}  # of times, in seconds
_ACRONYMS = ("hr", "ndcg", "mrr", "map")
MISSING = "–"  # for what is undefined or was not measured: never 0, never an empty cell
_MINUS = "\u2212"  # as wide as the plus sign, unlike a hyphen


def label(system: str, labels: Mapping[str, str] | None = None) -> str:
    """Return the name to print for a system."""
    return (labels or {}).get(system) or SYSTEM_LABELS.get(system, system)


def metric_label(metric: str) -> str:
    """Return ``"NDCG@10"`` for ``"ndcg@10"``; a dotted path keeps only the function's name."""
    name, _, k = metric.partition("@")
    return f"{metric_term(name)}@{k}"


def metric_term(name: str) -> str:
    """Return ``"NDCG"`` for ``"ndcg"``, ``"Precision"`` for ``"precision"``, ``"fn"`` for ``"my.module.fn"``."""
    if "." in name:
        return name.rpartition(".")[2]
    return name.upper() if name in _ACRONYMS else name.capitalize()


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """Return a metric's value with four decimals, the resolution that papers report."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (_MINUS if value < 0 else "+" if sign else "") + text


def interval_text(low: float, high: float, digits: int = 4) -> str:
    """Return ``"0.1021 to 0.1342"``; a dash where the interval is undefined."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"{number(low, digits)} to {number(high, digits)}"


def percent(value: float | None, digits: int | None = None, *, sign: bool = False) -> str:
    """Return a fraction as per cent; only an exact 1 prints as ``100%`` and only an exact 0 as ``0%``."""
    if value is None or not math.isfinite(value):
        return MISSING
    scaled = 100 * abs(value)
    places = digits if digits is not None else (0 if scaled in (0, 100) else 1)
    text = f"{scaled:.{places}f}"
    if value != 0 and float(text) == 0:
        return f"<{10**-places:.{places}f}%"
    if abs(value) < 1 and float(text) == 100:  # 999,999 of 1,000,000 must not read as "always"
        text = ">99." + "9" * max(places, 1)
    return (_MINUS if value < 0 else "+" if sign and value > 0 else "") + text + "%"


def p_text(p: float) -> str:
    """Return ``"= 0.012"`` or ``"< 0.001"``."""
    if not math.isfinite(p):
        return MISSING
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def count(value: float | None) -> str:
    """Return a count with separators, or in millions and billions from ten million on."""
    if value is None or not math.isfinite(value):
        return MISSING
    for size, unit in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= 10 * size or (unit == "billion" and abs(value) >= size):
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a time span with two or three digits in the unit that fits."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds >= 0.01 else "<0.01 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def bytes_text(size: float | None) -> str:
    """Return a size in MB or GB (powers of 1,000)."""
    if size is None or not math.isfinite(size):
        return MISSING
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 1):.0f} MB"


def date(timestamp: float, resolution: int = 86400) -> str:
    """Return a UTC date, with the time of day only where the data resolves it (``resolution`` in seconds)."""
    moment = datetime.fromtimestamp(timestamp, tz=UTC)
    return f"{moment:%Y-%m-%d}" if resolution >= 86400 else f"{moment:%Y-%m-%d %H:%M}"


def today() -> str:
    """Return the date as ``"3 May 2026"``."""
    return datetime.now(UTC).strftime("%-d %B %Y")


def sentence_list(words: Sequence[str]) -> str:
    """Return ``"a, b and c"``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
