"""Compare systems with a baseline, user by user, and say in one sentence what came out.

A system may have been trained several times, with different seeds. A user's value of a metric is then the mean over the
trainings, and everything else (means, intervals, tests, slices) is computed from these values.

Shapes: U users, S systems, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmrec.errors import ConfigError, nearest
from llmrec.eval.evaluate import Cost, Evaluation
from llmrec.eval.significance import RESAMPLES, Difference, Interval, bootstrap_mean, holm, paired_difference
from llmrec.eval.slices import SliceGroup, Slices, sliced
from llmrec.eval.trainings import aligned, mean_cost, user_means
from llmrec.eval.verdict import verdict
from llmrec.eval.words import label

__all__ = ["Comparison", "compare", "default_metrics"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """S systems on the same U users; built by :func:`compare`."""

    evaluations: tuple[Evaluation, ...]  # all with the same users in the same order; several of one system
    # are its trainings, which differ in ``meta["seed"]``
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
        return tuple(sorted(self.intervals, key=lambda name: -self.intervals[name][self.metrics[0]].mean))

    @property
    def users(self) -> int:
        """How many users all systems were compared on."""
        return len(self.evaluations[0])

    def trainings(self, system: str) -> tuple[Evaluation, ...]:
        """Return a system's evaluations, one per seed; an unknown name raises :class:`ConfigError`."""
        _find(system, list(self.intervals))
        return tuple(e for e in self.evaluations if e.system == system)

    def seeds(self, system: str) -> tuple[int | None, ...]:
        """Return the seed of each training; ``None`` where nothing is random, or nothing is known about it."""
        return tuple(e.meta.get("seed") for e in self.trainings(system))

    def seed_means(self, system: str, metric: str) -> tuple[float, ...]:
        """Return the mean over users of each training."""
        return tuple(float(e.values(metric).mean()) for e in self.trainings(system))

    def mean(self, system: str, metric: str) -> float:
        """Return the mean over trainings of what :attr:`Evaluation.means` has; NaN where one of them lacks it."""
        return float(np.mean([e.means.get(metric, np.nan) for e in self.trainings(system)]))

    def check(self, system: str, name: str) -> float:
        """Return the mean over trainings of one of :attr:`Evaluation.checks`; NaN where one of them lacks it."""
        return float(np.mean([e.checks.get(name, np.nan) for e in self.trainings(system)]))

    def cost(self, system: str) -> Cost:
        """Return what one training and its lists took, on average over the trainings."""
        return mean_cost([e.cost for e in self.trainings(system)])

    def best(self, metric: str) -> tuple[str, ...]:
        """Return the system, or the systems that tie, with the highest mean of ``metric``."""
        top = max(self.intervals[name][metric].mean for name in self.intervals)
        return tuple(
            name for name in self.intervals if np.isclose(self.intervals[name][metric].mean, top, 0, 1e-12)
        )

    def overlap(self, first: str, second: str, k: int = 10) -> tuple[float, float, float, float]:
        """Return how many users both hit at ``k``, only the first, only the second, and neither.

        Of systems with several trainings, the mean over all pairs of a training of each.
        """
        # The share of trainings that hit a user is all that the mean over pairs depends on.
        a, b = (user_means(self.trainings(name), f"hr@{k}") for name in (first, second))
        both, only_a, only_b = (float(v.sum()) for v in (a * b, a * (1 - b), (1 - a) * b))
        return both, only_a, only_b, self.users - both - only_a - only_b

    @property
    def summary_sentence(self) -> str:
        """Who wins, by how much, and how sure that is."""
        return verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as a dict for JSON; undefined values are NaN, as everywhere in memory.

        ``version`` counts changes of this form that a reader would notice.
        """
        return {
            "version": 1,
            "baseline": self.baseline,
            "subject": self.subject,
            "users": self.users,
            "metrics": list(self.metrics),
            "summary": self.summary_sentence,
            "seed": self.seed,
            "resamples": self.resamples,
            "confidence": self.confidence,
            "protocol": self.evaluations[0].protocol.to_dict(),
            "systems": {
                name: {
                    "label": label(name, self.labels),
                    "seeds": list(self.seeds(name)),
                    "seed_means": {m: list(self.seed_means(name, m)) for m in self.metrics},
                    "means": {m: self.mean(name, m) for m in self.trainings(name)[0].means},
                    "checks": {c: self.check(name, c) for c in self.trainings(name)[0].checks},
                    "cost": self.cost(name).to_dict(),
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
        One per system, in the order in which ties are shown; users may be in any order. Several of one name are
        trainings of that system, told apart by ``meta["seed"]``.
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
        Nothing to compare, a system occurs twice with the same seed, users, targets or protocols differ, or a
        list is too short for a metric.

    Notes
    -----
    For each metric, Holm's correction covers the systems that are compared with the baseline. It does not
    cover the metrics: the first one is the claim, the others describe it.

    Intervals and tests are over users, given the trainings at hand: they say how sure it is that *these* models
    differ for other users of the same kind. What other seeds would give is for the spread over seeds to say
    (:meth:`Comparison.seed_means`).
    """
    evaluations = aligned(evaluations)
    names = list(dict.fromkeys(e.system for e in evaluations))
    _find(baseline, names)
    if metrics is None:
        shared = set.intersection(*(set(e.ks) for e in evaluations))
        metrics = default_metrics(sorted(shared) or [min(e.k_max for e in evaluations)])
    trainings = {name: [e for e in evaluations if e.system == name] for name in names}
    values = {name: {m: user_means(own, m) for m in metrics} for name, own in trainings.items()}
    resampling: dict[str, Any] = {"seed": seed, "confidence": confidence, "resamples": resamples}
    intervals = {
        name: {m: bootstrap_mean(v, **resampling) for m, v in by_metric.items()}
        for name, by_metric in values.items()
    }
    others = [name for name in names if name != baseline]
    differences: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for m in metrics:
        found = {
            name: paired_difference(values[name][m], values[baseline][m], **resampling) for name in others
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
    return Comparison(
        evaluations=tuple(evaluations),
        baseline=baseline,
        subject=subject,
        metrics=tuple(metrics),
        labels=dict(labels or {}),
        intervals=intervals,
        differences=differences,
        slices=sliced(slices, evaluations[0].user_ids, values, baseline, subject, **resampling)
        if slices is not None
        else (),
        seed=seed,
        resamples=resamples,
        confidence=confidence,
    )


def _find(system: str, names: Sequence[str]) -> int:
    if system not in names:
        raise ConfigError(
            f"System {system!r} was not evaluated{nearest(system, names)}. Expected one of {', '.join(names)}."
        )
    return names.index(system)
