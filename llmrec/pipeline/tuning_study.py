"""One system's study: what has been tried, what is tried next, and the file that survives a kill.

The file is the study. Before every trial Optuna is told all that the file holds, and draws with a seed of its own for that
trial; so what is tried next follows from the file alone, and a study that was killed goes on as if it had not been.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import ArtefactError, AssetError, LlmrecError
from llmrec.pipeline.artefacts import check_key, read_json, write_json
from llmrec.pipeline.tuning_spaces import Choices, Range, Space
from llmrec.settings import Tuning

__all__ = ["Measure", "OnEpoch", "Study", "Trial"]

OnEpoch = Callable[[int, float], None]
"""Takes the number of an epoch (from 1) and the metric after it; may stop the trial."""

Measure = Callable[[int, dict[str, Any], OnEpoch], float]
"""Returns the metric of a trial, from its number and its options."""

_STARTS = 2  # a trial in which the process ended this often is not begun again
_PRUNED_FROM = 5  # epochs, and trials before


class _Hopeless(Exception):  # noqa: N818  not an error
    """Stops a trial that is pruned."""


@dataclass(frozen=True)
class Trial:
    """Options that were tried."""

    number: int
    options: dict[str, Any]
    state: str = "running"  # running, done, failed, pruned
    value: float | None = None  # of the metric
    seconds: float = 0.0  # wall time
    reason: str = ""  # why it failed
    starts: int = 1  # times it was begun
    epochs: dict[int, float] = field(default_factory=dict)  # the metric after each epoch, where there are any


class Study:
    """The search for the options of one system.

    Parameters
    ----------
    path
        Where it is kept, as JSON.
    key
        The settings that decide what a trial gives.
    space, current
        What is tuned, and the options that the config has now, which are the first trial.
    tuning
        Sampler and budget. A budget that has grown since is used up.
    seed
        Of everything that is drawn.

    Raises
    ------
    ArtefactError
        The file is damaged, or other settings have made it.
    """

    def __init__(
        self,
        path: Path,
        key: Mapping[str, Any],
        space: Space,
        current: Mapping[str, Any],
        tuning: Tuning,
        seed: int,
    ) -> None:
        self.path, self.key, self.space, self.current = path, dict(key), space, dict(current)
        self.tuning, self.seed = tuning, seed
        self.trials: list[Trial] = []
        if path.is_file():
            content = read_json(path)
            check_key(path, content["key"], self.key)
            self.trials = [
                Trial(**{**trial, "epochs": {int(e): v for e, v in trial["epochs"].items()}})
                for trial in content["trials"]
            ]

    @property
    def finished(self) -> list[Trial]:
        """Trials that were done, failed or were pruned."""
        return [trial for trial in self.trials if trial.state != "running"]

    @property
    def best(self) -> Trial | None:
        """The first trial of the highest value; ``None`` where none was done."""
        done = [trial for trial in self.trials if trial.state == "done"]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    @property
    def seconds(self) -> float:
        """Wall time of all finished trials."""
        return sum(trial.seconds for trial in self.finished)

    def count(self, state: str) -> int:
        """Return the number of trials of a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left to try: no options are tried twice."""
        return len(self.finished) == _size(self.space)

    @property
    def budget_left(self) -> bool:
        """Whether another trial begins."""
        tuning, done = self.tuning, len(self.finished)
        if not done:
            return True
        if self.exhausted:
            return False
        return (tuning.trials is None or done < tuning.trials) and (
            tuning.seconds is None or self.seconds < tuning.seconds
        )

    def run(self, measure: Measure, say: Callable[[Trial], None]) -> None:
        """Try options until the budget is used up.

        Parameters
        ----------
        measure
            Returns the metric of a trial. What it raises over the options (:class:`LlmrecError`), memory or numbers fails
            that trial alone; missing files and mistakes in the code end the study.
        say
            Called with every finished trial.
        """
        while self.budget_left:
            trial = self._begin()
            if trial.starts > _STARTS:
                reason = f"the process ended in it {_STARTS} times, perhaps because the machine has too little memory"
                trial = replace(trial, state="failed", reason=reason, starts=_STARTS)
            else:
                try:
                    trial = self._measured(trial, measure)
                except SystemExit:
                    raise
                except BaseException:
                    # Interrupted, or stopped by what has nothing to do with the options: the trial was not begun.
                    self._keep(replace(trial, starts=trial.starts - 1))
                    raise
            self._keep(trial)
            say(trial)

    def _begin(self) -> Trial:
        """Return the next trial, or the one that a kill has interrupted, and note that it runs."""
        if self.trials and self.trials[-1].state == "running":
            trial = replace(self.trials[-1], starts=self.trials[-1].starts + 1)
        else:
            trial = Trial(len(self.trials), self._next_options())
        self._keep(trial)
        return trial

    def _measured(self, trial: Trial, measure: Measure) -> Trial:
        epochs: dict[int, float] = {}
        asked = self._ask(trial.number)[1] if self.tuning.prune and trial.number else None

        def on_epoch(epoch: int, value: float) -> None:
            epochs[epoch] = value
            if asked is not None:
                asked.report(value, epoch)
                if asked.should_prune():
                    raise _Hopeless

        started = time.monotonic()
        try:
            value = measure(trial.number, trial.options, on_epoch)
            state, reason = "done", ""
            if not math.isfinite(value):
                state, reason = "failed", f"the metric is {value}"
        except _Hopeless:
            value, state, reason = max(epochs.values()), "pruned", ""
        except (ArtefactError, AssetError):
            raise  # no other options would help
        except (LlmrecError, MemoryError, RuntimeError, ArithmeticError, np.linalg.LinAlgError) as error:
            value, state, reason = math.nan, "failed", " ".join(str(error).split()) or type(error).__name__
        if state == "failed":
            gc.collect()  # what ran out of memory is let go of before the next one
        seconds = time.monotonic() - started
        finite = value if math.isfinite(value) else None
        return replace(trial, state=state, value=finite, seconds=seconds, reason=reason[:500], epochs=epochs)

    def _keep(self, trial: Trial) -> None:
        self.trials[trial.number :] = [trial]
        best = self.best
        budget = {"trials": self.tuning.trials, "seconds": self.tuning.seconds}
        spent = {"trials": len(self.finished), "seconds": self.seconds}
        states = {state: self.count(state) for state in ("done", "failed", "pruned")}
        content = {
            "budget": budget,
            "spent": {**spent, **states},
            "default": self.trials[0].value,
            "best": None if best is None else {"value": best.value, "options": best.options},
            "trials": [asdict(trial) for trial in self.trials],
            "key": self.key,
        }
        write_json(self.path, content)

    def _next_options(self) -> dict[str, Any]:
        """Return options that were not tried before."""
        number = len(self.trials)
        if not number:
            return self.current
        tried = {repr(trial.options) for trial in self.trials}
        if self.tuning.sampler != "grid":
            options = self._ask(number)[0]
            if repr(options) not in tried:
                return options
        # The grid in random order; or, where the sampler repeats itself, anything that is left.
        rng = np.random.default_rng([self.seed, number])
        while True:
            options = {option: _draw(space, rng) for option, space in self.space.items()}
            if repr(options) not in tried:
                return options

    def _ask(self, number: int) -> tuple[dict[str, Any], Any]:
        """Return what Optuna would try as trial ``number``, and Optuna's own trial."""
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (drawn,) = np.random.SeedSequence([self.seed, number]).generate_state(1).tolist()
        samplers = optuna.samplers
        sampler: Any = samplers.RandomSampler(seed=drawn)
        if self.tuning.sampler == "tpe":
            sampler = samplers.TPESampler(seed=drawn, multivariate=True, constant_liar=False)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNED_FROM, n_warmup_steps=_PRUNED_FROM)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        distributions = {option: _distribution(space) for option, space in self.space.items()}
        states = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
        for trial in self.trials[:number]:
            study.add_trial(
                create_trial(
                    state=states[trial.state],
                    value=trial.value,
                    params=trial.options,
                    distributions=distributions,
                    intermediate_values=trial.epochs,
                )
            )
        asked = study.ask(distributions)
        options = {
            option: space.snap(asked.params[option]) if isinstance(space, Range) else asked.params[option]
            for option, space in self.space.items()
        }
        return options, asked


def _distribution(space: Choices | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(space, Choices):
        return CategoricalDistribution(space.values)
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)


def _draw(space: Choices | Range, rng: np.random.Generator) -> Any:
    """Return any value of a space."""
    points = space.points()
    if points is not None:
        return points[rng.integers(len(points))]
    assert isinstance(space, Range)
    return float(rng.uniform(space.low, space.high))


def _size(space: Space) -> float:
    """Return the number of different options."""
    return math.prod(math.inf if (points := s.points()) is None else len(points) for s in space.values())
