"""Beam search over a compiled trie, in torch.

The hypotheses of a user are packed behind the prompt as one sequence, each token attending to the prompt and to its
own ancestors only. So the prompt is read once per user, nothing in the key-value cache is ever copied or reordered,
and a step costs one forward pass over the new tokens.

The score of a hypothesis is the sum of its tokens' log-probabilities, without length normalisation: that is the
log-probability of the item, and it makes a prefix's score a bound on everything below it. When all prefixes that
were cut off score below the k-th result, the result is certified to be the true top k.

Shapes: B users, W hypotheses per user, P prompt tokens, S packed tokens so far, m new tokens of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError

__all__ = ["NORMALISATIONS", "BeamResult", "beam_search"]

NORMALISATIONS = {
    "vocab": "log-softmax over the whole vocabulary, then only allowed tokens are kept",
    "catalogue": "log-softmax over the allowed tokens: the probabilities of all items sum to 1",
}


@dataclass(frozen=True, eq=False)
class BeamResult:
    """The best items of B users."""

    items: NDArray[np.int32]  # [B, K] best first; -1 where fewer than K items are allowed
    scores: NDArray[np.float64]  # [B, K] log-probability; -inf where there is no item
    certified: NDArray[np.bool_]  # [B] whether this is provably the model's exact top K
    beam_tokens: int  # tokens that went through the model after the prompts, filler included


@dataclass
class _Hypotheses:
    """Live hypotheses of all users, flat and ordered by user, best first within a user."""

    user: NDArray[np.int64]
    node: NDArray[np.int64]  # trie node reached
    score: NDArray[np.float64]
    slot: NDArray[np.int64]  # packed token it ends with (see _PackedDecoder); -1 for finished ones
    done: NDArray[np.bool_]  # node is a leaf

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> _Hypotheses:
        return _Hypotheses(
            self.user[index], self.node[index], self.score[index], self.slot[index], self.done[index]
        )


@torch.inference_mode()
def beam_search(
    model: Any,
    trie: CompiledTrie,
    prompts: Sequence[NDArray[np.integer]],
    k: int,
    *,
    width: int,
    exclude: Sequence[NDArray[np.integer]] | None = None,
    normalisation: str = "vocab",
) -> BeamResult:
    """Return the ``k`` most probable allowed items after each prompt.

    Parameters
    ----------
    model
        A causal language model of transformers that accepts a 4-dimensional attention mask.
    prompts
        Token ids of each user [B], unpadded.
    k, width
        Items wanted and hypotheses kept; ``width >= k``. With ``width >= N`` the result is exact.
    exclude
        Items that must not come out, per user [B].
    normalisation
        One of :data:`NORMALISATIONS`.

    Raises
    ------
    TrieError
        ``width < k``, an unknown normalisation, or a user for whom every item is excluded.
    """
    if width < k:
        raise TrieError(f"The beam is {width} wide but {k} items are wanted. Expected beam_width >= k.")
    if normalisation not in NORMALISATIONS:
        raise TrieError(
            f"Unknown normalisation {normalisation!r}. Expected one of {', '.join(NORMALISATIONS)}."
        )
    n_users = len(prompts)
    hidden = _hidden_keys(trie, exclude or [np.empty(0, np.int64)] * n_users)
    packed = _PackedDecoder(model, prompts)

    # 1. Every user starts at the root; the prompt's last position predicts the first token.
    live = _Hypotheses(
        user=np.arange(n_users),
        node=np.zeros(n_users, np.int64),
        score=np.zeros(n_users),
        slot=np.zeros(n_users, np.int64),
        done=np.zeros(n_users, bool),
    )
    logits = packed.first_logits  # [n, V], one row per unfinished hypothesis
    pruned = np.full(n_users, -np.inf)  # best score that was ever cut off, per user

    while not live.done.all():
        # 2. Expand unfinished hypotheses by all allowed tokens; finished ones compete as they are.
        grown, parent, tokens = _expand(trie, live, logits, hidden, normalisation)
        finished = live.take(live.done)
        pool = _concatenate(finished, grown)
        # 3. Keep the best `width` per user. The sort is stable: equal scores keep trie order.
        order = np.lexsort((-pool.score, pool.user))
        rank = _place(pool.user[order])
        cut = order[rank >= width]
        np.maximum.at(pruned, pool.user[cut], pool.score[cut])
        keep = order[rank < width]
        # 4. Stop a user whose k-th finished item is beyond the reach of every unfinished hypothesis.
        chosen = pool.take(keep)
        keep = keep[~_out_of_reach(chosen, k, n_users)]
        live = pool.take(keep)
        # 5. Feed the tokens of unfinished survivors; leaves need no forward pass.
        feed = keep[~pool.done[keep]] - len(finished.user)
        if len(feed):
            unfinished = ~live.done
            live.slot[unfinished], logits = packed.append(live.user[unfinished], parent[feed], tokens[feed])

    missing = np.setdiff1d(np.arange(n_users), live.user)
    if len(missing):
        raise TrieError(
            f"Every item of the catalogue is excluded for the user at position {missing[0]}, so there is nothing to "
            "recommend. Expected at least one item that the user has not seen."
        )
    return _collect(trie, live.take(_place(live.user) < k), n_users, k, pruned, packed.beam_tokens)


def _place(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each entry's place within its user, from 0; ``users`` ascend [n]."""
    return np.arange(len(users)) - np.searchsorted(users, users)


