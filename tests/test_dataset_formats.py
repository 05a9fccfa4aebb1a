"""The formats of the data sets had by name: small files in the homes' forms, put into downloads, loaded by name."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec import cache
from llmrec.data.datasets import (
    DATASETS,
    amazon,
    dataset_folder,
    films,
    load_dataset,
    movielens,
    movietweetings,
    read_dataset,
    reading,
    steam,
)
from llmrec.data.datasets.base import Counts, check_counts
from llmrec.errors import AssetError, DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("LLMREC_OFFLINE", "1")


Put = Callable[..., None]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Return what puts the files of a data set into downloads, as if they were the whole, pinned ones."""

    def put(name: str, *contents: bytes, counts: bool = False) -> None:
        source = DATASETS[name].sources[0]
        files = []
        for file, content in zip(source.files, contents, strict=True):
            path = cache.cache_dir() / "downloads" / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digest = file.digest and f"sha256:{hashlib.sha256(content).hexdigest()}"
            files.append(dataclasses.replace(file, digest=digest))
        sources = (dataclasses.replace(source, files=tuple(files)),)
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], sources=sources))
        if not counts:
            for module in (amazon, movielens, movietweetings, steam):
                monkeypatch.setattr(module, "check_counts", lambda *args: None)

    return put


def _zip(members: dict[str, bytes], folder: Path) -> bytes:
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return path.read_bytes()


def _lines(*records: object) -> bytes:
    """Write records as McAuley's group once did: the ``repr`` of each in a line, or text as it is."""
    return gzip.compress("".join(f"{r}\n" for r in records).encode())


def _json(*records: Any) -> bytes:
    return _lines(*(json.dumps(r) for r in records))


# --- MovieLens ---------------------------------------------------------------------------------------

ML_1M = {
    # Users and items in no order; the order of rows is kept.
    "ml-1m/ratings.dat": b"2::1193::5::978300760\n1::661::3::978302109\n1::1193::4::978301968\n",
    "ml-1m/movies.dat": (
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
        "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n"
        "73::Misérables, Les (1995)::Drama|Musical\n"
        "9999::Alien :: The Return (1979)::Sci-Fi\n"
    ).encode("latin-1"),
    "ml-1m/users.dat": b"1::F::1::10::48067\n",
}
ML_1M_LOG = [
    ("2", "1193", 978300760, 5.0),
    ("1", "661", 978302109, 3.0),
    ("1", "1193", 978301968, 4.0),
]


def test_ml_1m(put: Put, tmp_path: Path) -> None:
    put("ml-1m", _zip(ML_1M, tmp_path))
    log, catalog = load_dataset("ml-1m")
    assert log.frame.rows() == ML_1M_LOG
    assert log.frame.columns == ["user_id", "item_id", "timestamp", "rating"]
    assert log.frame.dtypes[2:] == [pl.Int64, pl.Float64]
    assert catalog.item_ids == ("1193", "661", "73", "9999")
    assert catalog.titles == (
        "One Flew Over the Cuckoo's Nest",
        "James and the Giant Peach",
        "Misérables, Les",
        "Alien :: The Return",
    )
    assert catalog.attributes == {
        "year": ("1975", "1996", "1995", "1979"),
        "genres": ("Drama", "Animation, Children's, Musical", "Drama, Musical", "Sci-Fi"),
    }


ML_RATINGS = "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,171011,0.5,1147868817\n"
ML_MOVIES = (
    "movieId,title,genres\n"
    "296,Pulp Fiction (1994),Comedy|Crime|Drama|Thriller\n"
    '11,"American President, The (1995)",Comedy|Drama|Romance\n'
    '3,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure\n'
    '4,"""Great Performances"" Cats (1998)",Musical\n'
    "171011,Planet Earth II (2016) ,Documentary\n"
    "5,Babylon 5,Sci-Fi\n"
    "6,Fawlty Towers (1975-1979),(no genres listed)\n"
    "7,Death Note: Desu nôto (2006–2007),Animation\n"
)


