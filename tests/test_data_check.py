"""The data check: every number by hand or against a plain loop, and each warning where its cause is planted and nowhere else."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import yaml
from pipeline_cases import llmrec

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.check.activity import check_activity, most_within_an_hour
from llmrec.data.check.counts import count_log, count_pairs, gini
from llmrec.data.check.splits import STRATEGIES, SplitCheck, check_split
from llmrec.data.check.spread import Histogram, Spread
from llmrec.data.check.ties import ALPHA, check_ties
from llmrec.data.check.times import check_times
from llmrec.data.check.titles import check_titles
from llmrec.data.check.whole import check_log
from llmrec.data.cleaning.ledger import Ledger, Step
from llmrec.data.histories import Histories, History
from llmrec.data.interactions import Interactions
from llmrec.data.load import Loaded, load_data
from llmrec.data.split import leave_one_out, temporal
from llmrec.eval.data_page import render_check_html, render_check_json
from llmrec.eval.data_warnings import find_warnings
from llmrec.pipeline.data_check import examine
from llmrec.settings import Data, SplitSettings
from llmrec.yaml_text import read_yaml

HOUR, DAY = 3600, 86_400
START = 1_600_041_600  # a Monday at midnight, 14 September 2020


def histories(*users):
    """Histories of (item, time) pairs, users named a, b, ..."""
    return Histories.from_list(
        [
            History(
                chr(97 + u),
                np.array([i for i, _ in events], dtype=np.int32),
                np.array([t for _, t in events], dtype=np.int64),
            )
            for u, events in enumerate(users)
        ]
    )


# --- counts and distributions


def test_counts_of_a_log_worked_out_by_hand():
    # Item 0: 4 events, item 1: 2, item 2: 2, item 3: none.
    events = histories([(0, 1), (0, 2), (1, 3)], [(0, 1), (2, 2)], [(0, 5), (1, 6), (2, 7)])
    frame = pl.DataFrame(
        {
            "event": ["view", "buy", "view", "view", None, "view", "view", "buy"],
            "rating": [1.0, 5.0, None, 3.0, 3.0, 3.0, 4.0, 5.0],
        }
    )
    c = count_log(events, 4, count_pairs(events, 4), frame)
    assert (c.users, c.items, c.items_with_events, c.events, c.pairs) == (3, 4, 3, 8, 7)
    assert c.density == 7 / 12
    assert (c.events_per_user.smallest, c.events_per_user.median, c.events_per_user.largest) == (2, 3, 3)
    assert c.events_per_user.mean == pytest.approx(8 / 3)
    assert c.users_by_events == Histogram((1, 2, 3), (1, 2, 4), (0, 1, 2))
    assert c.events_per_item.mean == pytest.approx(8 / 3)
    # Counts 2, 2, 4: the mean absolute difference is (0 + 2 + 2) * 2 / 9, over twice the mean 8/3.
    assert c.gini == pytest.approx((8 / 9) / (2 * 8 / 3))
    assert (c.top_item, c.top_item_share, c.top_percent_share) == (0, 0.5, 0.5)
    assert c.kinds == {"view": 5, "buy": 2, "(none)": 1}
    assert (c.ratings.smallest, c.ratings.mean, c.unrated) == (1, 24 / 7, 1)


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).integers(1, 100, 50)
    difference = np.abs(values[:, None] - values[None, :]).mean()
    assert gini(values) == pytest.approx(difference / (2 * values.mean()))
    assert gini(np.array([7, 7, 7])) == pytest.approx(0)


def test_quantiles_are_numbers_that_occur():
    values = np.random.default_rng(1).permutation(np.arange(1, 101))
    assert Spread.of(values) == Spread(50.5, 1, 10, 25, 50, 75, 90, 99, 100)
    assert Spread.of(np.array([4])) == Spread(4, *[4] * 8)
    assert all(math.isnan(v) for v in vars(Spread.of(np.array([]))).values())


def test_histograms_count_every_number_once():
    values = np.random.default_rng(2).geometric(0.01, 5000)
    for histogram in (Histogram.doubling(values), Histogram.even(values)):
        ranges = zip(histogram.lowest, histogram.highest, strict=True)
        assert [((values >= a) & (values <= b)).sum() for a, b in ranges] == list(histogram.counts)
        assert sum(histogram.counts) == 5000
        assert [b + 1 for b in histogram.highest[:-1]] == list(histogram.lowest[1:])


# --- time


def test_events_over_time_by_hand():
    # Two in the first week, none in the second, one on the last second of the third.
    times = check_times(np.array([START + 21 * DAY - 1, START, START + DAY, START + 70 * DAY]))
    assert (times.first, times.last, times.unit) == (START, START + 70 * DAY, "week")
    assert times.events == (2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1)
    assert times.periods == tuple(START + 7 * DAY * week for week in range(11))
    assert (times.resolution, times.distinct, times.early, times.gap) == (1, 4, 0, None)


@pytest.mark.parametrize(
    ("days", "unit"), [(0, "day"), (62, "day"), (63, "week"), (800, "month"), (20_000, "year")]
)
def test_every_event_is_in_one_period(days, unit):
    stamps = np.random.default_rng(0).integers(0, days * DAY + 1, 500) + START - days * DAY
    times = check_times(np.append(stamps, [START - days * DAY, START]))
    assert times.unit == unit
    assert sum(times.events) == 502
    forms = {"day": "%F", "week": "%G-%V", "month": "%Y-%m", "year": "%Y"}
    named = Counter(
        datetime.fromtimestamp(t, tz=UTC).strftime(forms[unit]) for t in [*stamps, START - days * DAY, START]
    )
    found = {
        datetime.fromtimestamp(p, tz=UTC).strftime(forms[unit]): n
        for p, n in zip(times.periods, times.events, strict=True)
    }
    assert {name: n for name, n in found.items() if n} == named


def test_resolution_heaps_and_early_events():
    times = check_times(np.array([0, 0, START, START, START, START + HOUR]))
    assert (times.resolution, times.early) == (HOUR, 2)
    assert (times.busiest, times.busiest_events, times.usual_events) == (START, 3, 2)


def test_a_gap_counts_only_in_a_busy_time():
    every_hour = START + HOUR * np.arange(1000)
    cut = every_hour[(every_hour < START + 20 * DAY) | (every_hour >= START + 26 * DAY)]
    gap = check_times(cut).gap
    assert (gap.before, gap.after) == (START + 20 * DAY - HOUR, START + 26 * DAY)
    assert check_times(every_hour).gap is None
    # Five days of nothing between 30 events before and many after: the log's beginning, and no gap.
    assert (
        check_times(
            np.concatenate([START + HOUR * np.arange(30), START + 6 * DAY + HOUR * np.arange(900)])
        ).gap
        is None
    )


# --- ties


def test_tie_rates_by_hand():
    events = histories([(0, 1), (2, 1), (1, 1), (0, 5)], [(1, 2), (0, 2)], [(2, 2)])
    ties = check_ties(events, ["10", "9", "8"])  # as numbers 8 < 9 < 10: items 2, 1, 0
    assert ties.neighbours == 3 / 4  # of 4 pairs of neighbours
    assert ties.last_two == 1 / 2  # of the 2 users of two events
    assert ties.largest == 3
    by_id = ties.orders[0]
    # 10, 8, 9 and 9, 10: down, up, up.
    assert (by_id.by, by_id.pairs, by_id.ascending) == ("item id", 3, pytest.approx(2 / 3))
    place = next(o for o in ties.orders if o.by == "place in the catalogue")
    assert (place.pairs, place.ascending) == (3, pytest.approx(1 / 3))
    # Up and down differ by 1; a group of 3 has variance 4/3 and one of 2 variance 1, together 7/3. Three properties.
    assert by_id.p == pytest.approx(min(1, 3 * math.erfc(1 / math.sqrt(7 / 3) / math.sqrt(2))))
    assert ties.strongest is None


def tied_log(seed, arrange, users=300, items=200):
    """Days of up to 6 events; ``arrange`` orders the items of a day."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(items)  # from popular to not: popularity says nothing about ids
    log = []
    for _ in range(users):
        user = []
        for day in range(rng.integers(2, 6)):
            drawn = order[(items * rng.random(rng.integers(1, 7)) ** 3).astype(int)]
            chosen = rng.permutation(np.unique(drawn))
            user += [(int(i), START + day * DAY) for i in arrange(rng, chosen, order)]
        log.append(user)
    return histories(*log)


