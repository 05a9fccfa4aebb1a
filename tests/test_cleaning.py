"""Cleaning: every step against a plain loop, and a ledger that adds up."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from html.entities import html5
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.data.cleaning.bounds import latest_moment
from llmrec.data.cleaning.log import k_core
from llmrec.data.cleaning.redaction import redact
from llmrec.data.cleaning.rows import as_ids
from llmrec.data.cleaning.timestamps import TimestampParser
from llmrec.data.cleaning.titles import without_entities, without_markup
from llmrec.data.load import load_catalog, load_data, read_histories
from llmrec.errors import ConfigError, DataError
from llmrec.settings import Cleaning, Data, Privacy
from llmrec.settings.data import SourceSettings

DAY = 86_400


def load(tmp_path, rows, items=None, columns=None, privacy=None, **cleaning):
    """Load a log of dicts of texts and a catalogue of (id, title) with all rows that are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)).write_parquet(tmp_path / "log.parquet")
    if items is None:
        items = [(i, f"Item {i}") for i in sorted({r["item_id"] for r in rows if r["item_id"]})]
    pl.DataFrame(items, schema={"item_id": pl.String, "title": pl.String}, orient="row").write_parquet(
        tmp_path / "items.parquet"
    )
    data = Data.model_validate(
        {
            "interactions": str(tmp_path / "log.parquet"),
            "items": str(tmp_path / "items.parquet"),
            "columns": columns or {},
            "cleaning": {"max_rejected": 1.0, **cleaning},
            "privacy": privacy or {},
        }
    )
    loaded = load_data(data, rejects=tmp_path / "rejects.parquet")
    rejects = pl.read_parquet(tmp_path / "rejects.parquet")
    for table, total in (("interactions", len(rows)), ("items", len(items))):
        steps = [s for s in loaded.ledger.steps if s.table == table]
        assert total - sum(s.removed for s in steps) == steps[-1].left
        for step in steps:
            kept = rejects.filter((pl.col("table") == table) & (pl.col("step") == step.step))
            assert len(kept) == step.removed, step
    assert len(loaded.interactions) == [s for s in loaded.ledger.steps if s.table == "interactions"][-1].left
    return loaded, rejects


def events(loaded):
    return list(loaded.interactions.frame.select("user_id", "item_id", "timestamp").iter_rows())


def row(user, item, time, **more):
    return {"user_id": user, "item_id": item, "timestamp": str(time), **more}


def removed(loaded, step):
    return next(s.removed for s in loaded.ledger.steps if s.step == step)


# --- single rows


def test_rows_without_ids_or_times_are_left_out_counted_and_kept(tmp_path):
    rows = [
        row("a", "x", 1),
        row("", "x", 2),
        row("  ", "x", 2),
        row("NULL", "x", 2),
        row("a", "\\N", 3),
        row("a", None, 3),
        row("a", "x", "yesterday"),
        row("a", "x", ""),
        row("a", "x", 4),
    ]
    loaded, rejects = load(tmp_path, rows, timestamp_format="s")
    assert events(loaded) == [("a", "x", 1), ("a", "x", 4)]
    assert [removed(loaded, f"missing {n} ids") for n in ("user", "item")] == [3, 2]
    assert removed(loaded, "unreadable times") == 2
    bad = rejects.filter(pl.col("step") == "unreadable times")
    assert bad["value"].to_list() == ["yesterday", ""]
    assert bad["row"].to_list() == [7, 8]


def test_too_many_unusable_rows_stop_with_the_reasons(tmp_path):
    rows = [row("a", "x", n) for n in range(94)] + [row("", "x", 1)] * 4 + [row("b", "", 1)] * 2
    with pytest.raises(
        DataError, match=r"6 of 100 rows of .* 4 missing user ids, 2 missing item ids.*at most 5%"
    ):
        load(tmp_path, rows, max_rejected=0.05)
    loaded, _ = load(tmp_path, rows, max_rejected=0.06)
    assert len(loaded.interactions) == 94


