"""What a language model makes of titles, as vectors.

Shapes: N items, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["title_vectors"]

_AT_ONCE = 64


def title_vectors(
    model: Any, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str]
) -> NDArray[np.float32]:
    """Return the mean of the last hidden states over each title's tokens [N, D].

    The mean over all tokens rather than the state of the last one: a causal model's last state is about what comes
    next, the mean about what was said.
    """
    import torch

    from llmrec.tensors import batches_by_length

    ids = tokenizer(list(titles), add_special_tokens=False)["input_ids"]
    vectors = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
    backbone = getattr(model, model.base_model_prefix)
    with torch.inference_mode():
        for rows in batches_by_length(ids, _AT_ONCE):
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