def test_planted_orders_are_found_and_named():
    ids = [f"B{i:05d}" for i in range(200)]
    for arrange, by, ascending in (
        (lambda rng, day, order: np.sort(day), "item id", True),
        (lambda rng, day, order: np.sort(day)[::-1], "item id", False),
        (lambda rng, day, order: day[np.argsort(np.argsort(order)[day])], "popularity", False),
    ):
        ties = check_ties(tied_log(0, arrange), ids)
        assert ties.strongest.by == by
        assert (ties.strongest.ascending > 0.5) == ascending
    ties = check_ties(tied_log(0, lambda rng, day, order: np.sort(day)), ids)
    assert (ties.strongest.ascending, ties.last_is_extreme) == (1.0, 1.0)


def test_the_end_of_an_order_against_a_plain_loop():
    # Three of four days in ascending order.
    events = tied_log(1, lambda rng, day, order: np.sort(day) if rng.random() < 0.75 else day)
    ties = check_ties(events, [f"{i}" for i in range(200)])
    found, chance = [], []
    for h in events:
        day = h.items[h.timestamps == h.timestamps[-1]]
        if len(day) > 1:
            found.append(day[-1] == max(day))
            chance.append(1 / len(day))
    assert ties.strongest.by == "item id"
    assert ties.last_is_extreme == pytest.approx(np.mean(found))
    assert ties.extreme_by_chance == pytest.approx(np.mean(chance))