def test_times_out_of_bounds(tmp_path):
    rows = [row("a", "x", t) for t in (0, 100 * DAY, 200 * DAY)] + [row("a", "x", 40_000_000_000)]
    loaded, _ = load(tmp_path, rows, earliest="1970-04-01", latest="1970-07-20T00:00:00")
    assert [t for *_, t in events(loaded)] == [100 * DAY, 200 * DAY]
    assert (removed(loaded, "too early"), removed(loaded, "too late")) == (1, 1)
    loaded, _ = load(tmp_path, rows)  # latest: now, and 40,000,000,000 is in the year 3237
    assert len(loaded.interactions) == 3


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland", "America/Havana"]
)
@pytest.mark.parametrize("form", ["local", "number", "day"])
def test_bounds_are_days_and_moments_of_the_zone(tmp_path, zone, form):
    """What is kept are the events whose clock, where they happened, reads between the bounds: over a change of clocks too."""
    clocks = [datetime(2024, 11, 1, 0, 30, 1) + timedelta(hours=n) for n in range(0, 96, 3)]
    if form == "day":
        clocks = [datetime(2024, 11, 1) + timedelta(days=n) for n in range(4)]
    there = [clock.replace(tzinfo=ZoneInfo(zone)) for clock in clocks]
    texts = {
        "local": [clock.isoformat() for clock in clocks],
        "number": [int(moment.timestamp()) for moment in there],
        "day": [clock.date().isoformat() for clock in clocks],
    }
    rows = [row(str(n), "x", text) for n, text in enumerate(texts[form])]
    for first, last in (
        ("2024-11-02", "2024-11-02"),
        ("2024-11-03", "2024-11-03"),
        ("20241102", "20241103"),
        ("2024-11-02T00:00", "2024-11-03T12:30:01"),
        ("2024-11-02T03:00", "2024-11-03"),
    ):
        end = datetime.fromisoformat(last) + timedelta(seconds=DAY - 1 if "T" not in last else 0)
        kept = [str(n) for n, c in enumerate(clocks) if datetime.fromisoformat(first) <= c <= end]
        loaded, _ = load(tmp_path, rows, timezone=zone, earliest=first, latest=last)
        assert {user for user, *_ in events(loaded)} == set(kept)


def test_bounds_with_a_zone_of_their_own_keep_it(tmp_path):
    rows = [row("a", "x", t) for t in (1_706_659_199, 1_706_659_201, 1_706_662_801)]  # around midnight UTC
    loaded, _ = load(
        tmp_path,
        rows,
        timezone="Pacific/Auckland",
        earliest="2024-01-31T00:00Z",
        latest="2024-01-31T02:00:00+01:00",
    )
    assert [t for *_, t in events(loaded)] == [1_706_659_201]


def test_a_day_that_has_begun_somewhere_is_not_in_the_future():
    for zone, ahead in (("Pacific/Kiritimati", 14), ("UTC", 0), ("Pacific/Pago_Pago", 0)):
        now = latest_moment("now", zone)
        assert now.day - now.moment == 3600 * ahead


@pytest.mark.parametrize(
    ("form", "texts", "expected"),
    [
        ("auto", ["1714061700", "1714061700.9", "x"], [1714061700, 1714061700, None]),
        ("auto", ["1714061700000", "1714061700999", "1714061700"], [1714061700, 1714061700, None]),
        ("auto", ["1714061700000000"], [1714061700]),
        ("auto", ["1714061700123456789"], [1714061700]),
        ("auto", ["-1", "0", "inf", "nan", "1e9"], [-1, 0, None, None, 10**9]),
        ("ms", ["1999", "-1"], [1, -1]),
        ("s", ["-99999999999", "-9223372036854775808", "-62135596800"], [None, None, -62135596800]),
        ("auto", ["2024-04-25T16:15:00Z", "2024-04-25 18:15:00+02:00"], [1714061700, 1714061700]),
        (
            "auto",
            ["2024-04-25", "20240425", "2024-4", "2024-04-25T16:15"],
            [1714003200, 1714003200, None, 1714061700],
        ),
        ("auto", ["20240425", "20240426"], [1714003200, 1714089600]),
        ("auto", [20240425.0, None, 20240426.0], [1714003200, None, 1714089600]),
        ("auto", ["20240425.0", "20240426.0"], [1714003200, 1714089600]),
        ("%Y%m%d", [20240425.0, None], [1714003200, None]),
        ("%d/%m/%Y %H:%M", ["25/04/2024 16:15", "31/02/2024 00:00"], [1714061700, None]),
    ],
)
def test_timestamp_forms(form, texts, expected):
    assert TimestampParser(form).parse(pl.Series(texts)).to_list() == expected


