"""Tables as files, and what a source gives of them."""

from __future__ import annotations

import gzip

import pyarrow as pa

from llmrec.data.sources import open_source
from llmrec.settings.data import SourceSettings

__all__ = ["packed", "read_source"]


def packed(data: bytes, how: str) -> bytes:
    """Compress: "", gz or zst."""
    if how == "gz":
        return gzip.compress(data, mtime=0)
    if how == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return data


def read_source(location, columns, **options):
    """Return rows as (number, value, ...) and the broken rows of a source."""
    source = open_source(
        SourceSettings.model_validate({"location": location, **options}), "data.interactions"
    )
    rows, broken = [], []
    for batch in source.batches(columns):
        assert len(batch.rows) == len(batch.frame)
        assert batch.frame.columns == list(columns)
        rows += [(n, *values) for n, values in zip(batch.rows.tolist(), batch.frame.rows(), strict=True)]
        broken += batch.broken
    return rows, broken
