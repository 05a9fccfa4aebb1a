"""What a language model makes of titles, as vectors.

Shapes: N items, D features, F principal components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["title_projection", "title_vectors"]

_AT_ONCE = 64
_COMPONENTS = 64  # that a projection keeps


def title_vectors(
    model: Any, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str]
) -> NDArray[np.float32]:
    """Return the mean of the last hidden states over each title's tokens [N, D].

    The mean over all tokens rather than the state of the last one: a causal model's last state is about what comes
    next, the mean about what was said.
    """
    import torch

    ids = tokenizer(list(titles), add_special_tokens=False)["input_ids"]
    order = np.argsort([len(i) for i in ids], kind="stable")
    vectors = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
    backbone = getattr(model, model.base_model_prefix)
    with torch.inference_mode():
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            width = max(1, *(len(ids[r]) for r in rows))
            tokens = torch.zeros((len(rows), width), dtype=torch.long)
            real = torch.zeros((len(rows), width))
            for place, r in enumerate(rows):
                tokens[place, : len(ids[r])] = torch.as_tensor(ids[r], dtype=torch.long)
                real[place, : len(ids[r])] = 1
            # Padding follows the title, where a causal model never looks.
            states = (
                backbone(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state.float().cpu()
            )
            vectors[rows] = (
                (states * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
            ).numpy()
    return vectors


def title_projection(vectors: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how title vectors become features: mean [D], principal axes [D, F], scaled to unit length on average.

    The features are ``(vectors - mean) @ axes``. Raw states of a language model share a few huge directions, in which
    all titles look alike.
    """
    titles = vectors.astype(np.float64)
    mean = titles.mean(axis=0)
    _, _, axes = np.linalg.svd(titles - mean, full_matrices=False)
    axes = axes[:_COMPONENTS].T
    # The sign of a singular vector is arbitrary; the largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    size = np.sqrt(np.square((titles - mean) @ axes).sum(axis=1).mean())
    return mean.astype(np.float32), (axes / max(size, 1e-12)).astype(np.float32)
