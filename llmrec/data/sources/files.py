"""Files of a user: csv, tsv, jsonl, parquet and RecBole's atomic files, plain or compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from llmrec import cache
from llmrec.data.sources.base import Batch
from llmrec.data.sources.delimited import recbole_file, separated_file
from llmrec.data.sources.jsonl import JsonFile
from llmrec.data.sources.parquet import ParquetFile
from llmrec.data.sources.paths import DataFile, find_files
from llmrec.data.sources.problems import shown, telling
from llmrec.settings.data import SourceSettings

__all__ = ["FileSource"]


class _File(Protocol):
    def columns(self) -> list[str]: ...

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]: ...


_READERS: dict[str, Callable[[DataFile, SourceSettings], _File]] = {
    "csv": separated_file,
    "tsv": separated_file,
    "recbole": recbole_file,
    "jsonl": JsonFile,
    "parquet": ParquetFile,
}


class FileSource:
    """One or several files of one format, in the order of their names."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.setting = setting
        self.source = source
        self.files = find_files(source.location, source.format, setting)
        given = [*source.location[:2], *(["..."] if len(source.location) > 2 else [])]
        self.name = ", ".join(given) + (f", {len(self.files):,} files" if len(self.files) > 1 else "")

    def columns(self) -> list[str]:
        """Return the names of the columns of the first file."""
        file = self.files[0]
        with telling(file.path, self.setting):
            return self._reader(file).columns()

    def further_columns(self, wanted: Sequence[str]) -> list[str]:
        """Return those of some columns that are not among the first file's, but are in it: keys that few objects have."""
        file = self.files[0]
        with telling(file.path, self.setting):
            reader = self._reader(file)
            return reader.further_columns(wanted) if isinstance(reader, JsonFile) else []

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        for file in self.files:
            with telling(file.path, self.setting):
                yield from self._reader(file).batches(columns)

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file."""
        digests = {}
        for file in self.files:
            with telling(file.path, self.setting):
                digests[shown(file.path)] = cache.sha256(file.path)
        return digests

    def _reader(self, file: DataFile) -> _File:
        return _READERS[file.format](file, self.source)
