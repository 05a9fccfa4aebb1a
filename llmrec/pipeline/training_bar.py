"""A training as it goes on, on the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmrec.progress import bar

if TYPE_CHECKING:
    from llmrec.finetune.train import Step

__all__ = ["training_bar"]


@contextmanager
def training_bar() -> Iterator[Callable[[Step], None]]:
    """Show a training: loss, tokens and targets a second, share of padding, time left."""
    recent: deque[Step] = deque(maxlen=50)

    def words() -> str:
        seconds = sum(s.seconds for s in recent)
        tokens, padded = sum(s.tokens for s in recent), sum(s.padded_tokens for s in recent)
        return (
            f"loss {sum(s.loss for s in recent) / len(recent):.3f}, {tokens / seconds:,.0f} tokens/s, "
            f"{sum(s.targets for s in recent) / seconds:,.0f} targets/s, {1 - tokens / padded:.1%} padding"
        )

    with bar("Fine-tuning the language model, steps", words) as progress:

        def on_step(step: Step) -> None:
            recent.append(step)
            progress(step.step, step.steps)

        yield on_step
