"""Time as numbers: by hand, beside plain loops, without leaks, and never finer than the log."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.data import trends
from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.data.time_features import (
    calendar,
    candidate_time_features,
    gaps,
    moments_of,
    recency,
    sessions,
    since_first,
)
from llmrec.data.trends import ItemTimes
from llmrec.errors import ConfigError, DataError
from llmrec.testing import RecommenderConformance, histories

DAY, HOUR = 86_400, 3_600
N = 5
nan = np.nan

time_lists = st.lists(st.lists(st.integers(0, 40), max_size=6).map(sorted), max_size=5)


def users(times) -> Histories:
    return histories(*[[0] * len(t) for t in times], timestamps=times)


def split_of(train: Histories, *, n_items: int = N, resolution: int = 1) -> Split:
    made = RecommenderConformance.split
    protocol = replace(made.protocol, items=n_items, time_resolution=resolution)
    return Split(train, made.valid, made.test, protocol)


def seconds(*texts: str) -> np.ndarray:
    return np.array([int(datetime.fromisoformat(t).replace(tzinfo=UTC).timestamp()) for t in texts])


# --- events -------------------------------------------------------------------------------------------


def test_gaps_and_sessions_by_hand():
    events = users([[100, 100, 130], [], [7], [0, 29, 59, 60]])
    np.testing.assert_array_equal(gaps(events), [nan, 0, 30, nan, nan, 29, 30, 1])
    np.testing.assert_array_equal(since_first(events), [0, 0, 30, 0, 0, 29, 59, 60])
    np.testing.assert_array_equal(
        recency(events, np.array([130, 0, 10, 100])), [30, 30, 0, 3, 100, 71, 41, 40]
    )
    number, position = sessions(events, 30)
    assert number.tolist() == [1, 1, 2, 1, 1, 1, 2, 2]
    assert position.tolist() == [1, 2, 1, 1, 1, 2, 1, 2]


@given(time_lists, st.integers(1, 20))
def test_features_of_events_are_what_a_loop_finds(times, inactivity):
    events = users(times)
    expected_gap, expected_first, expected_session = [], [], []
    for own in times:
        session, place = 0, 0
        for i, when in enumerate(own):
            gap = when - own[i - 1] if i else nan
            if i == 0 or gap >= inactivity:
                session, place = session + 1, 0
            place += 1
            expected_gap.append(gap)
            expected_first.append(when - own[0])
            expected_session.append((session, place))
    np.testing.assert_array_equal(gaps(events), expected_gap)
    np.testing.assert_array_equal(since_first(events), expected_first)
    assert list(zip(*(a.tolist() for a in sessions(events, inactivity)), strict=True)) == expected_session


def test_a_session_cannot_end_sooner_than_the_log_can_tell():
    with pytest.raises(ConfigError, match=r"after 1800 seconds.*whole multiples of 86400 seconds"):
        sessions(users([[0, DAY]]), 1_800, resolution=DAY)
    assert sessions(users([[0, 0, DAY]]), DAY, resolution=DAY)[0].tolist() == [1, 1, 2]


# --- the calendar ------------------------------------------------------------------------------------


def test_calendar_by_hand():
    # Monday 1 January 2024 (New Year), Saturday 29 February-ish, a Sunday in July, Tuesday 3 October (German Unity).
    moments = seconds("2024-01-01T00:30", "2024-03-02T12:00", "2024-07-14T23:59", "2023-10-03T08:00")
    found = calendar(moments, resolution=1, country="DE")
    assert {name: column.tolist() for name, column in found.items()} == {
        "hour": [0, 12, 23, 8],
        "weekday": [0, 5, 6, 1],
        "weekend": [0, 1, 1, 0],
        "month": [1, 3, 7, 10],
        "season": [0, 1, 2, 3],
        "holiday": [1, 0, 0, 1],
    }


def test_the_calendar_is_local_but_for_logs_of_days():
    eve = seconds("2023-12-31T23:30")
    there = calendar(eve, resolution=60, timezone="Europe/Berlin", country="DE")
    assert (there["hour"], there["weekday"], there["month"], there["holiday"]) == (0, 0, 1, 1)
    # Half an hour off the full hour: 05:00 in Kolkata.
    assert calendar(eve, resolution=60, timezone="Asia/Kolkata")["hour"] == 5
    # A log of days means the day that it says, east and west.
    for zone in ("America/New_York", "Asia/Tokyo"):
        days = calendar(seconds("2024-01-01"), resolution=DAY, timezone=zone, country="DE")
        assert (days["weekday"], days["month"], days["holiday"]) == (0, 1, 1)


def test_summer_time():
    # Clocks of Berlin went from 2 to 3 on 31 March 2024, at 1:00 UTC.
    found = calendar(seconds("2024-03-31T00:59", "2024-03-31T01:00"), resolution=1, timezone="Europe/Berlin")
    assert found["hour"].tolist() == [1, 3]


@given(st.lists(st.integers(-(10**9), 4 * 10**9), max_size=5))
def test_the_calendar_is_that_of_datetime(stamps):
    found = calendar(np.array(stamps, dtype=np.int64), resolution=1)
    moments = [datetime.fromtimestamp(s, UTC) for s in stamps]
    assert found["hour"].tolist() == [m.hour for m in moments]
    assert found["weekday"].tolist() == [m.weekday() for m in moments]
    assert found["month"].tolist() == [m.month for m in moments]


def test_a_log_of_days_has_no_hours():
    assert "hour" not in calendar(seconds("2024-01-01"), resolution=DAY)
    assert "hour" in calendar(seconds("2024-01-01"), resolution=HOUR)


def test_holidays_of_a_part_of_a_country_and_of_unknown_years():
    epiphany = seconds("2025-01-06")
    assert calendar(epiphany, resolution=DAY, country="DE")["holiday"] == 0
    assert calendar(epiphany, resolution=DAY, country="DE-BY")["holiday"] == 1
    assert np.isnan(calendar(seconds("1800-01-01"), resolution=DAY, country="DE")["holiday"]).all()
    # Where the weekend is Friday and Saturday.
    assert calendar(seconds("2024-01-05", "2024-01-07"), resolution=DAY, country="EG")[
        "weekend"
    ].tolist() == [1, 0]


def test_wrong_places_are_told(monkeypatch):
    now = seconds("2024-01-01")
    with pytest.raises(ConfigError, match=r"no holidays of 'XX'.*ISO 3166 code such as DE, DE-BY"):
        calendar(now, resolution=1, country="XX")
    with pytest.raises(ConfigError, match="no holidays of 'DE-QQ'"):
        calendar(now, resolution=1, country="DE-QQ")
    with pytest.raises(ConfigError, match="no time zone 'Berlin'"):
        calendar(now, resolution=1, timezone="Berlin")
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmrec\[holidays\]'"):
        calendar(now, resolution=1, country="DE")


# --- trends ------------------------------------------------------------------------------------------


def test_trends_by_hand():
    # Item 0 on days 0, 1, 8 and 9, item 1 on day 9. Windows of 2 and 10 days, asked on day 9 and far behind the end.
    train = histories([0, 0, 0], [0, 1], timestamps=[[0, DAY, 8 * DAY], [9 * DAY, 9 * DAY]])
    names, found = ItemTimes(train, N).features(
        np.array([0, 1, 0, 1, -1]), np.array([9, 9, 30, 30, 9]) * DAY, [2, 10]
    )
    assert names == (
        "item_events_2d",
        "item_events_10d",
        "item_events",
        "item_growth",
        "item_age_days",
        "item_idle_days",
    )
    second = 1 / DAY
    np.testing.assert_allclose(
        found,
        [
            [1, 3, 3, (1 / 2) / (3 / 10), 9, 1],
            [0, 0, 0, nan, nan, nan],  # its only event is at the moment, not before
            [
                2,
                4,
                4,
                (2 / 2) / (4 / 10),
                30,
                second,
            ],  # the window ends behind the last training event; the age does not
            [1, 1, 1, 5, 21, second],
            [nan] * 6,
        ],
        rtol=1e-6,
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(-50, 50)), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(-80, 80)), min_size=1, max_size=20),
    st.integers(1, 7),
)
def test_trends_are_what_a_loop_counts(events, asked, at_once):
    events.sort(key=lambda e: e[1])
    train = histories([i for i, _ in events], timestamps=[[t * HOUR for _, t in events]])
    end = max(t for _, t in events) * HOUR + 1
    items, moments = np.array([i for i, _ in asked]), np.array([m * HOUR for _, m in asked])
    before = trends._AT_ONCE
    try:
        trends._AT_ONCE = at_once
        _, found = ItemTimes(train, N).features(items, moments, [0.5, 2])
    finally:
        trends._AT_ONCE = before
    for (item, hour), row in zip(asked, found, strict=True):
        moment = hour * HOUR
        stop = min(moment, end)
        own = [t * HOUR for i, t in events if i == item and t * HOUR < moment]
        short, long = (sum(t >= stop - w * DAY for t in own) for w in (0.5, 2))
        expected = [
            short,
            long,
            len(own),
            (short / 0.5) / (long / 2) if long else nan,
            (moment - min(own)) / DAY if own else nan,
            (stop - max(own)) / DAY if own else nan,
        ]
        np.testing.assert_allclose(row, expected, rtol=1e-6)


@pytest.mark.parametrize("windows", [[], [0], [7, 7], [30, 7], [-1]])
def test_windows_must_ascend(windows):
    with pytest.raises(ConfigError, match="positive numbers of days in ascending order"):
        ItemTimes(users([[0]]), N).features(np.array([0]), np.array([0]), windows)


# --- users and candidates ----------------------------------------------------------------------------


def test_features_of_candidates_by_hand():
    # Tuesday 2 January 2024, 10:00 UTC, and a user of two visits.
    moment = int(seconds("2024-01-02T10:00")[0])
    asked = histories(
        [0, 1, 2],
        [],
        timestamps=[[moment - 2 * DAY, moment - 600, moment], []],
        users=["somebody", "nobody"],
    )
    train = histories([0, 1], [0], timestamps=[[moment - 2 * DAY, moment - 600], [moment - 5 * DAY]])
    names, found = candidate_time_features(
        split_of(train),
        asked,
        np.array([moment, moment]),
        np.array([[0, 3], [1, -1]]),
        country="DE",
        windows=[1, 4],
    )
    assert found.dtype == np.float32
    assert names == (
        *("user_idle_days", "user_gap_days", "user_age_days", "user_sessions", "user_session_events"),
        *("hour", "weekday", "weekend", "month", "season", "holiday"),
        *(
            "item_events_1d",
            "item_events_4d",
            "item_events",
            "item_growth",
            "item_age_days",
            "item_idle_days",
        ),
    )
    clock = [10, 1, 0, 1, 0, 0]
    # The training events end a second after the second of them, 599 seconds before the moment.
    idle = (2 * DAY - 599) / DAY
    np.testing.assert_allclose(
        found,
        [
            [
                [0, 600 / DAY, 2, 2, 2, *clock, 0, 1, 2, 0, 5, idle],
                [0, 600 / DAY, 2, 2, 2, *clock, 0, 0, 0, nan, nan, nan],
            ],
            [
                [nan, nan, nan, 1, 0, *clock, 1, 1, 1, 4, 600 / DAY, 1 / DAY],
                [nan, nan, nan, 1, 0, *clock, *[nan] * 6],
            ],
        ],
        rtol=1e-5,
    )


def test_a_pause_before_the_moment_begins_a_session():
    train = users([[0]])
    asked = users([[0, 60], [0, 60]])
    names, found = candidate_time_features(
        split_of(train), asked, np.array([60 + 1_799, 60 + 1_800]), np.zeros((2, 1), int)
    )
    columns = [names.index("user_sessions"), names.index("user_session_events")]
    assert found[:, 0, columns].tolist() == [[1, 2], [2, 0]]


@settings(deadline=None)
@given(st.data())
def test_what_happens_at_the_moment_or_later_changes_nothing(data):
    moment = 50 * DAY
    past = data.draw(
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, moment - 1)), min_size=1, max_size=8)
    )
    # Some training event at the moment or later, so that the window ends at the moment in both worlds.
    later = data.draw(
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(moment, 99 * DAY)), min_size=1, max_size=8)
    )
    asked, items = users([[0, 40 * DAY]]), np.arange(N)[None]

    def features(events):
        events = sorted(events, key=lambda e: e[1])
        train = histories([i for i, _ in events], timestamps=[[t for _, t in events]])
        return candidate_time_features(split_of(train), asked, np.array([moment]), items)[1]

    np.testing.assert_array_equal(features(past + later), features([*past, (0, moment)]))


def test_validation_and_test_change_nothing():
    split = RecommenderConformance.split
    asked, items = split.valid.histories, np.tile(np.arange(split.n_items), (len(split.valid), 1))
    moments = moments_of(split.valid)
    expected = candidate_time_features(split, asked, moments, items)[1]
    other = Holdout(
        split.test.histories, split.test.target_items[::-1].copy(), split.test.target_timestamps - 3
    )
    changed = Split(split.train, other, other, split.protocol)
    np.testing.assert_array_equal(candidate_time_features(changed, asked, moments, items)[1], expected)


def test_a_log_of_days_gets_the_features_of_days():
    train = users([[0, 3 * DAY]])
    split = split_of(train, resolution=DAY)
    asked, moments, items = users([[0, DAY, DAY]]), np.array([DAY]), np.array([[0]])
    names, found = candidate_time_features(split, asked, moments, items, timezone="Asia/Tokyo")
    assert "hour" not in names
    row = dict(zip(names, found[0, 0].tolist(), strict=True))
    assert (row["user_sessions"], row["user_session_events"], row["weekday"]) == (
        2,
        2,
        4,
    )  # Friday 2 January 1970
    with pytest.raises(ConfigError, match="at least 1 days"):
        candidate_time_features(split, asked, moments, items, windows=[0.5, 2])
    with pytest.raises(ConfigError, match="after 1800 seconds"):
        candidate_time_features(split, asked, moments, items, inactivity=1_800)


def test_histories_must_end_before_the_moment_and_shapes_fit():
    split, asked = split_of(users([[0]])), users([[0], [5, 9]])
    items = np.zeros((2, 1), int)
    with pytest.raises(DataError, match="user 'u1' has an event after its moment"):
        candidate_time_features(split, asked, np.array([5, 8]), items)
    with pytest.raises(DataError, match=r"moments of shape \(3,\)"):
        candidate_time_features(split, asked, np.array([5, 9, 9]), items)
    with pytest.raises(DataError, match=r"candidates of shape \(2,\)"):
        candidate_time_features(split, asked, np.array([5, 9]), items[:, 0])


def test_blocks_of_users_are_the_same():
    split = RecommenderConformance.split
    asked, moments = split.test.histories, moments_of(split.test)
    items = np.random.default_rng(0).integers(-1, split.n_items, (len(asked), 4))
    _, whole = candidate_time_features(split, asked, moments, items)
    index = ItemTimes(split.train, split.n_items)
    blocks = [
        candidate_time_features(
            split, asked[s : s + 7], moments[s : s + 7], items[s : s + 7], item_times=index
        )[1]
        for s in range(0, len(asked), 7)
    ]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_moments_are_the_newest_known_events_unless_asked_otherwise():
    holdout = Holdout(users([[1, 2], [3]]), np.array([0, 0], np.int32), np.array([10, 20]))
    assert moments_of(holdout).tolist() == [2, 3]
    assert moments_of(holdout, target_time=True).tolist() == [10, 20]
    bare = Holdout(users([[1], []]), np.array([0, 0], np.int32), np.array([10, 20]))
    with pytest.raises(DataError, match="User 'u1' has no events"):
        moments_of(bare)


def test_the_holidays_are_those_of_the_package():
    import holidays

    days = np.arange(np.datetime64("2023-01-01"), np.datetime64("2025-01-01"))
    found = calendar(days.astype("datetime64[s]").astype(np.int64), resolution=DAY, country="US-CA")
    expected = holidays.country_holidays("US", subdiv="CA")
    assert found["holiday"].tolist() == [date.fromisoformat(str(d)) in expected for d in days]
