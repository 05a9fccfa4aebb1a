"""A log of which every event has a part: learned from, shown, or asked for.

Shapes: U users, E events of all of them together, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.errors import DataError

__all__ = ["CONTEXT", "PARTS", "TEST", "TRAIN", "VALID", "PartedLog"]

PARTS = ("train", "context", "valid", "test")
TRAIN, CONTEXT, VALID, TEST = range(len(PARTS))


@dataclass(frozen=True, eq=False)
class PartedLog:
    """All events, and the part of each.

    ``train`` is learned from. ``valid`` and ``test`` are asked for, at most one of each per user, with all of that
    user's earlier events as the history. ``context`` is in such histories and in nothing else.
    """

    events: Histories
    parts: NDArray[np.uint8]  # [E] places in PARTS

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """The user's row of each event [E]."""
        return self.events.owners

    def training(self) -> Histories:
        """Return the train events of the users who have any."""
        kept = self.events.where(self.parts == TRAIN)
        return kept if kept.lengths.all() else kept[np.flatnonzero(kept.lengths)]

    def questions(self, part: int) -> Holdout:
        """Return the questions of a part, in the order of users.

        Raises
        ------
        DataError
            A user has two of them, or one with nothing before it.
        """
        events = self.events
        target = np.flatnonzero(self.parts == part)  # [Q]
        user = self.owners[target]
        start = events.indptr[user]
        for wrong, what in (
            (user[1:] == user[:-1], "more than one event"),
            (start == target, "the very first event"),
        ):
            if wrong.any():
                name = events.user_ids[user[int(np.argmax(wrong))]]
                raise DataError(
                    f"User {name!r} has {what} marked {PARTS[part]!r}. Expected at most one per user, with events before it."
                )
        return Holdout(events.spans(user, start, target), events.items[target], events.timestamps[target])