@pytest.mark.parametrize("seconds", ["%H:%M", "%H:%M:%S", "%H:%M:%S.%f"])
@pytest.mark.parametrize("sign", ["T", " "])
def test_iso_moments_are_those_that_python_reads_with_and_without_a_zone(seconds, sign):
    day = datetime(2024, 1, 31, 10, 5)
    for zone in ("", "Z", "+01", "+01:00", "-0530", "+05:45"):
        text = day.strftime(f"%Y-%m-%d{sign}{seconds}") + zone
        there = datetime.fromisoformat(text)
        there = there if there.tzinfo else there.replace(tzinfo=ZoneInfo("Europe/Berlin"))
        got = TimestampParser("auto", "Europe/Berlin").parse(pl.Series([text]))
        assert got.to_list() == [there.timestamp()], text


@pytest.mark.parametrize(
    ("pattern", "text", "zone"),
    [
        # A time of day, however its hour is written, is one of the zone ...
        *(
            (f"%d/%m/%Y {pattern}", f"05/07/2024 {text}", "Europe/Berlin")
            for pattern, text in [
                ("%H:%M", "21:30"),
                ("%-H:%M", "21:30"),
                ("%_H:%M", "21:30"),
                ("%k:%M", "21:30"),
                ("%I:%M %p", "09:30 PM"),
                ("%-I:%M %p", "9:30 PM"),
                ("%l:%M %p", " 9:30 PM"),
                ("%R", "21:30"),
                ("%T", "21:30:00"),
                ("%X", "21:30:00"),
                ("%r", "09:30:00 PM"),
            ]
        ),
        ("%c", "Fri Jul  5 21:30:00 2024", "Europe/Berlin"),
        # ... unless it says its own, or counts, which is done in UTC.
        ("%d/%m/%Y %k:%M %z", "05/07/2024 21:30 -0300", "Etc/GMT+3"),
        ("%+", "2024-07-05T21:30:00-03:00", "Etc/GMT+3"),
        ("%s", "1720215000", "UTC"),
    ],
)
def test_times_of_every_pattern_are_local_unless_they_say_otherwise(pattern, text, zone):
    expected = datetime(2024, 7, 5, 21, 30, tzinfo=ZoneInfo(zone)).timestamp()
    assert TimestampParser(pattern, "Europe/Berlin").parse(pl.Series([text])).to_list() == [expected]


@pytest.mark.parametrize("pattern", ["%d/%m/%Y", "%-d/%-m/%Y"])
def test_days_of_a_pattern_are_days_of_no_zone(pattern):
    assert TimestampParser(pattern, "Europe/Berlin").parse(pl.Series(["05/07/2024"]))[0] % DAY == 0


def test_the_first_rows_decide_what_numbers_count():
    parser = TimestampParser()
    assert parser.parse(pl.Series([None, None], dtype=pl.String)).to_list() == [None, None]
    assert parser.parse(pl.Series(["1714061700000"] * 3)).to_list() == [1714061700] * 3
    assert parser.parse(pl.Series(["1714061700"])).to_list() == [None]  # not in January 1970


@given(st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)))
@settings(max_examples=100, deadline=None)
def test_local_times_are_those_of_the_zone_and_days_stay_days(when):
    zone = ZoneInfo("Europe/Berlin")
    local = when.replace(microsecond=0)
    parser = TimestampParser("iso", "Europe/Berlin")
    got = parser.parse(pl.Series([local.isoformat(" "), local.date().isoformat()]))
    there = local.replace(tzinfo=zone)
    # Through UTC and back: an hour that the clock skips comes back as another.
    exists = there.astimezone(ZoneInfo("UTC")).astimezone(zone).replace(tzinfo=None) == local
    assert got[0] == (int(there.timestamp()) if exists else None)
    assert got[1] % DAY == 0
    assert datetime.fromtimestamp(got[1], ZoneInfo("UTC")).date() == local.date()


