"""Every split against a plain loop over the log, with ties, repeats, short users and rows in any order."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from split_cases import STRATEGIES, catalog_of, log_of

from llmrec.data.interactions import Interactions
from llmrec.data.parts import PARTS, TEST, TRAIN, PartedLog
from llmrec.data.protocol import Protocol
from llmrec.data.split import Split, hold_out_users, leave_one_out, split_by_parts, temporal
from llmrec.data.split_files import read_split, write_split
from llmrec.errors import ArtefactError, ConfigError, DataError
from llmrec.settings import SplitSettings

N_ITEMS = 6
logs = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(0, N_ITEMS - 1).map("i{}".format), st.integers(0, 8)),
    min_size=6,
    max_size=60,
)
policies = st.fixed_dictionaries(
    {"repeats": st.sampled_from(["keep", "drop"]), "cold_items": st.sampled_from(["keep", "drop"])}
)
strategies = st.sampled_from(list(STRATEGIES))


def by_user(rows):
    """Each user's (item, time), oldest first; a stable sort, so ties keep the order of the log."""
    found = defaultdict(list)
    for user, item, time in sorted(rows, key=lambda r: r[2]):
        found[user].append((int(item[1:]), time))
    return dict(sorted(found.items()))


def triples(histories):
    return {h.user_id: list(zip(h.items.tolist(), h.timestamps.tolist(), strict=True)) for h in histories}


def questions(holdout):
    """User -> (history, target)."""
    targets = zip(holdout.target_items.tolist(), holdout.target_timestamps.tolist(), strict=True)
    return {u: (h, t) for (u, h), t in zip(triples(holdout.histories).items(), targets, strict=True)}


