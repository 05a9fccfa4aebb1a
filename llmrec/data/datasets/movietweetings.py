"""MovieTweetings: ratings of films that people posted on Twitter, collected from 2013 on."""

from __future__ import annotations

from pathlib import Path

from llmrec import cache
from llmrec.data.datasets.base import Counts, Dataset, check_counts, file
from llmrec.data.datasets.films import COLUMNS, film_lines
from llmrec.data.datasets.reading import write_items, write_ratings

__all__ = ["DATASETS"]

_COUNTS = Counts(interactions=921_398, within=0.05)  # the newest that its README states; it has grown daily


def _convert(ratings: Path, movies: Path, folder: Path) -> list[str]:
    columns = ("user_id", "", "item_id", "", "rating", "", "timestamp")
    write_ratings(ratings, columns, folder, sep=":")
    notes = write_items(film_lines(movies, "utf-8"), COLUMNS, folder, movies.name)
    check_counts(folder, _COUNTS, ratings.name)
    return notes


_LATEST = "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/latest"

DATASETS: dict[str, Dataset] = {
    "movietweetings": Dataset(
        about=(
            "MovieTweetings, the latest state: 71,707 users, 38,018 films with year and genres, 921,398 ratings "
            "from 0 to 10 since 2013"
        ),
        home="https://github.com/sidooms/MovieTweetings",
        licence="MIT (the repository's LICENSE)",
        citation=(
            "Simon Dooms, Toon De Pessemier and Luc Martens. MovieTweetings: a movie rating dataset collected from "
            "Twitter. Workshop on Crowdsourcing and Human Computation for Recommender Systems (CrowdRec) at "
            "RecSys 2013."
        ),
        sources=(
            cache.Source(
                place=f"the repository of MovieTweetings ({_LATEST})",
                files=tuple(
                    file(f"movietweetings/{name}", f"{_LATEST}/{name}")
                    for name in ("ratings.dat", "movies.dat")
                ),
                convert=_convert,
            ),
        ),
    )
}
