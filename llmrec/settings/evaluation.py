"""What is measured, and the search for settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec.settings.section import Section

__all__ = ["EvaluationSettings", "Tuned", "Tuning"]


class EvaluationSettings(Section):
    """What is measured, and on whom."""

    users: int | None = Field(default=None, ge=1)
    """Users of the comparison, a seeded random sample that is the same for every system; null for all."""
    users_seed: int | None = Field(default=None, ge=0)
    """Draws that sample; the run's seed if left out. Set it where runs of several seeds are to be compared on the same
    users."""
    k: int = Field(default=20, ge=1)
    """Length of the recommendation lists."""
    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5, 10, 20), min_length=1)
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
