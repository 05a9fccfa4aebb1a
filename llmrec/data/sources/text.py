"""The text of a file in UTF-8, block by block."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from llmrec.data.sources.compression import ByteStream, opened
from llmrec.data.sources.paths import DataFile
from llmrec.data.sources.problems import FormatError

__all__ = ["LONGEST", "TextBuffer", "line_ends_at", "text_blocks", "too_long"]

LONGEST = 64 << 20  # bytes of a line or a quoted field: more is no table, and would fill the memory
_BLOCK = 4 << 20
_NEAR = 8  # bytes: two characters in any encoding
_SIGNS = {
    b"\xff\xfe": "begins like UTF-16: set encoding to utf-16",
    b"\xfe\xff": "begins like UTF-16: set encoding to utf-16",
    b"\x1f\x8b": "begins like a gzip file: its name should end in .gz",
    b"\x28\xb5": "begins like a zstd file: its name should end in .zst",
    b"PK": "begins like a zip archive: unpack it",
    b"PA": "begins like a parquet file: its name should end in .parquet",
}


def text_blocks(file: DataFile, encoding: str) -> Iterator[tuple[bytes, bool]]:
    r"""Yield blocks of UTF-8, cut anywhere, and whether each is the last; no byte order mark, lines end in ``\n`` or ``\r\n``.

    Raises
    ------
    FormatError
        The file is empty, or not in this encoding.
    OSError, EOFError, zlib.error
        It is damaged.
    """
    with opened(file) as stream:
        blocks = _decoded(stream, encoding)
        block = next(blocks, b"")
        if not block.strip():
            raise FormatError("it is empty", "a table with at least a header or a record")
        old = _has_old_ends(block)
        while block:
            following = next(blocks, b"")
            yield block.replace(b"\r", b"\n") if old else block, not following
            block = following


def line_ends_at(path: Path, encoding: str, at: int) -> bool:
    """Tell whether a line ends at a byte of a file that is not compressed: with a line end before it, or behind it."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    with path.open("rb") as file:
        first = decoder.decode(file.read(_BLOCK))  # with the byte order mark, which says how the rest is read
        file.seek(max(at - _NEAR, 0))
        before = decoder.decode(file.read(min(_NEAR, at)))
        behind = decoder.decode(file.read(_NEAR), final=True)
    old = _has_old_ends(first.encode(errors="replace"))
    return before.endswith("\r" if old else "\n") or behind.startswith("\r" if old else ("\n", "\r\n"))


class TextBuffer:
    """Text that has been read and not used yet."""

    def __init__(self, blocks: Iterator[tuple[bytes, bool]]) -> None:
        self.blocks = blocks
        self.text = b""
        self.final = False  # whether nothing comes behind it

    def grow(self) -> None:
        """Read on: at least as much as there is, so that a long record is not looked at in a hundred lengths."""
        parts, size = [self.text], len(self.text)
        while not self.final:
            block, self.final = next(self.blocks)
            parts.append(block)
            size += len(block)
            if size >= 2 * len(self.text):
                break
        self.text = b"".join(parts)

    def skip(self, length: int) -> None:
        """Drop what has been used."""
        if length:
            self.text = self.text[length:]


def too_long(row: int) -> FormatError:
    """Return the error for a line that is no line."""
    return FormatError(
        f"{f'row {row:,}' if row else 'its first row'} is longer than {LONGEST >> 20} MiB",
        "a table with rows of a sensible length: check that it is text of the format named, and the quotes near that row",
    )


def _has_old_ends(block: bytes) -> bool:
    """Tell whether lines end as on old Macs; in a file that has line feeds, carriage returns on their own are a part of the text."""
    return b"\r" in block and b"\n" not in block


def _decoded(stream: ByteStream, encoding: str) -> Iterator[bytes]:
    name = codecs.lookup(encoding).name
    kept = name in ("utf-8", "utf-8-sig")  # no need to write it anew
    decoder = codecs.getincrementaldecoder("utf-8" if kept else name)()
    first, position, begun = b"", 0, False
    while True:
        raw = _full(stream)
        first = first or raw[:2]
        pending = decoder.getstate()[0]
        try:
            text = decoder.decode(raw, final=not raw)
            block = raw if kept else text.encode()
        except UnicodeError as error:
            start = getattr(error, "start", 0) + position - len(pending)
            hint = f"; it {_SIGNS[first]}" if first in _SIGNS else ""
            raise FormatError(
                f"it is not in the encoding {encoding} (byte {start:,} of its text: {error!s:.100})",
                f"text in that encoding: set encoding to the one it was written in, latin-1 for example, or convert it{hint}",
            ) from None
        position += len(raw)
        if not begun and block:
            block, begun = block.removeprefix(codecs.BOM_UTF8), True
        if block:
            yield block
        if not raw:
            return


def _full(stream: ByteStream) -> bytes:
    """Read a whole block, or up to the end: compressed streams give what they have."""
    parts, missing = [], _BLOCK
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
