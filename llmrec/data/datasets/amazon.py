"""The Amazon reviews of 2014, 2018 and 2023 from McAuley's group, by category.

``amazon-2014/beauty`` has all ratings of the category, ``amazon-2014/beauty-5core`` those of the home's own
5-core file, in which every user and every item has five. Titles and other texts come from the metadata of the
category. They stay as they are, with their HTML entities; items without a title stay, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import cache
from llmrec.data.datasets.amazon_categories import AMAZON_2014, AMAZON_2018, AMAZON_2023
from llmrec.data.datasets.base import Counts, Dataset, check_counts, file
from llmrec.data.datasets.reading import identifier, joined, rows, text, write_items, write_log, write_ratings

__all__ = ["DATASETS"]

_Record = dict[str, Any]


# --- the log -----------------------------------------------------------------------------------------


def _ratings_2014(path: Path, folder: Path) -> None:
    write_ratings(path, ("user_id", "item_id", "rating", "timestamp"), folder)


def _ratings_2018(path: Path, folder: Path) -> None:
    # The item comes first, other than in 2014.
    write_ratings(path, ("item_id", "user_id", "rating", "timestamp"), folder)


def _ratings_2023(path: Path, folder: Path) -> None:
    # Events of one user within the same second are in the order of the file, as all ties are.
    columns = ("user_id", "item_id", "rating", "timestamp")
    write_ratings(path, columns, folder, header="user_id,parent_asin,rating,timestamp", per_second=1000)


def _reviews(path: Path, folder: Path) -> None:
    """Read the reviews of the 5-core files of 2014 and 2018, of which the texts are left out."""

    def review(record: _Record) -> tuple[str, str, int, float]:
        user, item = identifier(record["reviewerID"]), identifier(record["asin"])
        return user, item, int(record["unixReviewTime"]), float(record["overall"])

    write_log(rows(path, review), folder)


# --- the items ---------------------------------------------------------------------------------------

_PATH = " > "  # between the levels of a category, some of which have commas in their names


def _item_2014(record: _Record) -> tuple[str, ...]:
    get = record.get
    paths = get("categories") or [[]]  # an item can be in several; the first is its main one
    return (
        identifier(record["asin"]),
        text(get("title")),
        text(get("brand")),
        joined(paths[0], _PATH),
        text(get("price")),
    )


def _item_2018(record: _Record) -> tuple[str, ...]:
    get = record.get
    title = text(get("title"))
    if "getTime" in title:  # a script of the shop's page in place of the title; the home's notebook says so
        title = ""
    return (
        identifier(record["asin"]),
        title,
        text(get("brand")),
        joined(get("category"), _PATH),
        text(get("price")),
    )


def _item_2023(record: _Record) -> tuple[str, ...]:
    get = record.get
    return (
        identifier(record["parent_asin"]),
        text(get("title")),
        text(get("store")),
        joined(get("categories"), _PATH),
        text(get("price")),
    )


# --- the sets ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Log:
    """One of the logs that an edition has for every category: ``{}`` in its address is the category."""

    words: str
    url: str
    read: Callable[[Path, Path], None]  # read(file, folder) writes interactions.parquet
    folder: str  # of the file, below "downloads": two files of 2023 have the same name
    within: float  # how far the published counts can be trusted


@dataclass(frozen=True)
class _Edition:
    """The reviews of one year."""

    year: int
    years: str
    home: str
    citation: str
    categories: Mapping[str, tuple[int, int | None, str]]
    all: _Log
    core: _Log
    metadata: str
    item: Callable[[_Record], tuple[str, ...]]
    maker: str  # what the metadata know about who makes or sells an item


_LICENCE = (
    "no licence stated by its home, which asks to cite; reviews and metadata are Amazon's and its users' own"
)
_LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"

_EDITIONS = (
    _Edition(
        year=2014,
        years="from 1996 to 2014, to the day",
        home="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        citation=(
            "Ruining He and Julian McAuley. Ups and downs: modeling the visual evolution of fashion trends with "
            "one-class collaborative filtering. WWW 2016. doi:10.1145/2872427.2883037, arXiv:1602.01585"
        ),
        categories=AMAZON_2014,
        all=_Log("all", f"{_SNAP}/ratings_{{}}.csv", _ratings_2014, "amazon-2014", 0.01),
        core=_Log("5-core", f"{_SNAP}/reviews_{{}}_5.json.gz", _reviews, "amazon-2014/5core", 0.01),
        metadata=f"{_SNAP}/meta_{{}}.json.gz",
        item=_item_2014,
        maker="brand",
    ),
    _Edition(
        year=2018,
        years="from 1996 to 2018, to the day",
        home="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        citation=(
            "Jianmo Ni, Jiacheng Li and Julian McAuley. Justifying recommendations using distantly-labeled reviews "
            "and fine-grained aspects. EMNLP-IJCNLP 2019. doi:10.18653/v1/D19-1018"
        ),
        categories=AMAZON_2018,
        all=_Log("all", f"{_LAB}/amazon_v2/categoryFilesSmall/{{}}.csv", _ratings_2018, "amazon-2018", 0.01),
        core=_Log(
            "5-core",
            f"{_LAB}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz",
            _reviews,
            "amazon-2018/5core",
            0.01,
        ),
        metadata=f"{_LAB}/amazon_v2/metaFiles2/meta_{{}}.json.gz",
        item=_item_2018,
        maker="brand",
    ),
    _Edition(
        year=2023,
        years="from 1996 to 2023, to the second",
        home="https://amazon-reviews-2023.github.io/",
        citation=(
            "Yupeng Hou, Jiacheng Li, Zhankui He, An Yan, Xiusi Chen and Julian McAuley. Bridging language and "
            "items for retrieval and recommendation. 2024. arXiv:2403.03952"
        ),
        categories=AMAZON_2023,
        all=_Log(
            "all",
            f"{_LAB}/amazon_2023/benchmark/0core/rating_only/{{}}.csv.gz",
            _ratings_2023,
            "amazon-2023",
            0.01,
        ),
        core=_Log(
            "5-core",
            f"{_LAB}/amazon_2023/benchmark/5core/rating_only/{{}}.csv.gz",
            _ratings_2023,
            "amazon-2023/5core",
            0.05,  # "6.1M"
        ),
        metadata=f"{_LAB}/amazon_2023/raw/meta_categories/meta_{{}}.jsonl.gz",
        item=_item_2023,
        maker="store",
    ),
)


def _dataset(edition: _Edition, category: str, log: _Log, count: int, digest: str | None) -> Dataset:
    url, metadata_url = log.url.format(category), edition.metadata.format(category)
    columns = ("item_id", "title", edition.maker, "categories", "price")

    def convert(ratings: Path, metadata: Path, folder: Path) -> list[str]:
        log.read(ratings, folder)
        # Before the metadata, the reading of which takes long.
        check_counts(folder, Counts(count, within=log.within), ratings.name)
        return write_items(rows(metadata, edition.item), columns, folder, metadata.name)

    return Dataset(
        about=(
            f"Amazon reviews {edition.year}, {category.replace('_', ' ')}, {log.words}: "
            f"{'about ' if log.within > 0.01 else ''}{count:,} ratings {edition.years}; items with {edition.maker}, "
            "categories and price"
        ),
        home=edition.home,
        licence=_LICENCE,
        citation=edition.citation,
        sources=(
            cache.Source(
                place=f"McAuley's group ({url.rpartition('/')[0]})",
                files=(
                    file(f"{log.folder}/{url.rpartition('/')[2]}", url, digest),
                    file(f"{edition.all.folder}/{metadata_url.rpartition('/')[2]}", metadata_url),
                ),
                convert=convert,
            ),
        ),
    )


DATASETS: dict[str, Dataset] = {}
for _edition in _EDITIONS:
    for _category, (_all, _core, _sha256) in _edition.categories.items():
        _name = f"amazon-{_edition.year}/{_category.lower().replace('_', '-')}"
        DATASETS[_name] = _dataset(_edition, _category, _edition.all, _all, f"sha256:{_sha256}")
        if _core is not None:
            DATASETS[f"{_name}-5core"] = _dataset(_edition, _category, _edition.core, _core, None)