def test_kinds_of_event_and_ratings(tmp_path):
    rows = [
        row("a", "x", 1, kind="view", stars="5"),
        row("a", "x", 2, kind="buy", stars="3.5"),
        row("a", "x", 3, kind="BUY", stars="5"),
        row("a", "x", 4, kind="buy", stars="bad"),
        row("a", "x", 5, kind="", stars="4"),
        row("a", "x", 6, kind="buy", stars="4"),
    ]
    columns = {"event": "kind", "rating": "stars"}
    loaded, _ = load(tmp_path, rows, columns=columns)
    assert loaded.interactions.frame["event"].to_list() == ["view", "buy", "BUY", "buy", None, "buy"]
    assert loaded.interactions.frame["rating"].to_list() == [5, 3.5, 5, None, 4, 4]
    loaded, _ = load(tmp_path, rows, columns=columns, events=["buy"], min_rating=4)
    assert [t for *_, t in events(loaded)] == [6]
    assert removed(loaded, "other kinds of event") == 3
    assert removed(loaded, "low or missing ratings") == 2


def test_floats_that_are_whole_are_the_same_ids(tmp_path):
    pl.DataFrame({"user_id": [1.0, 2.0, None], "item_id": [7, 8, 8], "timestamp": [1, 2, 3]}).write_parquet(
        tmp_path / "log.parquet"
    )
    pl.DataFrame({"item_id": ["7", "8"], "title": ["A", "B"]}).write_parquet(tmp_path / "items.parquet")
    data = {"interactions": str(tmp_path / "log.parquet"), "items": str(tmp_path / "items.parquet")}
    loaded = load_data(Data.model_validate({**data, "cleaning": {"max_rejected": 0.5}}))
    assert events(loaded) == [("1", "7", 1), ("2", "8", 2)]


# --- the whole log


def test_events_without_a_catalogue_entry(tmp_path):
    rows = [row("a", "x", 1), row("a", "y", 2), row("b", "y", 3)]
    loaded, _ = load(tmp_path, rows, items=[("x", "X")])
    assert events(loaded) == [("a", "x", 1)]
    with pytest.raises(DataError, match=r"2 of 3 events .* the first is item 'y'"):
        load(tmp_path, rows, items=[("x", "X")], unknown_items="error")


log_rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("wxyz"), st.integers(0, 5)), min_size=1, max_size=30
)


@given(rows=log_rows)
@settings(max_examples=60, deadline=None)
def test_duplicates_and_repeats_against_a_loop(rows, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("log")
    ordered = sorted(rows, key=lambda r: (r[0], r[2]))  # stable: ties keep the source's order
    unique = list(dict.fromkeys(ordered))
    consecutive, all_first, last, seen = [], [], {}, set()
    for user, item, time in unique:
        if last.get(user) != item:
            consecutive.append((user, item, time))
        if (user, item) not in seen:
            all_first.append((user, item, time))
        last[user] = item
        seen.add((user, item))
    source = [row(*r) for r in rows]
    assert events(load(tmp_path, source, duplicates="keep")[0]) == ordered
    assert events(load(tmp_path, source)[0]) == unique
    assert events(load(tmp_path, source, repeats="consecutive")[0]) == consecutive
    assert events(load(tmp_path, source, repeats="all")[0]) == all_first


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    least=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
@settings(max_examples=200, deadline=None)
def test_k_core_against_leaving_out_one_after_the_other(pairs, least):
    left = list(range(len(pairs)))
    while True:
        users, items = Counter(pairs[i][0] for i in left), Counter(pairs[i][1] for i in left)
        bad = next((i for i in left if users[pairs[i][0]] < least[0] or items[pairs[i][1]] < least[1]), None)
        if bad is None:
            break
        left.remove(bad)
    kept = k_core(np.array([u for u, _ in pairs]), np.array([i for _, i in pairs]), *least)
    assert np.flatnonzero(kept).tolist() == left


def test_k_core_in_a_log_takes_items_out_of_the_catalogue_if_asked(tmp_path):
    rows = [
        row(u, i, n) for n, (u, i) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "z")])
    ]
    loaded, _ = load(tmp_path, rows, min_user_events=2, min_item_events=2)
    assert {u for u, *_ in events(loaded)} == {"a", "b"}
    assert loaded.catalog.item_ids == ("x", "y", "z")
    loaded, rejects = load(tmp_path, rows, min_user_events=2, min_item_events=2, unused_items="drop")
    assert loaded.catalog.item_ids == ("x", "y")
    assert rejects.filter(pl.col("table") == "items")["item_id"].to_list() == ["z"]
    assert loaded.interactions.items_in(loaded.catalog).tolist() == [0, 1, 0, 1]


