"""MovieLens 1M, 20M, 25M and 32M: GroupLens' archives, read as a stream."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from llmrec import cache, places
from llmrec.data.datasets.base import Counts, Dataset, check_counts, file
from llmrec.data.datasets.films import COLUMNS, film, film_lines
from llmrec.data.datasets.ml100k import HARPER_KONSTAN
from llmrec.data.datasets.reading import damaged, reading, write_items, write_ratings

__all__ = ["DATASETS"]

# Of the films of these sets some were never rated: items are films, with or without ratings.
_COUNTS = {
    "ml-1m": Counts(interactions=1_000_209, users=6_040, items=3_883),
    "ml-20m": Counts(interactions=20_000_263, users=138_493, items=27_278),
    "ml-25m": Counts(interactions=25_000_095, users=162_541, items=62_423),
    "ml-32m": Counts(interactions=32_000_204, users=200_948, items=87_585),
}

# GroupLens publishes MD5 sums beside its archives. Where TensorFlow Datasets and others state the SHA-256 of
# the archive with that MD5, it is that one.
_DIGESTS = {
    "ml-1m": "sha256:a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    "ml-20m": "sha256:96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    "ml-25m": "sha256:8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    "ml-32m": "md5:d472be332d4daa821edc399621853b57",
}


def _convert_1m(archive: Path, folder: Path) -> list[str]:
    """Convert ``ratings.dat`` and ``movies.dat``, Latin-1 with ``::`` between the fields."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        ratings, movies = _unzip(archive, ("ml-1m/ratings.dat", "ml-1m/movies.dat"), Path(scratch))
        # "::" is ":" with an empty column on either side.
        write_ratings(ratings, ("user_id", "", "item_id", "", "rating", "", "timestamp"), folder, sep=":")
        notes = write_items(film_lines(movies, "latin-1"), COLUMNS, folder, movies.name)
    check_counts(folder, _COUNTS["ml-1m"], archive.name)
    return notes


def _converter(name: str) -> Callable[[Path, Path], list[str]]:
    """Make the conversion of the newer archives, with ``ratings.csv`` and ``movies.csv`` in UTF-8."""

    def convert(archive: Path, folder: Path) -> list[str]:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            ratings, movies = _unzip(archive, (f"{name}/ratings.csv", f"{name}/movies.csv"), Path(scratch))
            columns = ("user_id", "item_id", "rating", "timestamp")
            write_ratings(ratings, columns, folder, header="userId,movieId,rating,timestamp")
            notes = write_items(_films(movies), COLUMNS, folder, movies.name)
        check_counts(folder, _COUNTS[name], archive.name)
        return notes

    return convert


def _films(path: Path) -> Iterator[tuple[str, ...]]:
    """Read ``movies.csv``, where titles with commas are quoted and quotes doubled."""
    with reading(path), path.open(encoding="utf-8", newline="") as lines:
        table = csv.reader(lines, strict=True)
        header = next(table, [])
        if header != ["movieId", "title", "genres"]:
            raise damaged(path, f"its columns are {', '.join(header)}, not movieId, title, genres")
        for row in table:
            if len(row) != 3:
                raise damaged(path, f"line {table.line_num} has {len(row)} fields, not 3")
            item_id, printed, genres = row
            yield film(item_id, printed, genres.split("|"))


def _unzip(archive: Path, members: tuple[str, str], folder: Path) -> tuple[Path, Path]:
    with reading(archive):
        try:
            first, second = (places.unzip(archive, member, folder) for member in members)
        except KeyError as error:
            raise damaged(archive, str(error.args[0])) from error
    return first, second


# The README of ml-32m is the first of these to allow passing the data on.
_TERMS = (
    "GroupLens terms: research use only, no commercial use without permission, {passing_on}, "
    "cite Harper & Konstan 2015 (doi:10.1145/2827872)"
)
_CLOSED = _TERMS.format(passing_on="no redistribution without permission")
_SAME_TERMS = _TERMS.format(passing_on="redistribution under the same terms")


def _dataset(name: str, years: str, licence: str, convert: Callable[[Path, Path], list[str]]) -> Dataset:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    size, counts = name.removeprefix("ml-"), _COUNTS[name]
    return Dataset(
        about=(
            f"MovieLens {size.upper()}: {counts.users:,} users, {counts.items:,} films with year and genres, "
            f"{counts.interactions:,} ratings {years}"
        ),
        home=f"https://grouplens.org/datasets/movielens/{size}/",
        licence=licence,
        citation=HARPER_KONSTAN,
        sources=(
            cache.Source(
                place=f"GroupLens ({url})",
                files=(file(f"{name}.zip", url, _DIGESTS[name]),),
                convert=convert,
            ),
        ),
    )


DATASETS: dict[str, Dataset] = {
    "ml-1m": _dataset("ml-1m", "from 2000 to 2003", _CLOSED, _convert_1m),
    "ml-20m": _dataset("ml-20m", "from 1995 to 2015", _CLOSED, _converter("ml-20m")),
    "ml-25m": _dataset("ml-25m", "from 1995 to 2019", _CLOSED, _converter("ml-25m")),
    "ml-32m": _dataset("ml-32m", "from 1995 to 2023", _SAME_TERMS, _converter("ml-32m")),
}
