"""What a data check shows, as terms, tables and plots; the terminal and the page decide how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from llmrec.data.check.splits import SplitCheck
from llmrec.data.check.spread import Histogram, Spread
from llmrec.data.check.ties import Order
from llmrec.data.check.times import Times
from llmrec.data.check.titles import LONG, Flaw
from llmrec.data.check.whole import DataCheck
from llmrec.data.cleaning.ledger import Step
from llmrec.eval.bars import bar_plot
from llmrec.eval.words import MISSING, RESOLUTIONS, count, date, number, percent

__all__ = ["CheckSection", "CheckTable", "check_sections", "ledger_section", "ledger_words"]

_CLEANING = (
    "What the settings of data.cleaning left out and changed; all other parts are about what was left."
)


@dataclass(frozen=True)
class CheckTable:
    """A small table of texts."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)  # columns of text; all others are numbers, and right-aligned


@dataclass(frozen=True)
class CheckSection:
    """One part of a check."""

    title: str
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()  # terms and what there is to say
    table: CheckTable | None = None
    plots: tuple[Markup, ...] = field(default=(), repr=False)


def check_sections(check: DataCheck, strategy: str) -> list[CheckSection]:
    """Return the parts of a check in reading order, the ledger apart; ``strategy`` is the config's way to split."""
    return [
        _size(check),
        _spread(check),
        _time(check.times),
        _ties(check),
        _titles(check),
        _users(check),
        _left_out(check),
        _splits(check.splits, strategy),
    ]


def ledger_section(steps: Sequence[Step]) -> CheckSection:
    """Return all steps of a cleaning as a table."""
    rows = tuple(
        (
            f"{s.table}: {s.step}",
            s.setting or MISSING,
            count(s.removed),
            count(s.changed),
            count(s.left),
            s.note,
        )
        for s in steps
    )
    header = ("step", "setting in data", "left out", "changed", "left", "")
    return CheckSection("Cleaning", _CLEANING, table=CheckTable(header, rows, words=(0, 1, 5)))


def ledger_words(steps: Sequence[Step]) -> CheckSection:
    """Return the steps of a cleaning that have done something in words, which fit a terminal."""
    facts = []
    for s in steps:
        done = [f"{count(n)} {what}" for n, what in ((s.removed, "left out"), (s.changed, "changed")) if n]
        said = [*done, f"{count(s.left)} left"] if done else []
        if said or s.note:
            facts.append(
                (f"{s.table}: {s.step}", "; ".join(filter(None, [", ".join(said), s.note, s.setting])))
            )
    return CheckSection("Cleaning", _CLEANING, tuple(facts))


def _size(check: DataCheck) -> CheckSection:
    c = check.counts
    facts = [
        ("Users", count(c.users)),
        ("Items", f"{count(c.items)}, of which {count(c.items_with_events)} have events"),
        ("Events", count(c.events)),
        ("Density", f"{percent(c.density, 2)} of all pairs of a user and an item have an event"),
        (
            "Popularity",
            f"Gini coefficient {number(c.gini, 2)}; the most popular 1% of the items have {percent(c.top_percent_share)} of "
            f"the events, the most popular one {percent(c.top_item_share)}",
        ),
    ]
    if c.kinds:
        facts.append(("Kinds of events", ", ".join(f"{count(n)} {kind}" for kind, n in c.kinds.items())))
    if c.ratings is None and c.unrated:
        facts.append(("Ratings", f"none of {count(c.unrated)} is a number"))
    if c.ratings is not None:
        r = c.ratings
        none = f"; {count(c.unrated)} events have none" if c.unrated else ""
        facts.append(("Ratings", f"{r.smallest:g} to {r.largest:g}, on average {number(r.mean, 2)}{none}"))
    return CheckSection("Size", facts=tuple(facts))


def _spread(check: DataCheck) -> CheckSection:
    c, t = check.counts, check.titles
    rows = (
        ("events of a user", c.events_per_user),
        ("events of an item", c.events_per_item),
        ("characters of a title", t.lengths),
    )
    return CheckSection(
        "Distribution",
        "A user's events are the history that a model reads. Items without events are not counted.",
        table=CheckTable(
            ("", "mean", "least", "10%", "25%", "median", "75%", "90%", "99%", "most"),
            tuple((name, *_quantiles(spread)) for name, spread in rows),
        ),
        plots=(
            _histogram("Events per user", "events of a user", "users", c.users_by_events),
            _histogram("Events per item", "events of an item", "items", c.items_by_events),
            _histogram("Length of titles", "characters", "items", t.by_length),
        ),
    )


def _time(times: Times) -> CheckSection:
    facts = [
        (
            "Span",
            f"{date(times.first)} to {date(times.last)} (UTC), {count((times.last - times.first) // 86_400 + 1)} days",
        ),
        ("Resolution", f"{RESOLUTIONS[times.resolution]}; {count(times.distinct)} different times"),
        (
            "Fullest moment",
            f"{date(times.busiest, times.resolution)}, with {count(times.busiest_events)} events; the median is "
            f"{count(times.usual_events)}",
        ),
    ]
    if times.gap is not None:
        facts.append(("Longest gap", f"{date(times.gap.before)} to {date(times.gap.after)}, in a busy time"))
    labels = [date(start)[: {"year": 4, "month": 7}.get(times.unit, 10)] for start in times.periods]
    plot = bar_plot(
        f"Events per {times.unit}", times.unit, "events", list(zip(labels, times.events, strict=True))
    )
    return CheckSection("Time", facts=tuple(facts), plots=(plot,))


