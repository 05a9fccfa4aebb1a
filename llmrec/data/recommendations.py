"""Recommendations: ranked items per user, in memory and as the parquet file that stages exchange.

The file has the columns ``user_id`` (string), ``rank`` (int, from 1), ``item_id`` (string) and ``score``
(float), so lists made by any other tool can be put in its place. Its name without ``.parquet`` is the
system's name. Facts about how it was made lie in the file's own metadata, so they cannot be separated
from it; a file made elsewhere has none.

Shapes: U users, K recommendations, R rows of a file (at most U x K), N items of the catalogue.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.recommendations_table import check_lists, read_columns
from llmrec.errors import DataError

__all__ = ["Recommendations", "read_meta", "read_recommendations", "replacing", "write_recommendations"]

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)
_META_KEY = b"llmrec"
_EMPTY_KEY = b"llmrec.users_without_items"
_ROWS_PER_GROUP = 1 << 20  # rows turned into strings at once: bounds the memory of a write


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The top-K lists of one system.

    A list shorter than K is filled with item ``-1`` and score ``-inf`` at its end.
    """

    system: str
    user_ids: tuple[str, ...]  # [U]
    items: NDArray[np.int32]  # [U, K] catalogue indices, best first
    scores: NDArray[np.float64]  # [U, K] descending within a row

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.items.shape[1])

    def for_users(self, user_ids: Sequence[str]) -> Recommendations:
        """Return the lists of ``user_ids``, in that order.

        Raises
        ------
        DataError
            Some of these users have no list.
        """
        if tuple(user_ids) == self.user_ids:
            return self
        row_of = {user: row for row, user in enumerate(self.user_ids)}
        missing = [user for user in user_ids if user not in row_of]
        if missing:
            raise DataError(
                f"{self.system!r} has no recommendations for {len(missing):,} of {len(user_ids):,} users, for "
                f"example user {missing[0]!r}. Expected a list for every user that is evaluated: recommend "
                "to these users too, or evaluate on the users that all systems have in common."
            )
        rows = np.fromiter((row_of[user] for user in user_ids), dtype=np.int64, count=len(user_ids))
        return Recommendations(self.system, tuple(user_ids), self.items[rows], self.scores[rows])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder, because only there is ``os.replace`` atomic; it is synced
    first, so that after a power cut ``path`` is the old file or the whole new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    os.chmod(name, 0o644)  # mkstemp's 0600 would hide a shared run directory from colleagues
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # some libraries put a file of their own in its place
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_recommendations(
    path: str | os.PathLike[str],
    recs: Recommendations,
    catalog: Catalog,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write lists as parquet, atomically.

    Parameters
    ----------
    path
        The file to write or replace; its stem is the system's name when it is read.
    recs
        The lists; fillers (item ``-1``) are not written, and users whose lists hold nothing else are noted in the file's
        metadata.
    catalog
        Gives the ids of the items.
    meta
        How the lists were made, as JSON-ready values; read back by :func:`read_meta`.

    Raises
    ------
    DataError
        A user has two lists, or the lists would not be read back: an item twice in a list, a filler
        before an item, or scores that rise within a list.
    """
    if len(set(recs.user_ids)) != len(recs):
        raise DataError(
            f"The recommendations of {recs.system!r} hold {len(recs):,} lists for "
            f"{len(set(recs.user_ids)):,} users. Expected one list per user."
        )
    check_lists(recs.items, recs.scores, recs.user_ids, catalog.item_ids, repr(recs.system))
    notes: dict[bytes, bytes] = {}
    if meta is not None:
        notes[_META_KEY] = json.dumps(dict(meta), sort_keys=True).encode()
    empty = [recs.user_ids[row] for row in np.flatnonzero((recs.items < 0).all(axis=1))]
    if empty:  # of whom no row will tell
        notes[_EMPTY_KEY] = json.dumps(empty).encode()
    schema = _SCHEMA.with_metadata(notes) if notes else _SCHEMA
    users, items = pa.array(recs.user_ids, pa.string()), pa.array(catalog.item_ids, pa.string())
    step = max(1, _ROWS_PER_GROUP // max(recs.k, 1))
    with (
        replacing(Path(path)) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(recs), step):
            row, column = np.nonzero(recs.items[start : start + step] >= 0)  # [R] in user and rank order
            row += start
            columns = [
                users.take(pa.array(row)),
                pa.array((column + 1).astype(np.int32)),
                items.take(pa.array(recs.items[row, column])),
                pa.array(recs.scores[row, column].astype(np.float64)),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return how a file was made, or ``None`` for a file that was made elsewhere.

    Raises
    ------
    DataError
        There is no such file, or it is not parquet.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{Path(path).name} cannot be read as parquet ({error}). Expected a file with the columns "
            "user_id, rank, item_id and score: give the path of one, or make it again."
        ) from None
    if _META_KEY not in metadata:
        return None
    try:
        meta: dict[str, Any] = json.loads(metadata[_META_KEY])
    except ValueError as error:
        raise DataError(
            f"What {Path(path).name} says of how it was made is damaged ({error}). Expected JSON: make the file again."
        ) from None
    return meta


def read_recommendations(
    path: str | os.PathLike[str], catalog: Catalog, user_ids: Sequence[str] | None = None
) -> Recommendations:
    """Read and check lists that this library or any other tool has written.

    Rows may be in any order. Lists may differ in length; shorter ones are filled up in memory.

    Parameters
    ----------
    path
        A parquet file; its stem becomes the system's name.
    catalog
        The items that may be recommended.
    user_ids
        The users the file must hold, no more and no fewer; the lists come back in this order. ``None``
        takes the users of the file in the order in which they first appear.

    Raises
    ------
    DataError
        The file is no parquet; a column is missing, misspelt, has another type or holds nulls; a user's
        ranks are not 1 to n; a user gets an item twice; an item is not in the catalogue; a score is not
        finite or rises within a list; users are missing or not expected.
    """
    path = Path(path)
    empty = _users_without_items(path)
    without = set(empty)
    listed = None if user_ids is None else [user for user in user_ids if user not in without]
    table = read_columns(path, catalog, listed)
    k = int(table.rank.max()) if len(table.rank) else 0
    items = np.full((len(table.user_ids), k), -1, dtype=np.int32)  # [U, K]
    scores = np.full(items.shape, -np.inf)
    items[table.user, table.rank - 1] = table.item
    scores[table.user, table.rank - 1] = table.score
    check_lists(items, scores, table.user_ids, catalog.item_ids, path.name)
    recs = Recommendations(
        path.stem,
        (*table.user_ids, *empty),
        np.concatenate([items, np.full((len(empty), k), -1, dtype=np.int32)]),
        np.concatenate([scores, np.full((len(empty), k), -np.inf)]),
    )
    return recs if user_ids is None else recs.for_users(user_ids)


def _users_without_items(path: Path) -> list[str]:
    """Return the users whose lists are known to be empty."""
    try:
        found: list[str] = json.loads((pq.read_schema(path).metadata or {}).get(_EMPTY_KEY, b"[]"))
    except (OSError, pa.ArrowInvalid):
        return []  # reported when the columns are read
    return found
