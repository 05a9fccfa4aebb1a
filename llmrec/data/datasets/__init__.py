"""Data sets had by name: fetched, checked and brought into two tables.

Every place a data set can come from converts to the *same* content, so a result does not depend on where the
data was found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl

from llmrec import cache
from llmrec.data.catalog import Catalog
from llmrec.data.datasets import amazon, ml100k, movielens, movietweetings, steam
from llmrec.data.datasets.base import INTERACTIONS, ITEMS, Dataset, canonical_sha256
from llmrec.data.datasets.ml100k import read_grouplens, read_recbole
from llmrec.data.interactions import Interactions
from llmrec.errors import AssetError, nearest

__all__ = [
    "DATASETS",
    "Dataset",
    "canonical_sha256",
    "dataset_folder",
    "describe",
    "load_dataset",
    "read_dataset",
    "read_grouplens",
    "read_recbole",
    "unknown_dataset",
]

log = logging.getLogger("llmrec")

DATASETS: dict[str, Dataset] = {
    **ml100k.DATASETS,
    **movielens.DATASETS,
    **amazon.DATASETS,
    **steam.DATASETS,
    **movietweetings.DATASETS,
}


def load_dataset(name: str, notify: Callable[[str], None] = log.info) -> tuple[Interactions, Catalog]:
    """Return the log and the catalogue of a data set of :data:`DATASETS`, nothing left out.

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
    DataError
        Items have no title, as in the Amazon sets: clean what :func:`read_dataset` returns.
    """
    interactions, items = read_dataset(name, notify)
    attributes = {c: tuple(items[c]) for c in items.columns if c not in ("item_id", "title")}
    catalog = Catalog(tuple(items["item_id"]), tuple(items["title"]), attributes)
    return Interactions.from_frame(interactions), catalog


def read_dataset(name: str, notify: Callable[[str], None] = log.info) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables of a data set as they are, for cleaning; arguments and errors as above.

    Returns
    -------
    interactions
        user_id, item_id, timestamp (whole seconds since 1970), and rating where the set has ratings; one
        row per event in the order of the source.
    items
        item_id, title and further texts; one row per item, those of the log without metadata included. An
        item without a title has ``""``.
    """
    folder = dataset_folder(name, notify)
    return pl.read_parquet(folder / INTERACTIONS), pl.read_parquet(folder / ITEMS)


def dataset_folder(name: str, notify: Callable[[str], None] = log.info) -> Path:
    """Return the folder with both tables as parquet files, for logs that are better not read at once."""
    if name not in DATASETS:
        raise unknown_dataset(name)
    dataset = DATASETS[name]
    return cache.entry(
        f"datasets/{name}", dataset.version, dataset.sources, licence=dataset.licence, notify=notify
    )


def unknown_dataset(name: str) -> AssetError:
    """Return the error for a name that no data set has."""
    families = dict.fromkeys(n.partition("/")[0] + ("/..." if "/" in n else "") for n in DATASETS)
    return AssetError(
        f"There is no built-in data set {name!r}{nearest(name, DATASETS)}. Expected one of {', '.join(families)} "
        "(llmrec data sets prints all of them), or files of your own."
    )


def describe() -> list[dict[str, str]]:
    """Return what there is to know about every data set.

    Returns
    -------
    rows
        In the order of :data:`DATASETS`, each with name, about, licence, home, citation and checksum.
    """
    return [
        {
            "name": name,
            "about": d.about,
            "licence": d.licence,
            "home": d.home,
            "citation": d.citation,
            "checksum": d.checksum,
        }
        for name, d in DATASETS.items()
    ]
