"""Prompts in a key-value cache, and a tree of tokens packed behind each as one sequence.

Each packed token attends to the prompt and to its own ancestors only. So a prompt is read once, whatever the number of
hypotheses, nothing in the cache is ever copied per hypothesis or reordered, and tokens of any depth share a forward
pass.

Shapes: B users, P prompt tokens (padded), S packed tokens so far, n new tokens, m most new tokens of one user,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.view import place_within
from llmrec.errors import TrieError

__all__ = ["PackedPrompts", "masked_attention"]

# Attention kernels of transformers that take a mask of our own; flash attention takes none.
_MASKED_ATTENTION = ("sdpa", "eager")


class PackedPrompts:
    """The state of B prompts. Slot 0 of a user is the end of its prompt; slot ``s`` is its s-th packed token.

    Parameters
    ----------
    model
        A causal language model of transformers, or of PEFT around one.
    prompts
        Token ids of each user [B], unpadded.

    Attributes
    ----------
    first_logits
        What follows each prompt [B, V].
    fed_tokens
        Tokens that went through the model after the prompts, filler included.

    Raises
    ------
    TrieError
        A prompt is empty or longer than the model's context, the model is in training mode, or it cannot attend to a
        tree of tokens.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.integer]]) -> None:
        if not len(prompts) or min(map(len, prompts)) == 0:
            raise TrieError("Got an empty prompt or none. Expected at least one token in each.")
        _check_attention(model)
        if model.training:
            raise TrieError(
                "The model is in training mode, where dropout makes scores random. Call model.eval()."
            )
        self.model = model
        self.context = getattr(model.config, "max_position_embeddings", None)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.width = max(len(p) for p in prompts)  # P
        ids = np.zeros((len(prompts), self.width), dtype=np.int64)
        self.is_prompt = np.zeros(ids.shape, dtype=bool)  # [B, P]
        for row, prompt in enumerate(prompts):
            # Left padding puts the last token of all prompts, which predicts, into one column.
            ids[row, self.width - len(prompt) :] = prompt
            self.is_prompt[row, self.width - len(prompt) :] = True
        position = np.maximum(self.is_prompt.cumsum(axis=1) - 1, 0)
        self._check_length(position)
        output = model(
            input_ids=self._tensor(ids),
            # Without padding no mask is needed, and the fast causal kernel can be used.
            attention_mask=None if self.is_prompt.all() else self._tensor(self.is_prompt.astype(np.int64)),
            position_ids=self._tensor(position),
            use_cache=True,
            # By number, which copies the states: of a slice of them (1) torch makes a product with the whole head for each user,
            # eight times as slow for 128 users and 61,238 tokens.
            logits_to_keep=self._tensor(np.array([self.width - 1])),
        )
        self.cache = output.past_key_values
        _check_cache(self.cache)
        self.first_logits = output.logits[:, -1].float()
        self.fed_tokens = 0
        self.parent = np.zeros((len(prompts), 1), dtype=np.int64)  # [B, 1 + S] slot
        self.position = position[:, -1:]  # [B, 1 + S]

    @property
    def n_slots(self) -> int:
        """Slots 1 + S; a new token's slot is this plus its place among the user's new tokens."""
        return self.parent.shape[1]

    def append(
        self,
        users: NDArray[np.integer],
        parents: NDArray[np.integer],
        tokens: NDArray[np.integer],
        *,
        logits_of: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], torch.Tensor]:
        """Feed tokens behind slots.

        Parameters
        ----------
        users, parents, tokens
            Ascending by user [n]. A parent may be a token of the same call that stands before it.
        logits_of
            Which of the tokens' logits are wanted [n]; all if left out.

        Returns
        -------
        slots, logits
            The new slots [n] and what follows the wanted ones [<= n, V].
        """
        column = place_within(users)
        n_users, n_slots = self.parent.shape
        m = int(column.max()) + 1
        slots = n_slots + column
        ids = np.zeros((n_users, m), dtype=np.int64)
        ids[users, column] = tokens
        parent = np.zeros((n_users, m), dtype=np.int64)
        parent[users, column] = parents
        self.parent = np.concatenate([self.parent, parent], axis=1)
        self.position = np.concatenate([self.position, np.zeros((n_users, m), np.int64)], axis=1)

        sees = np.zeros((n_users, m, self.width + n_slots - 1 + m), dtype=bool)
        sees[:, :, : self.width] = self.is_prompt[:, None]  # filler too: a softmax over nothing would be NaN
        prompt_end = self.position[:, 0]
        slot, depth = slots.copy(), np.zeros(len(slots), dtype=np.int64)
        climbing = np.arange(len(slots))
        while len(climbing):
            at = slot[climbing]
            sees[users[climbing], column[climbing], self.width - 1 + at] = True
            depth[climbing] += 1
            slot[climbing] = self.parent[users[climbing], at]
            climbing = climbing[slot[climbing] > 0]
        self.position[users, slots] = prompt_end[users] + depth
        self._check_length(self.position)

        bias = torch.zeros(sees.shape, dtype=self.dtype)
        bias.masked_fill_(torch.from_numpy(~sees), torch.finfo(self.dtype).min)
        output = self.model(
            input_ids=self._tensor(ids),
            attention_mask=bias[:, None].to(self.device),
            position_ids=self._tensor(self.position[:, n_slots:]),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.fed_tokens += ids.size
        if logits_of is not None:
            users, column = users[logits_of], column[logits_of]
        return slots, output.logits[self._tensor(users), self._tensor(column)].float()

    def forget(self) -> None:
        """Drop all packed tokens; the prompts stay."""
        if self.n_slots > 1:
            self.cache.crop(-(self.n_slots - 1))
        self.parent, self.position = self.parent[:, :1], self.position[:, :1]

    def _check_length(self, position: NDArray[np.int64]) -> None:
        if self.context is not None and position.max() >= self.context:
            raise TrieError(
                f"A prompt and what follows it take {position.max() + 1:,} tokens; the model reads at most "
                f"{self.context:,}. Expected both to fit: shorten the prompt. Nothing was cut off."
            )

    def _tensor(self, values: NDArray[np.integer]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self.device)


@contextmanager
def masked_attention(model: Any) -> Iterator[None]:
    """Let a model that trains with flash attention be decoded, by sdpa, in this context."""
    kind = model.config._attn_implementation
    if kind not in _MASKED_ATTENTION:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if kind not in _MASKED_ATTENTION:
            model.set_attn_implementation(kind)


def _check_attention(model: Any) -> None:
    kind = getattr(model.config, "_attn_implementation", "eager")
    if kind not in _MASKED_ATTENTION:
        raise TrieError(
            f"The model was loaded with attn_implementation={kind!r}, which takes no mask of our own. Expected "
            f"{' or '.join(map(repr, _MASKED_ATTENTION))}: call model.set_attn_implementation('sdpa') for decoding."
        )


def _check_cache(cache: Any) -> None:
    from transformers.cache_utils import DynamicLayer

    odd = [
        type(layer).__name__ for layer in getattr(cache, "layers", [cache]) if type(layer) is not DynamicLayer
    ]
    if odd:
        raise TrieError(
            f"The model keeps what it has read in a {odd[0]}. Expected full attention in every layer, because a tree of "
            "tokens is not a sequence: a sliding window or a recurrent state would mix hypotheses. Use "
            "model.generate with TrieLogitsProcessor for this model."
        )
