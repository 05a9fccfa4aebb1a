"""Compare systems with a baseline, user by user, and say in one sentence what came out.

Shapes: U users, S systems, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmrec.errors import ConfigError, DataError, nearest
from llmrec.eval.evaluate import Evaluation
from llmrec.eval.significance import RESAMPLES, Difference, Interval, bootstrap_mean, holm, paired_difference
from llmrec.eval.slices import SliceGroup, Slices, sliced
from llmrec.eval.words import interval_text, label, metric_label, number, p_text, percent, sentence_list

__all__ = ["Comparison", "compare", "default_metrics"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """S systems on the same U users; built by :func:`compare`."""

    evaluations: tuple[Evaluation, ...]  # all with the same users in the same order
    baseline: str
    subject: str | None  # the system the sentence is about; None if there is only the baseline
    metrics: tuple[str, ...]  # the first is the one that decides
    labels: Mapping[str, str]  # system -> name to print
    intervals: Mapping[str, Mapping[str, Interval]]  # system -> metric -> mean with interval
    differences: Mapping[str, Mapping[str, Difference]]  # the same, minus the baseline; without the baseline
    slices: tuple[SliceGroup, ...]
    seed: int
    resamples: int
    confidence: float

    @property
    def systems(self) -> tuple[str, ...]:
        """All systems, best first on the first metric; equal means in the order given."""
        first = self.metrics[0]
        return tuple(
            sorted((e.system for e in self.evaluations), key=lambda name: -self.intervals[name][first].mean)
        )

    @property
    def users(self) -> int:
        """How many users all systems were compared on."""
        return len(self.evaluations[0])

    def evaluation(self, system: str) -> Evaluation:
        """Return one system's evaluation; an unknown name raises :class:`ConfigError`."""
        return self.evaluations[_find(system, [e.system for e in self.evaluations])]

    def best(self, metric: str) -> tuple[str, ...]:
        """Return the system, or the systems that tie, with the highest mean of ``metric``."""
        top = max(self.intervals[name][metric].mean for name in self.intervals)
        return tuple(
            name for name in self.intervals if np.isclose(self.intervals[name][metric].mean, top, 0, 1e-12)
        )

    def overlap(self, first: str, second: str, k: int = 10) -> tuple[int, int, int, int]:
        """Return how many users both hit at ``k``, only the first, only the second, and neither."""
        a, b = (self.evaluation(name).values(f"hr@{k}") > 0 for name in (first, second))
        return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())

    @property
    def summary_sentence(self) -> str:
        """Who wins, by how much, and how sure that is."""
        metric = self.metrics[0]
        name = metric_label(metric)
        base = self.intervals[self.baseline][metric].mean
        if self.subject is None:
            return f"{label(self.baseline, self.labels)} has {name} {number(base)} on {_users(self.users)}."
        subject, other = label(self.subject, self.labels), label(self.baseline, self.labels)
        d = self.differences[self.subject][metric]
        mean = self.intervals[self.subject][metric].mean
        sure = (
            f"difference {number(d.mean, sign=True)}, {self.confidence:.0%} interval {interval_text(d.low, d.high)}, "
            f"p {p_text(d.p_holm)}"
        )
        if not d.shown():
            text = (
                f"No difference between {subject} ({name} {number(mean)}) and {other} ({number(base)}) could be "
                f"shown on {_users(self.users)} ({sure})"
            )
        else:
            by = f" by {percent(abs(d.relative))}" if np.isfinite(d.relative) else ""
            verb = "beats" if d.mean > 0 else "loses to"
            text = (
                f"{subject} {verb} {other}{by} on {_users(self.users)}: {name} {number(mean)} against "
                f"{number(base)} ({sure})"
            )
        top = max(by_metric[metric].mean for by_metric in self.intervals.values())
        if number(top) != number(max(mean, base)):  # a third system is visibly ahead of both
            leaders = self.best(metric)
            named = sentence_list([label(x, self.labels) for x in leaders])
            text += f"; {named} {'has' if len(leaders) == 1 else 'have'} the highest value, {number(top)}"
        return text + "."

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as a dict for JSON; undefined values are NaN, as everywhere in memory."""
        return {
            "baseline": self.baseline,
            "subject": self.subject,
            "users": self.users,
            "summary": self.summary_sentence,
            "seed": self.seed,
            "resamples": self.resamples,
            "confidence": self.confidence,
            "protocol": self.evaluations[0].protocol.to_dict(),
            "systems": {
                name: {
                    "label": label(name, self.labels),
                    "means": dict(self.evaluation(name).means),
                    "checks": dict(self.evaluation(name).checks),
                    "cost": self.evaluation(name).cost.to_dict(),
                    "intervals": {m: asdict(i) for m, i in self.intervals[name].items()},
                    "differences": {m: asdict(d) for m, d in self.differences.get(name, {}).items()},
                }
                for name in self.systems
            },
            "slices": [asdict(group) for group in self.slices],
        }


def default_metrics(ks: Sequence[int]) -> tuple[str, ...]:
    """Return the metrics to compare at cutoffs ``ks``: NDCG and HR at 10, MRR at the largest, HR at the others.

    Where 10 is not among the cutoffs, the largest takes its place. For 1, 5, 10 and 20 that is
    ``("ndcg@10", "hr@10", "mrr@20", "hr@1", "hr@5", "hr@20")``.
    """
    main = 10 if 10 in ks else max(ks)
    return (f"ndcg@{main}", f"hr@{main}", f"mrr@{max(ks)}", *(f"hr@{k}" for k in sorted(set(ks) - {main})))


def compare(
    evaluations: Sequence[Evaluation],
    baseline: str = "sasrec",
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    *,
    subject: str | None = None,
    labels: Mapping[str, str] | None = None,
    slices: Slices | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Comparison:
    """Compare systems that were evaluated on the same users with the same protocol.

    Parameters
    ----------
    evaluations
        One per system, in the order in which ties are shown; users may be in any order.
    baseline
        The system that all others are compared with.
    metrics
        The first one decides who wins; all get intervals and tests. Default: :func:`default_metrics` of the
        cutoffs that all systems were evaluated at.
    seed
        Fixes the resampling.
    subject
        The system that the summary is about, in general the LLM. Default: the best other than the
        baseline.
    labels
        Names to print, by system; the usual systems have good ones already.
    slices
        Groups of users to show separately, from :func:`llmrec.eval.slices.user_slices`.
    resamples
        Of each bootstrap and each randomisation test.
    confidence
        Of all intervals.

    Raises
    ------
    ConfigError
        The baseline or the subject is not among the systems, or a metric is unknown.
    DataError
        Nothing to compare, a system occurs twice, users, targets or protocols differ, or a list is too
        short for a metric.

    Notes
    -----
    For each metric, Holm's correction covers the systems that are compared with the baseline. It does not
    cover the metrics: the first one is the claim, the others describe it.
    """
    evaluations = _aligned(evaluations)
    names = [e.system for e in evaluations]
    base = evaluations[_find(baseline, names)]
    if metrics is None:
        shared = set.intersection(*(set(e.ks) for e in evaluations))
        metrics = default_metrics(sorted(shared) or [min(e.k_max for e in evaluations)])
    values = {e.system: {m: e.values(m) for m in metrics} for e in evaluations}
    intervals = {
        name: {
            m: bootstrap_mean(v, seed, confidence=confidence, resamples=resamples)
            for m, v in by_metric.items()
        }
        for name, by_metric in values.items()
    }
    others = [name for name in names if name != baseline]
    differences: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for m in metrics:
        found = {
            name: paired_difference(
                values[name][m], values[baseline][m], seed, confidence=confidence, resamples=resamples
            )
            for name in others
        }
        corrected = holm({name: d.p for name, d in found.items()})
        for name, d in found.items():
            differences[name][m] = replace(d, p_holm=corrected[name])
    if subject is not None:
        _find(subject, names)
        if subject == baseline:
            raise ConfigError(
                f"The subject and the baseline are both {subject!r}. Expected two different systems."
            )
    elif others:
        subject = max(others, key=lambda name: intervals[name][metrics[0]].mean)
    first = {name: by_metric[metrics[0]] for name, by_metric in values.items()}
    return Comparison(
        evaluations=tuple(evaluations),
        baseline=base.system,
        subject=subject,
        metrics=tuple(metrics),
        labels=dict(labels or {}),
        intervals=intervals,
        differences=differences,
        slices=sliced(slices, base.user_ids, first, baseline, subject, seed) if slices is not None else (),
        seed=seed,
        resamples=resamples,
        confidence=confidence,
    )


def _aligned(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    if not evaluations:
        raise DataError(
            "There is nothing to compare. Expected at least one evaluation: evaluate a system first."
        )
    names = [e.system for e in evaluations]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"System {twice!r} occurs more than once. Expected one evaluation per system: give different names."
        )
    first = evaluations[0]
    aligned = [first]
    for e in evaluations[1:]:
        if e.protocol != first.protocol:
            ours, theirs = first.protocol.to_dict(), e.protocol.to_dict()
            field = next(name for name in ours if ours[name] != theirs[name])
            raise DataError(
                f"{e.system!r} was evaluated with {field} = {theirs[field]!r} and {first.system!r} with "
                f"{ours[field]!r}. Expected one protocol for all systems, because their numbers cannot be "
                "compared otherwise: evaluate them again on the same split."
            )
        if len(e) != len(first):
            raise DataError(
                f"{e.system!r} was evaluated on {len(e):,} users and {first.system!r} on {len(first):,}. Expected "
                "the same users for all systems: evaluate all on the same test users or the same sample."
            )
        rows = e.for_users(first.user_ids)
        targets = tuple(e.target_items[row] for row in rows)
        if targets != first.target_items:
            raise DataError(
                f"{e.system!r} and {first.system!r} were asked for different items. Expected the same target "
                "for each user: evaluate both on the same split."
            )
        aligned.append(
            replace(e, user_ids=first.user_ids, target_items=targets, target_ranks=e.target_ranks[rows])
        )
    return aligned


def _find(system: str, names: Sequence[str]) -> int:
    if system not in names:
        raise ConfigError(
            f"System {system!r} was not evaluated{nearest(system, names)}. Expected one of {', '.join(names)}."
        )
    return names.index(system)


def _users(count: int) -> str:
    return f"{count:,} test user" + ("" if count == 1 else "s")
