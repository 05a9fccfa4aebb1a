"""What a report can show beside the numbers; all of it is optional and left out where it is not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmrec.eval.compare import Comparison

__all__ = [
    "Curve",
    "ExampleEvent",
    "ExampleItem",
    "LLMNotes",
    "NoteTable",
    "ReportContext",
    "Tuning",
    "UserExample",
]


@dataclass(frozen=True)
class ExampleEvent:
    """One event of a user's history, as shown."""

    title: str
    date: str = ""  # in words, at the resolution of the data
    detail: str = ""  # year, genres, rating, ...


@dataclass(frozen=True)
class ExampleItem:
    """One recommended item, as shown."""

    title: str
    detail: str = ""


@dataclass(frozen=True)
class UserExample:
    """One user: what came before, what each system recommends, and what really came next."""

    user_id: str
    history: tuple[ExampleEvent, ...]  # oldest first; the most recent ones are enough
    history_length: int  # of the whole history
    target: ExampleEvent  # the true next item
    lists: Mapping[str, tuple[ExampleItem, ...]]  # system -> its top few, best first
    ranks: Mapping[str, int | None]  # system -> rank of the target; None where it is not in the list
    list_lengths: Mapping[str, int] = field(default_factory=dict)  # system -> how deep its list goes
    prompt: str = ""  # the prompt text exactly as the language model got it


@dataclass(frozen=True)
class Curve:
    """One training curve; each has a plot of its own, because the units differ."""

    title: str  # "SASRec: NDCG@10 on validation users"
    x_label: str  # "epoch"
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    chosen_x: float | None = None  # where training was stopped or which epoch was kept


@dataclass(frozen=True)
class LLMNotes:
    """How the language model was used; fields left at their default are not shown."""

    system: str = "llm"  # the evaluation these notes belong to
    model: str = ""  # name and revision of the pretrained model
    parameters: int | None = None
    trainable_parameters: int | None = None
    adapter: str = ""  # "LoRA, r = 16, all linear layers"
    identifiers: str = ""  # how items are written: "title", "semantic id", ...
    tokens_trained: int | None = None  # tokens that went forward and backward, epochs counted
    targets_trained: int | None = None  # next items the loss was computed on, epochs counted
    epochs: float | None = None
    decoding: str = ""  # "torch beam, width 20, normalised over the vocabulary"
    template: str = ""  # the text of the prompt template
    time_in_words: str = ""  # how time is written in the prompt: "none", "gap to the previous event", ...


@dataclass(frozen=True)
class Tuning:
    """What was spent on choosing a system's settings, all of it on the validation questions."""

    trials: int | None = None  # settings that were tried
    seconds: float | None = None  # wall clock, all trials
    best: float | None = None  # value of the chosen one
    metric: str = "ndcg@10"  # what settings were chosen by
    sampler: str = ""  # how settings were drawn


@dataclass(frozen=True)
class NoteTable:
    """A small table of anything else that was measured; numbers are formatted, texts are shown as they are."""

    title: str
    note: str = ""  # one or two sentences: what it says
    header: tuple[str, ...] = ()  # the first names the rows; none where the note says all
    rows: tuple[
        tuple[str | float | int | None, ...], ...
    ] = ()  # each as long as the header; None prints a dash


@dataclass(frozen=True, eq=False)
class ReportContext:
    """Everything a report shows that is not in the :class:`~llmrec.eval.compare.Comparison`."""

    run_name: str = "llmrec run"
    created: str = ""  # date of the run, in words
    warnings: tuple[str, ...] = ()  # sentences a reader must see before the numbers
    told_when: frozenset[str] | None = None  # systems told when the next event happens; None: not known
    sample_note: str = ""  # a sentence: how a sample of the users was drawn, with the seed
    all_users: Comparison | None = None  # systems that recommended to *all* test users, where the main
    # comparison is on a sample
    llm: tuple[LLMNotes, ...] = ()  # one per language model in the comparison
    certified: Mapping[str, float] = field(default_factory=dict)  # system -> share of users whose beam is
    # proven to hold the true top-k, as a fraction of 1
    free: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # system that writes without the
    # trie -> shares of its texts: valid, duplicates, excluded
    tuning: Mapping[str, Tuning] = field(default_factory=dict)  # system -> what choosing its settings took
    diagnostics: tuple[NoteTable, ...] = ()
    curves: tuple[Curve, ...] = ()
    users: tuple[UserExample, ...] = ()
    users_seed: int | None = None  # the seed with which ``users`` were drawn at random
    provenance: tuple[str, ...] = ()  # where data and model come from and under which licence, one line each
    cleaning: tuple[NoteTable, ...] = ()  # what was left out of the data and changed in it, one table per run
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    config_yaml: str = ""  # the resolved config
    command: str = ""  # the command that makes this report again
    hardware: str = ""  # in words, for the cost table
