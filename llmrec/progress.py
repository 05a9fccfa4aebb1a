"""Progress on the terminal: a bar with time left, or a line now and then where the output is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "clock", "console", "say", "say_once", "training_bar"]

console = Console(highlight=False, soft_wrap=True)
_EVERY = 15.0  # seconds between lines in a log file
_said: set[str] = set()


def say(text: str) -> None:
    """Print one line; markup in it is shown as it is."""
    console.print(text, markup=False)


def say_once(text: str) -> None:
    """Print a line unless this process has printed it before: where a model comes from is said once, not per stage."""
    if text not in _said:
        _said.add(text)
        say(text)


@contextmanager
def bar(description: str, words: Callable[[], str] = str) -> Iterator[Callable[[int, int], None]]:
    """Show how far something is; call what this yields with (done, total).

    Parameters
    ----------
    words
        Returns what else there is to say.
    """
    if not console.is_terminal:
        yield _Lines(description, words)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=None, words="")
        yield lambda done, total: progress.update(task, completed=done, total=total, words=words())


class _Trained(Protocol):
    """What is shown of an optimiser step, see :class:`llmrec.finetune.train.Step`."""

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def padded_tokens(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@contextmanager
def training_bar() -> Iterator[Callable[[_Trained], None]]:
    """Show a training: loss, tokens and targets a second, share of padding, time left."""
    recent: deque[_Trained] = deque(maxlen=50)

    def words() -> str:
        seconds = sum(s.seconds for s in recent)
        tokens, padded = sum(s.tokens for s in recent), sum(s.padded_tokens for s in recent)
        return (
            f"loss {sum(s.loss for s in recent) / len(recent):.3f}, {tokens / seconds:,.0f} tokens/s, "
            f"{sum(s.targets for s in recent) / seconds:,.0f} targets/s, {1 - tokens / padded:.1%} padding"
        )

    with bar("Fine-tuning the language model, steps", words) as progress:

        def on_step(step: _Trained) -> None:
            recent.append(step)
            progress(step.step, step.steps)

        yield on_step


class _Lines:
    def __init__(self, description: str, words: Callable[[], str]) -> None:
        self.description, self.words, self.first = description, words, 0
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.first:
            # A training that is taken up again begins in the middle.
            self.first, self.started = done, now
        if now - self.printed < _EVERY or not done:
            return
        self.printed = now
        left = (now - self.started) / max(done - self.first, 1) * (total - done)
        more = f"; {said}" if (said := self.words()) else ""
        say(f"  {self.description}: {done:,} of {total:,}, about {clock(left)} left{more}")


def clock(seconds: float) -> str:
    """Return a duration as ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
