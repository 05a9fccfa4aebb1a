"""The log-probability of every item of the catalogue, exactly.

The trie's inner nodes are packed behind the prompt, each attending to the prompt and to its ancestors: every prefix that
items share goes through the model once. Nodes are taken in depth-first order, in chunks that fit a memory budget; a
chunk repeats the ancestors of its first node, so that nothing but the prompt has to stay in the cache.

Shapes: B users, P prompt tokens, N items, M nodes, E edges, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.decoding.packed import PackedPrompts
from llmrec.decoding.scores import as_float64, check_normalisation, child_log_probs
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import nothing_left
from llmrec.errors import TrieError
from llmrec.ranking import top_k

__all__ = ["ExactResult", "score_catalogue", "top_items"]

# Beyond this, the mask and the attention of a chunk cost more than what fewer forward passes save.
_MOST_NODES = 512


@dataclass(frozen=True, eq=False)
class ExactResult:
    """All items' scores for B users."""

    scores: NDArray[np.float64]  # [B, N] log-probability of each item
    fed_tokens: int  # tokens that went through the model after the prompts
    forward_passes: int  # after the prompts


@torch.inference_mode()
def score_catalogue(
    model: Any,
    trie: CompiledTrie,
    prompts: Sequence[NDArray[np.integer]],
    *,
    normalisation: str = "vocab",
    memory: int = 2**30,
) -> ExactResult:
    """Return the log-probability of every item after each prompt.

    Where every identifier is a single token this is one softmax per user. Items that share an identifier share its
    probability equally.

    Parameters
    ----------
    model
        A causal language model of transformers with full attention (``sdpa`` or ``eager``).
    prompts
        Token ids of each user [B], unpadded.
    normalisation
        One of :data:`~llmrec.decoding.scores.NORMALISATIONS`.
    memory
        Bytes that the logits and masks of one forward pass may take, beside the model and the prompts' cache. Users are taken
        in several groups where it would hold too few nodes of all of them.

    Raises
    ------
    TrieError
        An unknown normalisation, or a budget too small for a single node of a single user.
    """
    check_normalisation(normalisation)
    nodes = _depth_first(trie, _needed(trie, normalisation))
    together = len(prompts)
    if len(nodes):
        together = min(together, _users_at_once(model, max(map(len, prompts)), trie.depth, memory))
    together = -(-len(prompts) // -(-len(prompts) // together))  # in groups of a size
    groups = [
        _score(model, trie, prompts[start : start + together], nodes, normalisation, memory)
        for start in range(0, len(prompts), together)
    ]
    return ExactResult(
        np.concatenate([group.scores for group in groups]),
        sum(group.fed_tokens for group in groups),
        sum(group.forward_passes for group in groups),
    )


def _score(
    model: Any,
    trie: CompiledTrie,
    prompts: Sequence[NDArray[np.integer]],
    nodes: NDArray[np.int64],
    normalisation: str,
    memory: int,
) -> ExactResult:
    """Score for users whose nodes go through the model together."""
    packed = PackedPrompts(model, prompts)
    n_users = len(prompts)
    logp = np.zeros((n_users, trie.n_nodes - 1))  # [B, E]; stays 0 where a token has no alternative
    _store(logp, trie, np.zeros(1, np.int64), packed.first_logits, normalisation)
    per_user = _bytes_per_node(packed.first_logits.shape[-1], packed.width)
    size = max(1, min(memory // (per_user * n_users) - trie.depth, _MOST_NODES))
    passes = 0
    for start in range(0, len(nodes), size):
        chunk = nodes[start : start + size]
        above = _ancestors(trie, int(chunk[0]))
        fed = np.concatenate([above, chunk])
        parent = trie.parent(fed)
        # A node's slot is its place in `fed` plus one; the root is slot 0, the end of the prompt.
        by_node = np.argsort(fed)
        place = by_node[np.minimum(np.searchsorted(fed, parent, sorter=by_node), len(fed) - 1)]
        slots = np.where(parent == 0, 0, place + 1)
        _, logits = packed.append(
            np.repeat(np.arange(n_users), len(fed)),
            np.tile(slots, n_users),
            np.tile(trie.tokens_to(fed), n_users),
            logits_of=np.tile(np.arange(len(fed)) >= len(above), n_users),
        )
        packed.forget()
        passes += 1
        _store(logp, trie, chunk, logits, normalisation)
    return ExactResult(_of_items(logp, trie), packed.fed_tokens, passes)


def top_items(
    scores: NDArray[np.float64], exclude: Sequence[NDArray[np.integer]] | None, k: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the ``k`` best items per user and their scores [B, k]; equal scores by number, -1 and -inf for nothing.

    Raises
    ------
    TrieError
        Every item is excluded for a user.
    """
    n_users, n_items = scores.shape
    scores = scores.copy()
    for row, hidden in enumerate(exclude or ()):
        scores[row, hidden] = -np.inf
    nothing = np.flatnonzero(np.isneginf(scores).all(axis=1))
    if len(nothing):
        raise nothing_left(int(nothing[0]))
    items = np.full((n_users, k), -1, dtype=np.int32)
    best = np.full((n_users, k), -np.inf)
    width = min(k, n_items)
    items[:, :width], best[:, :width] = top_k(scores, width)
    return items, best


def _needed(trie: CompiledTrie, normalisation: str) -> NDArray[np.bool_]:
    """Say which nodes must go through the model [M]: those whose children's scores are not known without."""
    children = np.zeros(trie.n_nodes, dtype=np.int64)
    children[: len(trie.indptr) - 1] = np.diff(trie.indptr)
    if normalisation == "vocab":
        needed = children > 0
    else:
        needed = children > 1
        for depth in range(trie.depth - 1, 0, -1):  # a node is needed for those below it
            here = np.arange(trie.levels[depth], trie.levels[depth + 1])
            needed[trie.parent(here[needed[here]])] = True
    needed[0] = False  # the prompt's own logits
    return needed


def _depth_first(trie: CompiledTrie, needed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the needed nodes in depth-first order."""
    size = needed.astype(np.int64)  # needed nodes at or below each node
    for depth in range(trie.depth, 0, -1):
        here = np.arange(trie.levels[depth], trie.levels[depth + 1])
        np.add.at(size, trie.parent(here), size[here])
    rank = np.zeros(trie.n_nodes, dtype=np.int64)
    for depth in range(1, trie.depth + 1):
        here = np.arange(trie.levels[depth], trie.levels[depth + 1])
        parent = trie.parent(here)
        before = np.cumsum(size[here]) - size[here]
        eldest = trie.indptr[parent] + 1 - here[0]  # place of the first sibling on this level
        rank[here] = rank[parent] + needed[parent] + before - before[eldest]
    nodes = np.flatnonzero(needed)
    return nodes[np.argsort(rank[nodes], kind="stable")]


def _ancestors(trie: CompiledTrie, node: int) -> NDArray[np.int64]:
    """Return the nodes between the root and ``node``, both left out, from the top."""
    path = []
    at = trie.parent(np.asarray([node]))
    while at[0]:
        path.append(at)
        at = trie.parent(at)
    return np.concatenate([*path[::-1], np.empty(0, np.int64)])


def _bytes_per_node(vocabulary: int, width: int) -> int:
    """Return what a node of one user takes, in bytes."""
    # Logits as the model makes them, as float32 of the wanted rows, and what the softmax takes; the mask twice.
    return 3 * 4 * vocabulary + 9 * (width + _MOST_NODES)


def _users_at_once(model: Any, width: int, depth: int, memory: int) -> int:
    """Return for how many users a pass has room for as many new nodes as ancestors that it may have to repeat.

    Raises
    ------
    TrieError
        There is no room for a node of one user.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    per_node = _bytes_per_node(vocabulary, width)
    if memory < per_node * (depth + 1):
        raise TrieError(
            f"A memory budget of {memory:,} bytes is too small for a vocabulary of {vocabulary:,}. Expected at least "
            f"{per_node * (depth + 1):,}."
        )
    return max(1, memory // (per_node * 2 * depth))


def _store(
    logp: NDArray[np.float64],
    trie: CompiledTrie,
    nodes: NDArray[np.int64],
    logits: torch.Tensor,
    normalisation: str,
) -> None:
    """Fill in the edges that leave ``nodes``; logits are those of each node for each user, user by user."""
    edges = trie.edges(nodes)
    for user, rows in enumerate(logits.view(len(logp), len(nodes), -1)):
        logp[user, edges.nodes - 1] = as_float64(
            child_log_probs(rows, edges.tokens, edges.offsets, normalisation)
        )


def _of_items(logp: NDArray[np.float64], trie: CompiledTrie) -> NDArray[np.float64]:
    """Add up each item's edges [B, N]."""
    total = np.zeros((len(logp), trie.n_nodes))
    for depth in range(1, trie.depth + 1):
        here = np.arange(trie.levels[depth], trie.levels[depth + 1])
        total[:, here] = total[:, trie.parent(here)] + logp[:, here - 1]
    scores = total[:, trie.leaf]
    if trie.shares_leaves:
        scores -= np.log(np.diff(trie.items_at(trie.leaf)[1]))
    return scores