def test_ties_in_random_order_are_called_ordered_no_more_often_than_stated():
    """Of 300 logs, few enough for a rate of ALPHA; and the p-values themselves are no smaller than chance has them."""
    ids = [f"{i}" for i in range(60)]
    smallest = []
    for seed in range(300):
        events = tied_log(seed, lambda rng, day, order: day, users=40, items=60)
        ties = check_ties(events, ids)
        assert len(ties.orders) == 2
        smallest.append(min(o.p for o in ties.orders))
    smallest = np.array(smallest)
    assert (smallest < ALPHA).sum() <= 2  # 3 or more of 300 at 1 in 1,000: a chance of 0.4%
    assert (smallest < 0.05).sum() <= 28  # 15 expected; 29 or more have a chance below 0.1%


def test_a_weak_order_is_no_artefact_however_many_ties_there_are():
    log = tied_log(2, lambda rng, day, order: np.sort(day) if rng.random() < 0.15 else day, users=3000)
    order = check_ties(log, [f"{i}" for i in range(200)]).orders[0]
    assert order.p < 1e-10
    assert 0.5 < order.ascending < 0.6
    assert not order.artefact


# --- users


def test_repeats_and_duplicates_by_hand():
    events = histories([(0, 1), (1, 1), (0, 1), (0, 2), (1, 2), (0, 2)], [(0, 2), (0, 3)])
    activity = check_activity(events, 2, count_pairs(events, 2))
    assert activity.duplicates == 2  # item 0 again at time 1, and again at time 2
    assert activity.repeats == 5
    assert activity.consecutive == 2  # the first user's 0 at time 2, the second's at 3
    kinds = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    assert check_activity(events, 2, count_pairs(events, 2), kinds).duplicates == 1


def test_duplicates_against_a_plain_loop_with_events_of_no_kind():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        users = [
            sorted(zip(rng.integers(0, 3, 8), rng.integers(0, 2, 8), strict=True), key=lambda e: e[1])
            for _ in range(3)
        ]
        events = histories(*users)
        kinds = rng.integers(-1, 2, 24).astype(np.int16)
        rows = [(u, *event) for u, user in enumerate(users) for event in user]
        expected = 24 - len(set(zip(rows, kinds.tolist(), strict=True)))
        assert check_activity(events, 3, count_pairs(events, 3), kinds).duplicates == expected


