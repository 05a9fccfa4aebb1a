"""What a data set that can be had by name consists of, and the checks that all of them share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from llmrec import cache, places
from llmrec.errors import AssetError

__all__ = ["INTERACTIONS", "ITEMS", "Counts", "Dataset", "canonical_sha256", "check_counts", "file"]

INTERACTIONS, ITEMS = "interactions.parquet", "items.parquet"


@dataclass(frozen=True)
class Dataset:
    """What there is to know about a data set that can be had by name.

    Parameters
    ----------
    about
        One line with the counts as published.
    home
        The page that describes the set.
    licence
        Terms in a few words; where its home states none, that is said.
    citation
        What to cite, with a DOI or arXiv number where there is one.
    sources
        Where its files can be had. Their ``convert`` writes the tables ``interactions.parquet`` (user_id,
        item_id, timestamp in whole seconds since 1970, and rating where the set has one; in the order of
        the source, because that breaks ties) and ``items.parquet`` (one row per item: item_id, title and
        further texts, ``""`` where there is none).
    content_sha256
        Of both tables, see :func:`llmrec.data.datasets.canonical_sha256`; ``None`` where they are not pinned.
    form
        Names the form of the tables: another one is another entry of the cache.
    """

    about: str
    home: str
    licence: str
    citation: str
    sources: tuple[cache.Source, ...]
    content_sha256: str | None = None
    form: str = "1"

    @property
    def version(self) -> str:
        """What the entry of the cache is called, so that an old cache is never mistaken for a new form."""
        return self.content_sha256[:12] if self.content_sha256 else self.form

    @property
    def checksum(self) -> str:
        """How far its files are pinned, in words."""
        loose = dict.fromkeys(f.name for s in self.sources for f in s.files if f.digest is None)
        if not loose:
            return "every file is pinned"
        pinned = any(f.digest for s in self.sources for f in s.files)
        which = ", ".join(loose)
        return f"none published for {which}: trusted on first use" + (
            "; the other file is pinned" if pinned else ""
        )


@dataclass(frozen=True)
class Counts:
    """How much a data set holds, as published.

    Parameters
    ----------
    interactions, users, items
        ``None``: not compared.
    within
        Share by which the counts may differ: 0 for a pinned archive, more for files that change or whose
        counts are published rounded.
    """

    interactions: int
    users: int | None = None
    items: int | None = None
    within: float = 0.0


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


def check_counts(folder: Path, counts: Counts, names: str) -> None:
    """Compare the converted tables with what was published: half a file must not pass for a data set.

    Raises
    ------
    AssetError
        They differ by more than ``counts.within``.
    """
    log = pl.scan_parquet(folder / INTERACTIONS)
    got = {"interactions": log.select(pl.len()).collect().item()}
    if counts.users is not None:
        got["users"] = log.select(pl.col("user_id").n_unique()).collect().item()
    if counts.items is not None:
        got["items"] = pl.scan_parquet(folder / ITEMS).select(pl.len()).collect().item()
    for what, number in got.items():
        published = getattr(counts, what)
        if abs(number - published) > counts.within * published:
            about = f"about {published:,}" if counts.within else f"{published:,}"
            raise AssetError(
                f"{names}: {number:,} {what} were read, and {about} are published. Expected the whole file of its "
                "home. Get it again. If it is whole, its home has changed it or llmrec misreads it: please report that."
            )


def file(name: str, url: str, digest: str | None = None) -> cache.File:
    """Return a file that is downloaded from an address and keeps its name there, below a folder of its own.

    Parameters
    ----------
    name
        Path below the cache's ``downloads`` folder.
    """
    return cache.File(name=name, digest=digest, download=places.from_url(url), by_hand=url)
