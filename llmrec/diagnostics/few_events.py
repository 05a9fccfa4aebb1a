"""How well systems do for users of whom little is known: those of the test, with the newest few of their events.

Only the events that are left count as seen, as for somebody who has just come. What a system learned of these users in its
training it keeps; under ``split.strategy: users`` that is nothing. The whole histories stand beside them.

Shapes: U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.diagnostics.ablation import Ask, Measured, corrected, user_values
from llmrec.eval.significance import paired_difference

__all__ = ["EVENTS", "Known", "Values", "beside_each_other", "newest", "with_few_events"]

EVENTS = (1, 2, 4, 8, 16)

Values = Mapping[int | None, Mapping[str, NDArray[np.float64]]]
"""Events known (None: all) -> each of METRICS -> every user's value [U]."""


@dataclass(frozen=True)
class Known(Measured):
    """How a system does where so many events are known; differences are the first system's minus this one's."""

    events: int | None  # None: all


def newest(histories: Histories, events: int) -> Histories:
    """Return the newest events of every user, at most so many."""
    age = np.repeat(histories.indptr[1:], histories.lengths) - np.arange(len(histories.items))
    return histories.where(age <= events)


def with_few_events(
    recommend: Ask, true: Recommendations, users: Holdout, lengths: Sequence[int] = EVENTS
) -> Values:
    """Return what the lists of a fitted system are worth to each user, by how many of the newest events it is shown.

    ``true`` are its lists for the whole histories.
    """
    few: dict[int | None, dict[str, NDArray[np.float64]]] = {
        n: user_values(recommend(newest(users.histories, n)), users) for n in lengths
    }
    return {**few, None: user_values(true, users)}


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
    return corrected(
        [
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
    )