def test_bots(tmp_path):
    human = [row("human", f"i{n}", n * 1000) for n in range(30)]  # four within an hour
    burst = [row("burst", f"i{n}", n * 10) for n in range(6)]
    script = [row("script", "i0" if n % 10 else f"i{n}", n * DAY) for n in range(30)]  # 28 of 30 are i0
    rows = human + burst + script
    assert {u for u, *_ in events(load(tmp_path, rows, max_per_hour=4)[0])} == {"human", "script"}
    assert {u for u, *_ in events(load(tmp_path, rows, max_per_hour=6)[0])} == {"human", "script", "burst"}
    assert {u for u, *_ in events(load(tmp_path, rows, max_repetition=0.93)[0])} == {"human", "burst"}
    assert len(load(tmp_path, rows, max_repetition=0.94)[0].interactions) == len(rows)
    assert {u for u, *_ in events(load(tmp_path, rows, max_per_user=10)[0])} == {"burst"}


def test_nothing_left_says_which_step_it_was(tmp_path):
    with pytest.raises(
        DataError,
        match=r"No event is left after the step 'users and items with few events', which left out 1",
    ):
        load(tmp_path, [row("a", "x", 1)], min_user_events=2)
    with pytest.raises(DataError, match=r"No event is left of 1 rows; 1 were left out for unreadable times"):
        load(tmp_path, [row("a", "x", "never")])


# --- titles


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("&lt;b&gt;Big&lt;/b&gt; sale", "Big sale"),
        ('<a href="x">Link</a><br/>end', "Link end"),
        ("I <3 you", "I <3 you"),
        ("a < b > c", "a < b > c"),
        ("<Insert name>", "<Insert name>"),
        (" two \t\n words\u00a0here ", "two words here"),
        ("zero\u200bwidth\x00nul", "zero width nul"),
        (
            "Caf\u00e9 \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f680",
            "Caf\u00e9 \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f680",
        ),
        ("AT&T", "AT&T"),
        ("Rock&region, Cut&copy it, Salt&reg", "Rock&region, Cut&copy it, Salt&reg"),
        ("Dots&notit; and&ampere;", "Dots&notit; and&ampere;"),
        ("Q&amp;notes, Q&amp;amp;reg", "Q&notes, Q&reg"),
        ("&#65;&#x42;&#X43; caf&eacute; &Eacute;t&eacute; &frac12;", "ABC caf\u00e9 \u00c9t\u00e9 \u00bd"),
    ],
)
def test_text_of_titles(raw, clean):
    assert without_markup(without_entities(pl.Series([raw]))).to_list() == [clean]


def test_every_entity_is_its_character_and_none_without_a_semicolon():
    names = pl.Series([f"a&{name}" for name in html5])
    expected = [f"a{html5[name]}" if name.endswith(";") else f"a&{name}" for name in html5]
    assert without_entities(names).to_list() == expected


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_clean_text_is_clean(text):
    (once,) = without_markup(without_entities(pl.Series([text])))
    assert without_markup(pl.Series([once])).to_list() == [once]
    assert "  " not in once
    assert once == once.strip()


def items(tmp_path, rows, **cleaning):
    return load(tmp_path, [row("a", rows[0][0], 1)], items=rows, **cleaning)


def test_items_without_id_title_or_a_row_of_their_own(tmp_path):
    rows = [("1", "A"), ("", "B"), ("2", " "), ("3", "&nbsp;"), ("1", "C"), ("4", "A")]
    loaded, rejects = items(tmp_path, rows)
    assert loaded.catalog.item_ids == ("1", "4")
    assert rejects.filter(pl.col("step") == "further rows of an item")["value"].to_list() == ["C"]
    assert items(tmp_path, rows, empty_titles="id")[0].catalog.titles == ("A", "2", "3", "A")
    with pytest.raises(DataError, match="2 items have an empty title, for example item '2'"):
        items(tmp_path, rows, empty_titles="error")
    with pytest.raises(DataError, match="lists item '1' more than once"):
        items(tmp_path, rows, duplicate_items="error")


