"""Log-probabilities of the tokens that a trie allows.

Shapes: n positions, c allowed tokens of all of them together, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.errors import TrieError, nearest
from llmrec.tensors import logsumexp_by_row

__all__ = ["NORMALISATIONS", "as_float64", "check_normalisation", "child_log_probs"]

NORMALISATIONS = {
    "vocab": "log-softmax over the whole vocabulary, then only allowed tokens are kept",
    "catalogue": "log-softmax over the allowed tokens: the probabilities of all items sum to 1",
}


def check_normalisation(name: str) -> None:
    """Raise :class:`TrieError` for an unknown normalisation."""
    if name not in NORMALISATIONS:
        raise TrieError(
            f"Unknown normalisation {name!r}{nearest(name, NORMALISATIONS)}. Expected one of "
            f"{', '.join(NORMALISATIONS)}."
        )


def child_log_probs(
    logits: torch.Tensor, tokens: NDArray[np.integer], offsets: NDArray[np.int64], normalisation: str
) -> torch.Tensor:
    """Return the log-probability of each allowed token, at most 0 [c].

    Parameters
    ----------
    logits
        Of each position [n, V], float32.
    tokens, offsets
        What may follow the i-th position: ``tokens[offsets[i]:offsets[i + 1]]``, as ``CompiledTrie.children`` gives it.
        All children belong here, hidden ones too: what a user has seen must not change the scores of other items.

    Raises
    ------
    TrieError
        The model returned NaN.
    """
    places = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    row = torch.as_tensor(places, device=logits.device)
    flat = torch.as_tensor(places * logits.shape[-1] + tokens, device=logits.device)
    scores = logits.reshape(-1).index_select(0, flat)  # [c]
    if normalisation == "vocab":
        total = torch.logsumexp(logits, dim=-1)  # [n]
    else:
        total = logsumexp_by_row(scores, row, len(logits))
    if torch.isnan(total).any():
        raise TrieError(
            "The model returned NaN instead of scores. Expected numbers: its weights may be damaged, or too large for its dtype; "
            "try model.dtype: float32."
        )
    # A sum of probabilities is rounded: without the cap a prefix could score below what is below it.
    return (scores - total[row]).clamp(max=0)


def as_float64(values: torch.Tensor) -> NDArray[np.float64]:
    """Return a tensor as an array; moved first, since not every device knows float64."""
    array: NDArray[np.float64] = values.cpu().double().numpy()
    return array
