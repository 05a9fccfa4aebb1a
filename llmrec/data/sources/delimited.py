"""Delimited text: csv, tsv and RecBole's atomic files. Every column is text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from llmrec.data.sources.base import Batch, BrokenRow
from llmrec.data.sources.paths import DataFile
from llmrec.data.sources.problems import FormatError, lacking, shown, unique
from llmrec.data.sources.records import Dialect, RecordReader, regular_records, wrong_width
from llmrec.data.sources.text import LONGEST, TextBuffer, text_blocks
from llmrec.settings.data import SourceSettings

__all__ = ["DelimitedFile", "recbole_file", "separated_file"]

_RECBOLE = ("token", "token_seq", "float", "float_seq")


class DelimitedFile:
    """A table with its names in the first row.

    Parameters
    ----------
    names
        Makes the names of the columns of the fields of the first row.
    """

    def __init__(
        self, file: DataFile, dialect: Dialect, encoding: str, names: Callable[[list[str]], list[str]] = list
    ) -> None:
        self.file = file
        self.dialect = dialect
        self.encoding = encoding
        self.names = names

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return self._begin()[1]

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows; those with more or fewer fields than the header are broken."""
        buffer, names = self._begin()
        if missing := [c for c in columns if c not in names]:
            raise lacking(missing, names)
        wanted = {c: names.index(c) for c in columns}
        reader = RecordReader(self.dialect)
        origin, row = shown(self.file.path), 1
        while buffer.text or not buffer.final:
            batch, count, end = self._parse(buffer, reader, wanted, len(names), row, origin)
            if count:
                yield batch
            row += count
            buffer.skip(end)
            if not end:
                assert not buffer.final
                buffer.grow()

    def _begin(self) -> tuple[TextBuffer, list[str]]:
        """Return the text behind the header, and the names that stand there."""
        buffer = TextBuffer(text_blocks(self.file, self.encoding))
        while True:
            buffer.grow()
            found, end = RecordReader(self.dialect).read(buffer.text, 0, final=buffer.final, most=1)
            if found:
                break
        header = found[0]
        if isinstance(header, BrokenRow):
            raise FormatError(f"its first row has {header.reason}", "the names of the columns there")
        buffer.skip(end)
        return buffer, unique(self.names([(field or b"").decode() for field in header]))

    def _parse(
        self,
        buffer: TextBuffer,
        reader: RecordReader,
        wanted: dict[str, int],
        width: int,
        row: int,
        origin: str,
    ) -> tuple[Batch, int, int]:
        """Return the complete records that the text begins with, how many there are, and where they end."""
        text, final = buffer.text, buffer.final
        records = None
        if self.dialect.regular and text:
            records = regular_records(text, self.dialect, width, row, final=final)
        if records is not None and (records.end or len(text) <= LONGEST):
            frame = _frame(records.text, self.dialect, wanted, width)
            if len(frame) == len(records.rows):
                return Batch(frame, origin, records.rows, tuple(records.broken)), records.count, records.end
        found, end = reader.read(text, row, final=final)
        rows, broken = [], []
        columns: dict[str, list[bytes | None]] = {name: [] for name in wanted}
        for number, record in enumerate(found, row):
            if isinstance(record, BrokenRow):
                broken.append(record)
            elif len(record) != width:
                line = self.dialect.separator.join(field or b"" for field in record)
                broken.append(wrong_width(number, line, len(record), width))
            else:
                rows.append(number)
                for name, place in wanted.items():
                    columns[name].append(record[place])
        frame = pl.DataFrame(
            {name: pl.Series(values, dtype=pl.Binary).cast(pl.String) for name, values in columns.items()}
        )
        return Batch(frame, origin, np.array(rows, np.int64), tuple(broken)), len(found), end


def _frame(text: bytes, dialect: Dialect, wanted: dict[str, int], width: int) -> pl.DataFrame:
    """Parse records that are known to be well-formed."""
    if not text:
        return pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    quoted = dialect.quote is not None and dialect.quote in text
    try:
        frame = pl.read_csv(
            text,
            has_header=False,
            schema={str(place): pl.String for place in range(width)},
            columns=sorted(set(wanted.values())),
            separator=dialect.separator.decode(),
            quote_char=dialect.quote.decode() if quoted and dialect.quote else None,
        )
    except pl.exceptions.PolarsError:
        return pl.DataFrame()  # the caller reads record by record
    return frame.select(pl.col(str(place)).alias(name) for name, place in wanted.items())


def separated_file(file: DataFile, source: SourceSettings) -> DelimitedFile:
    """Return a reader of a csv or tsv file."""
    separator = source.separator or ("," if file.format == "csv" else "\t")
    quote = None if source.quote is None else source.quote.encode()
    return DelimitedFile(file, Dialect(separator.encode(), quote), source.encoding)


def recbole_file(file: DataFile, source: SourceSettings) -> DelimitedFile:
    """Return a reader of a RecBole atomic file: tab-separated, nothing quoted, ``user_id:token`` in the first row."""
    return DelimitedFile(file, Dialect(b"\t", None), source.encoding, _bare)


def _bare(fields: list[str]) -> list[str]:
    pairs = [field.rpartition(":") for field in fields]
    if wrong := [field for field, (_, _, kind) in zip(fields, pairs, strict=True) if kind not in _RECBOLE]:
        raise FormatError(
            f"its first row has {wrong[0][:100]!r}",
            f"RecBole's name:type, with one of the types {', '.join(_RECBOLE)}, between tabs",
        )
    return [name for name, _, _ in pairs]
