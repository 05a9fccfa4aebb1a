"""Room in a language model for tokens that it was not pretrained with."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["make_room"]


def make_room(model: Any, tokens: int) -> Any:
    """Give a model embeddings for ``tokens`` tokens, and a head of its own; returns the same model.

    A new token's input embedding says what the item is, its row of the head which histories lead to it: two different
    vectors. So a head that shares the matrix of the input embedding becomes a copy of it.
    """
    embedding = model.get_input_embeddings()
    if tokens > embedding.num_embeddings:
        # New rows stay as the model's initialiser makes them: an adapter replaces them all.
        model.resize_token_embeddings(tokens, mean_resizing=False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    return model
