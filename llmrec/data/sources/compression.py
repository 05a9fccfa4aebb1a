"""Files as streams of bytes, unpacked piece by piece; one that is cut short is an error, and not a shorter file."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from llmrec.data.sources.paths import DataFile

__all__ = ["ByteStream", "opened", "unpacked"]


class ByteStream(Protocol):
    """What can be read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end.

        Raises
        ------
        OSError, EOFError, zlib.error
            The file is damaged, or ends too early.
        """


@contextmanager
def opened(file: DataFile) -> Iterator[ByteStream]:
    """Open a file for reading what is in it; several gzip members or zstd frames behind each other are one stream."""
    with file.path.open("rb") as plain:
        if file.packed == "gzip":
            with gzip.open(plain) as stream:
                yield stream
        elif file.packed == "zstd":
            with pa.CompressedInputStream(plain, "zstd") as stream:
                yield stream
        else:
            yield plain


@contextmanager
def unpacked(file: DataFile) -> Iterator[Path]:
    """Give a path at which the content can be read in any order: a temporary copy, where the file is compressed."""
    if file.packed is None:
        yield file.path
        return
    with tempfile.NamedTemporaryFile(prefix="llmrec-", suffix=f".{file.format}") as copy:
        with opened(file) as stream:
            while piece := stream.read(1 << 20):
                copy.write(piece)
        copy.flush()
        yield Path(copy.name)
