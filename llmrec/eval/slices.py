"""Groups of test users in which systems may differ: popular or rare targets, short or long histories.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Holdout
from llmrec.errors import DataError
from llmrec.eval.significance import Difference, paired_difference

__all__ = ["SliceGroup", "Slices", "popularity_bands", "sliced", "user_slices"]

BANDS = ("head", "mid", "tail", "cold")


@dataclass(frozen=True, eq=False)
class Slices:
    """One or more ways to group the same users; a group's label is the text that a report prints."""

    user_ids: tuple[str, ...]  # [U]
    groups: Mapping[str, NDArray[np.str_]]  # title -> label of each user's group [U]
    order: Mapping[str, tuple[str, ...]]  # title -> labels in the order in which to show them
    notes: Mapping[str, str]  # title -> what the labels mean, one sentence


@dataclass(frozen=True)
class SliceGroup:
    """One group of users: each system's mean of the first metric, and subject minus baseline."""

    title: str  # how users were grouped
    label: str  # this group
    note: str  # what the labels of this grouping mean
    users: int
    means: Mapping[str, float]  # system -> mean
    difference: Difference | None  # of the subject; not corrected for the number of groups


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
    """Group test users by the popularity of their target and by the length of their history.

    Parameters
    ----------
    holdout
        U test users.
    counts
        Training events of each item [N].
    """
    band_of_item = popularity_bands(counts)
    band = band_of_item[holdout.target_items]
    popularity = np.empty(len(holdout), dtype="<U64")
    shown = []
    for name in BANDS:
        held = counts[band_of_item == name]
        if not (band == name).any():
            continue
        items = f"{len(held):,} item" + ("s" if len(held) != 1 else "")
        label = f"{name.capitalize()}: {items} with {_span(held)} events each"
        popularity[band == name] = label
        shown.append(label)
    lengths = holdout.histories.lengths
    length = np.empty(len(holdout), dtype="<U64")
    edges = np.quantile(lengths, [1 / 3, 2 / 3]) if len(lengths) else np.zeros(2)
    third = np.searchsorted(edges, lengths, side="left")
    length_labels = []
    for part in range(3):
        inside = lengths[third == part]
        if len(inside):
            length[third == part] = f"{_span(inside)} events"
            length_labels.append(f"{_span(inside)} events")
    return Slices(
        user_ids=holdout.histories.user_ids,
        groups={"Popularity of the next item": popularity, "Length of the history": length},
        order={"Popularity of the next item": tuple(shown), "Length of the history": tuple(length_labels)},
        notes={
            "Popularity of the next item": "Head, mid and tail items each hold a third of the training events.",
            "Length of the history": "Thirds of the users, by the number of events before the next item.",
        },
    )


def sliced(
    slices: Slices,
    user_ids: Sequence[str],
    values: Mapping[str, NDArray[np.float64]],
    baseline: str,
    subject: str | None,
    seed: int,
) -> tuple[SliceGroup, ...]:
    """Return each group's means, and the subject minus the baseline; groups without users are left out.

    Parameters
    ----------
    slices
        Groups of at least the users ``user_ids``, in any order.
    user_ids
        The users [U] that ``values`` are of.
    values
        One metric [U] of each system.
    baseline, subject
        The systems to subtract; without a subject there are only means.
    seed
        Fixes the resampling.

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
            means = {name: float(value[inside].mean()) for name, value in values.items()}
            difference = None
            if subject is not None:
                difference = paired_difference(values[subject][inside], values[baseline][inside], seed)
            groups.append(SliceGroup(title, text, slices.notes[title], int(inside.sum()), means, difference))
    return tuple(groups)


def _span(values: NDArray[np.integer]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
