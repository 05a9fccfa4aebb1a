"""Histories: each user's events, oldest first, as one compact array per column.

Shapes: U users, E events of all of them together, L events of one user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histories", "History", "Holdout"]


@dataclass(frozen=True, eq=False)
class History:
    """One user's events, oldest first."""

    user_id: str
    items: NDArray[np.int32]  # [L] catalogue indices
    timestamps: NDArray[np.int64]  # [L] seconds since 1970, UTC
    next_timestamp: int | None = None  # when what is asked for happens, if told

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class Histories(Sequence[History]):
    """The histories of U users; user ``u`` owns events ``indptr[u]:indptr[u + 1]``."""

    user_ids: tuple[str, ...]  # [U]
    indptr: NDArray[np.int64]  # [U + 1]
    items: NDArray[np.int32]  # [E] catalogue indices
    timestamps: NDArray[np.int64]  # [E] seconds since 1970, UTC
    next_timestamps: NDArray[np.int64] | None = None  # [U] when what is asked for happens, if told

    @classmethod
    def from_list(cls, histories: Sequence[History]) -> Histories:
        """Concatenate single histories."""
        return cls(
            user_ids=tuple(h.user_id for h in histories),
            indptr=np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64),
            items=np.concatenate([np.empty(0, np.int32), *(h.items for h in histories)]),
            timestamps=np.concatenate([np.empty(0, np.int64), *(h.timestamps for h in histories)]),
        )

    def __len__(self) -> int:
        return len(self.user_ids)

    @overload
    def __getitem__(self, row: int | np.integer) -> History: ...
    @overload
    def __getitem__(self, row: slice | NDArray[np.integer]) -> Histories: ...
    def __getitem__(self, row: int | np.integer | slice | NDArray[np.integer]) -> History | Histories:
        """Return one :class:`History`, or :class:`Histories` for a slice or an array of rows."""
        if isinstance(row, (int, np.integer)):
            if not -len(self) <= row < len(self):
                raise IndexError(f"row {row} of {len(self)} histories")
            start, stop = self.indptr[int(row) % len(self)], self.indptr[int(row) % len(self) + 1]
            told = None if self.next_timestamps is None else int(self.next_timestamps[int(row)])
            return History(self.user_ids[int(row)], self.items[start:stop], self.timestamps[start:stop], told)
        rows = np.arange(len(self))[row]
        found = self.spans(rows, self.indptr[:-1][rows], self.indptr[1:][rows])
        return found if self.next_timestamps is None else found.told(self.next_timestamps[rows])

    def __iter__(self) -> Iterator[History]:
        for row in range(len(self)):
            yield self[row]

    def spans(
        self, rows: NDArray[np.integer], starts: NDArray[np.integer], stops: NDArray[np.integer]
    ) -> Histories:
        """Return events ``starts[i]:stops[i]`` (positions in ``items``) of the users ``rows[i]``, without ``next_timestamps``."""
        lengths = stops - starts
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
        names = tuple(self.user_ids[int(r)] for r in rows)
        return Histories(names, indptr, self.items[take], self.timestamps[take])

    def where(self, keep: NDArray[np.bool_]) -> Histories:
        """Return some of the events [E] of the same users, of whom some may have none left."""
        before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return Histories(
            self.user_ids, before[self.indptr], self.items[keep], self.timestamps[keep], self.next_timestamps
        )

    def told(self, next_timestamps: NDArray[np.int64]) -> Histories:
        """Return the histories with the times [U] of what is asked for."""
        return replace(self, next_timestamps=next_timestamps)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per user [U]."""
        return np.diff(self.indptr)

    @property
    def newest_timestamps(self) -> NDArray[np.int64]:
        """The time of the newest event of every user who has any, one for each of these."""
        newest: NDArray[np.int64] = self.timestamps[self.indptr[1:][self.lengths > 0] - 1]
        return newest

    @property
    def owners(self) -> NDArray[np.int64]:
        """The user's row of each event [E]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def ties_shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the events in random order among those of one user at one time, and otherwise as they are [E]."""
        owners = self.owners
        order: NDArray[np.int64] = np.lexsort((rng.random(len(owners)), self.timestamps, owners))
        return order


@dataclass(frozen=True, eq=False)
class Holdout:
    """What a system is asked: the history up to a point, and the item that came next."""

    histories: Histories  # U users
    target_items: NDArray[np.int32]  # [U] catalogue indices
    target_timestamps: NDArray[np.int64]  # [U] seconds since 1970, UTC

    def __len__(self) -> int:
        return len(self.histories)

    def select(self, rows: NDArray[np.integer]) -> Holdout:
        """Return the holdout of some users, in the order of ``rows``."""
        return Holdout(self.histories[rows], self.target_items[rows], self.target_timestamps[rows])

    def told(self) -> Holdout:
        """Return the holdout with histories that tell when the targets happen."""
        return replace(self, histories=self.histories.told(self.target_timestamps))

    def blocks(self, size: int) -> Iterator[Holdout]:
        """Yield the holdout in runs of up to so many users."""
        for start in range(0, len(self), size):
            yield self.select(np.arange(start, min(start + size, len(self))))

    def sample_rows(self, wanted: int | None, seed: int) -> NDArray[np.int64]:
        """Return rows in ascending order: a seeded random sample of ``wanted``, or all where that is no fewer."""
        if wanted is None or wanted >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).choice(len(self), size=wanted, replace=False))

    def with_targets(self) -> Histories:
        """Return the histories with their targets as last events."""
        return Histories.from_list(
            [
                History(h.user_id, np.append(h.items, item), np.append(h.timestamps, when))
                for h, item, when in zip(
                    self.histories, self.target_items, self.target_timestamps, strict=True
                )
            ]
        )
