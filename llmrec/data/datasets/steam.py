"""Steam: reviews of video games, and the games, from McAuley's group."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from llmrec import cache
from llmrec.data.datasets.base import Counts, Dataset, check_counts, file
from llmrec.data.datasets.reading import identifier, joined, rows, text, write_items, write_log

__all__ = ["DATASETS"]

_COUNTS = Counts(interactions=7_793_069, within=0.01)
_COLUMNS = ("item_id", "title", "genres", "tags", "developer", "publisher", "release_date")


def _convert(reviews: Path, games: Path, folder: Path) -> list[str]:
    write_log(rows(reviews, _review), folder, rated=False)
    check_counts(folder, _COUNTS, reviews.name)
    nameless = 0

    def with_id() -> Iterator[tuple[str, ...]]:
        nonlocal nameless
        for game in rows(games, _game):
            if game[0]:
                yield game
            else:
                nameless += 1

    notes = write_items(with_id(), _COLUMNS, folder, games.name)
    if nameless:
        notes.append(f"{nameless:,} games of {games.name} have no id and are left out")
    return notes


def _review(record: dict[str, Any]) -> tuple[str, str, int]:
    user, item = identifier(record["username"]), identifier(record["product_id"])
    return user, item, _midnight(record["date"])


@functools.lru_cache(maxsize=10_000)
def _midnight(day: str) -> int:
    """Return the seconds since 1970 of a day such as "2017-12-17": the reviews know no hours."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * 86_400


def _game(record: dict[str, Any]) -> tuple[str, ...]:
    get = record.get
    title = text(get("title")) or text(get("app_name"))
    return (
        text(get("id")),
        title,
        joined(get("genres")),
        joined(get("tags")),
        *(text(get(key)) for key in ("developer", "publisher", "release_date")),
    )


def _source(place: str, folder: str) -> cache.Source:
    names = ("steam_reviews.json.gz", "steam_games.json.gz")
    return cache.Source(
        place=f"{place} ({folder})",
        files=tuple(file(f"steam/{name}", f"{folder}/{name}") for name in names),
        convert=_convert,
    )


DATASETS: dict[str, Dataset] = {
    "steam": Dataset(
        about=(
            "Steam reviews: 2,567,538 users, 15,474 reviewed games, 7,793,069 reviews with their day, 2010 to 2018, no "
            "ratings; 32,135 games with genres, tags, developer"
        ),
        home="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        licence="no licence stated by its home, which asks to cite; the texts are Steam users' own",
        citation=(
            "Wang-Cheng Kang and Julian McAuley. Self-attentive sequential recommendation. ICDM 2018. "
            "doi:10.1109/ICDM.2018.00035, arXiv:1808.09781"
        ),
        sources=(
            _source("W.-C. Kang's page at UC San Diego", "https://cseweb.ucsd.edu/~wckang"),
            _source(
                "McAuley's group at UC San Diego", "https://mcauleylab.ucsd.edu/public_datasets/data/steam"
            ),
        ),
    )
}
