"""What came out of a comparison, in one sentence, and how often its systems were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmrec.eval.words import interval_text, label, metric_label, number, p_text, percent, sentence_list

if TYPE_CHECKING:
    from llmrec.eval.compare import Comparison

__all__ = ["training_words", "verdict"]


def verdict(comparison: Comparison) -> str:
    """Say who wins, by how much, and how sure that is."""
    metric, labels = comparison.metrics[0], comparison.labels
    name, users = metric_label(metric), _users(comparison.users)
    base = comparison.intervals[comparison.baseline][metric].mean
    other = label(comparison.baseline, labels)
    if comparison.subject is None:
        return f"{other} has {name} {number(base)} on {users}{_spread(comparison, comparison.baseline)}."
    subject = label(comparison.subject, labels)
    d = comparison.differences[comparison.subject][metric]
    mean = comparison.intervals[comparison.subject][metric].mean
    sure = (
        f"difference {number(d.mean, sign=True)}, {comparison.confidence:.0%} interval "
        f"{interval_text(d.low, d.high)}, p {p_text(d.p_holm)}"
    )
    if not d.shown():
        text = (
            f"No difference between {subject} ({name} {number(mean)}) and {other} ({number(base)}) could be "
            f"shown on {users} ({sure})"
        )
    else:
        by = f" by {percent(abs(d.relative))}" if np.isfinite(d.relative) else ""
        verb = "beats" if d.mean > 0 else "loses to"
        text = (
            f"{subject} {verb} {other}{by} on {users}: {name} {number(mean)} against {number(base)} ({sure})"
        )
    text += _spread(comparison, comparison.subject, comparison.baseline)
    top = max(by_metric[metric].mean for by_metric in comparison.intervals.values())
    if number(top) != number(max(mean, base)):  # a third system is visibly ahead of both
        leaders = comparison.best(metric)
        named = sentence_list([label(x, labels) for x in leaders])
        text += f"; {named} {'has' if len(leaders) == 1 else 'have'} the highest value, {number(top)}"
    return text + "."


def training_words(comparison: Comparison) -> str:
    """Say how often the systems were trained, and what follows from that for intervals and tests."""
    by_seeds: dict[tuple[int | None, ...], list[str]] = {}
    for system in comparison.systems:
        by_seeds.setdefault(comparison.seeds(system), []).append(label(system, comparison.labels))
    by_seeds.pop((None,), None)  # nothing in them is random
    if all(len(seeds) == 1 for seeds in by_seeds):
        return (
            "Each system was trained once, so variation between training runs is not in the intervals; two trainings of one "
            "neural system can differ by more than these allow."
        )
    named = [f"{sentence_list(names)} with {_seeds(seeds)}" for seeds, names in by_seeds.items()]
    return (
        f"Trained: {'; '.join(named)}. A user's value is the mean over a system's seeds. Intervals and tests are over "
        "users, given these trainings; what other seeds would change is in the spread beside the means."
    )


def _seeds(seeds: tuple[int | None, ...]) -> str:
    known = ["unknown" if seed is None else str(seed) for seed in seeds]
    return ("seeds " if len(seeds) > 1 else "seed ") + sentence_list(known)


def _spread(comparison: Comparison, *systems: str) -> str:
    """Return a clause on the seeds behind the means, or nothing where each system was trained once."""
    parts = []
    for system in systems:
        means, name = comparison.seed_means(system, comparison.metrics[0]), label(system, comparison.labels)
        if len(means) > 1:
            parts.append(
                f"{len(means)} seeds of {name} range from {number(min(means))} to {number(max(means))}"
            )
        elif comparison.seeds(system) != (None,):
            parts.append(f"{name} was trained once")
    ranges = [comparison.seed_means(system, comparison.metrics[0]) for system in systems]
    if all(len(means) == 1 for means in ranges):
        return ""
    # Then other seeds could turn the order round, however sure the difference between these trainings is.
    overlap = len(ranges) > 1 and max(map(min, ranges)) <= min(map(max, ranges))
    both = all(len(means) > 1 for means in ranges)
    return "; " + sentence_list(parts) + (", which overlap" if overlap and both else "")


def _users(count: int) -> str:
    return f"{count:,} test user" + ("" if count == 1 else "s")
