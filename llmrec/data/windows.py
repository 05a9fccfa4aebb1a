"""Windows: long histories cut into pieces that a model of bounded length can read.

Shapes: U users, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Windows"]


@dataclass(frozen=True, eq=False)
class Windows:
    """W runs of neighbouring events ``start:stop``, of which ``first_target:stop`` are to be predicted.

    A user's first event has no past and is never a target; every other event is the target of exactly
    one window. The events ``start:first_target`` are context that other windows predict.
    """

    start: NDArray[np.int64]  # [W]
    first_target: NDArray[np.int64]  # [W]
    stop: NDArray[np.int64]  # [W]

    @classmethod
    def cut(
        cls, indptr: NDArray[np.int64], max_len: int, stride: int, offsets: NDArray[np.int64] | None = None
    ) -> Windows:
        """Cut every history into windows of up to ``stride`` targets read with up to ``max_len`` inputs.

        Parameters
        ----------
        indptr
            User ``u`` owns events ``indptr[u]:indptr[u + 1]`` [U + 1].
        max_len
            Most input events of a window.
        stride
            Most targets of a window, at most ``max_len``. Below ``max_len`` neighbouring windows overlap,
            so every target but a user's first few sees at least ``max_len - stride + 1`` earlier
            events; costs ``max_len / stride`` times as many input positions.
        offsets
            Targets of the window that holds a user's newest event, from 0 (as many as fit) to ``stride``
            [U]. Drawn anew in every epoch, they let each event be predicted from contexts of all lengths.
        """
        begin, end = indptr[:-1] + 1, indptr[1:]  # [U] targets of a user
        newest = np.full(len(end), stride) if offsets is None else np.where(offsets == 0, stride, offsets)
        left = np.maximum(end - begin - newest, 0)  # [U] targets before those of the newest window
        windows = np.where(end > begin, 1 + -(-left // stride), 0)  # [U]

        user = np.repeat(np.arange(len(windows)), windows)  # [W]
        nth = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)  # [W] 0: the newest
        stop = np.where(nth == 0, end[user], end[user] - newest[user] - (nth - 1) * stride)
        first = np.maximum(begin[user], end[user] - newest[user] - nth * stride)
        # The newest event of a window is a target only: its inputs end one event earlier.
        start = np.maximum(indptr[:-1][user], stop - 1 - max_len)
        return cls(start, first, stop)

    def __len__(self) -> int:
        return len(self.start)

    def select(self, which: NDArray[np.bool_]) -> Windows:
        """Return some windows [W]."""
        return Windows(self.start[which], self.first_target[which], self.stop[which])
