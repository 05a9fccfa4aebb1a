"""Checks on recommendation files, which may come from any tool: each failure is one paragraph.

Everything is vectorised: a million users with a hundred items each are a hundred million rows.

Shapes: U users, K recommendations, R rows of a file, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.errors import DataError, nearest

__all__ = ["Columns", "check_lists", "read_columns"]

_COLUMNS = ("user_id", "rank", "item_id", "score")
_USERS_AT_ONCE = 1 << 16  # lists sorted at once when repeats are looked for


@dataclass(frozen=True, eq=False)
class Columns:
    """The rows of a file as numbers."""

    user_ids: tuple[str, ...]  # [U]
    user: NDArray[np.int64]  # [R] row of user_ids
    rank: NDArray[np.int64]  # [R] from 1
    item: NDArray[np.int32]  # [R] catalogue index
    score: NDArray[np.float64]  # [R]


def read_columns(path: Path, catalog: Catalog, user_ids: Sequence[str] | None) -> Columns:
    """Read the four columns and check all that does not need whole lists.

    Raises
    ------
    DataError
        See :func:`llmrec.data.recommendations.read_recommendations`.
    """
    table = _read_table(path)
    for name in _COLUMNS:
        if table[name].null_count:
            raise DataError(
                f"{path.name} has {table[name].null_count:,} nulls in column {name!r}. Expected a value in "
                "every row: leave out rows that recommend nothing."
            )
    found, user = _encode(table["user_id"], path.name)
    users, user = _match_users(found, user, user_ids, path.name)
    names, code = _encode(table["item_id"], path.name)
    known = {item: index for index, item in enumerate(catalog.item_ids)}
    index_of = np.fromiter((known.get(name, -1) for name in names), dtype=np.int32, count=len(names))
    item = index_of[code]
    if (item < 0).any():
        unknown = names[int(code[np.argmax(item < 0)])]
        raise DataError(
            f"{path.name} recommends {int((index_of < 0).sum()):,} items that are not in the catalogue of "
            f"{len(catalog):,}, in {int((item < 0).sum()):,} rows; for example item {unknown!r}"
            f"{nearest(unknown, catalog.item_ids)}. Expected ids of the run's catalogue: map the ids, or "
            "make the lists from this catalogue."
        )
    rank = _integers(table["rank"], path.name)
    score = _numbers(table["score"], path.name)
    _check_ranks(users, user, rank, path.name)
    return Columns(users, user, rank, item, score)


def check_lists(
    items: NDArray[np.int32],
    scores: NDArray[np.float64],
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    source: str,
) -> None:
    """Check lists [U, K]: fillers at the end only, no item twice, finite scores that never rise.

    Raises
    ------
    DataError
        The first list that breaks a rule, by the user's id.
    """
    if items.shape != scores.shape or items.ndim != 2 or len(items) != len(user_ids):
        raise DataError(
            f"{source} has items of shape {items.shape} and scores of shape {scores.shape} for "
            f"{len(user_ids):,} users. Expected two tables of the same shape with a row per user."
        )
    for start in range(0, len(items), _USERS_AT_ONCE):
        block, value = items[start : start + _USERS_AT_ONCE], scores[start : start + _USERS_AT_ONCE]
        holds = block >= 0
        if ((block < -1) | (block >= len(item_ids))).any():
            row = start + int(np.argmax(((block < -1) | (block >= len(item_ids))).any(axis=1)))
            raise DataError(
                f"{source} recommends to user {user_ids[row]!r} something that is not in the catalogue of "
                f"{len(item_ids):,} items. Expected catalogue indices, or -1 where a list is too short."
            )
        if (holds[:, 1:] & ~holds[:, :-1]).any():
            row = start + int(np.argmax((holds[:, 1:] & ~holds[:, :-1]).any(axis=1)))
            raise DataError(
                f"{source} has a gap in the list of user {user_ids[row]!r}: an item follows an empty place. "
                "Expected empty places (-1) at the end of a list only."
            )
        ordered = np.sort(block, axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if repeated.any():
            row, column = np.argwhere(repeated)[0]
            raise DataError(
                f"{source} recommends item {item_ids[ordered[row, column]]!r} more than once to user "
                f"{user_ids[start + row]!r} ({int(repeated.any(axis=1).sum()):,} such users so far). Expected "
                "each item at most once in a list: a repeat takes the place of another item."
            )
        if not np.isfinite(value[holds]).all():
            row = start + int(np.argmax((holds & ~np.isfinite(value)).any(axis=1)))
            raise DataError(
                f"{source} has a score that is not a finite number in the list of user {user_ids[row]!r}. "
                "Expected finite scores: leave out items that are not recommended."
            )
        rises = (value[:, 1:] > value[:, :-1]) & holds[:, 1:]
        if rises.any():
            row, column = np.argwhere(rises)[0]
            raise DataError(
                f"{source} contradicts itself: for user {user_ids[start + row]!r} rank {column + 2} has the "
                f"score {value[row, column + 1]:.6g} and rank {column + 1} the lower score "
                f"{value[row, column]:.6g}. Expected scores that never rise from one rank to the next: rank "
                "by the score, best first, and give distances or losses a minus sign."
            )


def _read_table(path: Path) -> pa.Table:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path.name} cannot be read as parquet ({error}). Expected a file with the columns "
            f"{', '.join(_COLUMNS)}: give the path of one, or make it again."
        ) from None
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        free = [name for name in names if name not in _COLUMNS]
        hints = [f"{name!r}{nearest(name, free).replace('did you mean', 'is it')}" for name in missing]
        raise DataError(
            f"{path.name} lacks the column {', '.join(hints)}; it has {', '.join(map(repr, names)) or 'none'}. "
            f"Expected the columns {', '.join(_COLUMNS)}: rename or add what is missing."
        )
    twice = [name for name in _COLUMNS if names.count(name) > 1]
    if twice:
        raise DataError(f"{path.name} has the column {twice[0]!r} twice. Expected each once.")
    try:
        # Ids repeat in every row of a list: as dictionaries they cost four bytes each instead of a string.
        return pq.read_table(path, columns=list(_COLUMNS), read_dictionary=["user_id", "item_id"])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path.name} is damaged ({error}). Expected a whole file: make it again.") from None


def _encode(column: pa.ChunkedArray, source: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different ids in order of appearance, and a code [R] per row."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):  # 7 can only mean "7"; a float could be "7" or "7.0"
        column = pc.cast(column, pa.string())
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(
            f"{source} has ids of type {kind}. Expected the columns user_id and item_id to hold strings, "
            "written exactly as in the interaction log and the catalogue."
        )
    array = column.combine_chunks().dictionary_encode() if not pa.types.is_dictionary(column.type) else None
    if array is None:
        array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # older pyarrow returns chunks for an empty column
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.string()).dictionary_encode()
    codes = np.asarray(array.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    return array.dictionary.to_pylist(), codes


def _match_users(
    found: list[str], user: NDArray[np.int64], expected: Sequence[str] | None, source: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if expected is None:
        return tuple(found), user
    row_of = {name: row for row, name in enumerate(expected)}
    present = set(found)
    missing = [name for name in expected if name not in present]
    if missing:
        raise DataError(
            f"{source} has no list for {len(missing):,} of the {len(expected):,} users to be evaluated, for "
            f"example user {missing[0]!r}{nearest(missing[0], found[:10_000])}. Expected a list for every one "
            "of them: a user left out would silently make the average easier or harder."
        )
    extra = [name for name in found if name not in row_of]
    if extra:
        raise DataError(
            f"{source} has lists for {len(extra):,} users that are not evaluated, for example user "
            f"{extra[0]!r}. Expected lists for exactly the {len(expected):,} test users: remove the others, "
            "or check that the file was made with the same split and the same sample of users."
        )
    row = np.fromiter((row_of[name] for name in found), dtype=np.int64, count=len(found))
    return tuple(expected), row[user]


def _integers(column: pa.ChunkedArray, source: str) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type):
        raise DataError(
            f"{source} has ranks of type {column.type}. Expected whole numbers, 1 for a user's best item."
        )
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _numbers(column: pa.ChunkedArray, source: str) -> NDArray[np.float64]:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise DataError(
            f"{source} has scores of type {column.type}. Expected numbers, higher for better items."
        )
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _check_ranks(
    user_ids: Sequence[str], user: NDArray[np.int64], rank: NDArray[np.int64], source: str
) -> None:
    """Check that each user's ranks are 1, 2, ... n, in whatever order the rows are."""
    order: NDArray[np.int64] | slice = slice(None)
    if len(user) > 1 and not ((np.diff(user) > 0) | ((np.diff(user) == 0) & (np.diff(rank) > 0))).all():
        order = np.lexsort((rank, user))  # files of this library are sorted: most often this is skipped
    sorted_user, sorted_rank = user[order], rank[order]
    counts = np.bincount(user, minlength=len(user_ids))
    expected = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    if not np.array_equal(sorted_rank, expected):
        first = int(np.argmax(sorted_rank != expected))
        row = int(sorted_user[first])
        got = sorted_rank[sorted_user == row]
        shown = ", ".join(map(str, got[:10])) + (", ..." if len(got) > 10 else "")
        raise DataError(
            f"{source} ranks the {len(got):,} items of user {user_ids[row]!r} as {shown}. Expected the ranks 1 "
            "to n, each once: number every user's items from 1, best first."
        )
