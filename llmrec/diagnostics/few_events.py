"""How well systems do for users of whom little is known: those of the test, with the newest few of their events.

Only the events that are left count as seen, as for somebody who has just come. What a system learned of these users in its
training it keeps; under ``split.strategy: users`` that is nothing.

Shapes: U users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.diagnostics.ablation import METRICS, user_values
from llmrec.eval.significance import Difference, holm, paired_difference

__all__ = ["EVENTS", "Known", "Values", "beside_each_other", "newest", "with_few_events"]

EVENTS = (1, 2, 4, 8, 16)

Values = Mapping[int, Mapping[str, NDArray[np.float64]]]
"""Events known -> each of METRICS -> every user's value [U]."""


@dataclass(frozen=True)
class Known:
    """How a system does where so many events are known."""

    system: str
    events: int
    means: Mapping[str, float]  # of each of METRICS
    differences: Mapping[str, Difference]  # the first system's minus this one's; empty for the first


def newest(histories: Histories, events: int) -> Histories:
    """Return the newest events of every user, at most so many."""
    age = np.repeat(histories.indptr[1:], histories.lengths) - np.arange(len(histories.items))
    return histories.where(age <= events)


def with_few_events(
    recommend: Callable[[Histories], Recommendations], users: Holdout, lengths: Sequence[int] = EVENTS
) -> Values:
    """Return what the lists of a fitted system are worth to each user, by how many of the newest events it is shown."""
    return {n: user_values(recommend(newest(users.histories, n)), users) for n in lengths}


def beside_each_other(found: Mapping[str, Values], seed: int) -> list[Known]:
    """Return the first system and the others at each number of events, the fewest first.

    p-values are Holm-corrected for all comparisons of a metric.

    Parameters
    ----------
    found
        System -> its values, of the same users and numbers of events for all.
    seed
        Of the intervals and tests.
    """
    first, *others = found
    rows = [
        Known(
            system=system,
            events=n,
            means={metric: float(values.mean()) for metric, values in found[system][n].items()},
            differences={
                metric: paired_difference(found[first][n][metric], values, seed)
                for metric, values in found[system][n].items()
                if system != first
            },
        )
        for n in found[first]
        for system in (first, *others)
    ]
    corrected = {
        metric: holm(
            {f"{n} {r.system}": r.differences[metric].p for n, r in enumerate(rows) if r.differences}
        )
        for metric in METRICS
    }
    return [
        replace(
            row,
            differences={
                metric: replace(difference, p_holm=corrected[metric][f"{n} {row.system}"])
                for metric, difference in row.differences.items()
            },
        )
        for n, row in enumerate(rows)
    ]
