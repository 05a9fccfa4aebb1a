"""Files of a user: .csv, .tsv and .parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from llmrec import cache
from llmrec.data.sources.base import Batch
from llmrec.errors import DataError, nearest
from llmrec.settings.data import SourceSettings

__all__ = ["FileSource"]

_BATCH = 1 << 20  # rows


class FileSource:
    """One or several files of one format, in the order of their names."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.setting = setting
        self.source = source
        self.paths = sorted(Path(p) for p in source.location)
        self.name = ", ".join(map(str, self.paths))
        for path in self.paths:
            if not path.is_file():
                near = (
                    nearest(path.name, [p.name for p in path.parent.iterdir()])
                    if path.parent.is_dir()
                    else ""
                )
                raise DataError(
                    f"{setting} is {str(path)!r}, and there is no such file{near}. Expected the path of a .csv, .tsv, .parquet "
                    "file, relative to the working directory."
                )
            if path.suffix not in (".csv", ".tsv", ".parquet"):
                raise DataError(
                    f"{setting} is {str(path)!r}, a {path.suffix or 'file without suffix'}. Expected .csv, .tsv, .parquet: rename or "
                    "convert it."
                )

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return self._scan(self.paths[0]).collect_schema().names()

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        for path in self.paths:
            row = 1
            try:
                frames = (
                    self._scan(path).select(columns).collect_batches(chunk_size=_BATCH, maintain_order=True)
                )
                for frame in frames:
                    yield Batch(frame, str(path), np.arange(row, row + len(frame)))
                    row += len(frame)
            except (pl.exceptions.PolarsError, OSError) as error:
                reason = str(error).split("\n")[0]
                raise DataError(
                    f"{self.setting} is {str(path)!r}, which cannot be read as {path.suffix[1:]}: {reason}. Expected UTF-8 text "
                    "with a header and equally many fields in every row, or a valid parquet file."
                ) from None

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file."""
        return {str(p): cache.sha256(p) for p in self.paths}

    def _scan(self, path: Path) -> pl.LazyFrame:
        if path.suffix == ".parquet":
            return pl.scan_parquet(path)
        return pl.scan_csv(path, separator="," if path.suffix == ".csv" else "\t", infer_schema=False)