def test_merged_titles_get_all_events(tmp_path):
    catalogue = [("1", "A"), ("2", "B"), ("3", " A"), ("4", "B")]
    rows = [row("u", i, n) for n, i in enumerate("1234")]
    loaded, _ = load(tmp_path, rows, items=catalogue, duplicate_titles="merge")
    assert loaded.catalog.item_ids == ("1", "2")
    assert [i for _, i, _ in events(loaded)] == ["1", "2", "1", "2"]


def test_long_titles_are_cut_at_a_word_and_counted(tmp_path):
    rows = [("1", "one two three four"), ("2", "x" * 30), ("3", "short")]
    loaded, _ = items(tmp_path, rows, max_title=14)
    assert loaded.catalog.titles == ("one two three…", "x" * 13 + "…", "short")
    assert next(s.changed for s in loaded.ledger.steps if s.step == "titles too long") == 2


# --- privacy


def test_hashed_ids_are_the_same_for_the_same_salt_only(tmp_path, monkeypatch):
    rows = [row(u, "x", n) for n, u in enumerate(["ann", "bob", "ann", ""])]
    found = []
    for salt in ("one", "one", "two"):
        monkeypatch.setenv("LLMREC_SALT", salt)
        loaded, rejects = load(tmp_path, rows, privacy={"hash_users": True})
        users = loaded.interactions.frame["user_id"].to_list()
        assert len(set(users)) == 2
        assert all(re.fullmatch("[0-9a-f]{32}", u) for u in users)
        assert "ann" not in rejects.write_csv()
        found.append(sorted(users))
    assert found[0] == found[1] != found[2]
    monkeypatch.delenv("LLMREC_SALT")
    with pytest.raises(ConfigError, match="environment variable LLMREC_SALT, which is not set"):
        load(tmp_path, rows, privacy={"hash_users": True})


def test_a_key_that_others_know_is_refused(tmp_path, monkeypatch):
    """One in the config, which is kept with the results, and an empty one."""
    for salt in ("", "my plain key", "$LLMREC_SALT", "${}"):
        with pytest.raises(ValueError, match="expected a variable of the environment"):
            Privacy(hash_users=True, salt=salt)
    for salt, key in (("${LLMREC_SALT}", ""), ("${LLMREC_SALT}", " \n"), ("shop-${LLMREC_SALT}", "")):
        monkeypatch.setenv("LLMREC_SALT", key)
        with pytest.raises(ConfigError, match="there is nothing in the environment variable"):
            load(tmp_path, [row("a", "x", 1)], privacy={"hash_users": True, "salt": salt})
    load(tmp_path, [row("a", "x", 1)])  # nothing is hashed, so no key is needed


def test_rejects_have_hashed_ids_too(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_SALT", "s")
    rows = [row("ann@example.com", "x", "never"), row("ann@example.com", "x", 1), row("bob", "gone", 2)]
    load(tmp_path, rows, items=[("x", "X")], privacy={"hash_users": True})
    assert "ann" not in pl.read_parquet(tmp_path / "rejects.parquet").write_csv()
    assert "bob" not in pl.read_parquet(tmp_path / "rejects.parquet").write_csv()


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("ask joe.b+x@mail.example.co.uk now", "email", "ask [email] now"),
        ("user@localhost and @home, 5@3", "email", "user@localhost and @home, 5@3"),
        ("call +49 30 1234567 today", "phone", "call [phone] today"),
        ("call (555) 123-4567", "phone", "call [phone]"),
        ("555-123-4567", "phone", "[phone]"),
        ("030 1234567", "phone", "[phone]"),
        ("Windows 98, 1984, 2001: A Space Odyssey", "phone", "Windows 98, 1984, 2001: A Space Odyssey"),
        ("ISBN 9783161484100, model 0815", "phone", "ISBN 9783161484100, model 0815"),
        ("2023-2024 season, 10-20-30 mm", "phone", "2023-2024 season, 10-20-30 mm"),
    ],
)
def test_redaction(text, kind, expected):
    assert redact(pl.Series([text]), kind)[0] == expected