def test_bursts_against_a_plain_loop():
    rng = np.random.default_rng(3)
    users = [
        [(0, int(t)) for t in np.sort(rng.integers(START, START + 3 * HOUR, rng.integers(1, 60)))]
        for _ in range(26)
    ]
    slow = [max(sum(t - HOUR < s <= t for _, s in user) for _, t in user) for user in users]
    assert most_within_an_hour(histories(*users)).tolist() == slow


def test_what_a_setting_would_leave_out_is_what_it_leaves_out(tmp_path):
    """Each entry against the cleaning itself, on a log with bots, a broken client, duplicates and rare items."""
    rng = np.random.default_rng(4)
    rows = [
        (f"u{u}", int(i), START + int(t))
        for u in range(40)
        for i, t in zip(rng.zipf(1.5, 12) % 60, rng.integers(0, 90 * DAY, 12), strict=True)
    ]
    rows += [("bot", int(rng.integers(0, 60)), START + 6 * k) for k in range(520)]
    rows += [("stuck", 7, START + 5000 * k) for k in range(30)] + [("short", 1, START), ("short", 2, START)]
    rows += rows[:5]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    base = load(tmp_path, frame, TITLES, duplicates="keep", max_rejected=1.0)
    check = check_log(base, (), "x")
    assert [w for w in ("bot", "stuck") if w not in frame["user_id"]] == []
    for entry in check.activity.left_out:
        settings = yaml.safe_load("{" + entry.setting + "}")
        clean = load(tmp_path, frame, TITLES, **{"duplicates": "keep", **settings})
        left = len(clean.interactions)
        assert len(base.interactions) - left == entry.events, entry
        assert check.counts.users - clean.interactions.frame["user_id"].n_unique() == entry.users, entry
        assert (
            check.counts.items_with_events - clean.interactions.frame["item_id"].n_unique() == entry.items
        ), entry
    assert check.activity.would_leave_out("max_per_hour: 500").users == 1
    assert check.activity.would_leave_out("max_repetition: 0.9").users == 1
    assert check.activity.busiest_within_an_hour == "bot"


# --- titles


def test_titles_by_hand():
    titles = (
        "Alien",
        "Alien",
        "Alien",
        "Heat",
        "Heat",
        "A &amp; B",
        "a <b>c</b>",
        "CafÃ© Lumière",
        "Mis\ufffdrables",
        "8",
        "i10",
        "x" * 201,
    )
    t = check_titles(Catalog(tuple(f"i{n}" for n in range(12)), titles))
    assert (t.shared, t.most_shared, t.most_shared_items) == (5, "Alien", 3)
    assert (t.entities.titles, t.entities.example) == (1, "A &amp; B")
    assert (t.markup.titles, t.markup.example) == (1, "a <b>c</b>")
    assert (t.garbled.titles, t.garbled.example) == (2, "CafÃ© Lumière")
    assert (t.like_ids.titles, t.like_ids.example) == (2, "8")
    assert (t.long.titles, t.long.example) == (1, "x" * 100)
    assert (t.lengths.smallest, t.lengths.largest) == (1, 201)
    assert sum(t.by_length.counts) == 12


def test_good_titles_in_any_script_have_no_flaws():
    titles = (
        "Amélie",
        "七人の侍",
        "Ñandú",
        "Löwe & Co",
        "1 < 2",
        "I <3 NY",
        "voilà",
        "Ça va?",
        "Ágætis byrjun",
        "Ã",
    )
    t = check_titles(Catalog(tuple(f"i{n}" for n in range(10)), titles))
    assert [f.titles for f in (t.entities, t.markup, t.garbled, t.like_ids, t.long)] == [0] * 5
    assert (t.shared, t.most_shared) == (0, "")


# --- splits


