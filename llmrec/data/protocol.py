"""The protocol: everything that must be equal for two systems' numbers to be comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Protocol"]


@dataclass(frozen=True)
class Protocol:
    """How a log was split and what may be recommended; printed in every report.

    Rates and shares are fractions of 1, timestamps are seconds since 1970 (UTC). A question is one user's history and
    the item that came next; there is at most one per user in the test, and one in the validation. Fields that a split
    does not use, and those that files of earlier versions lack, have the defaults.
    """

    dataset: str
    dataset_sha256: str  # of the ordered interactions and the catalogue: equal only for equal data
    split: str  # "leave-one-out", "temporal" or "users"
    ties: str  # "source": equal timestamps keep the order of the log; "shuffle": seeded random order
    seed: int
    exclude_seen: bool  # items of a user's own history are no candidates
    users: int  # test questions
    items: int  # size of the candidate set: always the whole catalogue
    interactions: int
    time_resolution: int  # of the training timestamps, in seconds: 1, 60, 3600 or 86400
    tie_rate_last_two: float  # share of test targets with the same timestamp as the event before
    tie_rate_neighbours: float  # share of neighbouring events that have the same timestamp
    repeated_targets: int  # test targets that the user had seen before; unreachable if exclude_seen
    short_histories: int  # leave-one-out: users with too few events to be held out, used for training only
    first_timestamp: int
    last_timestamp: int

    repeats: str = "keep"  # questions whose target the user had seen before: "keep" or "drop" (not asked)
    cold_items: str = "keep"  # questions whose target has no training event: "keep" or "drop" (not asked)
    target_event: str | None = None  # kind of event that is asked for; None: any
    valid_quantile: float | None = None  # temporal: share of all events before the validation, at most
    test_quantile: float | None = None  # temporal: share of all events before the test, at most
    valid_from: int | None = None  # temporal: the validation begins; training ends before
    test_from: int | None = None  # temporal: the test begins
    valid_share: float | None = (
        None  # users: share held out for the validation; leave-one-out: share asked, None is all
    )
    test_share: float | None = None  # users: share of users held out for the test

    log_users: int = 0  # users of the log; 0 where it is not recorded
    train_users: int = 0  # users with a training event
    train_events: int = 0
    train_after_target: float | None = None  # share of training events later than a test target, on average
    known_users: int = 0  # test questions of users who have a training event
    valid_known_users: int = 0
    valid_users: int = 0  # validation questions
    valid_repeated_targets: int = 0
    cold_targets: int = 0  # test targets without a training event: only content can find them
    valid_cold_targets: int = 0
    no_history: int = 0  # test targets not asked for, because nothing comes before them
    valid_no_history: int = 0
    repeats_dropped: int = 0  # test questions left out by repeats
    valid_repeats_dropped: int = 0
    cold_dropped: int = 0  # test questions left out by cold_items
    valid_cold_dropped: int = 0

    @property
    def all_users(self) -> int:
        """Users of the log."""
        return self.log_users or self.users + self.short_histories

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)
