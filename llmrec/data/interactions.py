"""The interaction log: who did what when, as one typed table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.errors import DataError

__all__ = ["Interactions", "time_resolution"]

_REQUIRED = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
_OPTIONAL = {"rating": pl.Float64, "event": pl.String}


@dataclass(frozen=True, eq=False)
class Interactions:
    """A log with the columns user_id, item_id, timestamp (seconds since 1970, UTC), and maybe rating, event.

    The row order is the order of the source and carries meaning: it is what breaks ties between equal
    timestamps under the tie policy "source".
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
        return cls(cast)

    def __len__(self) -> int:
        return len(self.frame)

    def sort(self, ties: str = "source", seed: int = 0) -> Interactions:
        """Order by user, then time, then source row ("source") or a seeded random number ("shuffle").

        User ids are ordered as text, so the result does not depend on the order of files.
        """
        if ties not in ("source", "shuffle"):
            raise ValueError(f"ties must be 'source' or 'shuffle', not {ties!r}")
        n = len(self)
        tie = np.arange(n) if ties == "source" else np.random.default_rng(seed).permutation(n)
        frame = self.frame.with_columns(pl.Series("_tie", tie)).sort("user_id", "timestamp", "_tie")
        return Interactions(frame.drop("_tie"))

    def sha256(self, catalog: Catalog) -> str:
        """Identify the ordered log and the catalogue: equal digests mean equal experiments."""
        digest = hashlib.sha256()
        for column in ("user_id", "item_id"):
            digest.update("\0".join(self.frame[column].to_list()).encode())
            digest.update(b"\1")
        digest.update(self.frame["timestamp"].to_numpy().astype("<i8").tobytes())
        for values in (catalog.item_ids, catalog.titles, *catalog.attributes.values()):
            digest.update("\0".join(values).encode())
            digest.update(b"\1")
        return digest.hexdigest()


def time_resolution(timestamps: NDArray[np.int64]) -> int:
    """Return the largest of 86400, 3600, 60 and 1 seconds that divides every timestamp.

    A log whose stamps are all at midnight knows days only; printing hours from it would make facts up.
    """
    return next((unit for unit in (86400, 3600, 60) if not np.any(timestamps % unit)), 1)