def plain_parts(strategy, users, seed):
    """Mark every event of every user, one by one, as the settings of STRATEGIES say."""
    times = sorted(t for events in users.values() for _, t in events)
    first, second = times[len(times) // 2], times[3 * len(times) // 4]
    # The draw itself is the only thing that is not done again in a plainer way.
    drawn = [list(users)[u] for u in np.random.default_rng(seed).permutation(len(users))]
    n = round(0.3 * len(users))
    held = dict.fromkeys(drawn[:n], "test") | dict.fromkeys(drawn[n : 2 * n], "valid")
    parts = {}
    for user, events in users.items():
        if strategy == "leave-one-out":
            marks = ["train"] * len(events)
            if len(events) >= 3:
                marks[-2:] = ["valid", "test"]
        elif strategy == "temporal":
            marks = ["train" if t < first else "context" for _, t in events]
            inside = [i for i, (_, t) in enumerate(events) if first <= t < second]
            after = [i for i, (_, t) in enumerate(events) if t >= second]
            for places, part in ((inside, "valid"), (after, "test")):
                if places:
                    marks[places[-1]] = part
        else:
            marks = ["context" if user in held else "train"] * len(events)
            if user in held:
                marks[-1] = held[user]
        parts[user] = marks
    return parts


def plain_questions(users, parts, part, repeats, cold_items):
    trained = {i for u, e in users.items() for (i, _), p in zip(e, parts[u], strict=True) if p == "train"}
    asked, counts = {}, defaultdict(int)
    for user, events in users.items():
        for place in [i for i, p in enumerate(parts[user]) if p == part]:
            history, target = events[:place], events[place]
            repeated, cold = target[0] in [i for i, _ in history], target[0] not in trained
            if not history:
                counts["no_history"] += 1
            elif repeated and repeats == "drop":
                counts["repeats_dropped"] += 1
            elif cold and cold_items == "drop":
                counts["cold_dropped"] += 1
            else:
                asked[user] = (history, target)
                counts["users"] += 1
                counts["repeated_targets"] += repeated
                counts["cold_targets"] += cold
    return asked, counts


@settings(max_examples=300, deadline=None)
@given(logs, strategies, policies, st.integers(0, 3))
def test_every_split_against_a_plain_loop(rows, strategy, policy, seed):
    users = by_user(rows)
    parts = plain_parts(strategy, users, seed)
    expected = {
        u: kept
        for u, events in users.items()
        if (kept := [e for e, p in zip(events, parts[u], strict=True) if p == "train"])
    }
    plain = {part: plain_questions(users, parts, part, **policy) for part in ("valid", "test")}
    options = {"seed": seed, **policy}
    if not expected or not all(asked for asked, _ in plain.values()):
        with pytest.raises(DataError, match=r"nobody to evaluate|is left for training"):
            STRATEGIES[strategy](log_of(rows), catalog_of(N_ITEMS), **options)
        return
    split = STRATEGIES[strategy](log_of(rows), catalog_of(N_ITEMS), **options)
    assert triples(split.train) == expected
    p = split.protocol
    for part, holdout, prefix in (("valid", split.valid, "valid_"), ("test", split.test, "")):
        asked, counts = plain[part]
        assert questions(holdout) == asked
        assert list(questions(holdout)) == sorted(asked)
        for name in (
            "users", "repeated_targets", "cold_targets", "no_history", "repeats_dropped", "cold_dropped"
        ):  # fmt: skip
            assert getattr(p, prefix + name) == counts[name], prefix + name
        assert getattr(p, prefix + "known_users") == len(set(asked) & set(expected))
    tests = questions(split.test).values()
    assert p.tie_rate_last_two == pytest.approx(np.mean([h[-1][1] == t[1] for h, t in tests]))
    train_times = [t for events in expected.values() for _, t in events]
    later = np.mean([[t > target[1] for t in train_times] for _, target in tests])
    assert p.train_after_target == pytest.approx(later)
    assert (p.log_users, p.train_users, p.train_events) == (len(users), len(expected), len(train_times))
    neighbours = [a[1] == b[1] for e in users.values() for a, b in pairwise(e)]
    assert p.tie_rate_neighbours == pytest.approx(np.mean(neighbours) if neighbours else 0)


@settings(max_examples=150, deadline=None)
@given(logs, strategies, policies)
def test_what_holds_for_every_split(rows, strategy, policy):
    users = by_user(rows)
    try:
        split = STRATEGIES[strategy](log_of(rows), catalog_of(N_ITEMS), **policy)
    except DataError:
        return
    p = split.protocol
    assert len(split.log.parts) == len(rows) == p.interactions
    assert (split.train.lengths > 0).all()
    for holdout in (split.valid, split.test):
        assert (holdout.histories.lengths > 0).all()
        for user, (history, target) in questions(holdout).items():
            place = len(history)
            assert users[user][: place + 1] == [*history, target]
    if strategy == "temporal":
        assert max(split.train.timestamps) < p.valid_from <= min(split.valid.target_timestamps)
        assert max(split.valid.target_timestamps) < p.test_from <= min(split.test.target_timestamps)
        assert p.train_after_target == 0
        assert p.train_events <= p.valid_quantile * len(rows)
    if strategy == "users":
        trained, valid, test = (
            set(h.user_ids) for h in (split.train, split.valid.histories, split.test.histories)
        )
        assert not trained & valid
        assert not trained & test
        assert not valid & test
    if strategy == "leave-one-out" and policy == {"repeats": "keep", "cold_items": "keep"}:
        assert split.valid.histories.user_ids == split.test.histories.user_ids
        assert p.short_histories == sum(len(e) < 3 for e in users.values())


@settings(max_examples=60, deadline=None)
@given(logs, strategies, policies, st.randoms(use_true_random=False))
def test_the_order_of_the_files_rows_decides_nothing_but_ties(rows, strategy, policy, random):
    rows = [(u, i, 100 * t + n) for n, (u, i, t) in enumerate(rows)]  # no ties
    mixed = random.sample(rows, len(rows))
    catalog = catalog_of(N_ITEMS)
    try:
        split = STRATEGIES[strategy](log_of(rows), catalog, **policy)
    except DataError:
        return
    assert STRATEGIES[strategy](log_of(mixed), catalog, **policy).protocol == split.protocol


def same(a: Split, b: Split) -> None:
    pairs = [(a.train, b.train), (a.log.events, b.log.events)]
    for one, other in ((a.valid, b.valid), (a.test, b.test)):
        pairs.append((one.histories, other.histories))
        np.testing.assert_array_equal(one.target_items, other.target_items)
        np.testing.assert_array_equal(one.target_timestamps, other.target_timestamps)
    for one, other in pairs:
        assert one.user_ids == other.user_ids
        for name in ("indptr", "items", "timestamps"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
    np.testing.assert_array_equal(a.log.parts, b.log.parts)
    assert a.protocol == b.protocol


@settings(max_examples=60, deadline=None)
@given(logs, strategies, policies)
def test_a_split_survives_its_files(tmp_path_factory, rows, strategy, policy):
    catalog = catalog_of(N_ITEMS)
    try:
        split = STRATEGIES[strategy](log_of(rows), catalog, **policy)
    except DataError:
        return
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, split, catalog)
    again, same_catalog = read_split(folder)
    assert same_catalog.item_ids == catalog.item_ids
    same(again, split)
    table = pl.read_parquet(folder / "events.parquet")
    assert table.columns == ["user_id", "item_id", "timestamp", "part"]
    assert table["part"].to_list() == [PARTS[p] for p in split.log.parts]


# --- by hand

ROWS = [
    ("a", "i0", 0), ("a", "i1", 10), ("a", "i2", 50), ("a", "i3", 60), ("a", "i1", 90),
    ("b", "i1", 5), ("b", "i4", 55), ("b", "i0", 80), ("b", "i5", 90),
    ("c", "i2", 95),
]  # fmt: skip


def test_temporal_by_hand():
    # Times in order: 0 5 10 50 55 60 80 90 90 95; half of ten lie before 60, seven before the first 90.
    split = temporal(log_of(ROWS), catalog_of(6), dataset="x", valid_quantile=0.5, test_quantile=0.75)
    assert (split.protocol.valid_from, split.protocol.test_from) == (60, 90)
    assert triples(split.train) == {"a": [(0, 0), (1, 10), (2, 50)], "b": [(1, 5), (4, 55)]}
    assert questions(split.valid) == {
        "a": ([(0, 0), (1, 10), (2, 50)], (3, 60)),
        "b": ([(1, 5), (4, 55)], (0, 80)),
    }
    assert questions(split.test) == {
        "a": ([(0, 0), (1, 10), (2, 50), (3, 60)], (1, 90)),  # a repeat
        "b": ([(1, 5), (4, 55), (0, 80)], (5, 90)),  # nobody has item 5 in training
    }
    p = split.protocol
    assert (p.users, p.no_history, p.repeated_targets, p.cold_targets, p.valid_cold_targets) == (
        2,
        1,
        1,
        1,
        1,
    )
    kept = temporal(
        log_of(ROWS), catalog_of(6), dataset="x", valid_quantile=0.5, test_quantile=0.75, repeats="drop"
    )
    assert list(questions(kept.test)) == ["b"]
    assert kept.protocol.repeats_dropped == 1
    assert triples(kept.train) == triples(split.train)


def test_events_of_the_moment_itself_all_lie_behind_it():
    rows = [(u, f"i{n}", t) for u in "abc" for n, t in enumerate([0, 1, 1, 1, 2])]
    split = temporal(log_of(rows), catalog_of(5), dataset="x", valid_quantile=0.7, test_quantile=0.9)
    assert split.protocol.valid_from == 1
    assert set(split.train.timestamps) == {0}
    assert split.protocol.train_events == 3  # of 15: seven in ten would have to part equal times


def test_more_users_held_out_are_drawn_with_the_seed():
    rows = [(f"u{u}", f"i{n}", n) for u in range(20) for n in range(3)]
    drawn = [
        hold_out_users(
            log_of(rows), catalog_of(3), dataset="x", test_users=0.25, seed=s
        ).test.histories.user_ids
        for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


# --- what cannot be split


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: temporal(log_of(ROWS), catalog_of(6), dataset="x", valid_quantile=0.9, test_quantile=0.8),
         ConfigError, r"valid_quantile=0\.9 and test_quantile=0\.8.*above that of the validation"),
        (lambda: temporal(log_of([(u, "i0", 7) for u in "aabb"]), catalog_of(1), dataset="x"),
         DataError, "No event of the 4 is left for training.*check that the timestamps differ"),
        (lambda: temporal(log_of([("a", "i0", 1), ("a", "i1", 2), ("b", "i0", 3), ("c", "i0", 4)]), catalog_of(2),
                          dataset="x", valid_quantile=0.3, test_quantile=0.6),
         DataError, "no test question is left. Of 2 possible ones, 2 have nothing before them"),
        (lambda: temporal(log_of(ROWS), catalog_of(6), dataset="x", valid_quantile=0.7, test_quantile=0.71),
         DataError, "no validation question is left. Of 0 possible ones"),
        (lambda: hold_out_users(log_of(ROWS), catalog_of(6), dataset="x", valid_users=0.5, test_users=0.5),
         ConfigError, "sum to less than 1"),
        (lambda: hold_out_users(log_of(ROWS), catalog_of(6), dataset="x", test_users=0.01),
         DataError, "no (test|validation) question is left. Of 0 possible ones"),
        (lambda: leave_one_out(log_of([("a", "i0", n) for n in range(4)]), catalog_of(1), dataset="x", repeats="drop"),
         DataError, "1 are repeats.*split.repeats or split.cold_items to keep"),
        (lambda: leave_one_out(log_of(ROWS), catalog_of(6), dataset="x", short_histories="train", repeats="skip"),
         ConfigError, "repeats='skip'. Expected 'keep' or 'drop'"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_settings_that_contradict_each_other():
    with pytest.raises(ValidationError, match="expected the test to begin after the validation"):
        SplitSettings(strategy="temporal", valid_quantile=0.9)
    with pytest.raises(ValidationError, match="users are left for training"):
        SplitSettings(strategy="users", valid_users=0.6, test_users=0.5)


def test_two_questions_of_a_user_and_questions_without_a_history_are_refused():
    split = STRATEGIES["leave-one-out"](log_of(ROWS), catalog_of(6))
    parts = split.log.parts.copy()
    parts[0] = TEST
    with pytest.raises(DataError, match="'a' has more than one event marked 'test'"):
        split_by_parts(PartedLog(split.log.events, parts), split.protocol)
    parts[:] = TRAIN
    parts[0] = TEST
    with pytest.raises(DataError, match="'a' has the very first event marked 'test'"):
        split_by_parts(PartedLog(split.log.events, parts), split.protocol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.with_columns(part=pl.lit("tset")), "tset|replace_strict"),
        (lambda t: t.drop("part"), "part"),
        (lambda t: t.sort("timestamp"), "do not follow each other"),
        (lambda t: t.with_columns(item_id=pl.lit("i77")), "i77"),
    ],
)
def test_damaged_files_of_a_split(tmp_path, change, message):
    catalog = catalog_of(6)
    write_split(tmp_path, STRATEGIES["leave-one-out"](log_of(ROWS), catalog), catalog)
    path = tmp_path / "events.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(ArtefactError, match=message):
        read_split(tmp_path)


