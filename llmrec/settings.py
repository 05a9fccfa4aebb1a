"""The sections of a config: every setting, its unit and its consequence.

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
    "NewTokens",
    "Prompt",
    "Section",
    "SplitSettings",
    "Tuned",
    "Tuning",
    "Validation",
]


class Section(BaseModel):
    """Settings that belong together: no unknown names, not changed once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class Columns(Section):
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


class Data(Section):
    """Where the interactions and the catalogue come from: a data set by name, or two files."""

    dataset: str | None = None
    """Name of a built-in data set, for example ml-100k; all: llmrec data sets."""
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
    valid_users: float = Field(default=0.1, gt=0, lt=1)
    """users: share of the users held out for the validation, drawn with the run's seed."""
    test_users: float = Field(default=0.1, gt=0, lt=1)
    """users: share of the users held out for the test. Intervals get narrower with it, and training smaller."""
    ties: Literal["source", "shuffle"] = "source"
    """Order among equal timestamps: as in the log, or drawn with the run's seed."""
    exclude_seen: bool = True
    """Whether items of a user's own history are ruled out, for every system."""
    repeats: Literal["keep", "drop"] = "keep"
    """What to do with questions whose target the user has seen before: ask them (under exclude_seen they are misses for
    every system), or leave them out. Both are counted."""
    cold_items: Literal["keep", "drop"] = "keep"
    """What to do with questions whose target nobody has in training: ask them (only a system that reads content can tell
    such items apart), or leave them out. Both are counted; the whole catalogue is ranked in any case."""
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


class Prompt(Section):
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


class Identifiers(Section):
    """What the model generates for an item."""

    scheme: str = "title"
    """title: the item's title. index: a number, in digits. semantic: a path of cluster codes. token: one new token per
    item, the cheapest to train and to decode. Or package.module:Class of your own."""
    end: str = "\n"
    """title, index: text that ends an identifier; exactly one token."""
    distinguish_by: tuple[str, ...] = ("year",)
    """title: attributes to tell items of the same title apart by; numbers where none does."""
    numbering: Literal["sequential", "collaborative"] = "sequential"
    """index: by first appearance in the training histories, or so that similar items have numbers that begin alike."""
    levels: int = Field(default=3, ge=1, le=26)
    """semantic: codes per item."""
    codes: int = Field(default=64, ge=2)
    """semantic: cluster centres per level. levels x codes new tokens; codes ** levels should be many times the number of
    items."""
    vectors: Literal["title", "collaborative", "both"] = "title"
    """semantic: what is clustered: the language model's view of the titles, the item vectors of collaborative_system, or
    both. New items can get codes without training under title only."""
    collaborative_system: str = "sasrec"
    """Name of the system in 'systems' whose item vectors are meant wherever a setting says collaborative. It is fitted
    first, on the training histories alone."""


class LanguageModel(Section):
    """The pretrained model."""

    name: str = "smollm2-135m"
    """A built-in name, a local directory, or the id of a repository on the Hugging Face hub."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; auto is bfloat16 on cuda and float32 on a CPU, where bfloat16 is no faster."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Load the frozen weights in 8 bits (LLM.int8) or 4 bits (NF4) through bitsandbytes: a quarter to a half of the
    memory on a GPU; on a CPU about twice the time."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel for training; auto is flash_attention_2 where it is installed and the model is on cuda, else sdpa.
    Decoding always uses sdpa."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Use only the first layers of the model; null for all. Time falls in proportion, quality less where every item is
    a token; a model that writes titles needs its depth."""
    trust_remote_code: bool = False
    """Run code that comes with a model. Only for models whose code you have read."""


