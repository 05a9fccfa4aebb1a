"""A protocol in words: what was asked, of whom, and what the numbers cannot tell."""

from __future__ import annotations

from collections.abc import Container

from llmrec.data.protocol import Protocol
from llmrec.eval.compare import Comparison
from llmrec.eval.context import ReportContext
from llmrec.eval.verdict import training_words
from llmrec.eval.words import RESOLUTIONS, date, label, percent, sentence_list

__all__ = ["SPLITS", "WEAKNESSES", "protocol_words", "sample_words", "told_words"]

SPLITS = {
    "leave-one-out": "Each user's last event is the test question and the one before it the validation question; "
    "everything earlier is for training. Settings and epochs are chosen on the validation questions only.",
    "temporal": "Two moments cut the log for all users. Events before the first are for training. The validation question "
    "is a user's last event between the two, the test question the last one from the second on, each asked with all of the "
    "user's earlier events. Settings and epochs are chosen on the validation questions only.",
    "users": "Users are held out at random, and all events of the others are for training. The question is a held-out "
    "user's last event, asked with all earlier ones. Settings and epochs are chosen on other held-out users than the test's.",
}
WEAKNESSES = {
    "leave-one-out": "Test events of different users lie at different times, so training data of one user can be "
    "newer than the test event of another. Every system can profit from this knowledge of the future, and the "
    "numbers are higher than a live system would reach.",
    "temporal": "Only users who are active after the cut are asked, so active users count more; one pair of moments is one "
    "draw of what was in fashion; and nothing is learned from the validation period, which a live system would do.",
    "users": "Training data can be newer than a test event, so every system can profit from knowledge of the future, and the "
    "numbers are higher than a live system would reach. Systems that learn something per user cannot be used.",
}


def protocol_words(comparison: Comparison, ctx: ReportContext) -> list[tuple[str, str]]:
    """Return the protocol as terms and sentences, in reading order."""
    p = comparison.evaluations[0].protocol
    words = [
        (
            "Data",
            f"{p.dataset}: {p.interactions:,} events of {p.all_users:,} users with {p.items:,} items. "
            f"Fingerprint of events and catalogue (SHA-256): {p.dataset_sha256[:16]}.",
        ),
        (
            "Time span",
            f"{date(p.first_timestamp)} to {date(p.last_timestamp)} (UTC). Timestamps resolve "
            f"{RESOLUTIONS.get(p.time_resolution, f'{p.time_resolution:,} seconds')}.",
        ),
        ("Split", SPLITS.get(p.split, f"{p.split}.") + _moments(p) + _short_histories(p)),
        ("Weakness of this split", WEAKNESSES.get(p.split, "Not stated for this split.") + _future(p)),
        ("Questions", _questions(p) + _kind(p)),
        ("Ties in time", _ties(p)),
        ("Items already seen", _seen(p, comparison)),
        ("Items new to training", _cold(p)),
        (
            "Candidates",
            f"The whole catalogue of {p.items:,} items is ranked for every user; no sampled negatives, which "
            "would make all systems look better and can reverse their order.",
        ),
        ("Users", sample_words(comparison, ctx)),
    ]
    if ctx.told_when is not None:
        words.append(("Time of the next event", told_words(comparison, ctx.told_when)))
    words.append(
        (
            "Statistics",
            f"{comparison.confidence:.0%} intervals: bootstrap over users (BCa, {comparison.resamples:,} resamples). "
            "Differences: paired by user. p-values: two-sided sign-flip randomisation test, Holm-corrected over the "
            "systems for each metric; not over the metrics, of which the first decides. A difference counts as "
            f"shown if its interval excludes 0 and the corrected p is below 0.05. Seed {comparison.seed}. "
            + training_words(comparison),
        )
    )
    return words


def told_words(comparison: Comparison, told: Container[str]) -> str:
    """Return which systems are told when the next event happens, and what that means."""
    names = [label(system, comparison.labels) for system in comparison.systems if system in told]
    if not names:
        return "No system is told when the next event happens."
    if len(names) == len(comparison.systems):
        return (
            "Every system is told when the next event happens, which nobody knows who recommends something: the figures are not those "
            "of the task without it."
        )
    return (
        f"{sentence_list(names)} {'are' if len(names) > 1 else 'is'} told when the next event happens. The other systems do not get this "
        f"information, so the comparison favours {'those' if len(names) > 1 else 'that one'}."
    )


def sample_words(comparison: Comparison, ctx: ReportContext) -> str:
    """Return who was asked: all test users, or a sample and how it was drawn."""
    total = comparison.evaluations[0].protocol.users
    if comparison.users >= total:
        return f"All {total:,} test users."
    how = ctx.sample_note or "The run does not say how they were drawn."
    return f"A sample of {comparison.users:,} of {total:,} test users. {how}"