def test_a_split_put_together_by_hand_has_nothing_to_write(tmp_path):
    split = replace(STRATEGIES["leave-one-out"](log_of(ROWS), catalog_of(6)), log=None)
    with pytest.raises(ValueError, match="by hand"):
        write_split(tmp_path, split, catalog_of(6))


def test_a_protocol_of_an_earlier_version_is_readable():
    """Files of before there was any split but leave-one-out."""
    old = {
        "dataset": "x", "dataset_sha256": "0", "split": "leave-one-out", "ties": "source", "seed": 0,
        "exclude_seen": True, "users": 7, "items": 5, "interactions": 40, "time_resolution": 1,
        "tie_rate_last_two": 0.0, "tie_rate_neighbours": 0.0, "repeated_targets": 0, "short_histories": 2,
        "first_timestamp": 0, "last_timestamp": 9,
    }  # fmt: skip
    protocol = Protocol(**old)
    assert protocol.all_users == 9
    assert Protocol(**json.loads(json.dumps(protocol.to_dict()))) == protocol


# --- target events


def with_kinds(rows):
    return Interactions.from_frame(
        pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "event"], orient="row")
    )


KINDS = [
    ("a", "i0", 1, "view"),
    ("a", "i1", 2, "buy"),
    ("a", "i2", 3, "view"),
    ("a", "i3", 4, "buy"),
    ("a", "i4", 5, "view"),
    ("a", "i5", 6, "buy"),
    ("a", "i6", 7, "view"),
    ("b", "i0", 1, "view"),
    ("b", "i1", 2, "buy"),
    ("b", "i2", 3, "view"),
    ("c", "i1", 1, "buy"),
    ("c", "i2", 9, "buy"),
]


