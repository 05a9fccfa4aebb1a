"""The ledger of a cleaning: what each step found, left out and changed; and the rows that were left out, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Ledger", "Step"]

Table = Literal["interactions", "items"]


@dataclass(frozen=True)
class Step:
    """What one step did."""

    step: str  # in words, for the report: "duplicate events"
    setting: str  # what decides it: "cleaning.duplicates: drop"
    table: Table
    removed: int = 0  # rows left out
    changed: int = 0  # rows kept with another value
    left: int = 0  # rows after it
    faulty: bool = False  # whether the rows were unusable, and not just unwanted
    note: str = ""  # what else there is to say


_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("origin", pa.string()),
        ("row", pa.int64()),
        ("step", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("value", pa.string()),
    ]
)


class Ledger:
    """Steps in the order in which they were done.

    Parameters
    ----------
    rejects
        Parquet file for the rows left out, with the columns table, origin (file), row (its number there, from 1), step,
        user_id, item_id and value (the text that was wrong, where one was). ``None`` counts only.
    """

    def __init__(self, rejects: Path | None = None) -> None:
        self.steps: list[Step] = []
        self.rejects = rejects
        self._writer: pq.ParquetWriter | None = None

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        """Collect rows; the file is there when the block has ended, or :meth:`finish` was called, and not if it failed."""
        if self.rejects is not None:
            self.rejects.unlink(missing_ok=True)
            self._writer = pq.ParquetWriter(self._partial, _SCHEMA, compression="zstd")
        try:
            yield self
            self.finish()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                self._partial.unlink()

    def finish(self) -> None:
        """Make the file of what has been left out until now: all of it, up to the step that was done last."""
        if self._writer is not None and self.rejects is not None:
            self._writer.close()
            self._writer = None
            self._partial.replace(self.rejects)

    @property
    def _partial(self) -> Path:
        assert self.rejects is not None
        return self.rejects.with_name(self.rejects.name + ".partial")

    def add(self, step: Step) -> None:
        """Note a step."""
        self.steps.append(step)

    def reject(self, table: Table, step: str, rows: pl.DataFrame) -> None:
        """Keep rows that a step leaves out; columns of the file that they lack are null."""
        if self._writer is None or rows.is_empty():
            return
        rows = rows.with_columns(table=pl.lit(table), step=pl.lit(step))
        missing = [pl.lit(None, pl.String).alias(n) for n in _SCHEMA.names if n not in rows.columns]
        wanted = rows.with_columns(missing).select(
            pl.col(n).cast(pl.Int64 if n == "row" else pl.String) for n in _SCHEMA.names
        )
        self._writer.write_table(wanted.to_arrow().cast(_SCHEMA))

    def removed(self, table: Table, *, faulty: bool) -> int:
        """Return how many rows all steps of a kind have left out."""
        return sum(s.removed for s in self.steps if s.table == table and s.faulty == faulty)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the steps JSON-ready."""
        return [asdict(s) for s in self.steps]
