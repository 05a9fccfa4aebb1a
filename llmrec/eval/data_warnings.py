"""What of a log would bite: each finding in one sentence, with the setting that helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from llmrec.data.check.counts import UNKNOWN_KIND
from llmrec.data.check.times import EARLY
from llmrec.data.check.titles import LONG
from llmrec.data.check.whole import DataCheck
from llmrec.eval.words import date, percent
from llmrec.settings import Cleaning, Data, SplitSettings

__all__ = ["DataWarning", "find_warnings"]

_UNUSABLE = 0.005  # share of a table's rows
_DUPLICATES = 0.05  # share of the rows that were left out as sent twice
_TIED = 0.05  # share of the users whose last two events have one time
_HEAP = 0.01  # share of all events at one moment
_SHARED = 0.01  # share of the items
_UNUSED = 0.1  # share of the items
_LIKE_IDS = 0.1  # share of the titles
_FAST = 500  # events within an hour
_LEAK = 0.05  # share of the training events that are later than a target
_TARGETS = 0.05  # share of the test targets that some systems cannot find
_FEW = 300  # questions; the 95% interval of a hit rate of 0.1 is then 0.07 to 0.14


@dataclass(frozen=True)
class DataWarning:
    """One thing that would bite."""

    name: str  # short and fixed, for programs: "tie-order"
    finding: str  # what was found, and why it bites
    setting: str  # what helps: "split.ties: shuffle"; a name alone where the value has to be looked for
    hint: str = ""  # what else there is to say about the setting
    verb: str = "set"  # what to do with it

    @property
    def sentence(self) -> str:
        """The whole of it."""
        return f"{self.finding}; {self.verb} {self.setting}{self.hint}."


def find_warnings(check: DataCheck, data: Data, split: SplitSettings) -> tuple[DataWarning, ...]:
    """Return what would bite under these settings, the worst first."""
    return (
        *_rows(check, data),
        *_ties(check, split),
        *_times(check, split),
        *_splits(check, split),
        *_activity(check, data.cleaning, split),
        *_titles(check, data),
    )


_REASONS = {  # of rows that cannot be used: the setting that is likely to be wrong, and a hint
    ("interactions", "broken rows"): ("data.interactions", ""),
    ("interactions", "missing user ids"): ("data.columns.user_id", ""),
    ("interactions", "missing item ids"): ("data.columns.item_id", ""),
    ("interactions", "unreadable times"): ("data.cleaning.timestamp_format", ""),
    ("interactions", "in the future"): ("data.cleaning.timestamp_format", " and data.cleaning.latest"),
    ("interactions", "items not in the catalogue"): ("data.items", ", which lacks these items"),
    ("interactions", "items left out of the catalogue"): (
        "data.cleaning.empty_titles",
        ": under id, items without a title are called by their ids",
    ),
    ("items", "broken rows"): ("data.items", ""),
    ("items", "items without an id"): ("data.columns.item_id", ""),
    ("items", "further rows of an item"): ("data.columns.item_id", ""),
    ("items", "empty titles"): ("data.columns.title", ""),
}


def _rows(check: DataCheck, data: Data) -> Iterator[DataWarning]:
    for table in ("interactions", "items"):
        steps = [step for step in check.ledger if step.table == table]
        total = steps[0].left + steps[0].removed
        for step in steps:
            if step.faulty and step.removed >= _UNUSABLE * total:
                setting, hint = _REASONS[table, step.step]
                yield DataWarning(
                    f"unusable-{table}",
                    f"{step.removed:,} of {total:,} rows of {table} ({percent(step.removed / total)}) were left out for "
                    + step.step
                    + (f" ({step.note})" if "catalogue" in step.step else "")
                    + (", so histories are not whole" if table == "interactions" else ""),
                    setting,
                    hint,
                    "check",
                )
    steps = [step for step in check.ledger if step.step == "duplicate events"]
    for step in steps:
        if step.removed >= _DUPLICATES * (step.left + step.removed):
            coarse = (
                ", which with times in whole days may be real" if check.times.resolution >= 86_400 else ""
            )
            yield DataWarning(
                "duplicates-dropped",
                f"{step.removed:,} events ({percent(step.removed / (step.left + step.removed))}) repeat the user, item and "
                f"time of another and were left out as sent twice{coarse}",
                "data.cleaning.duplicates: keep",
                " if they are events of their own",
            )
    if data.cleaning.duplicates == "keep" and check.activity.duplicates:
        yield DataWarning(
            "duplicates-kept",
            f"{check.activity.duplicates:,} events repeat the user, item and time of another, and a model learns that an item "
            "follows itself",
            "data.cleaning.duplicates: drop",
        )


def _ties(check: DataCheck, split: SplitSettings) -> Iterator[DataWarning]:
    ties = check.ties
    if split.ties != "source":
        return
    if (order := ties.strongest) is not None:
        up = order.ascending > 0.5
        yield DataWarning(
            "tie-order",
            f"{percent(order.ascending if up else 1 - order.ascending)} of neighbouring events with equal times are in "
            f"{'ascending' if up else 'descending'} order of {order.by} (50% by chance), which tells a model that sees it "
            "which item is next",
            "split.ties: shuffle",
        )
    elif ties.last_two >= _TIED:
        yield DataWarning(
            "ties-last-two",
            f"{percent(ties.last_two)} of the users have their last two events at one time, so the order of the log decides "
            "which is asked for",
            "split.ties: shuffle",
            ", and average over several seeds",
        )


def _times(check: DataCheck, split: SplitSettings) -> Iterator[DataWarning]:
    times, total = check.times, check.counts.events
    if times.early:
        yield DataWarning(
            "times-early",
            f"{times.early:,} events are from before {date(EARLY)}, as unknown times written as 0 are, and stand first in "
            "their users' histories",
            f"data.cleaning.earliest: {date(EARLY)}",
        )
    heap = times.busiest_events
    if heap >= max(_HEAP * total, 100, 20 * times.usual_events) and not (
        times.early and times.busiest < EARLY
    ):
        first = times.busiest == times.first
        if first or split.ties == "source":
            yield DataWarning(
                "times-heap",
                f"{heap:,} events ({percent(heap / total)}) have the very same time, {_moment(times.busiest)}, as an import "
                "leaves it, so they say nothing about order",
                f"data.cleaning.earliest: {_utc(times.busiest + 1)}" if first else "split.ties: shuffle",
            )
    if (gap := times.gap) is not None:
        yield DataWarning(
            "times-gap",
            f"no event is between {date(gap.before)} and {date(gap.after)}, {gap.seconds // 86_400:,} days in a busy time, so "
            "a piece of the log may be missing",
            "data.interactions",
            f", or set data.cleaning.earliest: {date(gap.after)}",
            "check",
        )


def _splits(check: DataCheck, split: SplitSettings) -> Iterator[DataWarning]:
    chosen = check.split(split.strategy)
    p = chosen.protocol
    if p is None:
        yield DataWarning(
            "split-fails", f"the log cannot be split: {chosen.problem.rstrip('.')}", "split", verb="change"
        )
        return
    if p.short_histories and split.short_histories == "error" and split.target_event is None:
        yield DataWarning(
            "short-histories",
            f"{p.short_histories:,} of {p.all_users:,} users have fewer than 3 events, with which leave-one-out stops",
            "split.short_histories: train",
            ", or data.cleaning.min_user_events: 3",
        )
    later = p.train_after_target or 0.0
    if split.strategy != "temporal" and later >= _LEAK:
        yield DataWarning(
            "future-in-training",
            f"{percent(later)} of the training events are later than a test target, on average, so every system learns from "
            "the future",
            "split.strategy: temporal",
        )
    if split.cold_items == "keep" and p.cold_targets >= _TARGETS * p.users:
        yield DataWarning(
            "cold-targets",
            f"{p.cold_targets:,} of {p.users:,} test targets ({percent(p.cold_targets / p.users)}) are items without a training "
            "event, which only a system that reads titles can find",
            "split.cold_items: drop",
            " to ask for the others alone",
        )
    if split.exclude_seen and split.repeats == "keep" and p.repeated_targets >= _TARGETS * p.users:
        yield DataWarning(
            "repeated-targets",
            f"{p.repeated_targets:,} of {p.users:,} test targets ({percent(p.repeated_targets / p.users)}) are items that the "
            "user had before, which are never recommended and count as misses",
            "split.exclude_seen: false",
            ", or split.repeats: drop",
        )
    if split.strategy != "leave-one-out" and p.users < _FEW:
        temporal = split.strategy == "temporal"
        yield DataWarning(
            "few-questions",
            f"the test asks {p.users:,} users only, too few to tell systems apart that differ by less than a third",
            f"split.test_quantile: {0.9 * split.test_quantile:.2g}"
            if temporal
            else f"split.test_users: {min(2 * split.test_users, 0.5):.2g}",
            f" and split.valid_quantile: {0.9 * split.valid_quantile:.2g}" if temporal else "",
        )


def _activity(check: DataCheck, cleaning: Cleaning, split: SplitSettings) -> Iterator[DataWarning]:
    activity, counts = check.activity, check.counts
    setting = f"max_per_hour: {_FAST}"
    if (fast := activity.would_leave_out(setting)).users:
        when = "on a day" if check.times.resolution >= 86_400 else "within an hour"
        yield DataWarning(
            "bursts",
            f"{_users(fast.users)} more than {_FAST} events {when}, the most {activity.most_within_an_hour:,} (user "
            f"{activity.busiest_within_an_hour!r}), faster than people are, and {percent(fast.events / counts.events)} of all "
            "events",
            f"data.cleaning.{setting}",
        )
    usual = counts.events_per_user.p99
    if activity.most_events > max(0.01 * counts.events, 10 * usual):
        yield DataWarning(
            "one-user",
            f"user {activity.busiest!r} has {activity.most_events:,} events ({percent(activity.most_events / counts.events)} of "
            f"all) where 99% of the users have at most {usual:,.0f}, and weighs as much in training",
            f"data.cleaning.max_per_user: {10 * usual:.0f}",
        )
    setting = "max_repetition: 0.9"
    if (stuck := activity.would_leave_out(setting)).users:
        yield DataWarning(
            "one-item",
            f"{_users(stuck.users)} more than 90% of their 20 events or more with one item, as broken clients do",
            f"data.cleaning.{setting}",
        )
    named = [kind for kind in counts.kinds if kind != UNKNOWN_KIND]
    if len(counts.kinds) > 1 and named and split.target_event is None:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.kinds.items())
        yield DataWarning(
            "kinds",
            f"events are of {len(counts.kinds)} kinds ({kinds}), and all of them are asked for, the cheapest most often",
            f"split.target_event: {named[-1]}",
            ", or whichever kind counts",
        )
    unused = counts.items - counts.items_with_events
    if cleaning.unused_items == "keep" and unused >= _UNUSED * counts.items:
        yield DataWarning(
            "unused-items",
            f"{unused:,} of {counts.items:,} items ({percent(unused / counts.items)}) have no event, and are candidates that "
            "nobody can be right about",
            "data.cleaning.unused_items: drop",
            ", unless they are new",
        )


def _titles(check: DataCheck, data: Data) -> Iterator[DataWarning]:
    titles, items, cleaning = check.titles, check.counts.items, data.cleaning
    if titles.like_ids.titles >= _LIKE_IDS * items:
        yield DataWarning(
            "titles-are-ids",
            f"{titles.like_ids.titles:,} titles ({percent(titles.like_ids.titles / items)}) are ids or digits such as "
            f"{titles.like_ids.example!r}, which say nothing to a language model",
            "data.columns.title",
            verb="check",
        )
    if not cleaning.unescape and titles.entities.titles:
        yield DataWarning(
            "entities",
            f"{titles.entities.titles:,} titles have HTML entities, such as {titles.entities.example!r}, which cost tokens and "
            "will be generated",
            "data.cleaning.unescape: true",
        )
    if not cleaning.strip_markup and titles.markup.titles:
        yield DataWarning(
            "markup",
            f"{titles.markup.titles:,} titles have HTML tags, control characters or runs of blanks, such as "
            f"{titles.markup.example!r}, which cost tokens and will be generated",
            "data.cleaning.strip_markup: true",
        )
    if titles.garbled.titles and data.items is not None:
        binary = data.items.location[0].endswith(".parquet")
        yield DataWarning(
            "garbled",
            f"{titles.garbled.titles:,} titles are garbled, such as {titles.garbled.example!r}, because the table was written or "
            "read with a wrong encoding",
            "data.items" if binary else "data.items.encoding",
            ", which has to be written anew" if binary else f", now {data.items.encoding}",
            "check",
        )
    if cleaning.duplicate_titles == "keep" and (
        titles.shared >= _SHARED * items or titles.most_shared_items >= 10
    ):
        yield DataWarning(
            "shared-titles",
            f"{titles.shared:,} items ({percent(titles.shared / items)}) share their title with another "
            f"({titles.most_shared_items} are called {titles.most_shared!r}), so a title does not say which is meant",
            "data.cleaning.duplicate_titles: merge",
            " if they are the same thing",
        )
    if titles.long.titles:
        yield DataWarning(
            "long-titles",
            f"{titles.long.titles:,} titles have more than {LONG} characters (the longest {titles.lengths.largest:,.0f}), which "
            "every prompt pays for",
            f"data.cleaning.max_title: {LONG}",
        )


def _users(count: int) -> str:
    return f"{count:,} users have" if count > 1 else "one user has"


def _moment(timestamp: int) -> str:
    """Return a date, with the time of day unless it is midnight."""
    return date(timestamp) if timestamp % 86_400 == 0 else _utc(timestamp)


def _utc(timestamp: int) -> str:
    """Return a moment that is the same whatever data.cleaning.timezone says."""
    return f"{datetime.fromtimestamp(timestamp, tz=UTC):%Y-%m-%dT%H:%M:%SZ}"
