"""The interaction log: who did what when, as one typed table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories
from llmrec.data.order import by_user_and_time
from llmrec.errors import DataError

__all__ = ["Interactions", "time_resolution"]

_IDS = ("user_id", "item_id")
_REQUIRED = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
_OPTIONAL = {"rating": pl.Float64, "event": pl.String}


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log with the columns user_id, item_id, timestamp (seconds since 1970, UTC), and maybe rating, event.

    Ids read and compare as text and take 4 bytes an event: they are polars enumerations, users in the order of their text.
    Among a user's events of one time the row order carries meaning: it is the source's, and what breaks ties under the tie
    policy "source".
    """

    frame: pl.DataFrame

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Interactions:
        """Check and cast a table whose columns already have the names above.

        Raises
        ------
        DataError
            A column is missing, a value is missing, or a timestamp is no number.
        """
        missing = [c for c in _REQUIRED if c not in frame.columns]
        if missing:
            raise DataError(
                f"The interaction log has no column {missing[0]!r}; it has {', '.join(frame.columns) or 'none'}. "
                f"Expected {', '.join(_REQUIRED)}."
            )
        if frame.is_empty():
            raise DataError("The interaction log is empty. Expected at least one row per event.")
        wanted = {**_REQUIRED, **{c: t for c, t in _OPTIONAL.items() if c in frame.columns}}
        cast = frame.select(pl.col(c).cast(t, strict=False) for c, t in wanted.items())
        for column in _REQUIRED:
            bad = cast[column].is_null()
            if bad.any():
                row = int(bad.arg_max() or 0)
                kind = "a whole number of seconds since 1970" if column == "timestamp" else "an id"
                raise DataError(
                    f"{int(bad.sum()):,} of {len(frame):,} rows of the interaction log have no usable "
                    f"{column!r}; the first is data row {row + 1}, with {frame[column][row]!r}. Expected {kind} "
                    "in every row. Correct or remove these rows."
                )
        return cls(cast.with_columns(cast[c].cast(pl.Enum(cast[c].unique().sort())) for c in _IDS))

    def __len__(self) -> int:
        return len(self.frame)

    def sort(self, ties: str = "source", seed: int = 0) -> Interactions:
        """Order by user, then time, then source row ("source") or a seeded random number ("shuffle").

        User ids are ordered as text, so the result does not depend on the order of files.
        """
        if ties not in ("source", "shuffle"):
            raise ValueError(f"ties must be 'source' or 'shuffle', not {ties!r}")
        frame = self.frame
        tie = None if ties == "source" else np.random.default_rng(seed).permutation(len(self))
        user, time = frame["user_id"].to_physical().to_numpy(), frame["timestamp"].to_numpy()
        return Interactions(frame[by_user_and_time(user, time, tie)])

    def items_in(self, catalog: Catalog) -> NDArray[np.int32]:
        """Return the catalogue index of each event's item [E]; an unknown item raises :class:`DataError`."""
        column = self.frame["item_id"]
        ids, code = column.dtype.categories.to_list(), column.to_physical().to_numpy()  # type: ignore[attr-defined]
        present = np.flatnonzero(np.bincount(code, minlength=len(ids)))
        index = np.full(len(ids), -1, dtype=np.int32)
        index[present] = catalog.indices(ids[i] for i in present)
        items: NDArray[np.int32] = index[code]
        return items

    def histories(self, catalog: Catalog) -> Histories:
        """Return the users' events; the log is to be in the order of users (:meth:`sort`)."""
        column = self.frame["user_id"]
        counts = np.bincount(column.to_physical().to_numpy(), minlength=len(column.dtype.categories))  # type: ignore[attr-defined]
        return Histories(
            tuple(column.dtype.categories.filter(pl.Series(counts > 0)).to_list()),  # type: ignore[attr-defined]
            np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64),
            self.items_in(catalog),
            self.frame["timestamp"].to_numpy(),
        )

    def sha256(self, catalog: Catalog) -> str:
        """Identify the ordered log and the catalogue: equal digests mean equal experiments.

        SHA-256 of the users' ids, the number of each event's user among them, the index of its item and its time (little
        endian), and the catalogue's texts.
        """
        digest = hashlib.sha256()
        column = self.frame["user_id"]
        code = column.to_physical().to_numpy()
        present = np.bincount(code, minlength=len(column.dtype.categories)) > 0  # type: ignore[attr-defined]
        users = column.dtype.categories.filter(pl.Series(present)).to_list()  # type: ignore[attr-defined]
        digest.update("\0".join(users).encode() + b"\1")
        digest.update((np.cumsum(present) - 1).astype("<u4")[code].tobytes())
        digest.update(self.items_in(catalog).astype("<i4").tobytes())
        digest.update(self.frame["timestamp"].to_numpy().astype("<i8").tobytes())
        for values in (catalog.item_ids, catalog.titles, *catalog.attributes.values()):
            digest.update("\0".join(values).encode() + b"\1")
        return digest.hexdigest()


def time_resolution(timestamps: NDArray[np.int64]) -> int:
    """Return the largest of 86400, 3600, 60 and 1 seconds that divides every timestamp.

    A log whose stamps are all at midnight knows days only; printing hours from it would make facts up.
    """
    return next((unit for unit in (86400, 3600, 60) if not np.any(timestamps % unit)), 1)
