"""What a source of a table is: batches of rows, in an order that is always the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.errors import ConfigError, DataError
from llmrec.settings.secrets import without_password

__all__ = [
    "Batch",
    "BrokenRow",
    "GrowingSource",
    "Source",
    "check_same",
    "expand_variables",
    "without_secrets",
    "without_user",
]


@dataclass(frozen=True)
class BrokenRow:
    """A row that is no row of the format: too many fields, no JSON."""

    row: int  # its number within its origin, from 1
    text: str  # what stands there, as far as it can be shown
    reason: str  # a few words: "7 fields, expected 4"


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a table, in the source's order.

    Text formats give every column as text, so that ids such as 007 keep their zeros; others give the types they have.
    """

    frame: pl.DataFrame  # the columns asked for, under the source's names
    origin: str  # what the rows are from, for people: a file's path, a table, a page's URL without secrets
    rows: NDArray[np.int64]  # [len(frame)] the number of each within its origin, from 1
    broken: tuple[BrokenRow, ...] = field(default=())


class Source(Protocol):
    """A table somewhere. Reading it twice gives the same rows in the same order, unless it has changed."""

    name: str
    """What the user wrote, without secrets."""

    def columns(self) -> list[str]:
        """Return the names of the columns.

        Raises
        ------
        DataError
            The source is not there, or it cannot be read.
        """

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows with these columns, every batch small enough for memory, however large the source.

        Raises
        ------
        DataError
            The source cannot be read to its end: what has been yielded until then is not the whole.
        """

    def digests(self) -> Mapping[str, str]:
        """Return SHA-256 digests of local files by path, so that a changed file is noticed; empty for other sources."""


class GrowingSource(Source, Protocol):
    """A source that can give what is new since it was read last."""

    def new_batches(
        self, columns: Sequence[str], since: Mapping[str, Any] | None, key: bytes | None = None
    ) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield the rows that have been added, each batch with the state after it.

        Parameters
        ----------
        since
            The state that came with the last batch that was kept, JSON-ready; ``None`` for everything. Going on from it gives
            every row after that batch once, and none before it again.
        key
            What digests of rows in the state are keyed with, where user ids are hashed: without one, whoever has the state could
            try out which user a row is of. A state of before may have digests without it.

        Raises
        ------
        DataError
            The source cannot be read to its end, or it has changed where it should only have grown.
        """


def expand_variables(text: str, setting: str) -> str:
    """Fill in ``${NAME}`` from the environment.

    Raises
    ------
    ConfigError
        A variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"{setting} needs the environment variable {name}, which is not set. Expected it to hold what the config "
                f"must not: export {name}=... and run again."
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", value, text)


def without_secrets(url: str) -> str:
    """Return a URL for messages and files, without password and query."""
    return without_password(url).partition("?")[0]


def without_user(url: str) -> str:
    """Return a URL without user and password, whichever of them it has."""
    return re.sub(r"://[^/@]*@", "://", url)


def check_same(about: Mapping[str, Any], since: Mapping[str, Any] | None, setting: str) -> None:
    """Check that new rows are of the source that has been read until now.

    Parameters
    ----------
    about
        What tells a source from another.
    since
        The state of the last update, with the same; a store of before may lack some of it.

    Raises
    ------
    DataError
        They are of another.
    """
    was = {name: since[name] for name in about if name in since} if since is not None else {}
    if {**about, **was} != about:
        raise DataError(
            f"{setting} is {about}, and what has been read until now was {was}. Expected the same: go back to it, or remove the "
            "folder data.store and update again, which reads everything."
        )
