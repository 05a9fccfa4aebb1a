"""The trie inside a vLLM engine: what makes its tokens' scores those of children in the trie.

vLLM has two runners with two interfaces for logits processors, and an engine takes classes of its own runner only:
:class:`TrieProcessorV1` (every CPU build, and what is not yet on the newer runner) and ``TrieProcessorV2`` (the default
on CUDA). Both are loaded by the engine's processes by name, map the trie file that ``additional_config`` names, and
leave requests alone that do not ask for it in ``SamplingParams.extra_args``.

Shapes: R rows of logits, n rows that are constrained, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from llmrec.decoding.scores import NORMALISATIONS, child_log_probs
from llmrec.decoding.trie import CompiledTrie
from llmrec.decoding.view import is_in
from llmrec.decoding.vllm_engine import walk_is_over

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

__all__ = ["REQUEST_KEY", "TRIE_KEY", "TrieProcessorV1", "TrieProcessorV2", "Walk", "constrain"]

REQUEST_KEY = "llmrec"
"""In ``extra_args``: ``{"node": where the request begins, "hidden": nodes not to enter as int32 bytes, ascending,
"normalisation": ..., "stop": token for a walk that is over}``; node -1 is for free generation."""
TRIE_KEY = "llmrec_trie"
"""In the engine's ``additional_config``: path of the trie file."""


@dataclass
class Walk:
    """Where one request is in the trie; at node -1 nothing is constrained, and scores become log-probabilities."""

    trie: CompiledTrie
    node: int
    hidden: NDArray[np.int64]  # nodes, ascending
    normalisation: str
    stop: int = 0  # token for a walk that is over
    walked: int = 0  # tokens followed

    @classmethod
    def asked(cls, trie: CompiledTrie, params: SamplingParams) -> Walk | None:
        """Return the walk that a request asks for, if any."""
        asked = (params.extra_args or {}).get(REQUEST_KEY)
        if asked is None:
            return None
        hidden = np.frombuffer(asked["hidden"], np.int32).astype(np.int64)
        return cls(trie, int(asked["node"]), hidden, asked["normalisation"], int(asked.get("stop", 0)))

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be scored."""
        return self.node >= 0 and bool(walk_is_over(self.trie, np.array([self.node]), self.normalisation)[0])

    def follow(self, new: Sequence[int]) -> None:
        """Follow what has been generated since the last call."""
        if len(new) and self.node >= 0:
            for token in new:
                if self.is_over:
                    break
                self.node = int(self.trie.advance(np.array([self.node]), np.array([token]))[0])
            self.walked += len(new)


def check_request(params: SamplingParams) -> None:
    """Raise ``ValueError``, as vLLM expects it, for a request that cannot be constrained."""
    asked = (params.extra_args or {}).get(REQUEST_KEY)
    if asked is None:
        return
    if not isinstance(asked, Mapping) or not {"node", "hidden", "normalisation"} <= set(asked):
        raise ValueError(
            f"extra_args[{REQUEST_KEY!r}] is {asked!r}. Expected a mapping with node, hidden, normalisation."
        )
    if asked["normalisation"] not in NORMALISATIONS:
        raise ValueError(
            f"Unknown normalisation {asked['normalisation']!r}. Expected one of {', '.join(NORMALISATIONS)}."
        )


def constrain(logits: torch.Tensor, rows: Sequence[int], walks: Sequence[Walk]) -> torch.Tensor:
    """Replace rows of logits [R, V], in place, by the log-probabilities of what the trie allows, -inf elsewhere.

    ``rows`` are those of ``walks`` [n]. A walk that is over keeps a single token, ``stop``, at 0.
    """
    if not len(rows):
        return logits
    trie = walks[0].trie
    free = [row for row, walk in zip(rows, walks, strict=True) if walk.node < 0]
    if free:
        at = torch.as_tensor(free, device=logits.device)
        logits[at] = logits[at].float().log_softmax(-1).to(logits.dtype)
    over = [walk.is_over for walk in walks]
    for at_row, walk, is_over in zip(rows, walks, over, strict=True):
        if is_over:
            logits[at_row] = -torch.inf
            logits[at_row, walk.stop] = 0.0
    for normalisation in NORMALISATIONS:
        chosen = [
            i for i, w in enumerate(walks) if w.normalisation == normalisation and w.node >= 0 and not over[i]
        ]
        if not chosen:
            continue
        row = torch.as_tensor([rows[i] for i in chosen], device=logits.device)
        edges = trie.edges(np.array([walks[i].node for i in chosen]))
        scores = child_log_probs(
            logits.index_select(0, row).float(), edges.tokens, edges.offsets, normalisation
        )
        which = np.repeat(np.arange(len(chosen)), np.diff(edges.offsets))
        hidden = [
            is_in(walks[i].hidden, edges.nodes[a:b])
            for i, a, b in zip(chosen, edges.offsets[:-1], edges.offsets[1:], strict=True)
        ]
        scores[torch.as_tensor(np.concatenate(hidden), device=logits.device)] = -torch.inf
        logits.index_fill_(0, row, -torch.inf)
        tokens = torch.as_tensor(edges.tokens.astype(np.int64), device=logits.device)
        logits[row[torch.as_tensor(which, device=logits.device)], tokens] = scores.to(logits.dtype)
    return logits


def _trie_of(config: VllmConfig) -> CompiledTrie:
    about: dict[str, Any] = config.additional_config[TRIE_KEY]
    return CompiledTrie.load(about["path"], about["made_for"])


class TrieProcessorV1(LogitsProcessorV1):
    """For the runner that tells which rows of its batch are added, removed and moved."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.trie = _trie_of(vllm_config)
        self.rows: dict[int, tuple[Walk, list[int]]] = {}  # walk and the live list of output tokens

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ``ValueError`` for a request that cannot be constrained."""
        check_request(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Say that it changes which token is best."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Keep the rows in step with the batch: removed, added, moved, in this order, as vLLM documents it."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            walk = Walk.asked(self.trie, params)
            self.rows.pop(index, None)
            if walk is not None:
                self.rows[index] = (walk, output)
        for first, second, direction in batch_update.moved:
            one, other = self.rows.pop(first, None), self.rows.pop(second, None)
            if one is not None:
                self.rows[second] = one
            if other is not None and direction.name == "SWAP":
                self.rows[first] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Constrain the rows that ask for it."""
        rows = list(self.rows)
        walks = []
        for row in rows:
            walk, output = self.rows[row]
            walk.follow(output[walk.walked :])
            walks.append(walk)
        return constrain(logits, rows, walks)


