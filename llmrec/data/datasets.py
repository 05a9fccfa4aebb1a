"""Data sets had by name: fetched, checked and brought into one canonical form.

Every place a data set can come from converts to the *same* content, pinned by a SHA-256, so a result
does not depend on where the data was found.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec import cache, places
from llmrec.data.catalog import Catalog
from llmrec.data.interactions import Interactions
from llmrec.errors import AssetError, nearest

__all__ = ["DATASETS", "Dataset", "canonical_sha256", "load_dataset"]

log = logging.getLogger("llmrec")


@dataclass(frozen=True)
class Dataset:
    """What there is to know about a data set that can be had by name."""

    about: str
    licence: str
    content_sha256: str
    sources: tuple[cache.Source, ...]


def load_dataset(name: str, notify: Callable[[str], None] = log.info) -> tuple[Interactions, Catalog]:
    """Return the log and the catalogue of a data set of :data:`DATASETS`.

    Parameters
    ----------
    name
        Such as ``"ml-100k"``.
    notify
        Takes the line that says where the data came from and under what licence, and progress.

    Raises
    ------
    AssetError
        The name is unknown, or no place has the data; the message says what to do.
    """
    if name not in DATASETS:
        raise AssetError(
            f"There is no built-in data set {name!r}{nearest(name, DATASETS)}. "
            f"Expected one of {', '.join(DATASETS)}, or files of your own."
        )
    dataset = DATASETS[name]
    folder = cache.entry(
        # Another canonical form is another entry: an old cache is never mistaken for it.
        f"datasets/{name}",
        dataset.content_sha256[:12],
        dataset.sources,
        licence=dataset.licence,
        notify=notify,
    )
    items = pl.read_parquet(folder / "items.parquet")
    attributes = {c: tuple(items[c]) for c in items.columns if c not in ("item_id", "title")}
    catalog = Catalog(tuple(items["item_id"]), tuple(items["title"]), attributes)
    return Interactions.from_frame(pl.read_parquet(folder / "interactions.parquet")), catalog


def canonical_sha256(interactions: pl.DataFrame, items: pl.DataFrame) -> str:
    """Identify the content of both tables, whatever file format or library version holds them.

    The SHA-256 of their rows as tab-separated UTF-8 text under a header line: strings and integers as
    they are, floats as ``repr`` writes them, the interactions before the items.
    """
    digest = hashlib.sha256()
    for frame in (interactions, items):
        for row in (frame.columns, *frame.iter_rows()):
            digest.update(("\t".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()


# --- MovieLens 100k ----------------------------------------------------------------------------------

_ML100K_SHA256 = "80ac46f93db57ad3e53c08d7dde08f04cbef1a91a1acef7effb24aef16093ebd"

# The order of the 19 flags in u.item, which is also the order of the words in RecBole's column.
# fmt: off
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on

# "Toy Story (1995)". The marker after the year stands for "straight to video" in the Internet Movie
# Database and occurs once, at item 1412; it is no part of the title. Spaces end three titles.
_TITLE_YEAR = re.compile(r"(?P<title>.*\S)\s+\((?P<year>\d{4})\)(?: \(V\))?\s*")


def _movie(item_id: str, printed: str, genres: Iterable[str]) -> tuple[str, str, str, str]:
    """Return one canonical row from a title as GroupLens prints it, the year included."""
    found = _TITLE_YEAR.fullmatch(printed)
    title, year = (found["title"], found["year"]) if found else (printed.strip(), "")
    # The genre "unknown" (items 267 and 1373) says that there is none; as a word in a prompt it would
    # read as a fact.
    return item_id, title, year, ", ".join(g for g in genres if g != "unknown")


def read_grouplens(data: str, items: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bring the texts of ``u.data`` and ``u.item`` into the canonical tables."""
    movies = []
    for line in _lines(items):
        item_id, printed, _released, _video, _url, *flags = line.split("|")
        genres = [g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
        movies.append(_movie(item_id, printed, genres))
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
        movies.append(_movie(item_id, printed, genres.split(" ")))
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
    columns = ["item_id", "title", "year", "genres"]
    return interactions, pl.DataFrame(list(movies), schema=dict.fromkeys(columns, pl.String), orient="row")


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
        if got != _ML100K_SHA256:
            raise AssetError(
                f"{archive.name} converted to content with SHA-256 {got}, expected {_ML100K_SHA256}. The file "
                "itself is the right one, so this is a bug in llmrec or in the installed polars: please report it."
            )
        interactions.write_parquet(folder / "interactions.parquet")
        movies.write_parquet(folder / "items.parquet")

    return convert


_ZIP = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"

DATASETS: dict[str, Dataset] = {
    "ml-100k": Dataset(
        about="MovieLens 100k: 943 users, 1,682 films with year and genres, 100,000 ratings in 1997 and 1998",
        licence=(
            "GroupLens terms: research use only, no redistribution without permission, "
            "cite Harper & Konstan 2015 (doi:10.1145/2827872)"
        ),
        content_sha256=_ML100K_SHA256,
        sources=(
            cache.Source(
                place=f"GroupLens ({_ZIP})",
                filename="ml-100k.zip",
                sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                download=places.from_url(_ZIP),
                convert=_convert(read_grouplens, "ml-100k/u.data", "ml-100k/u.item", "latin-1"),
                by_hand=_ZIP,
            ),
            cache.Source(
                place="the Python package recbole 1.2.1 (through pip)",
                filename="recbole-1.2.1-py3-none-any.whl",
                sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                download=places.from_pip("recbole==1.2.1"),
                convert=_convert(
                    read_recbole,
                    "recbole/dataset_example/ml-100k/ml-100k.inter",
                    "recbole/dataset_example/ml-100k/ml-100k.item",
                    "utf-8",
                ),
                by_hand="pip download --no-deps recbole==1.2.1",
            ),
        ),
    )
}
