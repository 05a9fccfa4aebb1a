"""The films of the MovieLens and MovieTweetings sets: one way to read a printed title."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrec.data.datasets.reading import damaged, lines

__all__ = ["COLUMNS", "film", "film_lines"]

COLUMNS = ("item_id", "title", "year", "genres")

# "Toy Story (1995)". The marker after the year stands for "straight to video" in the Internet Movie
# Database and occurs once, at item 1412 of ml-100k; it is no part of the title. A series has its years,
# "Fawlty Towers (1975-1979)", also with a longer dash or still open.
_TITLE_YEAR = re.compile(r"(?P<title>.*\S)\s+\((?P<year>\d{4}(?:[-–](?:\d{4})?)?)\)(?: \(V\))?")

# Words that say that there is no genre (items 267 and 1373 of ml-100k; later sets in parentheses); in a
# prompt they would read as a fact.
_NO_GENRE = ("", "unknown", "(no genres listed)")


def film(item_id: str, printed: str, genres: Iterable[str]) -> tuple[str, str, str, str]:
    """Return one row with :data:`COLUMNS` from a title as GroupLens prints it, the year included.

    Articles stay where they are printed: "Misérables, Les (1995)" is "Misérables, Les" of 1995.
    """
    printed = printed.strip()
    found = _TITLE_YEAR.fullmatch(printed)
    title, year = (found["title"], found["year"]) if found else (printed, "")
    return item_id, title, year, ", ".join(g for g in genres if g not in _NO_GENRE)


def film_lines(path: Path, encoding: str) -> Iterator[tuple[str, ...]]:
    """Read ``movies.dat``: ``id::title (year)::genre|genre``; a title may have ``::`` in it."""
    for number, line in lines(path, encoding):
        item_id, sign, rest = line.partition("::")
        printed, second, genres = rest.rpartition("::")
        if not sign or not second:
            raise damaged(path, f"line {number} has no three fields with :: between them: {line[:80]!r}")
        yield film(item_id, printed, genres.split("|"))