def _ties(check: DataCheck) -> CheckSection:
    ties = check.ties
    facts = [
        ("Neighbours", f"{percent(ties.neighbours)} of a user's neighbouring events have equal times"),
        ("Last two", f"{percent(ties.last_two)} of the users have their last two events at one time"),
        ("Most at one time", f"{count(ties.largest)} events of one user"),
        *((f"Order of {order.by}", _order(order)) for order in ties.orders),
    ]
    if ties.strongest is not None:
        facts.append(
            (
                "Tied last events",
                f"{percent(ties.last_is_extreme)} are the end of the order of {ties.strongest.by} "
                f"({percent(ties.extreme_by_chance)} by chance)",
            )
        )
    note = (
        "In the order of the source, which decides what comes next where times are equal. Ties in random order are called ordered in "
        "fewer than 1 of 1,000 logs."
    )
    return CheckSection("Ties", note, tuple(facts))


def _order(order: Order) -> str:
    if not order.pairs:
        return "no tied neighbours that differ in it"
    verdict = (
        "ordered" if order.artefact else "leans, too little to matter" if order.p < 0.001 else "as by chance"
    )
    return f"{percent(order.ascending)} of {count(order.pairs)} tied neighbours ascend: {verdict}"


def _titles(check: DataCheck) -> CheckSection:
    t = check.titles

    def flaw(found: Flaw) -> str:
        return f"{count(found.titles)}, such as {found.example!r}" if found.titles else "none"

    facts = (
        (
            "Shared by items",
            f"{count(t.shared)} items; {count(t.most_shared_items)} are called {t.most_shared!r}"
            if t.shared
            else "none",
        ),
        ("HTML entities", flaw(t.entities)),
        ("Markup", flaw(t.markup)),
        ("Garbled", flaw(t.garbled)),
        ("Ids or digits", flaw(t.like_ids)),
        (f"Over {LONG} characters", flaw(t.long)),
    )
    return CheckSection("Titles", "As they are after cleaning.", facts)


def _users(check: DataCheck) -> CheckSection:
    a, total = check.activity, check.counts.events
    return CheckSection(
        "Users",
        facts=(
            (
                "Repeats",
                f"{percent(a.repeats / total)} of the events are of an item that the user had before, "
                f"{percent(a.consecutive / total)} of the very item before",
            ),
            ("Duplicates", f"{count(a.duplicates)} events with the user, item, time and kind of another"),
            (
                "Within an hour" if check.times.resolution < 86_400 else "On a day",
                f"at most {count(a.most_within_an_hour)} events, of user {a.busiest_within_an_hour!r}",
            ),
            ("In all", f"at most {count(a.most_events)} events, of user {a.busiest!r}"),
        ),
    )


def _left_out(check: DataCheck) -> CheckSection:
    total = check.counts.events
    rows = tuple(
        (
            entry.setting,
            count(entry.users),
            count(entry.items),
            count(entry.events),
            percent(entry.events / total),
        )
        for entry in check.activity.left_out
    )
    return CheckSection(
        "What cleaning would leave out",
        "Each setting of data.cleaning alone, on top of the config's.",
        table=CheckTable(("setting", "users", "items", "events", "share"), rows),
    )


def _splits(splits: Sequence[SplitCheck], strategy: str) -> CheckSection:
    measures = [_measures(split) for split in splits]
    rows = tuple(
        (term, *(m.get(term, MISSING) for m in measures))
        for term in dict.fromkeys(t for m in measures for t in m)
    )
    problems = tuple((f"Not {s.strategy}", s.problem) for s in splits if s.problem)
    return CheckSection(
        "Splits",
        "What each split.strategy would ask; * is the config's. Training events that are later than a test target, on average and than "
        "half of the targets, are a future that systems learn from.",
        problems,
        CheckTable(
            ("", *(f"{s.strategy} *" if s.strategy == strategy else s.strategy for s in splits)), rows
        ),
    )


def _measures(split: SplitCheck) -> dict[str, str]:
    p = split.protocol
    if p is None:
        return {}

    def of(part: int, whole: int) -> str:
        return f"{count(part)} ({percent(part / whole if whole else 0.0)})"

    return {
        "training events": of(p.train_events, p.interactions),
        "training users": of(p.train_users, p.all_users),
        "validation questions": count(p.valid_users),
        "test questions": count(p.users),
        "test targets new to training": of(p.cold_targets, p.users),
        "test users new to training": of(p.users - p.known_users, p.users),
        "test targets had before": of(p.repeated_targets, p.users),
        "test targets tied in time": percent(p.tie_rate_last_two),
        "items without a training event": of(split.cold_items, p.items),
        "not asked: nothing comes before": count(p.no_history),
        "not asked: fewer than 3 events": count(p.short_histories) if p.split == "leave-one-out" else MISSING,
        "training later than a target": percent(p.train_after_target),
        "training later than half of them": percent(split.later_than_half),
        "test begins": date(p.test_from, p.time_resolution) if p.test_from is not None else MISSING,
    }


def _quantiles(spread: Spread) -> tuple[str, ...]:
    s = spread
    rest = (s.smallest, s.p10, s.p25, s.median, s.p75, s.p90, s.p99, s.largest)
    return (number(s.mean, 1), *map(count, rest))


def _histogram(title: str, x_label: str, y_label: str, histogram: Histogram) -> Markup:
    ranges = zip(histogram.lowest, histogram.highest, histogram.counts, strict=True)
    bars = [(f"{low:,}" if low == high else f"{low:,}–{high:,}", n) for low, high, n in ranges]
    return bar_plot(title, x_label, y_label, bars)
