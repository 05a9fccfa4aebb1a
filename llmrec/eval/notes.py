"""What a report says beside the comparison's numbers, as terms and texts or as the cells of small tables."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.eval import words
from llmrec.eval.context import LLMNotes

__all__ = ["has_numbers", "note_pairs", "note_rows"]


def note_rows(rows: Sequence[Sequence[str | float | int | None]]) -> list[list[tuple[str, bool]]]:
    """Return the cells of a small table as texts, and whether each is a number."""
    found = []
    for row in rows:
        cells = []
        for cell in row:
            if isinstance(cell, str):
                cells.append((cell, False))
            elif isinstance(cell, int):
                cells.append((words.count(cell), True))
            else:
                cells.append((words.number(cell), True))
        found.append(cells)
    return found


def has_numbers(rows: Sequence[Sequence[tuple[str, bool]]], column: int) -> bool:
    """Return whether any cell of a column of :func:`note_rows` is a number, so that its header stands to the right as well."""
    return any(row[column][1] for row in rows)


def note_pairs(note: LLMNotes) -> list[tuple[str, str]]:
    """Return what is known about a language model as terms and texts."""
    share = ""
    if note.parameters and note.trainable_parameters:
        share = f" ({words.percent(note.trainable_parameters / note.parameters, 2)} of {words.count(note.parameters)})"
    trained = (
        f"{words.count(note.targets_trained)} next items, {words.count(note.tokens_trained)} tokens"
        if note.targets_trained and note.tokens_trained
        else words.count(note.tokens_trained) + " tokens"
        if note.tokens_trained
        else words.count(note.targets_trained) + " next items"
        if note.targets_trained
        else ""
    )
    pairs = [
        ("Model", note.model),
        ("Parameters", words.count(note.parameters) if note.parameters and not share else ""),
        (
            "Trained parameters",
            f"{words.count(note.trainable_parameters)}{share}" if note.trainable_parameters else "",
        ),
        ("Adapter", note.adapter),
        ("Items are written as", note.identifiers),
        (
            "Trained on",
            trained
            + (
                f" in {note.epochs:g} epoch{'s' if note.epochs != 1 else ''}"
                if trained and note.epochs
                else ""
            ),
        ),
        ("Decoding", note.decoding),
        ("Time in the prompt", note.time_in_words),
    ]
    return [(term, text) for term, text in pairs if text]
