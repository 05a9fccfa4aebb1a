"""Training examples: windows of histories in which every event but the first is a target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmrec.data.histories import Histories, History
from llmrec.prompts.verbalize import Document, Verbalizer

__all__ = ["Window", "training_documents", "windows"]


@dataclass(frozen=True)
class Window:
    """Events ``start:stop`` of the history in row ``row``; all but the first are targets."""

    row: int
    start: int
    stop: int


def windows(histories: Histories, max_events: int, per_user: int | None = None) -> list[Window]:
    """Cut histories into windows of ``max_events`` context events and a last target.

    Windows overlap by one event, so every event after a history's first is a target exactly once. They are laid
    from the end, so the newest window is full: it looks like what the model is asked at prediction time. Histories of
    a single event have no target and give no window.

    Parameters
    ----------
    max_events
        Longest context of a target, in events, as in the prompts for prediction.
    per_user
        Newest windows to keep for each user; all if left out.
    """
    found = []
    for row, length in enumerate(histories.lengths):
        stop, kept = int(length), 0
        while stop > 1 and (per_user is None or kept < per_user):
            start = max(0, stop - max_events - 1)
            found.append(Window(row, start, stop))
            stop, kept = start + 1, kept + 1
    return found


def training_documents(verbalizer: Verbalizer, histories: Histories, cut: Iterable[Window]) -> list[Document]:
    """Verbalise windows."""
    documents = []
    for window in cut:
        history = histories[window.row]
        part = slice(window.start, window.stop)
        documents.append(
            verbalizer.document(History(history.user_id, history.items[part], history.timestamps[part]))
        )
    return documents
