"""A protocol in words: what was asked, of whom, and what the numbers cannot tell."""

from __future__ import annotations

from llmrec.data.protocol import Protocol
from llmrec.eval.compare import Comparison
from llmrec.eval.context import ReportContext
from llmrec.eval.verdict import training_words
from llmrec.eval.words import date, percent

__all__ = ["SPLITS", "WEAKNESSES", "protocol_words", "sample_words"]

SPLITS = {
    "leave-one-out": "Each user's last event is the test question and the one before it the validation question; "
    "everything earlier is for training. Settings and epochs are chosen on the validation questions only.",
    "temporal": "One moment cuts the log for all users: earlier events are for training, and the first later event "
    "of a user is the question.",
}
WEAKNESSES = {
    "leave-one-out": "Test events of different users lie at different times, so training data of one user can be "
    "newer than the test event of another. Every system can profit from this knowledge of the future, and the "
    "numbers are higher than a live system would reach.",
    "temporal": "Only users with an event after the cut are asked, so active users count more; and the numbers "
    "depend on which moment was chosen.",
}
_RESOLUTIONS = {1: "one second", 60: "one minute", 3600: "one hour", 86400: "one day"}


def protocol_words(comparison: Comparison, ctx: ReportContext) -> list[tuple[str, str]]:
    """Return the protocol as terms and sentences, in reading order."""
    p = comparison.evaluations[0].protocol
    words = [
        (
            "Data",
            f"{p.dataset}: {p.interactions:,} events of {p.users + p.short_histories:,} users with {p.items:,} items. "
            f"Fingerprint of events and catalogue (SHA-256): {p.dataset_sha256[:16]}.",
        ),
        (
            "Time span",
            f"{date(p.first_timestamp)} to {date(p.last_timestamp)} (UTC). Timestamps resolve "
            f"{_RESOLUTIONS.get(p.time_resolution, f'{p.time_resolution:,} seconds')}.",
        ),
        ("Split", SPLITS.get(p.split, f"{p.split}.") + _short_histories(p)),
        ("Weakness of this split", WEAKNESSES.get(p.split, "Not stated for this split.")),
        ("Ties in time", _ties(p)),
        ("Items already seen", _seen(p, comparison)),
        (
            "Candidates",
            f"The whole catalogue of {p.items:,} items is ranked for every user; no sampled negatives, which "
            "would make all systems look better and can reverse their order.",
        ),
        ("Users", sample_words(comparison, ctx)),
    ]
    shown = {n.target_time_in_prompt for n in ctx.llm} - {None}
    if shown:
        words.append(
            (
                "Time of the next event",
                "The prompt tells the language model when the next event happens. The other systems do not get "
                "this information, so the comparison favours the language model."
                if True in shown
                else "Not in the prompt: the language model does not know when the next event happens, and "
                "neither do the other systems.",
            )
        )
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


def sample_words(comparison: Comparison, ctx: ReportContext) -> str:
    """Return who was asked: all test users, or a sample and how it was drawn."""
    total = comparison.evaluations[0].protocol.users
    if comparison.users >= total:
        return f"All {total:,} test users."
    how = ctx.sample_note or "The run does not say how they were drawn."
    return f"A sample of {comparison.users:,} of {total:,} test users. {how}"


def _short_histories(p: Protocol) -> str:
    if not p.short_histories:
        return ""
    return f" {p.short_histories:,} users with too few events are used for training only."


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
        f"{kept} {percent(p.tie_rate_last_two)} of users have the same time on their last two events, and "
        f"{percent(p.tie_rate_neighbours)} of neighbouring events have equal times.{why}"
    )


def _seen(p: Protocol, comparison: Comparison) -> str:
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