def test_attributes_with_names_are_not_read(tmp_path):
    pl.DataFrame({"item_id": ["1"], "title": ["Sofa, mail a@b.org"], "seller": ["Ann"]}).write_parquet(
        tmp_path / "items.parquet"
    )
    data = Data.model_validate(
        {
            "interactions": "log.csv",
            "items": str(tmp_path / "items.parquet"),
            "columns": {"attributes": ["seller"]},
            "privacy": {"drop_attributes": ["seller"], "redact": ["email"]},
        }
    )
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    data = data.model_copy(update={"interactions": data.items})
    catalog = load_catalog(data)
    assert catalog.titles == ("Sofa, mail [email]",)
    assert catalog.attributes == {}


# --- settings and reproducibility


@pytest.mark.parametrize(
    ("cleaning", "message"),
    [
        ({"timezone": "Mars/Olympus"}, "no time zone"),
        ({"earliest": "soon"}, "'soon' is no date"),
        ({"timestamp_format": "seconds"}, "is no format"),
        ({"timestamp_format": "%d/%m/%Y %H:%M %Z"}, "names of zones"),
    ],
)
def test_settings_that_make_no_sense(cleaning, message):
    with pytest.raises(ValueError, match=message):
        Cleaning.model_validate(cleaning)


def test_passwords_are_refused_in_configs():
    with pytest.raises(ValueError, match=r"has a password in it \(postgresql://me:...@host/db\)") as error:
        Data.model_validate({"interactions": "postgresql://me:hunter2@host/db", "items": "i.csv"})
    assert "hunter2" not in str(error.value).split("input_value")[0]
    Data.model_validate({"interactions": "postgresql://me:${DB}@host/db", "items": "i.csv"})


def test_a_float_id_with_a_fraction_changes_no_other():
    assert as_ids(pl.Series([0.0, 1.0, 2.5, None, float("nan")]), ()).to_list() == [
        "0",
        "1",
        "2.5",
        None,
        None,
    ]


def test_attributes_are_none_of_our_own_columns(tmp_path):
    rows = {"item_id": ["1"], "name": ["Mug"], "origin": ["Italy"], "row": [7], "brand": ["Hearth"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "items.parquet")
    columns = {"title": "name", "attributes": ["origin", "row", "brand", "name"]}
    tables = {name: str(tmp_path / "items.parquet") for name in ("interactions", "items")}
    catalog = load_catalog(Data.model_validate({**tables, "columns": columns}))
    assert catalog.titles == ("Mug",)
    assert catalog.attributes == {"origin": ("Italy",), "row": ("7",), "brand": ("Hearth",), "name": ("Mug",)}
    for name in ("title", "item_id", "time"):
        with pytest.raises(ValueError, match=f"cannot be called {name}"):
            Data.model_validate({**tables, "columns": {"attributes": [name]}})


def test_settings_that_a_named_data_set_cannot_follow(tmp_path):
    for own, said in (
        ({"columns": {"event": "kind"}}, "columns is set and dataset too"),
        ({"cleaning": {"events": ["buy"]}}, "expected columns.event"),
    ):
        with pytest.raises(ValueError, match=said):
            Data.model_validate({"dataset": "ml-100k", **own})


def test_the_last_day_is_in_and_what_is_later_is_no_fault(tmp_path):
    rows = [row("a", "x", when) for when in ("2023-11-15T08:00", "2023-11-15T23:59:59", "2023-11-16")]
    loaded, _ = load(tmp_path, rows, latest="2023-11-15", max_rejected=0.0)
    assert len(loaded.interactions) == 2
    assert removed(loaded, "too late") == 1


def test_dates_of_a_column_are_what_the_ledger_says(tmp_path):
    frame = pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [datetime(2024, 1, 1)]})
    frame.write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"item_id": ["x"], "title": ["X"]}).write_parquet(tmp_path / "items.parquet")
    tables = {"interactions": str(tmp_path / "log.parquet"), "items": str(tmp_path / "items.parquet")}
    notes = [step.note for step in load_data(Data.model_validate(tables)).ledger.steps]
    assert "read as the dates that the column has" in notes


