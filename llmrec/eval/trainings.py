"""Evaluations that belong together: the same users in the same order, and the trainings of one system as one.

Shapes: U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.data.protocol import Protocol
from llmrec.errors import DataError
from llmrec.eval.evaluate import Cost, Evaluation

__all__ = ["aligned", "check_protocols", "mean_cost", "user_means"]


def user_means(trainings: Sequence[Evaluation], metric: str) -> NDArray[np.float64]:
    """Return each user's value of a metric, the mean over the trainings of one system [U]."""
    return np.asarray(np.mean([e.values(metric) for e in trainings], axis=0), dtype=np.float64)


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """Return the mean of each figure over the trainings of a system, where it was measured in all of them."""
    means: dict[str, Any] = {}
    for field in fields(Cost):
        found = [getattr(cost, field.name) for cost in costs]
        if field.name == "device":
            means[field.name] = " and ".join(dict.fromkeys(filter(None, found)))
        elif None not in found:
            mean = sum(found) / len(found)
            means[field.name] = round(mean) if all(isinstance(value, int) for value in found) else mean
    return Cost(**means)


def aligned(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations with the users in the order of the first.

    Raises
    ------
    DataError
        There are none, one occurs twice, or users, targets or protocols differ.
    """
    if not evaluations:
        raise DataError(
            "There is nothing to compare. Expected at least one evaluation: evaluate a system first."
        )
    _check_seeds(evaluations)
    first = evaluations[0]
    found = [first]
    for e in evaluations[1:]:
        check_protocols(first.protocol, e.protocol, first.system, e.system)
        if len(e) != len(first):
            raise DataError(
                f"{e.system!r} was evaluated on {len(e):,} users and {first.system!r} on {len(first):,}. Expected "
                "the same users for all systems: evaluate all on the same test users or the same sample."
            )
        rows = e.for_users(first.user_ids)
        targets = tuple(e.target_items[row] for row in rows)
        if targets != first.target_items:
            raise DataError(
                f"{e.system!r} and {first.system!r} were asked for different items. Expected the same target "
                "for each user: evaluate both on the same split."
            )
        found.append(e.take(rows))
    return found


def check_protocols(ours: Protocol, theirs: Protocol, our_name: str, their_name: str) -> None:
    """Refuse two protocols that do not ask the same questions, by the first thing in which they differ.

    Raises
    ------
    DataError
        They differ.
    """
    a, b = _what_decides(ours), _what_decides(theirs)
    if a != b:
        field = next(name for name in {**a, **b} if a.get(name) != b.get(name))
        raise DataError(
            f"{their_name!r} was evaluated with {field} = {b.get(field)!r} and {our_name!r} with "
            f"{a.get(field)!r}. Expected one protocol for all systems, because their numbers cannot be "
            "compared otherwise: evaluate them again on the same split."
        )


def _check_seeds(evaluations: Sequence[Evaluation]) -> None:
    seen: set[tuple[str, Any]] = set()
    for e in evaluations:
        seed = e.meta.get("seed")
        if (e.system, seed) in seen:
            raise DataError(
                f"System {e.system!r} occurs more than once"
                + (f" with seed {seed}" if seed is not None else "")
                + ". Expected one evaluation per system, or trainings with different seeds (meta['seed']): give "
                "different names."
            )
        seen.add((e.system, seed))


def _what_decides(protocol: Protocol) -> dict[str, Any]:
    """Return the protocol without a seed that decided nothing, and else with it before what comes of it."""
    content = protocol.to_dict()
    seed = content.pop("seed")
    # What the split leaves to chance: the order of ties, who is asked about in the validation, and which users are held out.
    if protocol.ties == "shuffle" or protocol.valid_share is not None or protocol.split == "users":
        content = {"seed": seed, **content}
    return content
