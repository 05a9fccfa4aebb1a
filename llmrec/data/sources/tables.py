"""A table that is in memory already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from llmrec.data.sources.base import Batch

__all__ = ["TableSource"]

_BATCH = 1 << 20  # rows


class TableSource:
    """A frame as a source."""

    def __init__(self, frame: pl.DataFrame, name: str) -> None:
        self.frame = frame
        self.name = name

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return self.frame.columns

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        for start in range(0, len(self.frame), _BATCH):
            part = self.frame[start : start + _BATCH].select(columns)
            yield Batch(part, self.name, np.arange(start + 1, start + 1 + len(part)))

    def digests(self) -> Mapping[str, str]:
        """Return nothing: there is no file."""
        return {}
