"""Training examples: windows of histories in which every event but the first is a target.

Shapes: N items, U users, W windows, T tokens, P predictions (one per token of an identifier that is learned), S prefixes of
identifiers, E tokens that may follow them, A distinct ones among these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, History
from llmrec.data.windows import Windows
from llmrec.prompts.verbalize import Document, Verbalizer

__all__ = [
    "Alternatives",
    "Example",
    "example",
    "one_target_windows",
    "training_examples",
    "training_windows",
]


@dataclass(frozen=True, eq=False)
class Alternatives:
    """Which tokens the catalogue allows after each prefix of an identifier: a compiled trie's arrays."""

    alphabet: NDArray[np.integer]  # [A] token ids that occur, ascending
    indptr: NDArray[np.integer]  # [S + 1] what may follow prefix s is code[indptr[s]:indptr[s + 1]]
    code: NDArray[np.integer]  # [E] places in the alphabet
    prefixes: Sequence[NDArray[np.integer]]  # [N] the prefix before each token of an item's identifier
    places: NDArray[np.integer]  # [N] place in the alphabet of each identifier's last token

    @property
    def has_choice(self) -> NDArray[np.bool_]:
        """Say after which prefixes more than one token may follow [S]."""
        return np.diff(self.indptr) > 1


@dataclass(frozen=True, eq=False)
class Example:
    """A document and what is learned from it."""

    token_ids: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [P] the token at each of these predicts the next one
    prefixes: NDArray[np.int64]  # [P] what stands of the identifier there: a row of Alternatives
    targets: int  # events to be predicted
    events: NDArray[np.int64]  # [P] the training event that each prediction is of; -1 where it is none

    def __len__(self) -> int:
        return len(self.token_ids)


def training_windows(
    histories: Histories, max_events: int, per_user: int | None = None, rng: np.random.Generator | None = None
) -> Windows:
    """Cut histories into windows of up to ``max_events`` context events and a last target.

    Every event after a history's first is a target exactly once. Histories of a single event give no window.

    Parameters
    ----------
    max_events
        Longest context of a target, in events, as in the prompts for prediction.
    per_user
        Newest windows to keep for each user; all if left out.
    rng
        Draws where a user's newest window begins, so that another pass shows the events in other contexts. Without it
        that window is full, as the prompt for a prediction is.
    """
    offsets = None if rng is None else rng.integers(0, max_events, len(histories))
    cut = Windows.cut(histories.indptr, max_events, max_events, offsets)
    if per_user is None:
        return cut
    user = histories.indptr.searchsorted(cut.start, side="right")
    # Windows of a user follow each other from the newest to the oldest.
    return cut.select(np.arange(len(cut)) - user.searchsorted(user) < per_user)


def one_target_windows(windows: Windows, histories: Histories, max_events: int) -> Windows:
    """Return a window for every single target of ``windows``, with all the context it may have."""
    counts = windows.stop - windows.first_target
    first = np.cumsum(counts) - counts
    target = np.repeat(windows.first_target - first, counts) + np.arange(counts.sum())
    begin = histories.indptr[histories.indptr.searchsorted(target, side="right") - 1]
    return Windows(np.maximum(begin, target - max_events), target, target + 1)


def training_examples(
    verbalizer: Verbalizer,
    histories: Histories,
    windows: Windows,
    alternatives: Alternatives | None,
    *,
    held_out: bool = False,
) -> list[Example]:
    """Verbalise windows; see :func:`example`. ``held_out`` says that the histories are not the training histories."""
    users = histories.indptr.searchsorted(windows.start, side="right") - 1
    return [
        example(
            verbalizer.document(
                History(
                    histories.user_ids[user], histories.items[start:stop], histories.timestamps[start:stop]
                ),
                now=int(histories.timestamps[first - 1]),  # what a prompt for the first target would know
            ),
            int(first - start),
            alternatives,
            None if held_out else int(first),
        )
        for user, start, first, stop in zip(
            users, windows.start, windows.first_target, windows.stop, strict=True
        )
    ]


def example(
    document: Document, first_target: int, alternatives: Alternatives | None, first_event: int | None = None
) -> Example:
    """Return what is learned from a document.

    Parameters
    ----------
    first_target
        Events before this one are context only. Nothing precedes the very first, so it is at least 1.
    alternatives
        Given these, tokens that must follow are left out: under a loss over the allowed tokens they cost nothing.
    first_event
        Which of the training histories' events the first target is; ``None`` where it is none of them.
    """
    starts = document.starts[first_target:]
    lengths = document.stops[first_target:] - starts
    # Each token of an identifier is predicted at the one before it.
    positions = np.repeat(starts - 1 - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    nth = np.repeat(np.arange(len(lengths)), lengths)
    events = np.full(len(positions), -1) if first_event is None else first_event + nth
    prefixes = np.empty(0, np.int64)
    if alternatives is not None:
        of_items = [alternatives.prefixes[item] for item in document.items[first_target:].tolist()]
        prefixes = np.concatenate([prefixes, *of_items])
        choice = alternatives.has_choice[prefixes]
        positions, prefixes, events = positions[choice], prefixes[choice], events[choice]
    return Example(document.token_ids, positions, prefixes, len(lengths), events)