def test_splits_by_hand(tmp_path):
    frame = pl.DataFrame(
        [("a", 0, 10), ("a", 1, 20), ("a", 2, 30), ("b", 0, 15), ("b", 1, 40), ("b", 1, 50), ("b", 3, 60)],
        schema=["user_id", "item_id", "timestamp"],
        orient="row",
    )
    data = load(tmp_path, frame, list("ABCDE"), timestamp_format="s")
    loo = check_split(leave_one_out(data.interactions, data.catalog, dataset="x"))
    # Training: a has 10, b has 15 and 40; targets are at 30 and 60, and half of them lie before 45.
    assert (loo.protocol.users, loo.protocol.train_events, loo.protocol.cold_targets) == (2, 3, 2)
    assert loo.cold_items == 3  # 2, 3 and 4
    assert loo.later_than_half == 0
    assert loo.protocol.train_after_target == pytest.approx((1 / 3 + 0) / 2)
    cut = check_split(
        temporal(data.interactions, data.catalog, dataset="x", valid_quantile=0.5, test_quantile=0.8)
    )
    # In order of time 10 15 20 | 30 40 | 50 60: the 4th and the 6th event begin the parts.
    assert (cut.protocol.valid_from, cut.protocol.test_from, cut.protocol.train_events) == (30, 50, 3)
    assert (cut.later_than_half, cut.protocol.train_after_target, cut.protocol.users) == (0, 0, 1)


# --- warnings


def config_of(tmp_path, frame, titles, split=None, columns=None, **cleaning):
    """Write a log whose items are numbers from 0, named in ``titles``, and return a config for it."""
    frame.write_parquet(tmp_path / "log.parquet")
    ids = [str(i) for i in range(len(titles))]
    pl.DataFrame({"item_id": ids, "title": titles}).write_csv(tmp_path / "items.csv")
    return {
        "name": "x",
        "output": str(tmp_path / "run"),
        "data": {
            "interactions": str(tmp_path / "log.parquet"),
            "items": str(tmp_path / "items.csv"),
            "columns": columns or {},
            "cleaning": cleaning,
        },
        "split": {"strategy": "temporal", **(split or {})},
        "systems": {"popularity": {}},
        "evaluation": {"baseline": "popularity"},
    }


def load(tmp_path, frame, titles, **cleaning):
    data = config_of(tmp_path, frame, titles, **cleaning)["data"]
    return load_data(Data.model_validate(data), notify=lambda line: None)


def examined(config):
    return examine(RunConfig.model_validate(config), Ledger())


TITLES = [f"Title {i}" for i in range(60)]


def good_log(users=400, seed=0):
    """20 events of a user at any second of 300 days, each with another of 60 items: nothing to warn of."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{u:03d}", int(item), int(time))
        for u in range(users)
        for item, time in zip(
            rng.choice(60, 20, replace=False),
            np.sort(rng.choice(300 * DAY, 20, replace=False)) + START,
            strict=True,
        )
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def with_rows(rows):
    more = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return pl.concat([good_log(), more])


def coarse(frame):
    """The same log with one time for 5 days."""
    return frame.with_columns(timestamp=START + (pl.col("timestamp") - START) // (5 * DAY) * 5 * DAY)


def shuffled(frame):
    return frame.sample(fraction=1, shuffle=True, seed=1)


def last_is_first(frame):
    first = frame.group_by("user_id").agg(pl.col("item_id").first().alias("again"))
    last = pl.col("timestamp") == pl.col("timestamp").max().over("user_id")
    return (
        frame.join(first, on="user_id", maintain_order="left")
        .with_columns(item_id=pl.when(last).then("again").otherwise("item_id"))
        .drop("again")
    )


def new_items_late(frame):
    late = pl.col("timestamp") > START + 285 * DAY
    return frame.with_columns(item_id=pl.when(late).then(60 + pl.col("item_id")).otherwise("item_id"))


def half_later(frame):
    """Half of the users are there in the first 300 days, the others in the next."""
    later = pl.col("user_id") >= "u200"
    return frame.with_columns(timestamp=pl.col("timestamp") + pl.when(later).then(300 * DAY).otherwise(0))


def only_start(frame):
    """200 users' first events at one moment, before all others."""
    first = (pl.col("timestamp") == pl.col("timestamp").min().over("user_id")) & (pl.col("user_id") < "u200")
    return frame.with_columns(timestamp=pl.when(first).then(START - 1).otherwise("timestamp"))


def middle_missing(frame):
    return frame.filter(~pl.col("timestamp").is_between(START + 100 * DAY, START + 110 * DAY))


def kinds(frame):
    return frame.with_columns(
        kind=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("buy")).otherwise(pl.lit("view"))
    )


def bots(n):
    return [
        (f"bot{b}", int(i), START + b * 9 * DAY + 6 * k)
        for b in range(n)
        for k, i in enumerate(np.arange(520) % 60)
    ]