@pytest.mark.parametrize("name", ["ml-20m", "ml-25m", "ml-32m"])
def test_the_newer_movielens(name: str, put: Put, tmp_path: Path) -> None:
    members = {f"{name}/ratings.csv": ML_RATINGS.encode(), f"{name}/movies.csv": ML_MOVIES.encode()}
    put(name, _zip(members, tmp_path))
    log, items = read_dataset(name)
    assert log.rows() == [("1", "296", 1147880044, 5.0), ("1", "171011", 1147868817, 0.5)]
    assert items.rows() == [
        ("296", "Pulp Fiction", "1994", "Comedy, Crime, Drama, Thriller"),
        ("11", "American President, The", "1995", "Comedy, Drama, Romance"),
        ("3", "City of Lost Children, The (Cité des enfants perdus, La)", "1995", "Adventure"),
        ("4", '"Great Performances" Cats', "1998", "Musical"),
        ("171011", "Planet Earth II", "2016", "Documentary"),
        ("5", "Babylon 5", "", "Sci-Fi"),
        ("6", "Fawlty Towers", "1975-1979", ""),
        ("7", "Death Note: Desu nôto", "2006–2007", "Animation"),
    ]


def test_windows_line_ends_make_no_difference(put: Put, tmp_path: Path) -> None:
    windows = {
        f"ml-20m/{n}.csv": t.replace("\n", "\r\n").encode()
        for n, t in {"ratings": ML_RATINGS, "movies": ML_MOVIES}.items()
    }
    put("ml-20m", _zip(windows, tmp_path))
    log, items = read_dataset("ml-20m")
    assert log["timestamp"].to_list() == [1147880044, 1147868817]
    assert items["genres"].to_list()[-1] == "Animation"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ml-1m/ratings.dat": b"1::2::three::4\n"}, r"ratings\.dat cannot be read: could not parse `three`"),
        ({"ml-1m/ratings.dat": b"1::2::3\n"}, r"ratings\.dat cannot be read: "),
        ({"ml-1m/ratings.dat": b"1::2::3::4\n1::2::3::\n"}, r"rows 1 without timestamp"),
        ({"ml-1m/movies.dat": b"1|Toy Story (1995)\n"}, r"movies\.dat cannot be read: line 1 has no three"),
        (
            {"ml-1m/movies.dat": None},
            r"ml-1m\.zip cannot be read: There is no item named 'ml-1m/movies\.dat'",
        ),
    ],
)
def test_a_movielens_file_that_is_not_understood_is_named(
    change: dict[str, bytes | None], said: str, put: Put, tmp_path: Path
) -> None:
    members = {n: c for n, c in (ML_1M | change).items() if c is not None}
    put("ml-1m", _zip(members, tmp_path))
    with pytest.raises(AssetError, match=said):
        read_dataset("ml-1m")


def test_no_archive_at_all_is_named(put: Put) -> None:
    put("ml-1m", b"<html>Not found</html>")
    with pytest.raises(AssetError, match=r"ml-1m\.zip cannot be read: File is not a zip file"):
        read_dataset("ml-1m")


def test_other_columns_are_refused(put: Put, tmp_path: Path) -> None:
    other = {"ml-20m/ratings.csv": b"movieId,userId,rating,timestamp\n1,2,3,4\n", "ml-20m/movies.csv": b""}
    put("ml-20m", _zip(other, tmp_path))
    with pytest.raises(
        AssetError, match=r"begins with 'movieId,userId.*not with the columns 'userId,movieId"
    ):
        read_dataset("ml-20m")


def test_fewer_ratings_than_published_are_refused(put: Put, tmp_path: Path) -> None:
    put("ml-1m", _zip(ML_1M, tmp_path), counts=True)
    with pytest.raises(
        AssetError, match=r"ml-1m\.zip: 3 interactions were read, and 1,000,209 are published"
    ):
        read_dataset("ml-1m")
    assert not list((cache.cache_dir() / "datasets").glob("ml-1m-*"))


# --- Amazon ------------------------------------------------------------------------------------------

# B3 has a title with an apostrophe, so that repr takes the other quotes; B4 has none; B1 twice; B9 is in the
# log only.
META_2014 = _lines(
    {"asin": "B1", "title": 'Soap &amp; Water, 8" x 2', "price": 7.5, "brand": "Acme, Inc.",
     "categories": [["Beauty", "Bath & Shower, Home"], ["Other"]], "salesRank": {"Beauty": 3}},
    {"asin": "B3", "title": "Men's Razor", "categories": [["Beauty"]]},
    {"asin": "B4", "categories": [], "price": 0.99},
    {"asin": "B1", "title": "a second time"},
)  # fmt: skip
ITEMS_2014 = [
    ("B1", 'Soap &amp; Water, 8" x 2', "Acme, Inc.", "Beauty > Bath & Shower, Home", "7.5"),
    ("B3", "Men's Razor", "", "Beauty", ""),
    ("B4", "", "", "", "0.99"),
    ("B9", "", "", "", ""),
]


