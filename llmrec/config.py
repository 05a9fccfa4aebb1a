"""The config of a run: every setting, its unit and its consequence.

The same dotted name is the YAML key, the ``--set`` override and the Python keyword.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "Data",
    "Decoding",
    "EvaluationSettings",
    "Finetune",
    "Identifiers",
    "LanguageModel",
    "Prompt",
    "RunConfig",
    "SplitSettings",
]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class Columns(_Section):
    """Names of the columns in the user's own files."""

    user_id: str = "user_id"
    """Who; read as text."""
    item_id: str = "item_id"
    """What; read as text. Must be in both files."""
    timestamp: str = "timestamp"
    """When: whole or decimal seconds since 1970 (UTC)."""
    title: str = "title"
    """What the language model reads and writes; in the items file."""
    attributes: tuple[str, ...] = ()
    """Further columns of the items file, for prompts ({year}) and for telling equal titles apart."""


class Data(_Section):
    """Where the interactions and the catalogue come from: a data set by name, or two files."""

    dataset: str | None = None
    """Name of a built-in data set, for example ml-100k."""
    interactions: Path | None = None
    """Log with one row per event: .csv, .tsv or .parquet."""
    items: Path | None = None
    """Catalogue with one row per item: .csv, .tsv or .parquet."""
    columns: Columns = Columns()

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        named, files = self.dataset is not None, self.interactions is not None and self.items is not None
        if named == files or (named and (self.interactions or self.items)):
            raise ValueError("expected either 'dataset' (a name) or both 'interactions' and 'items' (files)")
        return self


class SplitSettings(_Section):
    """How the log is divided into training, validation and test."""

    strategy: Literal["leave-one-out"] = "leave-one-out"
    """Each user's last event is the test target and the one before it the validation target."""
    ties: Literal["source", "shuffle"] = "source"
    """Order among equal timestamps: as in the log, or drawn with the run's seed."""
    exclude_seen: bool = True
    """Whether items of a user's own history are ruled out, for every system."""
    short_histories: Literal["error", "train"] = "error"
    """What to do with users of fewer than 3 events: stop, or use them for training only."""


class Prompt(_Section):
    """How a history is put into words."""

    template: str = "items"
    """Name of a template that comes with llmrec (films, products, items), or the path of a .yaml file."""
    time: Literal["none", "gap", "bucket", "date"] = "gap"
    """What {time} says. Never finer than the resolution of the log."""
    min_gap: int = Field(default=3600, ge=1)
    """Seconds; shorter gaps go without saying. Every word costs tokens."""
    max_events: int = Field(default=20, ge=1)
    """Longest history shown, in events; older events are not in the prompt. Cost grows with it."""
    target_time: bool = False
    """Whether the template may say when the target happens. Other systems do not know that: an unfair advantage
    that the report will point out."""


class Identifiers(_Section):
    """What the model generates for an item."""

    scheme: Literal["title"] = "title"
    """title: the item's title."""
    end: str = "\n"
    """Text that ends an identifier; exactly one token."""
    distinguish_by: tuple[str, ...] = ("year",)
    """Attributes to tell items of the same title apart by; numbers where none does."""


class LanguageModel(_Section):
    """The pretrained model."""

    name: str = "smollm2-135m"
    """A built-in name, a local directory, or the id of a repository on the Hugging Face hub."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; auto is bfloat16 on cuda and float32 on a CPU, where bfloat16 is no faster."""


class Finetune(_Section):
    """LoRA fine-tuning on the training histories; every event after the first of a window is a target."""

    steps: int = Field(default=200, ge=1)
    """Optimiser steps. Time grows with steps x batch_size."""
    batch_size: int = Field(default=8, ge=1)
    """Windows of a history per step. Memory grows with it."""
    windows_per_user: int | None = Field(default=None, ge=1)
    """Newest windows of each user to learn from; null for all of the history."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak of the schedule."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """After the warm-up: hold the rate, or let it fall to zero."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps over which the rate rises to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are scaled down."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the update matrices; trainable parameters grow with it."""
    lora_alpha: int = Field(default=32, ge=1)
    """The update is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: all-linear, or names such as [q_proj, v_proj]."""
    save_steps: int = Field(default=25, ge=1)
    """A killed run goes on from the last multiple of this."""

    @field_validator("target_modules", mode="after")
    @classmethod
    def _as_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Read a single name as a list of one, so that a text here always means all-linear."""
        return (value,) if isinstance(value, str) and value != "all-linear" else value


class Decoding(_Section):
    """How the fine-tuned model's recommendations are searched for."""

    search: Literal["beam", "exact"] = "beam"
    """beam: the most probable items, found by beam search. exact: the score of every item, at the cost of one pass over
    the catalogue's distinct prefixes per user; far fewer under catalogue normalisation."""
    beam_width: int = Field(default=20, ge=1)
    """Prefixes kept; at least evaluation.k. Wider finds more probable items and costs more."""
    until_certified: bool = False
    """Widen the beam until the list is provably the model's exact best; cheap under catalogue, dear under vocab."""
    normalisation: Literal["catalogue", "vocab"] = "catalogue"
    """Log-probabilities over the tokens that the catalogue allows, or over the whole vocabulary, as transformers does.
    Over the catalogue, tokens without an alternative cost nothing and the beam is far more often exact."""
    batch_size: int = Field(default=8, ge=1)
    """Users decoded together. Memory grows with it."""


class EvaluationSettings(_Section):
    """What is measured, and on whom."""

    users: int | None = Field(default=None, ge=1)
    """Users of the comparison, a seeded random sample that is the same for every system; null for all."""
    k: int = Field(default=20, ge=1)
    """Length of the recommendation lists."""
    cutoffs: tuple[int, ...] = (1, 5, 10, 20)
    """Ranks at which metrics are cut; none above k."""
    baseline: str = "sasrec"
    """System that all others are tested against."""
    users_shown: int = Field(default=4, ge=0)
    """Users shown in the report with their history and everybody's recommendations, drawn at random."""


class System(BaseModel):
    """One system of the comparison; all other keys are settings of its kind."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str | None = None
    """A built-in recommender, or package.module:Class of your own; the system's name if left out."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings of the kind."""
        return dict(self.model_extra or {})


class RunConfig(_Section):
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
    systems: dict[str, System] = Field(default_factory=lambda: {"llm": System(), "popularity": System()})
    """The systems under comparison, by name."""
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        problems = []
        if not self.systems:
            problems.append("systems: expected at least one")
        if self.evaluation.baseline not in self.systems:
            known = ", ".join(self.systems)
            problems.append(f"evaluation.baseline is {self.evaluation.baseline!r}; expected one of {known}")
        if self.decoding.search == "beam" and self.decoding.beam_width < self.evaluation.k:
            problems.append(
                f"decoding.beam_width is {self.decoding.beam_width}; expected at least evaluation.k = "
                f"{self.evaluation.k}, or lists would be too short"
            )
        if max(self.evaluation.cutoffs, default=0) > self.evaluation.k:
            problems.append(
                f"evaluation.cutoffs go up to {max(self.evaluation.cutoffs)}; expected none above evaluation.k = "
                f"{self.evaluation.k}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
