"""Parquet files. Columns have the types that they have there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from llmrec.data.sources.base import Batch
from llmrec.data.sources.compression import unpacked
from llmrec.data.sources.paths import DataFile
from llmrec.data.sources.problems import FormatError, lacking, shown, unique
from llmrec.settings.data import SourceSettings

__all__ = ["ParquetFile"]

_BATCH = 1 << 20  # rows
_LARGE_GROUP = 1 << 24  # rows of a row group, which polars holds as a whole


class ParquetFile:
    """A parquet file."""

    def __init__(self, file: DataFile, source: SourceSettings) -> None:
        self.file = file

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        with unpacked(self.file) as path, pq.ParquetFile(path) as file:
            return unique(file.schema_arrow.names)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows."""
        origin, row = shown(self.file.path), 1
        with unpacked(self.file) as path:
            with pq.ParquetFile(path) as file:
                names, about = unique(file.schema_arrow.names), file.metadata
            if missing := [c for c in columns if c not in names]:
                raise lacking(missing, names)
            groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
            frames = _in_steps if max(groups, default=0) > _LARGE_GROUP else _in_groups
            for frame in frames(path, columns):
                yield Batch(frame, origin, np.arange(row, row + len(frame)))
                row += len(frame)
        if row - 1 != about.num_rows:
            raise FormatError(
                f"it has {row - 1:,} rows, although it says that they are {about.num_rows:,}",
                "the file as it was written, whole: copy, download or export it again",
            )


def _in_groups(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    table = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(columns)
    yield from table.collect_batches(chunk_size=_BATCH, maintain_order=True)


def _in_steps(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Read a little at a time, three times slower: a row group of a billion equal values takes no room in the file."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=list(columns)):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame.select(columns)