def _hidden_keys(trie: CompiledTrie, exclude: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Return sorted keys ``user * M + node`` of all nodes a user must not enter."""
    keys = [
        trie.hidden_nodes(np.asarray(items, dtype=np.int64)) + u * trie.n_nodes
        for u, items in enumerate(exclude)
    ]
    return np.concatenate([np.empty(0, np.int64), *keys])


def _is_hidden(
    hidden: NDArray[np.int64], users: NDArray[np.int64], nodes: NDArray[np.int64], n_nodes: int
) -> NDArray[np.bool_]:
    if not len(hidden):
        return np.zeros(len(nodes), dtype=bool)
    keys = users * n_nodes + nodes
    found: NDArray[np.bool_] = hidden[np.minimum(np.searchsorted(hidden, keys), len(hidden) - 1)] == keys
    return found


def _expand(
    trie: CompiledTrie,
    live: _Hypotheses,
    logits: torch.Tensor,
    hidden: NDArray[np.int64],
    normalisation: str,
) -> tuple[_Hypotheses, NDArray[np.int64], NDArray[np.int32]]:
    """Return the children of all unfinished hypotheses, the packed slot of each one's parent, and their tokens."""
    open_ = live.take(~live.done)
    edges = trie.edges(open_.node)
    row = np.repeat(np.arange(len(open_.node)), np.diff(edges.offsets))  # [c] which hypothesis
    device = logits.device
    flat_rows = torch.as_tensor(row, device=device)
    scores = logits[flat_rows, torch.as_tensor(edges.tokens.astype(np.int64), device=device)]  # [c]
    if normalisation == "vocab":
        norm = torch.logsumexp(logits, dim=-1)  # [n]
    else:
        # Over all children, hidden ones included: what a user has seen must not change the other items' scores.
        top = torch.full((len(logits),), -torch.inf, device=device).scatter_reduce(
            0, flat_rows, scores, "amax"
        )
        total = torch.zeros(len(logits), device=device).index_add(
            0, flat_rows, (scores - top[flat_rows]).exp()
        )
        norm = total.log() + top
    logp = (scores - norm[flat_rows]).double().cpu().numpy()
    allowed = ~_is_hidden(hidden, open_.user[row], edges.nodes, trie.n_nodes)
    row, tokens, nodes, logp = row[allowed], edges.tokens[allowed], edges.nodes[allowed], logp[allowed]
    grown = _Hypotheses(
        user=open_.user[row],
        node=nodes,
        score=open_.score[row] + logp,
        slot=np.full(len(row), -1),
        done=trie.is_leaf(nodes),
    )
    return grown, open_.slot[row], tokens


def _concatenate(a: _Hypotheses, b: _Hypotheses) -> _Hypotheses:
    return _Hypotheses(
        *(np.concatenate([getattr(a, f), getattr(b, f)]) for f in ("user", "node", "score", "slot", "done"))
    )


def _out_of_reach(live: _Hypotheses, k: int, n_users: int) -> NDArray[np.bool_]:
    """Mark unfinished hypotheses that cannot enter the user's top k any more: all that is below scores lower."""
    finished = np.flatnonzero(live.done)
    rank = _place(live.user[finished])
    kth = np.full(n_users, -np.inf)
    at_k = finished[rank == k - 1]
    kth[live.user[at_k]] = live.score[at_k]
    return ~live.done & (live.score < kth[live.user])


def _collect(
    trie: CompiledTrie,
    live: _Hypotheses,
    n_users: int,
    k: int,
    pruned: NDArray[np.float64],
    beam_tokens: int,
) -> BeamResult:
    items = np.full((n_users, k), -1, dtype=np.int32)
    scores = np.full((n_users, k), -np.inf)
    rank = _place(live.user)
    # One item per leaf: identifiers are injective, which ItemIdentifiers checks.
    items[live.user, rank] = trie.order[trie.first[live.node]]
    scores[live.user, rank] = live.score
    certified = scores[:, -1] >= pruned  # an incomplete list is certified only if nothing was cut off
    return BeamResult(items, scores, certified, beam_tokens)


class _PackedDecoder:
    """The key-value cache of B prompts and of the tree of tokens packed behind each.

    Slot 0 of a user is the end of the prompt; slot ``s`` is the s-th packed token.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.integer]]) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        width = max(len(p) for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            # Left padding puts the last token of all prompts, which predicts, into one column.
            ids[row, width - len(prompt) :] = torch.as_tensor(np.asarray(prompt, dtype=np.int64))
            mask[row, width - len(prompt) :] = 1
        output = model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(self.device),
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        self.first_logits = output.logits[:, -1].float()  # [B, V]
        self.beam_tokens = 0
        self.sees = mask.bool().numpy()[:, None, :]  # [B, 1 + S, P + S] what each slot attends to
        self.position = mask.sum(1, keepdim=True).numpy() - 1  # [B, 1 + S]

    def append(
        self, users: NDArray[np.int64], parents: NDArray[np.int64], tokens: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], torch.Tensor]:
        """Feed one token behind each parent slot.

        Parameters
        ----------
        users, parents, tokens
            Ascending by user [n].

        Returns
        -------
        slots, logits
            The new slots [n] and what follows them [n, V].
        """
        n_users, n_slots, cached = self.sees.shape
        column = _place(users)
        m = int(column.max()) + 1
        ids = np.zeros((n_users, m), dtype=np.int64)
        ids[users, column] = tokens
        sees = np.zeros((n_users, m, cached + m), dtype=bool)
        sees[users, column, :cached] = self.sees[users, parents]
        # Every token sees itself; for filler this is all, since a softmax over nothing would be NaN.
        sees[:, np.arange(m), cached + np.arange(m)] = True
        position = np.zeros((n_users, m), dtype=np.int64)
        position[users, column] = self.position[users, parents] + 1
        bias = torch.zeros(sees.shape, dtype=self.dtype)
        bias.masked_fill_(torch.as_tensor(~sees), torch.finfo(self.dtype).min)
        output = self.model(
            input_ids=torch.as_tensor(ids, device=self.device),
            attention_mask=bias[:, None].to(self.device),
            position_ids=torch.as_tensor(position, device=self.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = output.past_key_values
        self.beam_tokens += ids.size
        self.sees = np.concatenate([np.pad(self.sees, ((0, 0), (0, 0), (0, m))), sees], axis=1)
        self.position = np.concatenate([self.position, position], axis=1)
        rows = torch.as_tensor(users, device=self.device), torch.as_tensor(column, device=self.device)
        return n_slots + column, output.logits[rows].float()
