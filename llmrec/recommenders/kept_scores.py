"""Scores that were dear to compute, kept in files so that no user is scored twice.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories, History
from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError

__all__ = ["KeptScores"]

_MOST_BYTES = 8 * 2**30  # beyond, scores are computed again: a disk is not to fill up unasked


class KeptScores:
    """Scores of all items by what was asked: the items and times of a history, whoever's it is.

    Parameters
    ----------
    folder
        Has a file for each batch that was scored; ``None`` keeps nothing. Its name says what decides the scores.
    n_items
        Items of the catalogue.
    """

    def __init__(self, folder: Path | None, n_items: int) -> None:
        self.folder, self.n_items = folder, n_items
        self._places: dict[str, tuple[Path, int]] = {}  # question -> file and row
        self._bytes = 0
        self._counted: set[str] = set()  # questions whose seconds have been told, or were spent here
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            self._note(path)

    def read(self, histories: Histories) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
        """Return the scores [U, N], the rows that are not known, and the seconds that the known ones once took.

        The seconds of a question are returned once, and not at all by who has spent them.
        """
        scores = np.empty((len(histories), self.n_items))
        missing, wanted = [], dict[Path, list[tuple[int, int, bool]]]()
        for row, history in enumerate(histories):
            question = _question(history)
            if (place := self._places.get(question)) is None:
                missing.append(row)
            else:
                new = question not in self._counted
                wanted.setdefault(place[0], []).append((row, place[1], new))
                self._counted.add(question)
        seconds = 0.0
        for path, found_there in wanted.items():
            rows, places, new_there = np.array(found_there).T
            with np.load(path) as found:
                scores[rows] = found["scores"][places]
                seconds += float(found["seconds"]) * int(new_there.sum()) / len(found["questions"])
        return scores, np.array(missing, dtype=np.int64), seconds

    def write(self, histories: Histories, scores: NDArray[np.float64], seconds: float) -> None:
        """Keep the scores of some users [U, N], which took so many seconds."""
        if self.folder is None or self._bytes + scores.nbytes > _MOST_BYTES:
            return
        questions = np.array([_question(history) for history in histories])
        path = self.folder / f"{hashlib.sha256(questions.tobytes()).hexdigest()[:32]}.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, questions=questions, scores=scores, seconds=np.float64(seconds))
        self._note(path)
        self._counted.update(questions.tolist())

    def _note(self, path: Path) -> None:
        try:
            with np.load(path) as found:
                questions = found["questions"].tolist()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtefactError(
                f"{str(path)!r} cannot be read as kept scores ({error}). Expected what an earlier system of the run has "
                "left: remove it, and its users are scored again."
            ) from None
        self._bytes += path.stat().st_size
        self._places |= {question: (path, row) for row, question in enumerate(questions)}


def _question(history: History) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(history.items).tobytes())
    digest.update(np.ascontiguousarray(history.timestamps).tobytes())
    if history.next_timestamp is not None:
        digest.update(np.int64(history.next_timestamp).tobytes())
    return digest.hexdigest()[:32]
