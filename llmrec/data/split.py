"""Time-ordered splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.interactions import Interactions, time_resolution
from llmrec.data.protocol import Protocol
from llmrec.errors import DataError

__all__ = ["Split", "hold_out_last", "leave_one_out"]

_MIN_EVENTS = 3  # one to learn from, one to validate, one to test


@dataclass(frozen=True, eq=False)
class Split:
    """Training histories, and the questions asked for validation and for the test."""

    train: Histories
    valid: Holdout
    test: Holdout
    protocol: Protocol

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.protocol.items


def leave_one_out(
    interactions: Interactions,
    catalog: Catalog,
    *,
    dataset: str,
    ties: str = "source",
    seed: int = 0,
    exclude_seen: bool = True,
    short_histories: str = "error",
) -> Split:
    """Hold out each user's last event for the test and the one before it for validation.

    The history asked for validation is the training history; the one asked for the test is the training
    history and the validation event.

    Caveats: targets of different users lie at different times, so training data of one user can be newer
    than the test event of another (a global temporal split has no such leak). Where timestamps are tied,
    "last" is decided by the tie policy; the protocol records how often.

    Parameters
    ----------
    dataset
        Name for the reports.
    ties
        "source" keeps the order of the log among equal timestamps, "shuffle" draws it with ``seed``.
    exclude_seen
        Recorded for the recommend stage: whether a user's own items are candidates.
    short_histories
        What to do with users of fewer than 3 events: "error", or "train" to learn from them only.

    Raises
    ------
    DataError
        An item is not in the catalogue, a history is too short, or no user is left to evaluate.
    """
    ordered = interactions.sort(ties, seed)
    frame = ordered.frame
    items = catalog.indices(frame["item_id"].to_list())
    timestamps = frame["timestamp"].to_numpy().astype(np.int64)
    counts = frame.group_by("user_id", maintain_order=True).len()
    user_ids = tuple(counts["user_id"].to_list())
    lengths = counts["len"].to_numpy().astype(np.int64)
    everything = Histories(user_ids, np.concatenate([[0], np.cumsum(lengths)]), items, timestamps)

    short = np.flatnonzero(lengths < _MIN_EVENTS)
    if len(short) and short_histories == "error":
        raise DataError(
            f"{len(short):,} of {len(lengths):,} users have fewer than {_MIN_EVENTS} events, for example user "
            f"{user_ids[short[0]]!r} with {lengths[short[0]]}. Leave-one-out expects one event to learn from, one "
            "to validate on and one to test on. Set split.short_histories to 'train' to use such users for "
            "training only, or remove them from the log."
        )
    held = np.flatnonzero(lengths >= _MIN_EVENTS)
    if not len(held):
        raise DataError(
            f"None of the {len(lengths):,} users has {_MIN_EVENTS} events or more, so there is nobody to evaluate. "
            "Expected histories; check that the user id column is the right one."
        )
    stops = everything.indptr[1:]
    last = stops[held] - 1
    seen = _seen_before(everything, held)
    gap = np.diff(timestamps)
    same_user = np.ones(len(timestamps) - 1, dtype=bool)
    same_user[stops[:-1] - 1] = False

    protocol = Protocol(
        dataset=dataset,
        dataset_sha256=ordered.sha256(catalog),
        split="leave-one-out",
        ties=ties,
        seed=seed,
        exclude_seen=exclude_seen,
        users=len(held),
        items=len(catalog),
        interactions=len(frame),
        time_resolution=time_resolution(timestamps),
        tie_rate_last_two=float(np.mean(timestamps[last] == timestamps[last - 1])),
        tie_rate_neighbours=float(np.mean(gap[same_user] == 0)) if same_user.any() else 0.0,
        repeated_targets=int(seen.sum()),
        short_histories=len(short),
        first_timestamp=int(timestamps.min()),
        last_timestamp=int(timestamps.max()),
    )
    return hold_out_last(everything, held, protocol)


def hold_out_last(everything: Histories, held: np.ndarray, protocol: Protocol) -> Split:
    """Split the events of all users into training and, for the users ``held``, the last two."""
    rows = np.arange(len(everything))
    starts, stops = everything.indptr[:-1], everything.indptr[1:]
    trained = stops - 2 * np.isin(rows, held)

    def holdout(target: np.ndarray) -> Holdout:
        past = everything.spans(held, starts[held], target)
        return Holdout(past, everything.items[target], everything.timestamps[target])

    last = stops[held] - 1
    return Split(
        train=everything.spans(rows, starts, trained),
        valid=holdout(last - 1),
        test=holdout(last),
        protocol=protocol,
    )


def _seen_before(histories: Histories, rows: np.ndarray) -> np.ndarray:
    """Say for each user whether the last item occurs earlier in the history."""
    return np.array([h.items[-1] in h.items[:-1] for h in (histories[int(r)] for r in rows)])