def test_leave_one_out_asks_for_target_events_only():
    split = leave_one_out(with_kinds(KINDS), catalog_of(7), dataset="x", target_event="buy")
    assert split.test.histories.user_ids == split.valid.histories.user_ids == ("a",)
    assert split.valid.target_items.tolist() == [3]
    assert split.valid.histories[0].items.tolist() == [0, 1, 2]
    assert split.test.target_items.tolist() == [5]
    assert split.test.histories[0].items.tolist() == [0, 1, 2, 3, 4]
    # b has one purchase and c nothing before its first: both are learned from whole. Of a, nothing after the validation is.
    assert [h.items.tolist() for h in split.train] == [[0, 1, 2], [0, 1, 2], [1, 2]]
    assert split.protocol.short_histories == 2
    assert split.protocol.target_event == "buy"


def test_temporal_and_users_ask_for_target_events_only():
    split = temporal(
        with_kinds(KINDS),
        catalog_of(7),
        dataset="x",
        target_event="buy",
        valid_quantile=0.4,
        test_quantile=0.8,
    )
    kinds = {(u, t): k for u, _, t, k in KINDS}
    for holdout in (split.valid, split.test):
        assert len(holdout)
        for user, when in zip(holdout.histories.user_ids, holdout.target_timestamps.tolist(), strict=True):
            assert kinds[user, when] == "buy"
    held = hold_out_users(
        with_kinds(KINDS), catalog_of(7), dataset="x", target_event="buy", valid_users=0.4, test_users=0.3
    )
    for holdout in (held.valid, held.test):
        for user, when in zip(holdout.histories.user_ids, holdout.target_timestamps.tolist(), strict=True):
            assert kinds[user, when] == "buy"
            assert when == max(t for u, _, t, k in KINDS if u == user and k == "buy")


