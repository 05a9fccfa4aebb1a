"""How the log is divided."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmrec.settings.section import Section

__all__ = ["SplitSettings"]


class SplitSettings(Section):
    """How the log is divided into training, validation and test."""

    strategy: Literal["leave-one-out", "temporal", "users"] = "leave-one-out"
    """leave-one-out: each user's last event is the test target and the one before it the validation target; as in most
    published work. temporal: one moment ends training for all users, so that nobody learns from the future; the honest
    figure (docs/protocol.md). users: the targets are of users that training has never seen."""
    valid_quantile: float = Field(default=0.8, gt=0, lt=1)
    """temporal: share of all events, in order of time, before the validation begins. Training ends there, so a lower one
    leaves less to learn from and more time to be asked about."""
    test_quantile: float = Field(default=0.9, gt=0, lt=1)
    """temporal: share of all events before the test begins; above valid_quantile. The validation ends there."""
    valid_share: float = Field(default=1.0, gt=0, le=1)
    """leave-one-out: share of the users whose event before the last is the validation target, drawn with the seed; those
    of the others are learned from. All of them, as most published work has it, leaves every user's newest event but one
    out of the training, which costs much where histories are short; a tenth of many users chooses settings as well."""
    valid_users: float = Field(default=0.1, gt=0, lt=1)
    """users: share of the users held out for the validation, drawn with the seed."""
    test_users: float = Field(default=0.1, gt=0, lt=1)
    """users: share of the users held out for the test. Intervals get narrower with it, and training smaller."""
    ties: Literal["source", "shuffle"] = "source"
    """Order among equal timestamps: as in the log, or drawn with the seed."""
    seed: int | None = Field(default=None, ge=0)
    """Draws the order of ties and the users who are held out; null is the run's seed. A number of its own lets runs of several
    seeds be trainings on one split."""
    exclude_seen: bool = True
    """Whether items of a user's own history are ruled out, for every system."""
    repeats: Literal["keep", "drop"] = "keep"
    """What to do with questions whose target the user has seen before: ask them (under exclude_seen they are misses for
    every system), or leave them out. Both are counted."""
    cold_items: Literal["keep", "drop"] = "keep"
    """What to do with questions whose target nobody has in training: ask them (only a system that reads content can tell
    such items apart), or leave them out. Both are counted; the whole catalogue is ranked in any case."""
    target_event: str | None = None
    """Kind of event that is asked for (columns.event): buy, say, while histories hold views and clicks too; null for any.
    Users without two of them are for training only."""
    short_histories: Literal["error", "train"] = "error"
    """leave-one-out: what to do with users of fewer than 3 events: stop, or use them for training only. Other splits do
    not ask about users with nothing before their target, and count them."""

    @model_validator(mode="after")
    def _in_order(self) -> SplitSettings:
        problems = []
        if self.valid_quantile >= self.test_quantile:
            problems.append(
                f"valid_quantile is {self.valid_quantile} and test_quantile {self.test_quantile}; expected the test to "
                "begin after the validation"
            )
        if self.valid_users + self.test_users >= 1:
            problems.append(
                f"valid_users is {self.valid_users} and test_users {self.test_users}; expected less than 1 together, so "
                "that users are left for training"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
