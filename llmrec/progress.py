"""Progress on the terminal: a bar with time left, or a line now and then where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "clock", "console", "say", "say_once"]

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


class _Lines:
    def __init__(self, description: str, words: Callable[[], str]) -> None:
        self.description, self.words, self.first = description, words, 0
        self.started = self.printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.first:
            # A training that is taken up again begins in the middle.
            self.first, self.started = done, now
        if now - self.printed < _EVERY or done == self.first:  # nothing is known of its speed before
            return
        self.printed = now
        left = (now - self.started) / (done - self.first) * (total - done)
        more = f"; {said}" if (said := self.words()) else ""
        say(f"  {self.description}: {done:,} of {total:,}, about {clock(left)} left{more}")


def clock(seconds: float) -> str:
    """Return a duration as ``2 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