class NewTokens(Section):
    """Embeddings of the tokens that the pretrained model lacks (schemes semantic and token)."""

    start: Literal["title", "collaborative"] = "title"
    """title: each token's two embeddings are free and start from the mean of its items' title tokens. collaborative: they
    are linear maps of the item vectors of identifiers.collaborative_system, which needs far less data."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak for free embeddings, or for the maps; they are new and can move faster than the adapters."""
    vector_learning_rate: float = Field(default=5e-4, gt=0)
    """Peak for the item vectors under start: collaborative; they are fitted already and should not move far."""
    temperature: float | None = Field(default=None, gt=0)
    """Under start: collaborative and with one token an item, train the softmax over cosines divided by this, as SASRec does
    here (0.1); the saved head is a plain product that ranks alike. null: train the product itself."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Share of features zeroed in training, of new tokens' input embeddings and of the states that score them."""


class Validation(Section):
    """Early stopping by the validation questions of the split."""

    every: float | None = Field(default=None, gt=0)
    """Epochs between validations; null for none, and the last step's adapter is kept."""
    metric: Literal["loss", "ndcg@10"] = "ndcg@10"
    """loss: nats per validation target, cheap. ndcg@10: of the decoded lists, the whole catalogue ranked."""
    users: int | None = Field(default=300, ge=1)
    """Users validated on, a seeded random sample; null for all."""
    patience: int = Field(default=3, ge=1)
    """Validations without a better value before training stops."""


class Finetune(Section):
    """LoRA fine-tuning on the training histories."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training events; a fraction stops earlier."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of epochs."""
    examples: Literal["every-event", "one-target"] = "every-event"
    """every-event: each event after the first of a window is a target. one-target: a prompt per target, as in most
    published work; same loss, many times the cost."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Tokens per optimiser step with their padding, on all devices together: the result does not depend on the number of
    devices."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that go through the model at once on a device; null for all of its share. Lower it when memory runs out: the
    result stays the same."""
    windows_per_user: int | None = Field(default=None, ge=1)
    """Newest windows of each user to learn from; null for all of the history."""
    loss: Literal["catalogue", "vocab"] = "catalogue"
    """catalogue: cross-entropy over the tokens that the catalogue allows, which is what decoding over the catalogue
    asks for; the model's head is computed for these tokens only. vocab: over the whole vocabulary."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability mass spread evenly over the allowed tokens."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Peak for the adapters."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """After the warm-up: hold the rate, or let it fall to zero."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps over which the rate rises to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the adapters."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are scaled down."""
    lora_rank: int = Field(default=16, ge=1)
    """Rank of the update matrices; trainable parameters grow with it."""
    lora_alpha: int = Field(default=32, ge=1)
    """The update is scaled by lora_alpha / lora_rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs zeroed in training."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: all-linear (the head excepted), or names such as [q_proj, v_proj]."""
    new_tokens: NewTokens = NewTokens()
    validation: Validation = Validation()
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time for a fraction of the memory."""
    save_steps: int = Field(default=25, ge=1)
    """A killed run goes on from the last multiple of this."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the curves: tensorboard, trackio, wandb, mlflow ... (what accelerate knows and is installed)."""

    @field_validator("target_modules", mode="after")
    @classmethod
    def _as_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Read a single name as a list of one, so that a text here always means all-linear."""
        return (value,) if isinstance(value, str) and value != "all-linear" else value


class Decoding(Section):
    """How the fine-tuned model's recommendations are searched for."""

    search: Literal["beam", "exact", "free"] = "beam"
    """beam: the most probable items, found by beam search. exact: the score of every item, at the cost of one pass over
    the catalogue's distinct prefixes per user; far fewer under catalogue normalisation. free: the most probable texts,
    whether they are items or not, of which a list keeps those that are; for comparison."""
    beam_width: int = Field(default=20, ge=1)
    """Prefixes kept, and texts written by a free search; at least evaluation.k. Wider finds more probable items and costs more."""
    until_certified: bool = False
    """Widen the beam until the list is provably the model's exact best; cheap under catalogue, dear under vocab."""
    normalisation: Literal["catalogue", "vocab"] = "catalogue"
    """Log-probabilities over the tokens that the catalogue allows, or over the whole vocabulary, as transformers does.
    Over the catalogue, tokens without an alternative cost nothing and the beam is far more often exact."""
    batch_size: int = Field(default=8, ge=1)
    """Users decoded together by torch. Memory grows with it; vLLM makes its own batches."""
    backend: Literal["torch", "vllm"] = "torch"
    """What runs the model. vllm: the same search in a vLLM engine, for many users (docs/vllm.md)."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """More for vllm.LLM, for example {max_model_len: 1024, gpu_memory_utilization: 0.8}."""


class EvaluationSettings(Section):
    """What is measured, and on whom."""

    users: int | None = Field(default=None, ge=1)
    """Users of the comparison, a seeded random sample that is the same for every system; null for all."""
    users_seed: int | None = Field(default=None, ge=0)
    """Draws that sample; the run's seed if left out. Set it where runs of several seeds are to be compared on the same
    users."""
    k: int = Field(default=20, ge=1)
    """Length of the recommendation lists."""
    cutoffs: tuple[int, ...] = (1, 5, 10, 20)
    """Ranks at which metrics are cut; none above k."""
    baseline: str = "sasrec"
    """System that all others are tested against."""
    users_shown: int = Field(default=4, ge=0)
    """Users shown in the report with their history and everybody's recommendations, drawn at random."""