def test_a_kind_of_event_that_is_not_there():
    with pytest.raises(
        DataError, match=r"no event is of that kind \(did you mean 'buy'\?\). Expected one of buy, view"
    ):
        leave_one_out(with_kinds(KINDS), catalog_of(7), dataset="x", target_event="by")
    with pytest.raises(DataError, match=r"does not say what kind .* data.columns.event"):
        leave_one_out(
            log_of([("a", "i0", n) for n in range(3)]), catalog_of(1), dataset="x", target_event="buy"
        )


# --- validation by some users only


def test_others_learn_from_the_event_before_the_last():
    rows = [(f"u{u:02}", f"i{n}", n) for u in range(20) for n in range(4)]
    splits = [
        leave_one_out(log_of(rows), catalog_of(4), dataset="x", valid_share=0.25, seed=seed)
        for seed in (0, 0, 1)
    ]
    split = splits[0]
    assert len(split.test) == 20
    assert len(split.valid) == 5
    assert split.valid.histories.user_ids == splits[1].valid.histories.user_ids
    assert split.valid.histories.user_ids != splits[2].valid.histories.user_ids
    for history in split.train:
        asked = history.user_id in split.valid.histories.user_ids
        assert history.items.tolist() == ([0, 1] if asked else [0, 1, 2])
    for holdout in (split.valid, split.test):
        for history, item in zip(holdout.histories, holdout.target_items, strict=True):
            assert history.items.tolist() == list(range(item))
    assert split.protocol.valid_share == 0.25
    assert leave_one_out(log_of(rows), catalog_of(4), dataset="x").protocol.valid_share is None
    with pytest.raises(ConfigError, match="valid_share=0"):
        leave_one_out(log_of(rows), catalog_of(4), dataset="x", valid_share=0)


@pytest.mark.parametrize("valid_share", [0.5, 1.0])
def test_where_nobody_has_three_events_there_is_nobody_to_evaluate(valid_share):
    rows = [(f"u{u}", f"i{n}", n) for u in range(5) for n in range(2)]
    with pytest.raises(DataError, match="nobody to evaluate"):
        leave_one_out(
            log_of(rows), catalog_of(2), dataset="x", short_histories="train", valid_share=valid_share
        )
