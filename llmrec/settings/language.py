"""The language model: what it reads and writes, how it is tuned, and how its lists are searched for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from llmrec.errors import nearest
from llmrec.settings.section import Section, TimeZone

__all__ = [
    "TIME_STYLES",
    "Decoding",
    "Finetune",
    "Identifiers",
    "LanguageModel",
    "NewTokens",
    "Prompt",
    "Validation",
]

TIME_STYLES = {
    "none": "say nothing about time",
    "gap": "the time since the event before, e.g. '3 days later'",
    "bucket": "the same in classes: hours, days, weeks, months or years later",
    "unit": "the largest unit of it in a word, e.g. 'days' or, with a min_gap of 1, 'seconds'",
    "date": "the date, whenever it differs from that of the event before, e.g. '20 September 1997'",
    "weekday": "the day of the week, whenever it differs, e.g. 'Monday'",
    "part_of_day": "morning, afternoon, evening or night, whenever it differs",
    "hour": "the hour, whenever it differs, e.g. '2 pm'",
    "season": "the season, whenever it differs, e.g. 'winter'",
    "session": "'new visit' after a pause",
    "age": "the time up to the newest known event, whenever it differs, e.g. '2 weeks ago'",
}
"""What a prompt can say about the time of an event."""


class Prompt(Section):
    """How a history is put into words."""

    template: str = "items"
    """Name of a template that comes with llmrec (items, films, products, brief, bare: prompts/README.md), or the path of a .yaml file."""
    time: str = "gap"
    """What {time} says: none, gap, bucket, unit, date, weekday, part_of_day, hour, season, session or age, or several of them,
    joined by +: gap+weekday. Never finer than the resolution of the log: part_of_day and hour need a log that knows hours. age
    needs finetune.examples: one-target (prompts/README.md)."""
    min_gap: int = Field(default=3600, ge=1)
    """Seconds; shorter gaps and ages go without saying, and longer ones begin a session. Every word costs tokens; 1 says of every event
    that is not tied with the one before that it is not."""
    timezone: TimeZone | None = None
    """IANA name of the zone in which dates, weekdays and hours are told; null for that of data.cleaning.timezone. Days of a
    log of days are told as they are."""
    hemisphere: Literal["north", "south"] = "north"
    """Where the users' seasons are."""
    max_events: int = Field(default=20, ge=1)
    """Longest history shown, in events; older events are not in the prompt. Cost grows with it."""
    target_time: bool = False
    """Whether the questions of validation and test tell when their targets happen: the template may say it then, and sequence models with
    target_time: true read it. All other systems do not know: an unfair advantage that the report will point out."""

    @property
    def time_styles(self) -> tuple[str, ...]:
        """The styles that ``time`` joins."""
        return tuple(self.time.split("+"))

    @field_validator("time")
    @classmethod
    def _known_styles(cls, value: str) -> str:
        styles = value.split("+")
        problems = [
            f"there is no time style {style!r}{nearest(style, TIME_STYLES)}; expected some of {', '.join(TIME_STYLES)}, joined by +"
            for style in styles
            if style not in TIME_STYLES
        ]
        if len(set(styles)) < len(styles) or (len(styles) > 1 and "none" in styles):
            problems.append(f"{value!r} says a style twice, or none among others; expected each once")
        if problems:
            raise ValueError("; ".join(problems))
        return value


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
    """Attention kernel for training; auto is sdpa, whose causal kernel is flash attention's on a GPU. flash_attention_2 needs the
    package flash-attn and bfloat16. Decoding always uses sdpa."""
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
    """Share of features zeroed in training, of new tokens' input embeddings and of the states that score them, under
    finetune.loss: catalogue; under vocab none are."""


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


class Distillation(Section):
    """Learning from another recommender, a teacher, beside the events (Hinton et al. 2015): with identifiers.scheme: token only."""

    teacher: str | None = None
    """Name of the system in 'systems' to learn from; null for none. Any that scores all items and has no language model in
    it, a hybrid too. It is fitted first, on the training histories alone."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Share of the target that is the teacher's distribution over the items; the rest is the item that came next."""
    top_items: int = Field(default=100, ge=1)
    """Most probable items of the teacher that are kept for each training event; what is left is spread over all. Disk and
    memory grow with it: 6 bytes each."""


class Selection(Section):
    """Fine-tuning on some of the users only, within a budget of events."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the training events that may be learned from; time falls in proportion. Users are taken whole, best first, where
    their events still fit."""
    by: Literal["random", "uncertainty", "influence"] = "random"
    """random: a seeded draw. uncertainty: users whose events the surrogate finds least probable. influence: users from whose events
    the surrogate would learn most about the validation questions, by its gradients; a sequence model such as sasrec."""
    surrogate: str | None = None
    """Name of the system in 'systems' that chooses, a cheap one, where by is not random. It is fitted first, on all training
    histories, and has no language model in it."""


class Finetune(Section):
    """LoRA fine-tuning on the training histories."""

    epochs: float = Field(default=1.0, ge=0)
    """Passes over the training events; a fraction stops earlier. 0 trains nothing: what the model knows already, or the adapter
    of start_from (zero-shot)."""
    start_from: str | None = None
    """Folder of an adapter to go on from, such as the OUTPUT/adapter of a run on other data (transfer); null for a fresh one. Of
    the same pretrained model, rank and target_modules; embeddings of its new tokens are of other items and are not taken."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of epochs."""
    examples: Literal["every-event", "one-target"] = "every-event"
    """every-event: each event after the first of a window is a target. one-target: a prompt per target, as in most
    published work; same loss, many times the cost."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Tokens per optimiser step with their padding, on all devices together: the result does not depend on the number of
    devices."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that go through the model at once on a device, or a single longer document; null for all of its share. Lower it when
    memory runs out: the result stays the same."""
    shuffle_ties: bool = False
    """Learn events of one user at one time in another random order in every epoch, since the log does not know theirs."""
    windows_per_user: int | None = Field(default=None, ge=1)
    """Newest windows of each user to learn from; null for all of the history."""
    loss: Literal["catalogue", "vocab"] = "catalogue"
    """catalogue: cross-entropy over the tokens that the catalogue allows, which is what decoding over the catalogue
    asks for; the model's head is computed for these tokens only. vocab: over the whole vocabulary."""
    negatives: Literal["all", "warm"] = "all"
    """all: the softmax is over the whole catalogue. warm: over the items that have training events, so that those without, which are
    never the target, are not learned to be improbable at every event: what they share with others, such as words of the title, decides.
    For identifiers.scheme: token."""
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
    averaging: float = Field(default=0.0, ge=0)
    """Epochs over which all that is trained is averaged, exponentially; the average is what is validated and kept. 0: the weights
    themselves."""
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
    selection: Selection = Selection()
    distillation: Distillation = Distillation()
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
