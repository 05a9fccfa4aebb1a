"""The config of a run: its sections (:mod:`llmrec.settings`), the systems under comparison, and what must fit together."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

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
        problems = []
        if not self.systems:
            problems.append("systems: expected at least one")
        if self.evaluation.baseline not in self.systems:
            known, baseline = ", ".join(self.systems), self.evaluation.baseline
            given = "baseline" in self.evaluation.model_fields_set
            is_ = (
                f"is {baseline!r}"
                if given
                else f"is not set, and its default, {baseline!r}, is none of the systems"
            )
            problems.append(f"evaluation.baseline {is_}; expected one of {known}")
        problems += [
            f"systems.{name}: names that end in .seed and a number are those of a system's further trainings; expected "
            "another name"
            for name in self.systems
            if re.search(r"\.seed\d+$", name)
        ]
        problems += [
            f"systems.{name or repr(name)}: its lists are a file of that name; expected one without a slash that begins with none of .~-"
            for name in self.systems
            if not name or name[0] in ".~-" or "/" in name or "\\" in name
        ]
        problems += self._decoding_problems()
        if not self.prompt.target_time:
            problems += [
                f"systems.{name} is to be told when the target happens (target_time), and prompt.target_time, by which the questions tell "
                "it, is false; expected both or neither"
                for name in self.told_when
            ]
        if self.split.target_event is not None and self.data.columns.event is None:
            problems.append(
                "split.target_event is set; expected data.columns.event, the column that says what kind an event is"
            )
        if "age" in self.prompt.time_styles and self.finetune.examples != "one-target":
            problems.append(
                "prompt.time has age, which is relative to the moment of asking, and with finetune.examples: every-event each "
                "event of a document is asked for at a moment of its own; expected finetune.examples: one-target with it, or "
                "gap, bucket or date"
            )
        aligned = "finetune.new_tokens.start: collaborative" in self.collaborative_reasons
        if aligned and self.finetune.loss == "vocab":
            problems.append(
                "finetune.loss is vocab and finetune.new_tokens.start is collaborative; expected loss: catalogue with "
                "it, or start: title"
            )
        if self.finetune.new_tokens.temperature is not None and not (
            aligned and self.identifiers.scheme == "token"
        ):
            problems.append(
                "finetune.new_tokens.temperature is set; expected identifiers.scheme: token and "
                "finetune.new_tokens.start: collaborative with it, or null"
            )
        if self.collaborative_reasons and self.identifiers.collaborative_system not in self.systems:
            known = ", ".join(self.systems)
            problems.append(
                f"identifiers.collaborative_system is {self.identifiers.collaborative_system!r} and "
                f"{self.collaborative_reasons[0]} needs its item vectors; expected one of the systems: {known}"
            )
        problems += self._teacher_problems() + self._selection_problems() + self._negatives_problems()
        if max(self.evaluation.cutoffs, default=0) > self.evaluation.k:
            problems.append(
                f"evaluation.cutoffs go up to {max(self.evaluation.cutoffs)}; expected none above evaluation.k = "
                f"{self.evaluation.k}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _other_system_problems(self, where: str, name: str) -> list[str]:
        if name not in self.systems:
            return [f"{where} is {name!r}; expected one of the systems: {', '.join(self.systems)}"]
        if self.has_language_model(name):
            return [
                f"{where} is {name!r}, which is the language model itself or has it as a part; expected another system"
            ]
        return []

    def _selection_problems(self) -> list[str]:
        selection, where = self.finetune.selection, "finetune.selection.surrogate"
        if self.surrogate is not None:
            return self._other_system_problems(where, self.surrogate)
        if selection.share < 1 and selection.by != "random":
            return [
                f"finetune.selection.by is {selection.by} and {where} is not set; expected a cheap one of the systems, which chooses: "
                f"{', '.join(name for name in self.systems if not self.has_language_model(name))}"
            ]
        return []

    def _teacher_problems(self) -> list[str]:
        name, where = self.teacher, "finetune.distillation.teacher"
        if name is None:
            return []
        problems = self._other_system_problems(where, name)
        if self.identifiers.scheme != "token" or self.finetune.loss != "catalogue":
            problems.append(
                f"{where} is set; expected identifiers.scheme: token and finetune.loss: catalogue with it, since a teacher speaks "
                "of items and not of the tokens of their names"
            )
        return problems

    def _negatives_problems(self) -> list[str]:
        if self.finetune.negatives == "all":
            return []
        problems = []
        if self.identifiers.scheme != "token" or self.finetune.loss != "catalogue":
            problems.append(
                "finetune.negatives is warm; expected identifiers.scheme: token and finetune.loss: catalogue with it, since parts of "
                "longer identifiers are shared by items with and without events"
            )
        if self.finetune.validation.every is not None and self.finetune.validation.metric == "loss":
            problems.append(
                "finetune.negatives is warm and finetune.validation.metric is loss, which is infinite where the target is an item "
                "without training events; expected metric: ndcg@10"
            )
        return problems

    def _decoding_problems(self) -> list[str]:
        problems = []
        # Without a language model the section decides nothing.
        ways = {"decoding": self.decoding} if self.llm_systems else {}
        for name in self.llm_systems:
            if self.systems[name].options:
                # A value that makes no sense is reported with the other options of systems.
                with contextlib.suppress(ValidationError):
                    ways[f"systems.{name}"] = self.decoding_for(name)
        for where, decoding in ways.items():
            if decoding.search != "exact" and decoding.beam_width < self.evaluation.k:
                problems.append(
                    f"{where}.beam_width is {decoding.beam_width}; expected at least evaluation.k = "
                    f"{self.evaluation.k}, or lists would be too short"
                )
            if decoding.search == "exact" and decoding.backend == "vllm":
                problems.append(
                    f"{where}.search is exact and decoding.backend is vllm; expected backend: torch with it, or search: "
                    "beam with until_certified: true, which is exact too"
                )
        return problems

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