def _kind(p: Protocol) -> str:
    return (
        f" Targets are events of the kind {p.target_event!r}; histories hold all kinds."
        if p.target_event
        else ""
    )


def _moments(p: Protocol) -> str:
    """Return what a split was cut by, where it says."""
    if p.valid_from is not None and p.test_from is not None:
        return (
            f" Validation from {date(p.valid_from, p.time_resolution)}, test from {date(p.test_from, p.time_resolution)} "
            f"({percent(p.valid_quantile)} and {percent(p.test_quantile)} of all events lie before, fewer where many have "
            "that very time)."
        )
    if p.test_share is not None:
        return (
            f" Held out: {percent(p.valid_share)} of the users for validation, {percent(p.test_share)} for the test "
            f"(seed {p.seed})."
        )
    return ""


def _future(p: Protocol) -> str:
    if p.train_after_target is None:
        return ""
    if not p.train_after_target:
        return " No training event is later than a test target."
    return f" Here, {percent(p.train_after_target)} of the training events are later than a test target, on average."


def _questions(p: Protocol) -> str:
    """Return how many questions there are, and which are not asked."""
    if not p.train_events:  # a protocol of an earlier version
        return f"{p.users:,} for the test, one per user."
    left = [
        (p.no_history, p.valid_no_history, "nothing comes before the target"),
        (p.repeats_dropped, p.valid_repeats_dropped, "the user has seen the target before"),
        (p.cold_dropped, p.valid_cold_dropped, "the target has no training event"),
    ]
    reasons = [
        f"{test:,} test and {valid:,} validation questions because {why}"
        for test, valid, why in left
        if test or valid
    ]
    return (
        f"{p.users:,} for the test and {p.valid_users:,} for validation, at most one of each per user. Training has "
        f"{p.train_events:,} events of {p.train_users:,} users, among them {p.known_users:,} of the test's and "
        f"{p.valid_known_users:,} of the validation's. "
        + (f"Not asked: {sentence_list(reasons)}." if reasons else "No possible question is left out.")
    )


def _cold(p: Protocol) -> str:
    """Return what becomes of targets that nobody has in training."""
    if not p.train_events:
        return "How many targets have no training event is not recorded."
    if p.cold_items == "drop":
        return "Are candidates, but not asked for: questions whose target has no training event are left out."
    return (
        f"{p.cold_targets:,} test and {p.valid_cold_targets:,} validation targets have no training event. They are asked "
        "for; a system that knows items by their interactions only cannot tell them apart."
        if p.cold_targets or p.valid_cold_targets
        else "Every target has a training event."
    )


def _short_histories(p: Protocol) -> str:
    words = ""
    if p.split == "leave-one-out" and p.valid_share is not None:
        words += (
            f" {percent(p.valid_share)} of the users, drawn at random, are asked for validation; the event before the last of "
            "the others is learned from."
        )
    if p.short_histories:
        words += f" {p.short_histories:,} users with too few events are used for training only."
    return words


def _ties(p: Protocol) -> str:
    kept = {
        "source": "Events with equal timestamps keep the order of the log.",
        "shuffle": f"Events with equal timestamps are put in a random order (seed {p.seed}).",
    }.get(p.ties, f"Tie policy: {p.ties}.")
    why = (
        " Where times are equal, which item is the “next” one is decided by this rule and not by the user"
        + (
            "; if the log is sorted by item within a moment, a system that looks at ids can exploit it."
            if p.ties == "source"
            else "."
        )
        if p.tie_rate_last_two or p.tie_rate_neighbours
        else ""
    )
    return (
        f"{kept} {percent(p.tie_rate_last_two)} of test targets have the same time as the event before them, and "
        f"{percent(p.tie_rate_neighbours)} of neighbouring events have equal times.{why}"
    )


def _seen(p: Protocol, comparison: Comparison) -> str:
    if p.repeats == "drop":
        what = "no candidates" if p.exclude_seen else "candidates, so an item can be recommended again"
        return f"Are {what}. Questions whose target the user has seen before are left out."
    if not p.exclude_seen:
        return f"Are candidates: an item can be recommended again. {p.repeated_targets:,} test targets are repeats."
    lost = comparison.evaluations[0].counts.get("unreachable", 0)
    text = "Are no candidates: a user's own items are never recommended again."
    if lost:
        return (
            f"{text} {lost:,} of the {comparison.users:,} targets are such repeats; no system can reach them, and "
            "they count as misses for all."
        )
    return f"{text} No target is such a repeat."
