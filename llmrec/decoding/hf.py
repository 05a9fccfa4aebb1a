"""The trie inside ``model.generate`` of transformers: as a logits processor, and as a whole decoding method.

Shapes: R rows (users x beams), P prompt tokens, T tokens with the prompt, V vocabulary, B users, K items.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from llmrec.decoding.beam import beam_search
from llmrec.decoding.compile import PAD
from llmrec.decoding.scores import check_normalisation, child_log_probs
from llmrec.decoding.search import views_of
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import TrieView, hidden_keys, is_in
from llmrec.errors import TrieError

__all__ = ["TrieLogitsProcessor", "generate_in_trie"]

_OWN_REFERENCES = 3  # the attribute, the local name, and the argument of getrefcount


class TrieLogitsProcessor(LogitsProcessor):
    """Allows only tokens that lead to an item, at every step of ``model.generate``.

    A drop-in replacement for ``PrefixConstrainedLogitsProcessor`` that costs as much as there are allowed tokens, not
    as much as there are rows times vocabulary. Make a new one for each call of ``generate``.

    Where an identifier has ended, the end-of-sequence token is allowed and costs nothing. So it is for rows that beam
    search keeps although no allowed token was left for them; their score is below -1e8, which tells them from items.
    Set every field of the generation config that matters: ``length_penalty=0.0`` and ``early_stopping="never"`` rank by
    log-probability, and a chat model's own config may bring temperature and sampling.

    Parameters
    ----------
    prompt_length
        ``input_ids.shape[1]``, padding included: where identifiers begin.
    eos_token_id
        What ``generate`` is told to stop at. With the identifiers' own end token each ends with its last token.
    exclude
        Items that must not come out, per user of the batch [B]; or views of the trie without them.
    normalisation
        One of :data:`~llmrec.decoding.scores.NORMALISATIONS`; ``catalogue`` needs raw logits or log-probabilities.

    Raises
    ------
    TrieError
        On a call: the sequences do not begin with a prompt of this length, or their number does not fit the users.
    """

    def __init__(
        self,
        trie: CompiledTrie,
        prompt_length: int,
        eos_token_id: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | Sequence[TrieView] | None = None,
        normalisation: str = "vocab",
    ) -> None:
        check_normalisation(normalisation)
        self.trie, self.prompt_length, self.eos_token_id = trie, prompt_length, eos_token_id
        self.normalisation = normalisation
        views = [] if exclude is None else views_of(trie, exclude, len(exclude))
        if exclude is not None and not views:
            raise TrieError(
                "Got exclusions for no user. Expected one entry per user of the batch, or exclude=None."
            )
        self._n_users = len(views)
        self._hidden = hidden_keys(views)
        self._buffer: torch.Tensor | None = None
        self._written = torch.empty(0, dtype=torch.long)
        self._version = 0
        self._called = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return scores [R, V] with -inf for every token that is not allowed.

        The tensor is used again by the next call, unless somebody still holds or has changed it.
        """
        generated = input_ids[:, self.prompt_length :].cpu().numpy()
        if input_ids.shape[1] < self.prompt_length or (self._n_users and len(generated) % self._n_users):
            raise TrieError(
                f"Got sequences of shape {tuple(input_ids.shape)}. Expected at least prompt_length = "
                f"{self.prompt_length} tokens in each, and rows for each of {self._n_users} users."
            )
        user = np.arange(len(generated)) // (len(generated) // self._n_users if self._n_users else 1)
        node = self._walk(generated, user)
        if not self._called and (node < 0).any():
            raise TrieError(
                f"Row {int(np.argmin(node))} continues its prompt with {generated[np.argmin(node)].tolist()}, which "
                "begins no identifier. Expected prompt_length to be input_ids.shape[1] of this call of generate, and a "
                "new TrieLogitsProcessor for each call."
            )
        self._called = True

        # -1, an identifier that has ended or a row without one, has no children and gets the end-of-sequence token.
        open_ = np.flatnonzero(node >= 0)
        edges = self.trie.edges(node[open_])
        which = open_[np.repeat(np.arange(len(open_)), np.diff(edges.offsets))]
        allowed = ~is_in(self._hidden, user[which] * self.trie.n_nodes + edges.nodes)
        ended = np.ones(len(node), dtype=bool)
        ended[which] = False
        ended = np.flatnonzero(ended)
        places = which[allowed] * scores.shape[-1] + edges.tokens[allowed]
        places = np.concatenate([places, ended * scores.shape[-1] + self.eos_token_id])
        flat = torch.as_tensor(places, device=scores.device)
        values = scores.reshape(-1).index_select(0, flat)
        if self.normalisation == "catalogue" and len(open_):
            logp = child_log_probs(
                scores[torch.as_tensor(open_)].float(), edges.tokens, edges.offsets, "catalogue"
            )
            values[: int(allowed.sum())] = logp[torch.as_tensor(allowed, device=scores.device)].to(
                values.dtype
            )
        values[len(values) - len(ended) :] = 0.0

        result = self._empty_like(scores)
        result.view(-1).index_copy_(0, flat, values)
        self._written, self._version = flat, result._version
        return cast("torch.FloatTensor", result)

    def _walk(self, generated: NDArray[np.int64], user: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the node that each row has reached; -1 where it left the trie or has ended [R]."""
        node = np.zeros(len(generated), dtype=np.int64)
        for column in generated.T:
            alive = np.flatnonzero(node >= 0)
            node[alive] = self.trie.try_advance(node[alive], column[alive])
            node[is_in(self._hidden, user * self.trie.n_nodes + node)] = -1
        return node

    def _empty_like(self, scores: torch.Tensor) -> torch.Tensor:
        """Return a tensor of -inf, which is the last one with its few entries taken back wherever that is safe."""
        old = self._buffer
        reusable = (
            old is not None
            and sys.getrefcount(old) <= _OWN_REFERENCES
            and (old.shape, old.dtype, old.device) == (scores.shape, scores.dtype, scores.device)
            and old._version == self._version
        )
        if old is None or not reusable:
            # Outside of inference mode, or torch would not count changes made by others.
            with torch.inference_mode(False):
                self._buffer = torch.full(scores.shape, -torch.inf, dtype=scores.dtype, device=scores.device)
            return self._buffer
        old.view(-1).index_fill_(0, self._written, -torch.inf)
        return old


def generate_in_trie(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: Sequence[Any],
    stopping_criteria: Sequence[Any],
    generation_config: Any,
    *,
    trie: CompiledTrie,
    exclude: Sequence[NDArray[np.integer]] | Sequence[TrieView] | None = None,
    normalisation: str = "vocab",
    until_certified: bool = False,
    **model_kwargs: Any,
) -> torch.Tensor | GenerateBeamDecoderOnlyOutput:
    """Search with :func:`~llmrec.decoding.beam.beam_search` inside ``model.generate``.

    Use it as ``model.generate(**inputs, custom_generate=generate_in_trie, trie=trie, num_beams=20,
    num_return_sequences=10, max_new_tokens=trie.depth)``; ``num_beams`` is the width and ``num_return_sequences`` the
    number of items. Prompts are padded on the left, as ``generate`` expects.

    Returns
    -------
    sequences
        Prompts and identifiers [B * K, P + depth], best first for each user; with ``return_dict_in_generate`` and
        ``output_scores`` also their log-probabilities.

    Raises
    ------
    TrieError
        An option that this search would ignore, too little room for an identifier, or fewer items than wanted.
    """
    if len(logits_processor):
        names = ", ".join(type(p).__name__ for p in logits_processor)
        raise TrieError(
            f"generate was asked to change scores by {names}, which generate_in_trie does not do. Expected none: unset "
            "these options, also in model.generation_config."
        )
    width, k = generation_config.num_beams, generation_config.num_return_sequences
    length = input_ids.shape[1]
    if generation_config.max_length - length < trie.depth:
        raise TrieError(
            f"Identifiers take up to {trie.depth} tokens, but only {generation_config.max_length - length} new ones are "
            "allowed. Expected max_new_tokens=trie.depth or more."
        )
    # generate repeats each prompt for all of its beams before it calls this.
    repeats = max(width, k)
    ids = input_ids[::repeats].cpu().numpy()
    mask = model_kwargs.get("attention_mask")
    is_prompt = np.ones(ids.shape, bool) if mask is None else mask[::repeats].bool().cpu().numpy()
    prompts = [row[kept] for row, kept in zip(ids, is_prompt, strict=True)]
    found = beam_search(
        model,
        trie,
        prompts,
        k,
        width=width,
        exclude=exclude,
        normalisation=normalisation,
        until_certified=until_certified,
    )
    if (found.items < 0).any():
        raise TrieError(
            f"Only {int((found.items >= 0).sum(axis=1).min())} items are left for one of the users, but "
            f"num_return_sequences is {k}. Expected no more than there are."
        )
    tokens = trie.sequences(found.items.ravel())
    pad = generation_config.pad_token_id
    tokens[tokens == PAD] = 0 if pad is None else pad
    sequences = torch.cat(
        [input_ids[::repeats].repeat_interleave(k, 0), torch.as_tensor(tokens, device=input_ids.device)],
        dim=1,
    )
    if not generation_config.return_dict_in_generate:
        return sequences
    scores = torch.as_tensor(found.scores.ravel(), dtype=torch.float32, device=input_ids.device)
    return GenerateBeamDecoderOnlyOutput(
        sequences=cast("torch.LongTensor", sequences),
        sequences_scores=cast("torch.FloatTensor", scores) if generation_config.output_scores else None,
    )
