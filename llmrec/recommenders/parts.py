"""Recommenders that are made of others: how their parts are configured, built and fitted.

Shapes: P parts, U users, N items of the catalogue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from llmrec.config import System
from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders.base import ScoringRecommender
from llmrec.recommenders.registry import build_recommender, recommender_class, system_problems

__all__ = ["MadeOfParts", "Parts", "leaves"]

Parts = Mapping[str, Mapping[str, Any] | None] | Sequence[str]
"""The settings of each part by its name, with ``kind`` where the name is not the kind, as under ``systems``; or a list of
kinds, all with their defaults. A part may set its own ``seed``."""


def leaves(recommender: Any) -> Iterator[Any]:
    """Yield a recommender, or what it is made of, at whatever depth."""
    if not isinstance(recommender, MadeOfParts):
        yield recommender
        return
    for part in recommender.parts_.values():
        yield from leaves(part)


class MadeOfParts(ScoringRecommender):
    """Builds its parts and fits them on the same split; subclasses say what becomes of their scores.

    Parameters
    ----------
    settings
        What its config says: ``parts`` (:data:`Parts`), ``validation_users`` and what subclasses add.
    name
        The name under which its recommendations are stored.
    injected
        What the run gives (catalogue, seed, ...), handed on to the parts that take it.

    Raises
    ------
    ConfigError
        The settings have problems, all of which it names.

    Attributes
    ----------
    parts_
        The recommenders by name.
    """

    def __init__(self, settings: Mapping[str, Any], name: str, **injected: Any) -> None:
        if problems := self.option_problems(settings, name):
            raise ConfigError("; ".join(problems))
        parts: Parts = settings["parts"]
        self.name = name
        # By whom weights are chosen: a sample of so many; None is all.
        self.validation_users: int | None = settings["validation_users"]
        self.seed: int = injected["seed"]
        self.parts_: dict[str, ScoringRecommender] = {
            part: build_recommender(part, system, **injected)
            for part, system in System.model_validate({"parts": parts}).parts().items()
        }
        # The scores of all parts, and what is made of them, are there at once: larger arrays would be new memory for every block.
        self.users_at_once = min(128, *(part.users_at_once for part in self.parts_.values()))
        self.pretrained = tuple(dict.fromkeys(m for part in self.parts_.values() for m in part.pretrained))

    @classmethod
    @abstractmethod
    def option_problems(cls, options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the settings and with those of the parts, each with its dotted name."""

    @classmethod
    def parts_problems(cls, parts: Parts | None, where: str) -> list[str]:
        """Return what is wrong with the parts, each problem with its dotted name."""
        if not parts:
            return [
                f"{where}.parts: got none; expected recommenders, for example {{ease: {{}}, sasrec: {{}}}}"
            ]
        problems = []
        given = parts if isinstance(parts, Mapping) else dict.fromkeys(parts)
        for part, options in given.items():
            here = f"{where}.parts.{part}"
            try:
                system = System.model_validate({} if options is None else options)
            except ValidationError as error:
                wrong = error.errors()[0]
                place = ".".join([here, *map(str, wrong["loc"])])
                problems.append(f"{place}: got {wrong['input']!r}; {wrong['msg'].lower()}")
                continue
            found = system_problems(str(part), system, here, part=True)
            if not found and not issubclass(recommender_class(system.kind_as(str(part))), ScoringRecommender):
                kind = system.kind_as(str(part))
                found = [f"{here}: {kind} does not score all items; expected a ScoringRecommender"]
            problems += found
        return problems

    @staticmethod
    def validation_problems(options: Mapping[str, Any], where: str) -> list[str]:
        """Return what is wrong with the number of validation users."""
        users = options.get("validation_users")
        if users is None or users >= 1:
            return []
        return [f"{where}.validation_users: got {users}; expected 1 or more, or null for all"]

    @property
    def device_(self) -> str:
        """The GPU of the first part that has one, or the CPU."""
        devices = [str(getattr(part, "device_", "cpu")) for part in self.parts_.values()]
        return next((d for d in devices if d != "cpu"), "cpu")

    def sample(self, users: Holdout) -> Holdout:
        """Return those of some validation users by whom weights are chosen."""
        return users.select(users.sample_rows(self.validation_users, self.seed))

    def blocks(self, users: Holdout) -> Iterator[Holdout]:
        """Yield as many users as are scored at once."""
        return users.blocks(self.users_at_once)

    def fit_parts(self, split: Split) -> None:
        """Fit each."""
        for part in self.parts_.values():
            part.fit(split)
        self._count_spared()

    def part_scores(self, histories: Histories) -> NDArray[np.float64]:
        """Return the scores of all parts [P, U, N]."""
        scores = np.stack([np.asarray(part.score(histories), np.float64) for part in self.parts_.values()])
        self._count_spared()
        return scores

    def _count_spared(self) -> None:
        self.spared_seconds_ = sum(part.spared_seconds_ for part in self.parts_.values())
