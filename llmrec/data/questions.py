"""Which of the possible questions are asked, and what a protocol counts about them.

Shapes: U users, E events of all of them together, Q questions, N items of the catalogue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.data.parts import CONTEXT, TEST, TRAIN, VALID, PartedLog
from llmrec.errors import DataError

__all__ = ["ask"]


def ask(log: PartedLog, n_items: int, *, repeats: str, cold_items: str) -> tuple[PartedLog, dict[str, Any]]:
    """Leave out the questions that cannot or shall not be asked; their events become context.

    Parameters
    ----------
    repeats, cold_items
        "keep" or "drop": what to do with questions whose target the user has seen before, or that nobody has in
        training. A target that is both counts as a repeat.

    Returns
    -------
    The log, and the fields of :class:`~llmrec.data.protocol.Protocol` about what is asked and what is not.

    Raises
    ------
    DataError
        No training event or no question is left.
    """
    events, owners = log.events, log.owners
    parts = log.parts.copy()
    trained = parts == TRAIN
    if not trained.any():
        raise DataError(
            f"No event of the {len(parts):,} is left for training. Expected some: hold out less (section split), or check "
            "that the timestamps differ."
        )
    counts = np.bincount(events.items[trained], minlength=n_items)  # [N]
    known = np.bincount(owners[trained], minlength=len(events)) > 0  # [U]
    facts: dict[str, Any] = {
        "log_users": len(events),
        "train_users": int(known.sum()),
        "train_events": int(trained.sum()),
    }
    for part, prefix, word in ((VALID, "valid_", "validation"), (TEST, "", "test")):
        target = np.flatnonzero(parts == part)  # [Q]
        bare = target == events.indptr[owners[target]]
        repeated, cold = _seen_before(log, target), counts[events.items[target]] == 0
        drop_repeated = repeated & (repeats == "drop")
        drop_cold = cold & ~bare & ~drop_repeated & (cold_items == "drop")
        asked = ~(bare | drop_repeated | drop_cold)
        parts[target[~asked]] = CONTEXT
        found = {
            "users": int(asked.sum()),
            "known_users": int(known[owners[target[asked]]].sum()),
            "repeated_targets": int((repeated & asked).sum()),
            "cold_targets": int((cold & asked).sum()),
            "no_history": int(bare.sum()),
            "repeats_dropped": int(drop_repeated.sum()),
            "cold_dropped": int(drop_cold.sum()),
        }
        if not asked.any():
            raise DataError(
                f"There is nobody to evaluate: no {word} question is left. Of {len(target):,} possible ones, "
                f"{found['no_history']:,} have nothing before them, {found['repeats_dropped']:,} are repeats and "
                f"{found['cold_dropped']:,} ask for items without training events. Expected at least one: hold out more or "
                "at other moments (section split), set split.repeats or split.cold_items to keep, or check that the user "
                "id column is the right one."
            )
        facts |= {prefix + name: value for name, value in found.items()}
    last = np.flatnonzero(parts == TEST)
    times = events.timestamps[last]  # [Q]
    learned = np.sort(events.timestamps[trained])
    before = learned.searchsorted(times, side="right") / len(learned)
    facts["train_after_target"] = float(np.mean(1 - before))
    facts["tie_rate_last_two"] = float(np.mean(times == events.timestamps[last - 1]))
    return PartedLog(events, parts), facts


def _seen_before(log: PartedLog, target: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the user has an earlier event with the item of each target [Q], at most one per user."""
    events, owners = log.events, log.owners
    item, place = np.full(len(events), -1, dtype=np.int32), np.zeros(len(events), dtype=np.int64)  # [U]
    item[owners[target]], place[owners[target]] = events.items[target], target
    earlier = np.flatnonzero(events.items == np.repeat(item, events.lengths))
    earlier = earlier[earlier < place[owners[earlier]]]
    seen: NDArray[np.bool_] = np.bincount(owners[earlier], minlength=len(events))[owners[target]] > 0
    return seen