def test_a_column_of_dates_decides_nothing_about_the_next_one():
    for form in ("auto", "ms"):
        parser = TimestampParser(form)
        parser.parse(pl.Series([datetime(2024, 1, 1)]))
        assert parser.parse(pl.Series(["1714061700000"])).to_list() == [1714061700]


def test_histories_are_cleaned_as_the_training_was(tmp_path):
    """Items of one title are one, and a row that comes twice is one event, whoever is asked for lists later."""
    rows = [row(u, i, t) for u in ("u", "v") for t, i in enumerate("abcd", start=1) for _ in range(2)]
    items = [("a", "Kettle"), ("b", "Kettle"), ("c", "Mug"), ("d", "Pan")]
    loaded, _ = load(tmp_path, rows, items, duplicate_titles="merge", repeats="consecutive")
    data = Data.model_validate(
        {
            "interactions": str(tmp_path / "log.parquet"),
            "items": str(tmp_path / "items.parquet"),
            "cleaning": {"duplicate_titles": "merge", "repeats": "consecutive"},
        }
    )
    found, unknown, _ = read_histories(data.interactions, data, loaded.catalog, ties="source", seed=0)
    assert unknown == {}
    trained = [i for _, i, _ in events(loaded)]
    assert [loaded.catalog.item_ids[i] for i in found.items] == trained == ["a", "c", "d"] * 2


@pytest.mark.parametrize("named", [False, True])
def test_histories_have_no_events_that_the_training_rated_too_low_to_have(tmp_path, named):
    """Whether the data set has a name or is in tables: what min_rating leaves out of the one log it leaves out of the other."""
    rows = [row("u", i, 1, rating=stars) for i, stars in [("a", "5"), ("b", "1"), ("c", "4"), ("d", "3")]]
    loaded, _ = load(tmp_path, rows)
    log = str(tmp_path / "log.parquet")
    tables = {"interactions": log, "items": str(tmp_path / "items.parquet"), "columns": {"rating": "rating"}}
    source = {"dataset": "ml-100k"} if named else tables
    data = Data.model_validate({**source, "cleaning": {"min_rating": 4}})
    settings = SourceSettings.model_validate(log)
    found, *_ = read_histories(settings, data, loaded.catalog, ties="source", seed=0)
    assert [loaded.catalog.item_ids[i] for i in found.items] == ["a", "c"]
    pl.read_parquet(log).drop("rating").write_parquet(log)
    with pytest.raises(DataError, match="no column 'rating'"):
        read_histories(settings, data, loaded.catalog, ties="source", seed=0)
    data = Data.model_validate({"dataset": "ml-100k"})  # without min_rating nobody needs the ratings
    assert len(read_histories(settings, data, loaded.catalog, ties="source", seed=0)[0].items) == 4


def test_items_that_were_left_out_are_told_from_those_that_are_not_there(tmp_path):
    rows = [row("a", i, t) for t, i in enumerate(["x", "y", "y", "RETURN", "RETURN", "RETURN"])]
    loaded, _ = load(tmp_path, rows, [("x", "Mug"), ("y", "")])
    steps = {s.step: s for s in loaded.ledger.steps}
    left_out, absent = steps["items left out of the catalogue"], steps["items not in the catalogue"]
    assert (left_out.removed, left_out.note) == (2, "2 of y")
    assert (absent.removed, absent.note) == (3, "3 of RETURN")


def test_users_of_items_that_are_not_there_are_named_where_that_is_an_error(tmp_path):
    rows = [row("a", "x", 1), row("a", "new", 2), row("b", "new", 1)]
    loaded, _ = load(tmp_path, rows, [("x", "Mug")])
    for policy, expected in (("drop", {"b": "new"}), ("error", {"a": "new", "b": "new"})):
        tables = {
            name: str(tmp_path / f"{file}.parquet")
            for name, file in (("interactions", "log"), ("items", "items"))
        }
        data = Data.model_validate({**tables, "cleaning": {"unknown_items": policy, "max_rejected": 1.0}})
        found, unknown, left_out = read_histories(
            data.interactions, data, loaded.catalog, ties="source", seed=0
        )
        assert (unknown, left_out) == (expected, 2)
        assert found.lengths.tolist() == [1, 0]
