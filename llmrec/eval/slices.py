"""Groups of test users in which systems may differ: by the target's popularity, the history and the time between.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Holdout
from llmrec.data.interactions import time_resolution
from llmrec.errors import DataError
from llmrec.eval.significance import Difference, paired_difference

__all__ = ["SliceGroup", "Slices", "popularity_bands", "sliced", "user_slices"]

BANDS = ("head", "mid", "tail", "cold")
_POPULARITY, _LENGTH, _GAP = (
    "Popularity of the next item",
    "Length of the history",
    "Time since the last event",
)
_UNITS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
_DAY = 86400
_GAPS = {"Within an hour": 3600, "Within a day": _DAY, "Within a week": 7 * _DAY, "Within 30 days": 30 * _DAY}


@dataclass(frozen=True, eq=False)
class Slices:
    """One or more ways to group the same users; a group's label is the text that a report prints."""

    user_ids: tuple[str, ...]  # [U]
    groups: Mapping[str, NDArray[np.object_]]  # title -> label of each user's group [U], the same few texts
    order: Mapping[str, tuple[str, ...]]  # title -> labels in the order in which to show them
    notes: Mapping[str, str]  # title -> what the labels mean, one sentence


@dataclass(frozen=True)
class SliceGroup:
    """One group of users: each system's mean of the first metric, and subject minus baseline there."""

    title: str  # how users were grouped
    label: str  # this group
    note: str  # what the labels of this grouping mean
    users: int
    means: Mapping[str, float]  # system -> mean
    difference: Difference | None  # of the subject; not corrected for the number of groups
    others: Mapping[str, Mapping[str, float]]  # every other metric -> system -> mean


def popularity_bands(counts: NDArray[np.integer]) -> NDArray[np.str_]:
    """Return ``head``, ``mid``, ``tail`` or ``cold`` for each item [N].

    The most popular items that together hold a third of all training events are the head, the next third
    are mid, the rest are tail; items without a training event are cold. Thirds of the *events* and not of
    the items, because then a random event falls into each band equally often. Equal counts keep catalogue
    order, so one band may end in the middle of a tie.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # events of more popular items
    band = np.minimum(3 * before // max(int(counts.sum()), 1), 2)
    labels = np.empty(len(counts), dtype="<U4")
    labels[order] = np.array(BANDS)[band]
    labels[counts == 0] = "cold"
    return labels


def user_slices(holdout: Holdout, counts: NDArray[np.integer]) -> Slices:
    """Group test users by the popularity of their target, the length of their history and the time between the two.

    Groups without users are left out.

    Parameters
    ----------
    holdout
        U test users.
    counts
        Training events of each item [N].
    """
    by = {
        _POPULARITY: _by_popularity(holdout, counts),
        _LENGTH: _by_length(holdout),
        _GAP: _by_gap(holdout),
    }
    return Slices(
        user_ids=holdout.histories.user_ids,
        groups={title: np.array(labels, dtype=object)[group] for title, (group, labels) in by.items()},
        order={
            title: tuple(labels[g] for g in np.unique(group).tolist())
            for title, (group, labels) in by.items()
        },
        notes={
            _POPULARITY: "Head, mid and tail items each hold a third of the training events; cold items have none.",
            _LENGTH: "Thirds of the users, by the number of events before the next item.",
            _GAP: "From the last event of the history to the next item; each user is in the first group that fits.",
        },
    )


def _by_popularity(holdout: Holdout, counts: NDArray[np.integer]) -> tuple[NDArray[np.integer], list[str]]:
    """Return the group of each user's target [U], and the label of each group."""
    band_of_item = popularity_bands(counts)
    labels = []
    for name in BANDS:
        held = counts[band_of_item == name]
        items = f"{len(held):,} item" + ("s" if len(held) != 1 else "")
        events = "no training event" if name == "cold" else f"{_span(held)} events each" if len(held) else ""
        labels.append(f"{name.capitalize()}: {items} with {events}")
    place = {name: group for group, name in enumerate(BANDS)}
    group_of_item = np.array([place[name] for name in band_of_item.tolist()], dtype=np.int8)
    return group_of_item[holdout.target_items], labels


def _by_length(holdout: Holdout) -> tuple[NDArray[np.integer], list[str]]:
    lengths = holdout.histories.lengths
    edges = np.quantile(lengths, [1 / 3, 2 / 3]) if len(lengths) else np.zeros(2)
    third = np.searchsorted(edges, lengths, side="left")
    held = [lengths[third == part] for part in range(3)]
    return third, [f"{_span(inside)} events" if len(inside) else "" for inside in held]


def _by_gap(holdout: Holdout) -> tuple[NDArray[np.integer], list[str]]:
    """Group by whole bands of time; what the data cannot tell apart, such as times of one day, is called so."""
    histories, later = holdout.histories, holdout.target_timestamps
    known = histories.lengths > 0
    last = histories.newest_timestamps
    unit = _UNITS[time_resolution(np.concatenate([last, later]))]
    labels = [f"The same {unit}", *_GAPS, "Longer", "No history"]
    group = np.full(len(holdout), len(labels) - 1)
    group[known] = np.searchsorted([0, *_GAPS.values()], later[known] - last, side="left")
    return group, labels


def sliced(
    slices: Slices,
    user_ids: Sequence[str],
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
    baseline: str,
    subject: str | None,
    **resampling: Any,
) -> tuple[SliceGroup, ...]:
    """Return each group's means, and by the first metric the subject minus the baseline; groups without users are left out.

    Parameters
    ----------
    slices
        Groups of at least the users ``user_ids``, in any order.
    user_ids
        The users [U] that ``values`` are of.
    values
        Metrics [U] of each system, the same of all.
    baseline, subject
        The systems to subtract; without a subject there are only means.
    resampling
        Of :func:`llmrec.eval.significance.paired_difference`.

    Raises
    ------
    DataError
        A user is in no group.
    """
    row_of = {user: row for row, user in enumerate(slices.user_ids)}
    if missing := [user for user in user_ids if user not in row_of]:
        raise DataError(
            f"The slices do not cover {len(missing):,} of {len(user_ids):,} users, for example user {missing[0]!r}. "
            "Expected slices made from the holdout that was evaluated."
        )
    rows = np.array([row_of[user] for user in user_ids])
    groups = []
    for title, labels in slices.groups.items():
        for text in slices.order[title]:
            inside = labels[rows] == text  # [U]
            if not inside.any():
                continue
            means = {
                metric: {name: float(found[metric][inside].mean()) for name, found in values.items()}
                for metric in values[baseline]
            }
            first, *others = means
            difference = None
            if subject is not None:
                theirs, base = values[subject][first][inside], values[baseline][first][inside]
                difference = paired_difference(theirs, base, **resampling)
            groups.append(
                SliceGroup(
                    title,
                    text,
                    slices.notes[title],
                    int(inside.sum()),
                    means[first],
                    difference,
                    {metric: means[metric] for metric in others},
                )
            )
    return tuple(groups)


def _span(values: NDArray[np.integer]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
