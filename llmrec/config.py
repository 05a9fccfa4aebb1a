"""The config of a run: its sections (:mod:`llmrec.settings`), the systems under comparison, and what must fit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from llmrec.config_problems import config_problems
from llmrec.settings import (
    Data,
    Decoding,
    EvaluationSettings,
    Finetune,
    Identifiers,
    LanguageModel,
    Prompt,
    Section,
    SplitSettings,
    Tuning,
)

__all__ = ["GUIDED", "LLM", "RunConfig", "System"]

LLM = "llm"
"""The kind of system that the sections prompt, identifiers, model, finetune and decoding configure."""
GUIDED = "guided"
"""The kind of system that steers the language model's search, as the section decoding configures it."""


class System(BaseModel):
    """One system of the comparison; all other keys are settings of its kind."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str | None = None
    """A built-in recommender, or package.module:Class of your own; the system's name if left out."""
    seeds: int = Field(default=1, ge=1)
    """How often it is trained, with the run's seed and the ones that follow. Its numbers are means over the trainings, and
    the report shows their spread; the time grows in proportion."""

    def kind_as(self, name: str) -> str:
        """Return the kind of a system of this name."""
        return self.kind or name

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the kind."""
        return dict(self.model_extra or {})

    def parts(self) -> dict[str, System]:
        """Return the systems that it is made of, by name; none where ``parts`` is no setting of it, or malformed."""
        given = self.options.get("parts")
        if isinstance(given, (list, tuple)):
            given = {part: None for part in given if isinstance(part, str)}
        found = {}
        for part, options in given.items() if isinstance(given, Mapping) else ():
            # What is malformed is reported with the other settings of systems.
            with contextlib.suppress(ValidationError):
                found[str(part)] = System.model_validate({} if options is None else options)
        return found

    def flattened(self, name: str) -> Iterator[tuple[str, System]]:
        """Yield a system of this name and its parts, and theirs, by name."""
        yield name, self
        for part, system in self.parts().items():
            yield from system.flattened(part)

    def has_kind(self, kind: str, name: str) -> bool:
        """Return whether a system of this name is of a kind, or any part of it."""
        return any(system.kind_as(part) == kind for part, system in self.flattened(name))


class RunConfig(Section):
    """Everything that decides what a run makes."""

    name: str
    """Title of the report."""
    output: Path
    """Run directory; everything is written below it."""
    seed: int = Field(default=0, ge=0)
    """Decides every random draw of the run."""
    data: Data
    split: SplitSettings = SplitSettings()
    prompt: Prompt = Prompt()
    identifiers: Identifiers = Identifiers()
    model: LanguageModel = LanguageModel()
    finetune: Finetune = Finetune()
    decoding: Decoding = Decoding()
    systems: dict[str, System] = Field(
        default_factory=lambda: {"llm": System(), "sasrec": System(), "popularity": System()}
    )
    """The systems under comparison, by name."""
    evaluation: EvaluationSettings = EvaluationSettings()
    tuning: Tuning = Tuning()
    _files: dict[str, str] | None = PrivateAttr(default=None)

    @property
    def files(self) -> dict[str, str] | None:
        """Digests of the files that the run was made of, where it is to be used as it is whatever has become of them."""
        return self._files

    def made_of(self, files: Mapping[str, str]) -> RunConfig:
        """Return this config as that of a run that is there, and was made of files with these digests."""
        copy = self.model_copy()
        copy._files = dict(files)
        return copy

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if problems := config_problems(self):
            raise ValueError("\n".join(problems))
        return self

    @property
    def llm_systems(self) -> list[str]:
        """Names of the systems that are the language model."""
        return [name for name, system in self.systems.items() if system.kind_as(name) == LLM]

    @property
    def served_system(self) -> str | None:
        """The language-model system whose lists are for others than the run's report: the first that is kept inside the catalogue."""
        return min(self.llm_systems, key=lambda name: self.decoding_for(name).search == "free", default=None)

    @property
    def told_when(self) -> list[str]:
        """Names of the systems, the language model aside, of which any part is told when the target happens."""
        return [
            name
            for name, system in self.systems.items()
            if any(part.options.get("target_time") for _, part in system.flattened(name))
        ]

    def has_language_model(self, system: str) -> bool:
        """Return whether a system is the language model or has it as a part."""
        return self.systems[system].has_kind(LLM, system)

    @property
    def language_systems(self) -> list[str]:
        """Names of the systems that show what the language model can do: it by itself, or else those it is a part of."""
        return self.llm_systems or [name for name in self.systems if self.has_language_model(name)]

    def trainings(self, system: str) -> dict[str, int]:
        """Return the seed of each training of a system, by the name of its lists: ``{"sasrec": 0, "sasrec.seed1": 1}``."""
        further = range(self.seed + 1, self.seed + self.systems[system].seeds)
        return {system: self.seed, **{f"{system}.seed{seed}": seed for seed in further}}

    def decoding_for(self, system: str) -> Decoding:
        """Return the section decoding with what one language-model system sets otherwise.

        A system that has the language model as a part has all items scored by it, in torch; a guided one has its beam search.
        """
        if system not in self.llm_systems:
            guided = self.systems[system].kind_as(system) == GUIDED
            inside = {"search": "beam"} if guided else {"search": "exact", "until_certified": False}
            return self.decoding.model_copy(update={**inside, "backend": "torch"})
        return Decoding.model_validate({**self.decoding.model_dump(), **self.systems[system].options})

    @property
    def split_seed(self) -> int:
        """The seed that draws what the split leaves to chance."""
        return self.seed if self.split.seed is None else self.split.seed

    @property
    def sample_seed(self) -> int:
        """The seed that draws the sample of users."""
        seed = self.evaluation.users_seed
        return self.seed if seed is None else seed

    @property
    def prompt_timezone(self) -> str:
        """The zone in which prompts tell the time."""
        return self.prompt.timezone or self.data.cleaning.timezone

    @property
    def teacher(self) -> str | None:
        """The system that the language model learns from, where there is one."""
        return self.finetune.distillation.teacher if self.language_systems else None

    @property
    def surrogate(self) -> str | None:
        """The system that chooses the users whom the language model learns from, where one does."""
        selection = self.finetune.selection
        asked = self.language_systems and selection.share < 1 and selection.by != "random"
        return selection.surrogate if asked else None

    @property
    def collaborative_reasons(self) -> list[str]:
        """Settings that need the item vectors of ``identifiers.collaborative_system``."""
        identifiers, reasons = self.identifiers, []
        if identifiers.scheme == "index" and identifiers.numbering == "collaborative":
            reasons.append("identifiers.numbering: collaborative")
        if identifiers.scheme == "semantic" and identifiers.vectors != "title":
            reasons.append(f"identifiers.vectors: {identifiers.vectors}")
        if identifiers.scheme not in ("title", "index") and self.finetune.new_tokens.start == "collaborative":
            reasons.append("finetune.new_tokens.start: collaborative")
        return reasons