def test_amazon_2014(put: Put) -> None:
    ratings = b"U2,B3,5.0,1369699200\nU1,B9,1.0,1355443200\nU1,B1,4.0,1355443200\nU1,B1,4.0,1355443200\n"
    put("amazon-2014/beauty", ratings, META_2014)
    said = list[str]()
    log, items = read_dataset("amazon-2014/beauty", said.append)
    assert log.rows() == [  # in the order of the file; what occurs twice stays
        ("U2", "B3", 1369699200, 5.0),
        ("U1", "B9", 1355443200, 1.0),
        ("U1", "B1", 1355443200, 4.0),
        ("U1", "B1", 1355443200, 4.0),
    ]
    assert items.columns == ["item_id", "title", "brand", "categories", "price"]
    assert items.rows() == ITEMS_2014
    notes = [line.removeprefix("datasets/amazon-2014/beauty: ") for line in said[-4:]]
    assert notes == [
        "1 rows of meta_Beauty.json.gz repeat the id of an earlier one and are left out",
        "1 items of the log are not in meta_Beauty.json.gz: they have no title",
        "1 items of meta_Beauty.json.gz have no title",
        "from amazon-2014/ratings_Beauty.csv and amazon-2014/meta_Beauty.json.gz in the cache's downloads folder; "
        f"licence: {DATASETS['amazon-2014/beauty'].licence}",
    ]


def test_items_without_a_title_are_not_dropped_behind_the_back(put: Put) -> None:
    put("amazon-2014/beauty", b"U1,B1,4.0,1355443200\n", META_2014)
    with pytest.raises(DataError, match=r"1 items have an empty title, for example item 'B4'"):
        load_dataset("amazon-2014/beauty")


def test_amazon_2014_5core(put: Put) -> None:
    reviews = _json(
        {
            "reviewerID": "U1",
            "asin": "B1",
            "reviewText": "It's\u2028fine",
            "overall": 5.0,
            "unixReviewTime": 9,
        },
        {"reviewerID": "U2", "asin": "B3", "helpful": [0, 1], "overall": 2.0, "unixReviewTime": 1400000000},
    )
    put("amazon-2014/beauty-5core", reviews, META_2014)
    log, items = read_dataset("amazon-2014/beauty-5core")
    assert log.rows() == [("U1", "B1", 9, 5.0), ("U2", "B3", 1400000000, 2.0)]
    assert items.rows() == ITEMS_2014[:3]


def test_amazon_2018(put: Put) -> None:
    meta = _json(
        {"asin": "0143026860", "title": "A \"B\", C", "brand": "D", "category": ["X", "Y"], "price": "$1.00"},
        {"asin": "B2", "title": "var aPageStart = (new Date()).getTime();", "category": [], "price": ""},
        {"asin": "B3", "title": "T", "category": "X"},
    )  # fmt: skip
    # Item first.
    put("amazon-2018/all-beauty", b"0143026860,A1V6B6TNIC10QE,1.0,1424304000\nB2,U2,5.0,1418860800\n", meta)
    log, items = read_dataset("amazon-2018/all-beauty")
    assert log.rows() == [
        ("A1V6B6TNIC10QE", "0143026860", 1424304000, 1.0),
        ("U2", "B2", 1418860800, 5.0),
    ]
    assert items.rows() == [
        ("0143026860", 'A "B", C', "D", "X > Y", "$1.00"),
        ("B2", "", "", "", ""),
        ("B3", "T", "", "X", ""),
    ]
    reviews = _json(
        {"overall": 5.0, "verified": True, "reviewerID": "U1", "asin": "B2", "unixReviewTime": 1445904000}
    )
    put("amazon-2018/all-beauty-5core", reviews, meta)
    assert read_dataset("amazon-2018/all-beauty-5core")[0].rows() == [("U1", "B2", 1445904000, 5.0)]


