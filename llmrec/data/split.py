"""Splits: which events are learned from, and which are asked for.

Every event of the log has a part (:mod:`llmrec.data.parts`). The training histories are each user's train events. A
question of the validation (the test) is an event marked valid (test), and its history is *all* of that user's earlier
events, whatever their part.

Shapes: U users, E events of all of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.interactions import Interactions, time_resolution
from llmrec.data.parts import CONTEXT, TEST, TRAIN, VALID, PartedLog
from llmrec.data.protocol import Protocol
from llmrec.data.questions import ask
from llmrec.data.targets import can_be_targets, last_of_each_user, last_two
from llmrec.errors import ConfigError, DataError

__all__ = ["Policies", "Split", "hold_out_users", "leave_one_out", "split_by_parts", "temporal"]

_MIN_EVENTS = 3  # one to learn from, one to validate, one to test


@dataclass(frozen=True, eq=False)
class Split:
    """Training histories, and the questions asked for validation and for the test.

    A user may be in any of the three without being in the others, and the questions of validation and test may be of
    different users.
    """

    train: Histories  # none of them empty
    valid: Holdout
    test: Holdout
    protocol: Protocol
    log: PartedLog | None = None  # every event, as files have it; None if the split was put together by hand

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.protocol.items

    def told(self) -> Split:
        """Return the split with questions that tell when the targets happen."""
        return replace(self, valid=self.valid.told(), test=self.test.told())

    @property
    def warm(self) -> NDArray[np.bool_]:
        """Say which items have training events [N]; the others are cold."""
        return np.bincount(self.train.items, minlength=self.n_items) > 0


class Policies(TypedDict, total=False):
    """What all splits have to decide.

    dataset
        Name for the reports.
    ties
        "source" (the default) keeps the order of the log among equal timestamps, "shuffle" draws it with ``seed``.
    seed
        Of everything that is drawn; 0 if left out.
    exclude_seen
        Recorded for the recommend stage: whether a user's own items are no candidates (the default) or are.
    repeats
        What to do with questions whose target the user has seen before. "keep" (the default): ask them; under
        ``exclude_seen`` they are misses for every system. "drop": leave them out.
    cold_items
        What to do with questions whose target has no training event. "keep" (the default): ask them; systems that know
        items by their interactions only have to guess. "drop": leave them out. The candidates are all items in any case.
    target_event
        Kind of event that can be a target (column event of the log); any if left out. Events of other kinds are learned
        from and shown like all others.
    """

    dataset: Required[str]
    ties: str
    seed: int
    exclude_seen: bool
    repeats: str
    cold_items: str
    target_event: str | None


Parts = NDArray[np.uint8]  # [E] places in PARTS
Mark = Callable[[Histories, NDArray[np.bool_], int], tuple[Parts, dict[str, Any]]]
"""Gives the events their parts; takes which of them can be targets [E], and a seed. Returns also the fields of the protocol
that only this split has."""


def leave_one_out(
    interactions: Interactions,
    catalog: Catalog,
    *,
    short_histories: str = "error",
    valid_share: float = 1.0,
    **policies: Unpack[Policies],
) -> Split:
    """Hold out each user's last event for the test and the one before it for validation.

    The history asked for validation is the training history; the one asked for the test is the training
    history and the validation event.

    Under ``target_event`` the two are the last of that kind; what comes after the validation target is not learned from, and
    users without two such events, or with nothing before them, are for training only.

    Caveats: targets of different users lie at different times, so training data of one user can be newer
    than the test event of another (a global temporal split has no such leak). Where timestamps are tied,
    "last" is decided by the tie policy; the protocol records how often.

    Parameters
    ----------
    short_histories
        What to do with users of fewer than 3 events: "error", or "train" to learn from them only.
    valid_share
        Share of the users who are asked for validation, drawn with the seed; the event before the last of all others is
        learned from (Petrov & Macdonald 2023 and Klenitskiy & Vasilev 2023 validate on some users alone).
    policies
        See :class:`Policies`.

    Raises
    ------
    ConfigError
        The share is not between 0 and 1.
    DataError
        An item is not in the catalogue, a history is too short, or no question is left.
    """
    if not 0 < valid_share <= 1:
        raise ConfigError(
            f"The split got valid_share={valid_share}. Expected a share of the users above 0, at most 1."
        )

    def mark(events: Histories, can: NDArray[np.bool_], seed: int) -> tuple[Parts, dict[str, Any]]:
        test, valid = last_two(events, can)  # [U], -1 where there are none
        enough = valid > events.indptr[:-1]
        short = np.flatnonzero(~enough)
        if len(short) and short_histories == "error" and policies.get("target_event") is None:
            raise DataError(
                f"{len(short):,} of {len(events):,} users have fewer than {_MIN_EVENTS} events, for example user "
                f"{events.user_ids[short[0]]!r} with {events.lengths[short[0]]}. Leave-one-out expects one event to learn "
                "from, one to validate on and one to test on. Set split.short_histories to 'train' to use such users for "
                "training only, or remove them from the log."
            )
        asked = np.flatnonzero(enough)
        if valid_share < 1 and len(asked):  # nobody can be drawn from nobody, which is said later
            wanted = max(1, round(valid_share * len(asked)))
            asked = np.random.default_rng(seed).choice(asked, size=wanted, replace=False)
        first = np.where(enough, test, len(events.items))  # [U] nothing from here on is learned from
        first[asked] = valid[asked]
        held_out = np.arange(len(events.items)) >= np.repeat(first, events.lengths)
        parts = np.where(held_out, CONTEXT, TRAIN).astype(np.uint8)
        parts[valid[asked]], parts[test[enough]] = VALID, TEST
        share = {"valid_share": valid_share} if valid_share < 1 else {}
        return parts, {"short_histories": len(short), **share}

    return _split("leave-one-out", mark, interactions, catalog, **policies)


def temporal(
    interactions: Interactions,
    catalog: Catalog,
    *,
    valid_quantile: float = 0.8,
    test_quantile: float = 0.9,
    **policies: Unpack[Policies],
) -> Split:
    """Cut the log for all users at two moments: training before the first, validation up to the second, then the test.

    A user's question is the last event of that user in the period, and its history all earlier events, those of the
    period included: they exist by then, though nothing was learned from them. This is the global temporal split with the
    last interaction as the target (Gusak et al. 2025, arXiv 2507.16289), validated on the period before the test. Users
    with nothing before their target are not asked, and counted.

    Caveats: only users who are active in a period are asked, so the sample is one of active users, and a small one where
    the log is uneven. One pair of moments is one draw of what was in fashion. Systems are not trained again on the
    validation period, so the test asks about a time that lies further ahead than a live system's would, and some targets
    are items that training has never seen. Events of the same time as a moment all fall behind it, so less than the
    quantile may be left for training.

    Parameters
    ----------
    valid_quantile, test_quantile
        The first and the second moment: that of the first event, in order of time, behind this share of all events.
    policies
        See :class:`Policies`.

    Raises
    ------
    ConfigError
        The quantiles are not in order.
    DataError
        An item is not in the catalogue, or no training event or no question is left.
    """
    if not 0 < valid_quantile < test_quantile < 1:
        raise ConfigError(
            f"The split got valid_quantile={valid_quantile} and test_quantile={test_quantile}. Expected two shares of the "
            "events between 0 and 1, that of the test above that of the validation."
        )

    def mark(events: Histories, can: NDArray[np.bool_], seed: int) -> tuple[Parts, dict[str, Any]]:
        times = events.timestamps
        order = np.sort(times)
        valid_from, test_from = (int(order[int(q * len(order))]) for q in (valid_quantile, test_quantile))
        parts = np.where(times < valid_from, TRAIN, CONTEXT).astype(np.uint8)
        inside = (times >= valid_from) & (times < test_from)
        parts[last_of_each_user(events, inside & can)] = VALID
        parts[last_of_each_user(events, (times >= test_from) & can)] = TEST
        return parts, {
            "valid_quantile": valid_quantile,
            "test_quantile": test_quantile,
            "valid_from": valid_from,
            "test_from": test_from,
        }

    return _split("temporal", mark, interactions, catalog, **policies)


def hold_out_users(
    interactions: Interactions,
    catalog: Catalog,
    *,
    valid_users: float = 0.1,
    test_users: float = 0.1,
    **policies: Unpack[Policies],
) -> Split:
    """Hold out users: all events of the others are for training, and the held-out users' last events are asked for.

    This is what a system meets that is not trained again for every new user (strong generalisation: Marlin 2004; Liang et
    al. 2018, arXiv 1802.05814). Held-out users with a single event are not asked, and counted.

    Caveats: as with leave-one-out, training events can be later than a target. Systems that learn something per user have
    nothing to say. Fewer users are asked, so intervals are wider.

    Parameters
    ----------
    valid_users, test_users
        Shares of all users, drawn with the seed.
    policies
        See :class:`Policies`.

    Raises
    ------
    ConfigError
        The shares are not between 0 and 1, or leave nobody for training.
    DataError
        An item is not in the catalogue, or no training event or no question is left.
    """
    if not (valid_users > 0 and test_users > 0 and valid_users + test_users < 1):
        raise ConfigError(
            f"The split got valid_users={valid_users} and test_users={test_users}. Expected two shares of the users above "
            "0 that sum to less than 1."
        )

    def mark(events: Histories, can: NDArray[np.bool_], seed: int) -> tuple[Parts, dict[str, Any]]:
        n_test, n_valid = (round(share * len(events)) for share in (test_users, valid_users))
        drawn = np.random.default_rng(seed).permutation(len(events))
        part_of = np.full(len(events), TRAIN, dtype=np.uint8)  # [U]
        part_of[drawn[:n_test]], part_of[drawn[n_test : n_test + n_valid]] = TEST, VALID
        parts = np.repeat(np.where(part_of == TRAIN, TRAIN, CONTEXT).astype(np.uint8), events.lengths)
        last, _ = last_two(events, can)
        asked = (part_of != TRAIN) & (last >= 0)
        parts[last[asked]] = part_of[asked]
        return parts, {"valid_share": valid_users, "test_share": test_users}

    return _split("users", mark, interactions, catalog, **policies)


def split_by_parts(log: PartedLog, protocol: Protocol) -> Split:
    """Return the split that the parts describe.

    Raises
    ------
    DataError
        A user has two questions of a part, or one with nothing before it.
    """
    return Split(log.training(), log.questions(VALID), log.questions(TEST), protocol, log)


def _split(
    name: str,
    mark: Mark,
    interactions: Interactions,
    catalog: Catalog,
    *,
    dataset: str,
    ties: str = "source",
    seed: int = 0,
    exclude_seen: bool = True,
    repeats: str = "keep",
    cold_items: str = "keep",
    target_event: str | None = None,
) -> Split:
    for policy, value in (("repeats", repeats), ("cold_items", cold_items)):
        if value not in ("keep", "drop"):
            raise ConfigError(f"The split got {policy}={value!r}. Expected 'keep' or 'drop'.")
    ordered = interactions.sort(ties, seed)
    frame = ordered.frame
    events = ordered.histories(catalog)
    parts, facts = mark(events, can_be_targets(frame, target_event), seed)
    log, asked = ask(PartedLog(events, parts), len(catalog), repeats=repeats, cold_items=cold_items)
    same_user = log.owners[1:] == log.owners[:-1]
    same_time = events.timestamps[1:] == events.timestamps[:-1]
    fields = {"short_histories": 0, **asked, **facts}
    protocol = Protocol(
        dataset=dataset,
        dataset_sha256=ordered.sha256(catalog),
        split=name,
        ties=ties,
        seed=seed,
        exclude_seen=exclude_seen,
        items=len(catalog),
        interactions=len(frame),
        # Prompts are written with it, so it must not know of a held-out event.
        time_resolution=time_resolution(events.timestamps[log.parts == TRAIN]),
        tie_rate_neighbours=float(np.mean(same_time[same_user])) if same_user.any() else 0.0,
        first_timestamp=int(events.timestamps.min()),
        last_timestamp=int(events.timestamps.max()),
        repeats=repeats,
        cold_items=cold_items,
        target_event=target_event,
        **fields,
    )
    return split_by_parts(log, protocol)
