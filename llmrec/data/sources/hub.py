"""Data sets of the Hugging Face hub, and folders that ``save_to_disk`` wrote, through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from llmrec import cache
from llmrec.data.sources.base import Batch
from llmrec.errors import DataError, nearest
from llmrec.places import hub_problem
from llmrec.settings.data import SourceSettings

__all__ = ["HubSource"]

_BATCH = 100_000  # rows
_SAVED = ("dataset_dict.json", "dataset_info.json")


class HubSource:
    """One split of a data set; streamed from the hub, or mapped into memory from a folder."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.source = source
        self.setting = setting
        if len(source.location) != 1:
            raise DataError(f"{setting} has {len(source.location)} locations. Expected one data set.")
        self.name = source.location[0]
        self._opened: Any = None

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        data = self._open()
        names = data.column_names
        if names is None:  # streams of text formats tell by their first row
            names = list(next(iter(data), {}))
        return list(names)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        data = self._open().select_columns(list(columns))
        names = {c: data.features[c].names for c in columns if hasattr((data.features or {}).get(c), "names")}
        row = 1
        try:
            for table in data.with_format("arrow").iter(batch_size=_BATCH):
                frame = pl.DataFrame(pl.from_arrow(pa.table(table))).select(columns)
                frame = frame.with_columns(
                    pl.col(c).replace_strict(range(len(n)), n, default=None, return_dtype=pl.String)
                    for c, n in names.items()
                )
                yield Batch(frame, self.name, np.arange(row, row + len(frame)))
                row += len(frame)
        except DataError:
            raise
        except Exception as error:  # of any library that datasets reads a format or a network with
            raise self._problem(error) from None

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file of a folder; nothing for the hub, where a revision (owner/name@1a2b3c) says which data."""
        folder = Path(self.name)
        if not folder.is_dir():
            return {}
        return {str(path): cache.sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}

    def _open(self) -> Any:
        if self._opened is None:
            try:
                self._opened = self._from_hub() if self.name.startswith("hf://") else self._from_disk()
            except DataError:
                raise
            except Exception as error:
                raise self._problem(error) from None
        return self._opened

    def _from_disk(self) -> Any:
        import datasets

        folder = Path(self.name)
        if not any((folder / name).is_file() for name in _SAVED):
            raise DataError(
                f"{self.setting} is {self.name!r}, which is no folder of save_to_disk: it has neither of {', '.join(_SAVED)}. Expected "
                "one, or hf://owner/name."
            )
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.Dataset):
            return saved
        if self.source.split not in saved:
            raise DataError(
                f"{self.setting}.split is {self.source.split!r}{nearest(self.source.split, saved)}, and {self.name} has the splits "
                f"{', '.join(saved)}. Expected one of them."
            )
        return saved[self.source.split]

    def _from_hub(self) -> Any:
        import datasets

        repo, _, revision = self.name.removeprefix("hf://").removeprefix("datasets/").partition("@")
        if problem := hub_problem(f"datasets/{repo}"):
            raise DataError(
                f"{self.setting} is {self.name}, and the hub cannot be asked for it: {problem}. Expected a connection to "
                "huggingface.co. Connect this machine (and unset LLMREC_OFFLINE), or save the data set on another machine with "
                f"datasets.load_dataset({repo!r}).save_to_disk(FOLDER), copy the folder, and give it as the location."
            )
        return datasets.load_dataset(
            repo, self.source.subset, split=self.source.split, revision=revision or None, streaming=True
        )

    def _problem(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        return DataError(
            f"{self.setting} is {self.name}, which cannot be read: {reason}. Expected a data set of files in a usual format; check its "
            "name, split and subset, and for one that is gated or private log in with 'hf auth login'."
        )