@pytest.mark.parametrize("name", ["amazon-2023/all-beauty", "amazon-2023/all-beauty-5core"])
def test_amazon_2023(name: str, put: Put) -> None:
    ratings = "user_id,parent_asin,rating,timestamp\nAG2,B2,0.0,1588615855070\nAG1,B1,5.0,999\n"
    meta = _json(
        {"main_category": "All Beauty", "title": "Conditioner, 8-Ounce (4-Pack)", "price": None,
         "store": "Howard's", "categories": ["A", "B"], "details": {}, "parent_asin": "B1"},
        {"title": None, "price": 6.99, "store": None, "categories": [], "parent_asin": "B2"},
    )  # fmt: skip
    put(name, gzip.compress(ratings.encode()), meta)
    log, items = read_dataset(name)
    assert log.rows() == [("AG2", "B2", 1588615855, 0.0), ("AG1", "B1", 0, 5.0)]  # seconds, rounded down
    assert items.rows() == [
        ("B1", "Conditioner, 8-Ounce (4-Pack)", "Howard's", "A > B", ""),
        ("B2", "", "", "", "6.99"),
    ]
    assert items.columns == ["item_id", "title", "store", "categories", "price"]


RATINGS_2014 = b"U1,B1,4.0,1355443200\n"
MANY = _lines(*({"asin": f"B{i}", "title": f"title {i * 7919 % 10_007}"} for i in range(5_000)))
META_2023 = _json({"parent_asin": "B1", "title": "T"})
CSV_2023 = gzip.compress(b"user_id,parent_asin,rating,timestamp\n" + b"A,B,5.0,1588615855070\n" * 9_000)