class TrieProcessorV2(LogitsProcessorV2):
    """For the runner that keeps requests in slots and their tokens on the device.

    Not run on a GPU so far: see docs/vllm.md.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.trie = _trie_of(vllm_config)
        self.states = req_states
        self.walks: dict[int, tuple[Walk, int]] = {}  # walk and the length of the prompt, by slot

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ``ValueError`` for a request that cannot be constrained."""
        check_request(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Take a request into a slot, whoever had it before."""
        walk = Walk.asked(self.trie, sampling_params)
        self.walks.pop(req_idx, None)
        if walk is not None:
            self.walks[req_idx] = (walk, int(self.states.prompt_len.np[req_idx]))
        return walk is not None

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Constrain the rows whose slots ask for it."""
        slots = ctx.expanded_idx_mapping.tolist()
        ends = (ctx.pos + 1).tolist()
        rows, walks, new = [], [], []
        for row, (slot, end) in enumerate(zip(slots, ends, strict=True)):
            if slot in self.walks:
                walk, prompt = self.walks[slot]
                new.append([(slot, place) for place in range(prompt + walk.walked, end)])
                rows.append(row)
                walks.append(walk)
        if unread := list(itertools.chain.from_iterable(new)):
            # One copy from the device for all rows, since each waits for it.
            known = self.states.all_token_ids.gpu
            slot_ids, place_ids = torch.tensor(unread, device=known.device).T
            tokens = iter(known[slot_ids, place_ids].tolist())
            for walk, places in zip(walks, new, strict=True):
                if places:
                    walk.follow(list(itertools.islice(tokens, len(places))))
        return constrain(logits, rows, walks)
