"""The protocol: everything that must be equal for two systems' numbers to be comparable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Protocol"]


@dataclass(frozen=True)
class Protocol:
    """How a log was split and what may be recommended; printed in every report.

    Rates are fractions of 1. ``time_resolution`` is in seconds (1, 60, 3600 or 86400).
    """

    dataset: str
    dataset_sha256: str  # of the ordered interactions and the catalogue: equal only for equal data
    split: str  # "leave-one-out"
    ties: str  # "source": equal timestamps keep the order of the log; "shuffle": seeded random order
    seed: int
    exclude_seen: bool  # items of a user's own history are no candidates
    users: int
    items: int  # size of the candidate set: always the whole catalogue
    interactions: int
    time_resolution: int
    tie_rate_last_two: float  # share of users whose last two events have the same timestamp
    tie_rate_neighbours: float  # share of neighbouring events that have the same timestamp
    repeated_targets: int  # test targets that the user had seen before; unreachable if exclude_seen
    short_histories: int  # users with too few events to be held out: used for training only
    first_timestamp: int
    last_timestamp: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)