class Tuned(Section):
    """What choosing one system's settings took, as ``llmrec tune`` writes it into the config it makes."""

    options: dict[str, Any]
    """The options that were chosen."""
    trials: int
    """Sets of options that were tried, those of the config first; failed and pruned ones count."""
    failed: int
    """Trials of these that ended in an error."""
    pruned: int
    """Trials of these that were stopped early as hopeless."""
    seconds: float
    """Wall time of all trials."""
    sampler: str
    """How options were drawn."""
    metric: str
    """What the trials were ranked by."""
    users: int
    """Validation users that it was measured on."""
    default: float | None
    """Its value with the options of the config; null if that trial failed."""
    best: float
    """Its value with the options chosen."""


class Tuning(Section):
    """The search for every system's settings by 'llmrec tune', on the validation questions and with one budget for all."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: learns from the trials before (tree-structured Parzen estimator; the first ten are drawn at random). random:
    does not. grid: every combination, in random order; ranges need a step."""
    trials: int | None = Field(default=20, ge=1)
    """Sets of options tried per system, the config's own included; null for as many as 'seconds' allows."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time per system after which no further trial begins; null for no limit. The trial that is running is finished,
    and the first is always done."""
    metric: str = "ndcg@10"
    """What is maximised: a ranking metric (ndcg, hr, mrr) and its cutoff, the whole catalogue ranked."""
    users: int | None = Field(default=300, ge=1)
    """Validation users that a trial of the language model is measured on, a seeded random sample that is the same in every
    trial; null for all. Other systems cost so little that they are measured on all."""
    prune: bool = False
    """Stop a trial whose best epoch so far is below the median of the trials before at that epoch (after 5 trials, from
    epoch 5 on; sasrec and its like). Saves time, and may stop one that starts slowly."""
    spaces: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By system, the options to choose and their values: choices [32, 64, 128], or a range {low: 1.0e-4, high: 1.0e-2, log:
    true} with whole numbers where both ends are, and 'step'. Options of the language model have dotted names such as
    finetune.learning_rate. {} leaves a system as it is; a built-in kind that is not named has a space of its own
    (docs/tuning.md)."""
    record: dict[str, Tuned] = Field(default_factory=dict)
    """What a tuning has found, by system, for the report; written by 'llmrec tune', decides nothing."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Tuning:
        problems = []
        if self.trials is None and self.seconds is None:
            problems.append("trials and seconds are both null; expected a limit, the same for every system")
        if self.prune and self.metric != "ndcg@10":
            problems.append(
                f"prune is true and metric is {self.metric}; expected ndcg@10, which epochs report"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