CASES = {
    "nothing": {},
    "tie-order": {"log": coarse(good_log()).sort("user_id", "timestamp", "item_id")},
    "ties-last-two": {"log": shuffled(coarse(good_log()))},
    "unusable-interactions": {"log": with_rows([("", 1, START + k) for k in range(80)])},
    "unusable-items": {"titles": [*TITLES, ""]},
    "duplicates-dropped": {"log": pl.concat([good_log(), good_log()[:600]])},
    "duplicates-kept": {"log": pl.concat([good_log(), good_log()[:5]]), "duplicates": "keep"},
    "times-early": {"log": with_rows([("u000", 1, 0), ("u001", 2, 0)])},
    "times-heap": {"log": only_start(good_log())},
    "times-gap": {"log": middle_missing(good_log())},
    "short-histories": {
        "log": with_rows([("x", 1, START), ("x", 2, START + 1)]), "split": {"strategy": "leave-one-out"}
    },
    "future-in-training": {"log": half_later(good_log()), "split": {"strategy": "leave-one-out"}},
    "cold-targets": {"log": new_items_late(good_log()), "titles": [*TITLES, *(f"New {i}" for i in range(60))]},
    "repeated-targets": {"log": last_is_first(good_log())},
    "few-questions": {"log": good_log(100)},
    "bursts": {"log": with_rows(bots(6))},
    "one-user": {"log": with_rows([("fan", k % 60, START + k * DAY + 7) for k in range(299)])},
    "one-item": {"log": with_rows([("stuck", 7, START + k * DAY + 7) for k in range(30)])},
    "kinds": {"log": kinds(good_log()), "columns": {"event": "kind"}},
    "unused-items": {"titles": [*TITLES, *(f"Nobody's {i}" for i in range(10))]},
    "titles-are-ids": {"titles": [str(900 + i) for i in range(60)]},
    "entities": {"titles": ["A &amp; B", *TITLES[1:]], "unescape": False},
    "markup": {"titles": ["<b>A</b>", *TITLES[1:]], "strip_markup": False},
    "garbled": {"titles": ["CafÃ©", *TITLES[1:]]},
    "shared-titles": {"titles": ["Title 1", *TITLES[1:]]},
    "long-titles": {"titles": ["Long " * 41, *TITLES[1:]]},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_warning_is_there_when_its_cause_is_and_goes_when_its_setting_is_set(name, tmp_path):
    case = dict(CASES[name])
    config = config_of(
        tmp_path, case.pop("log", None) if "log" in case else good_log(), case.pop("titles", TITLES), **case
    )
    _, found = examined(config)
    assert {w.name for w in found} == {name} - {"nothing"}
    for warning in found:
        assert warning.sentence.endswith(f"{warning.verb} {warning.setting}{warning.hint}.")
        assert len(warning.sentence) < 330
        assert "\n" not in warning.sentence
        if warning.verb == "check":
            continue
        ((dotted, value),) = read_yaml(warning.setting).items()
        *parents, last = dotted.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
        if warning.name == "few-questions":  # 100 users stay few
            continue
        _, after = examined(config)
        assert warning.name not in {w.name for w in after}, warning.sentence


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_the_moment_that_is_advised_is_the_same_in_every_zone(zone, tmp_path):
    config = config_of(tmp_path, only_start(good_log()), TITLES, timezone=zone)
    before, (warning,) = examined(config)
    ((dotted, value),) = read_yaml(warning.setting).items()
    config["data"]["cleaning"][dotted.removeprefix("data.cleaning.")] = value
    after, found = examined(config)
    assert (warning.name, found) == ("times-heap", ())
    assert after.counts.events == before.counts.events - before.times.busiest_events


def test_a_log_that_cannot_be_split_says_why(tmp_path):
    frame = good_log(2)[:2]
    check, found = examined(config_of(tmp_path, frame, TITLES, split={"strategy": "leave-one-out"}))
    assert "split-fails" in {w.name for w in found}
    assert check.split("leave-one-out").protocol is None
    assert "nobody to evaluate" in check.split("leave-one-out").problem


# --- the command, the page and the file


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects texts and what would be loaded."""

    VOID = frozenset({"meta", "line", "circle", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.loads = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.loads += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(tmp_path, capsys):
    """Write a config and check it on the command line; return what it printed."""

    def check(config, code=0):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return llmrec("data", "check", tmp_path / "config.yaml", code=code, capsys=capsys)

    return check


def test_the_command_prints_and_writes_the_same_numbers(tmp_path, run):
    frame = coarse(good_log()).sort("user_id", "timestamp", "item_id")
    titles = ['<script>alert("x")</script> "7" & \'8\'', *TITLES[1:]]
    printed = run(config_of(tmp_path, frame, titles, strip_markup=False)).out
    content = json.loads((tmp_path / "run" / "data-check.json").read_text())
    text = (tmp_path / "run" / "data-check.html").read_text()
    page = Page(text)
    shown = " ".join(" ".join(page.text).split())
    assert content["counts"]["events"] == 8000
    order = content["ties"]["orders"][0]
    assert (order["by"], order["ascending"]) == ("item id", 1.0)
    for number in ("8,000", "400", f"100% of {order['pairs']:,} tied neighbours ascend: ordered"):
        assert number in shown
        assert number in printed
    assert {w["setting"] for w in content["warnings"]} >= {"split.ties: shuffle"}
    for warning in content["warnings"]:
        assert warning["sentence"].rstrip(".") in " ".join(printed.split()).replace(" ! ", " ")
        assert warning["setting"] in shown
    assert page.loads == []
    assert "<script" not in text
    assert text.count("<figure") == 4


def test_when_too_much_is_wrong_all_is_shown_and_the_command_fails(tmp_path, run):
    frame = with_rows([("", 1, START + k) for k in range(2000)])
    printed = run(config_of(tmp_path, frame, TITLES), code=2)
    assert "interactions: missing user ids  2,000 left out, 8,000 left" in printed.out
    assert "Warnings: 1" in printed.out
    assert "2,000 of 10,000 rows" in printed.err
    assert "Expected at most 5%" in printed.err
    assert (tmp_path / "run" / "data-check.html").is_file()
    rejects = pl.read_parquet(tmp_path / "run" / "data-check.rejects.parquet")
    assert len(rejects) == 2000


def test_when_nothing_is_left_the_ledger_says_where_it_went(tmp_path, run):
    config = config_of(tmp_path, good_log(), TITLES)
    run(config)
    config["data"]["columns"] = {"timestamp": "user_id"}
    printed = run(config, code=2)
    assert "interactions: unreadable times  8,000 left out" in " ".join(printed.out.split("\n"))
    assert "No event is left of 8,000 rows" in printed.err
    assert not (tmp_path / "run" / "data-check.html").exists()


@pytest.mark.parametrize(
    "change", [{"interactions": "no-such.csv"}, {"columns": {"user_id": "nobody"}}, {"items": "no-such.csv"}]
)
def test_data_that_cannot_be_read_is_one_paragraph(tmp_path, run, change):
    config = config_of(tmp_path, good_log(), TITLES)
    config["data"] |= change
    printed = run(config, code=2)
    assert printed.err.startswith("llmrec: ")
    assert printed.err.count("\n") == 1
    assert "Expected" in printed.err
    assert not (tmp_path / "run" / "data-check.json").exists()


def test_the_page_shows_one_event_and_undefined_numbers():
    catalog = Catalog(("i0",), ("Alien",))
    frame = pl.DataFrame({"user_id": ["a"], "item_id": ["i0"], "timestamp": [START]})
    ledger = Ledger()
    ledger.add(Step("broken rows", "", "interactions", left=1))
    ledger.add(Step("broken rows", "", "items", left=1))
    data = Loaded(Interactions.from_frame(frame), catalog, ledger, ())
    check = check_log(data, [SplitCheck(s, None, problem="Too short.") for s in STRATEGIES], "x")
    found = find_warnings(check, Data.model_validate({"dataset": "x"}), SplitSettings())
    assert [w.name for w in found] == ["split-fails"]
    Page(render_check_html(check, found, "temporal"))
    assert json.loads(render_check_json(check, found))["ties"]["neighbours"] is None