@pytest.mark.parametrize(
    ("name", "ratings", "meta", "said"),
    [
        ("amazon-2014/beauty", RATINGS_2014, MANY[:-500], r"meta_Beauty\.json\.gz cannot be read: Compressed"),
        ("amazon-2014/beauty", RATINGS_2014, b"<html>", r"meta_Beauty\.json\.gz cannot be read: Not a gzipped"),
        ("amazon-2014/beauty", RATINGS_2014, MANY[:200] + b"\0" * 99, r"meta_Beauty\.json\.gz cannot be read: "),
        ("amazon-2014/beauty", b"U1,B1,4.0\n", META_2014, r"ratings_Beauty\.csv cannot be read: "),
        ("amazon-2014/beauty", b"U1,B1,4.0,1\nU2,", META_2014, r"rows 1 without item_id, 1 without timestamp"),
        ("amazon-2014/beauty", RATINGS_2014, _lines("{'asin': 'B1'"), r"line 1 is neither JSON nor a Python"),
        ("amazon-2014/beauty", RATINGS_2014, _lines("{'a': 1}"), r"line 1: KeyError 'asin' in a record with a"),
        ("amazon-2014/beauty", RATINGS_2014, _lines("{'asin': None}"), r"line 1: .* None in place of an id"),
        ("amazon-2014/beauty", RATINGS_2014, _json({"asin": "B1", "title": "\ud83d"}), r"line 1: .* half a character"),
        ("amazon-2014/beauty", RATINGS_2014, _lines("['asin']"), r"line 1 is no record but \"\['asin'\]\""),
        ("amazon-2023/all-beauty", CSV_2023[:-40], META_2023, r"All_Beauty\.csv\.gz cannot be read: Compressed"),
        ("amazon-2023/all-beauty", gzip.compress(b"a,b\n"), META_2023, r"begins with 'a,b', not with"),
        ("amazon-2023/all-beauty", gzip.compress(b""), META_2023, r"begins with '', not with"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_what_to_do(
    name: str, ratings: bytes, meta: bytes, said: str, put: Put
) -> None:
    put(name, ratings, meta)
    with pytest.raises(AssetError, match=said) as caught:
        read_dataset(name)
    assert "Get it again" in str(caught.value)
    assert not list((cache.cache_dir() / "datasets").rglob("*.parquet"))


@pytest.mark.parametrize(
    "line",
    [
        "__import__('pathlib').Path({target!r}).touch()",
        "{{'asin': __import__('pathlib').Path({target!r}).touch(), 'title': 'x'}}",
        "{{'asin': 'B1', 'title': [open({target!r}, 'w') for _ in 'x']}}",
        "(lambda: open({target!r}, 'w'))()",
    ],
)
def test_a_line_is_never_run(line: str, put: Put, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    put("amazon-2014/beauty", RATINGS_2014, _lines(line.format(target=str(target))))
    with pytest.raises(AssetError, match="line 1 is neither JSON nor a Python literal"):
        read_dataset("amazon-2014/beauty")
    assert not target.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "-" * 100_000 + "1", "{'a': " * 5_000])
def test_a_line_that_nests_too_deeply_is_an_error(text: str, put: Put) -> None:
    put("amazon-2014/beauty", RATINGS_2014, _lines(text))
    with pytest.raises(AssetError, match="line 1 is neither JSON nor a Python literal"):
        read_dataset("amazon-2014/beauty")


def test_half_a_file_that_nobody_pinned_is_noticed_by_its_count(put: Put) -> None:
    reviews = _json({"reviewerID": "U1", "asin": "B1", "overall": 5.0, "unixReviewTime": 9})
    put("amazon-2014/beauty-5core", reviews, META_2014, counts=True)
    with pytest.raises(
        AssetError, match=r"reviews_Beauty_5\.json\.gz: 1 interactions were read, and about 198,502"
    ):
        read_dataset("amazon-2014/beauty-5core")


def test_batches_join_without_a_seam(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BATCH", 7)
    reviews = [
        {"reviewerID": f"U{i}", "asin": f"B{i % 50}", "overall": 5.0, "unixReviewTime": i} for i in range(100)
    ]
    put("amazon-2014/beauty-5core", _json(*reviews), _lines(*({"asin": f"B{i}"} for i in range(40))))
    log, items = read_dataset("amazon-2014/beauty-5core")
    assert log["timestamp"].to_list() == list(range(100))
    assert items["item_id"].to_list() == [f"B{i}" for i in range(50)]


TITLES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), min_size=1)


@given(titles=st.lists(TITLES, min_size=1), form=st.sampled_from([repr, json.dumps, "as it is"]))
def test_any_title_comes_back_from_a_record(
    titles: list[str], form: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write = (lambda record: json.dumps(record, ensure_ascii=False)) if form == "as it is" else form
    path = tmp_path_factory.mktemp("lines") / "meta.json.gz"
    path.write_bytes(_lines(*(write({"asin": f"B{i}", "title": t}) for i, t in enumerate(titles))))
    assert [row[1] for row in reading.rows(path, amazon._item_2014)] == [t.strip() for t in titles]


@given(title=TITLES.filter(lambda t: t.strip()), genres=st.sampled_from(["", "Drama", "Drama|Sci-Fi"]))
def test_any_title_comes_back_from_a_line_of_fields(
    title: str, genres: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "movies.dat"
    path.write_bytes(f"7::{title} (1999)::{genres}\r\n".encode())
    want = ("7", title.strip(), "1999", genres.replace("|", ", "))
    assert list(films.film_lines(path, "utf-8")) == [want]


# --- Steam -------------------------------------------------------------------------------------------


def test_steam(put: Put) -> None:
    # Python 2 wrote these: strings have a u, in either quotes.
    reviews = _lines(
        "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', "
        "u'page_order': 0, u'date': u'2017-12-17', u'text': u\"It's {odd}\", u'early_access': False, u'page': 1}",
        "{u'username': u'Ren\\xe9', u'product_id': u'20', u'date': u'1970-01-02', u'text': u''}",
    )
    games = _lines(
        "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost', "
        "u'title': u\"Lost Summoner's Kitty\", u'release_date': u'2018-01-04', u'tags': [u'Strategy'], "
        "u'price': u'Free To Play', u'early_access': False, u'id': u'725280', u'developer': u'Kotoshiro'}",
        "{u'app_name': u'Classic', u'id': u'10', u'genres': []}",
        "{u'url': u'http://store.steampowered.com/', u'app_name': u'no id'}",
        "{u'title': u'a second time', u'id': u'10'}",
    )
    put("steam", reviews, games)
    said = list[str]()
    log, items = read_dataset("steam", said.append)
    # 17,517 days from 1970 to that one: 47 years with 12 leap days, and 350 days.
    assert log.rows() == [("Chaos Syren", "725280", 17_517 * 86_400), ("René", "20", 86_400)]
    assert log.columns == ["user_id", "item_id", "timestamp"]  # no ratings, and none made up
    assert items.columns == [
        "item_id", "title", "genres", "tags", "developer", "publisher", "release_date",
    ]  # fmt: skip
    assert items.rows() == [
        ("725280", "Lost Summoner's Kitty", "Action, Casual", "Strategy", "Kotoshiro", "Kotoshiro", "2018-01-04"),
        ("10", "Classic", "", "", "", "", ""),
        ("20", "", "", "", "", "", ""),
    ]  # fmt: skip
    assert "datasets/steam: 1 games of steam_games.json.gz have no id and are left out" in said
    assert (
        "datasets/steam: 1 rows of steam_games.json.gz repeat the id of an earlier one and are left out"
        in said
    )


def test_a_review_without_a_day_is_an_error(put: Put) -> None:
    put("steam", _lines({"username": "a", "product_id": "1", "date": "yesterday"}), _lines({"id": "1"}))
    with pytest.raises(AssetError, match=r"steam_reviews\.json\.gz cannot be read: line 1: ValueError"):
        read_dataset("steam")


# --- MovieTweetings ----------------------------------------------------------------------------------


def test_movietweetings(put: Put) -> None:
    ratings = b"14927::0110912::9::1375657563\n1::0000417::10::1362062307\n1::99::0::1362062307\n"
    movies = (
        "0000417::Le voyage dans la lune (1902)::Short|Action\n"
        "0110912::Pulp Fiction (1994)::Crime|Thriller\n"
        "25::The Oxford and Cambridge University Boat Race (1895)::\n"
        "7::七人の侍 :: extended (1954)::Drama\n"
    )
    put("movietweetings", ratings, movies.encode())
    log, items = read_dataset("movietweetings")
    assert log.rows() == [  # ids keep their zeros
        ("14927", "0110912", 1375657563, 9.0),
        ("1", "0000417", 1362062307, 10.0),
        ("1", "99", 1362062307, 0.0),
    ]
    assert items.rows() == [
        ("0000417", "Le voyage dans la lune", "1902", "Short, Action"),
        ("0110912", "Pulp Fiction", "1994", "Crime, Thriller"),
        ("25", "The Oxford and Cambridge University Boat Race", "1895", ""),
        ("7", "七人の侍 :: extended", "1954", "Drama"),
        ("99", "", "", ""),
    ]


# --- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("ml-25m", {"ml-25m.zip": "https://files.grouplens.org/datasets/movielens/ml-25m.zip"}),
        (
            "amazon-2014/beauty",
            {
                f"amazon-2014/{f}": f"https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{f}"
                for f in ("ratings_Beauty.csv", "meta_Beauty.json.gz")
            },
        ),
        (
            "amazon-2023/video-games-5core",
            {
                "amazon-2023/5core/Video_Games.csv.gz": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/"
                "benchmark/5core/rating_only/Video_Games.csv.gz",
                "amazon-2023/meta_Video_Games.jsonl.gz": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/"
                "raw/meta_categories/meta_Video_Games.jsonl.gz",
            },
        ),
        (
            "steam",
            {
                f"steam/steam_{f}.json.gz": f"https://cseweb.ucsd.edu/~wckang/steam_{f}.json.gz"
                for f in ("reviews", "games")
            },
        ),
        (
            "movietweetings",
            {
                f"movietweetings/{f}.dat": "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/latest/"
                f"{f}.dat"
                for f in ("ratings", "movies")
            },
        ),
    ],
)
def test_a_home_out_of_reach_says_which_file_to_get_where_and_where_to_put_it(
    name: str, files: dict[str, str]
) -> None:
    with pytest.raises(AssetError) as caught:
        read_dataset(name)
    message = str(caught.value)
    assert f"into {cache.cache_dir() / 'downloads'} under" in message
    for file, url in files.items():
        assert f"{file} ({url})" in message


def test_a_pinned_file_that_differs_is_not_used(put: Put) -> None:
    path = cache.cache_dir() / "downloads" / "amazon-2014" / "ratings_Beauty.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(RATINGS_2014)
    with pytest.raises(
        AssetError, match=r"ratings_Beauty\.csv \(SHA-256 is \w{64}, expected 17d5232b90444beecfe7"
    ):
        read_dataset("amazon-2014/beauty")


def test_the_folder_has_both_tables_and_a_second_look_needs_no_files(put: Put) -> None:
    put("movietweetings", b"1::2::3::4\n", b"2::Seven (1995)::Crime\n")
    folder = dataset_folder("movietweetings")
    assert pl.scan_parquet(folder / "interactions.parquet").collect().rows() == [("1", "2", 4, 3.0)]
    for file in (cache.cache_dir() / "downloads").rglob("*.dat"):
        file.unlink()
    assert dataset_folder("movietweetings") == folder


def test_counts_may_differ_by_the_share_said(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a", "b"] * 50}).write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame({"item_id": ["x"]}).write_parquet(tmp_path / "items.parquet")
    check_counts(tmp_path, Counts(100, users=2, items=1), "it")
    check_counts(tmp_path, Counts(101, within=0.01), "it")
    for wrong in (Counts(101), Counts(102, within=0.01), Counts(100, users=3), Counts(100, items=2)):
        with pytest.raises(AssetError, match=r"it: \d+ (interactions|users|items) were read"):
            check_counts(tmp_path, wrong, "it")
