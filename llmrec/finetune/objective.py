"""What is minimised: the negative log-probability of the next items.

Shapes: B documents, T tokens, D features, P predictions, A tokens of the catalogue's alphabet, n new tokens,
c allowed tokens of all predictions together, E events of the training histories, K items of a teacher, N items.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec.errors import ConfigError
from llmrec.finetune.batches import Batch
from llmrec.finetune.examples import Alternatives
from llmrec.finetune.new_tokens import NewTokens
from llmrec.finetune.soft_targets import SoftTargets
from llmrec.tensors import logsumexp_by_row

__all__ = ["NextItemLoss"]


class NextItemLoss(nn.Module):
    """Sum of the cross-entropy of all targets of a batch, in nats.

    A module of its own around the language model, so that DDP and FSDP see one forward pass.

    Parameters
    ----------
    model
        A causal language model of transformers with PEFT adapters.
    alternatives
        The tokens that the softmax is over; ``None`` for the whole vocabulary. With them the head is computed for the
        catalogue's tokens alone, at the positions that predict one and have a choice.
    new_tokens
        Embeddings of tokens that the pretrained model lacks.
    label_smoothing
        Probability mass spread evenly over the allowed tokens (Szegedy et al. 2016).
    candidates
        Which items the softmax is over [N], where each is one token; all if left out. The rest is never a target, and neither what
        is smoothed nor what a teacher expects of it counts.
    soft_targets, teacher_weight
        What a teacher expects at the training events, and its share of the target: the loss is the cross-entropy with
        ``(1 - weight) y + weight q``, where y is the item that came next, smoothed, and q the teacher's distribution (Hinton,
        Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2; here with one temperature, the teacher's).

    Raises
    ------
    ConfigError
        The model computes its logits by more than a matrix product, so they cannot be had for some tokens only; or the
        whole vocabulary is asked for with new tokens that are made from vectors; or identifiers are longer than one token
        and there are soft targets or candidates.
    """

    alphabet: Tensor  # [A]
    indptr: Tensor  # [S + 1]
    code: Tensor  # [c]
    candidates: Tensor  # places in the alphabet, ascending [C]

    def __init__(
        self,
        model: Any,
        alternatives: Alternatives | None,
        new_tokens: NewTokens | None = None,
        *,
        label_smoothing: float = 0.0,
        candidates: NDArray[np.bool_] | None = None,
        soft_targets: SoftTargets | None = None,
        teacher_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.teacher_weight = 0.0 if soft_targets is None else teacher_weight
        self.model, self.new_tokens, self.label_smoothing = model, new_tokens, label_smoothing
        self.over_catalogue = alternatives is not None
        # Which layers accelerate makes units of, where weights are spread over devices (FSDP).
        self._no_split_modules = getattr(model.get_base_model(), "_no_split_modules", None)
        if soft_targets is not None and not _one_token_each(alternatives):
            raise ConfigError(
                "finetune.distillation.teacher is set, and identifiers are not one token each, or the loss is over the whole "
                "vocabulary. Expected identifiers.scheme: token and finetune.loss: catalogue with it, since a teacher speaks of "
                "items."
            )
        if candidates is not None and not _one_token_each(alternatives):
            raise ConfigError(
                "finetune.negatives is warm, and identifiers are not one token each, or the loss is over the whole vocabulary. "
                "Expected identifiers.scheme: token and finetune.loss: catalogue with it."
            )
        if alternatives is None:
            if new_tokens is not None and new_tokens.aligned:
                raise ConfigError(
                    "finetune.loss is vocab and finetune.new_tokens.start is collaborative. Expected loss: catalogue "
                    "with it, since the whole head is not made from the vectors in every step; or start: title."
                )
            return
        causal = model.get_base_model()
        if not _plain_head(causal):
            raise ConfigError(
                f"{type(causal).__name__} computes its logits by more than a matrix product. Expected a plain head for "
                "finetune.loss: catalogue; set it to vocab."
            )

        def buffer(name: str, values: Any) -> None:
            self.register_buffer(name, torch.as_tensor(np.asarray(values, np.int64)), persistent=False)

        buffer("alphabet", alternatives.alphabet)
        buffer("indptr", alternatives.indptr)
        buffer("code", alternatives.code)
        self.some = candidates is not None
        if candidates is not None:
            buffer("candidates", np.sort(alternatives.places[candidates]))
        if soft_targets is not None:
            # No buffers: DDP would send them around before every step, and a GPU has better things to hold.
            places = alternatives.places[soft_targets.items].astype(np.int32)
            probabilities = soft_targets.probabilities
            if candidates is not None:
                # What a teacher expects of other items is spread over the candidates, as what it leaves is.
                probabilities = np.where(candidates[soft_targets.items], probabilities, 0).astype(np.float16)
                known = self.candidates.numpy()
                places = np.searchsorted(known, places).clip(max=len(known) - 1).astype(np.int32)
            self._soft = (torch.from_numpy(places), torch.from_numpy(probabilities))  # [E, K] each
        # With a single prefix, the empty one, every prediction is over the whole alphabet.
        self.one_choice = len(alternatives.indptr) == 2
        if new_tokens is None or new_tokens.temperature is None:
            return
        if not (self.one_choice and len(alternatives.alphabet) == len(new_tokens.vectors)):
            raise ConfigError(
                "finetune.new_tokens.temperature is set, and identifiers are longer than one new token. Expected "
                "identifiers.scheme: token with it, since only the order of single tokens survives in the saved head; or "
                "null."
            )

    def forward(
        self, token_ids: Tensor, positions: Tensor, labels: Tensor, prefixes: Tensor, events: Tensor
    ) -> Tensor:
        """Return the summed loss of a :class:`Batch`."""
        if not self.over_catalogue:
            return self._over_vocabulary(token_ids, positions, labels)
        states = self._states(token_ids).flatten(0, 1)[positions]  # [P, D]
        logits = self._logits(states).float()  # [P, A]
        target = torch.searchsorted(self.alphabet, labels)
        if self.some:
            logits, target = logits[:, self.candidates], torch.searchsorted(self.candidates, target)
        if self.teacher_weight:
            return self._distilled(logits, target, events)
        if self.one_choice:
            return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing, reduction="sum")
        own = logits.gather(1, target[:, None])[:, 0]
        counts = self.indptr[prefixes + 1] - self.indptr[prefixes]  # [P]
        row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)  # [c]
        first = self.indptr[prefixes] - (counts.cumsum(0) - counts)
        allowed = self.code[first[row] + torch.arange(len(row), device=row.device)]
        scores = logits[row, allowed]
        total = logsumexp_by_row(scores, row, len(counts))
        loss = total - own
        if self.label_smoothing:
            mean = torch.zeros_like(total).index_add(0, row, scores) / counts
            loss = loss + self.label_smoothing * (own - mean)
        return loss.sum()

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: matrix products in bfloat16 where the model was loaded in it, quantised or not."""
        base = self.model.get_base_model()
        if base.config.dtype != torch.bfloat16:
            return nullcontext()
        return torch.autocast(base.device.type, torch.bfloat16)

    def loss(self, batch: Batch) -> Tensor:
        """Return the summed loss of a batch."""
        result: Tensor = self(batch.token_ids, batch.positions, batch.labels, batch.prefixes, batch.events)
        return result

    def _distilled(self, logits: Tensor, target: Tensor, events: Tensor) -> Tensor:
        """Return the summed cross-entropy with the mixture of events and teacher; without the latter for event -1."""
        places, shares = (table[events.cpu()].to(logits.device) for table in self._soft)  # [P, K]
        places, shares = places.long(), shares.float()
        mean = logits.mean(dim=1)
        hard = logits.gather(1, target[:, None])[:, 0].lerp(mean, self.label_smoothing)
        soft = (shares * logits.gather(1, places)).sum(dim=1) + (1 - shares.sum(dim=1)) * mean
        weight = self.teacher_weight * (events >= 0)
        # Both targets sum to 1, so the sum over the items is the same for them.
        return (logits.logsumexp(dim=1) - hard.lerp(soft, weight)).sum()

    def _over_vocabulary(self, token_ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        width = token_ids.shape[1]
        # The head for columns that hold a prediction in any document only.
        columns, place = torch.unique(positions % width, return_inverse=True)
        logits = self.model(input_ids=token_ids, logits_to_keep=columns, use_cache=False).logits  # [B, C, V]
        chosen = logits[positions // width, place].float()
        return F.cross_entropy(chosen, labels, label_smoothing=self.label_smoothing, reduction="sum")

    def _states(self, token_ids: Tensor) -> Tensor:
        """Return the last hidden states [B, T, D]."""
        causal = self.model.get_base_model()
        backbone = getattr(causal, causal.base_model_prefix)
        if self.new_tokens is None:
            states: Tensor = backbone(input_ids=token_ids, use_cache=False).last_hidden_state
        else:
            states = backbone(
                inputs_embeds=self.new_tokens.embed(token_ids), use_cache=False
            ).last_hidden_state
        return states

    def _logits(self, states: Tensor) -> Tensor:
        """Return the scores of the alphabet's tokens [P, A]."""
        if self.new_tokens is None:
            return F.linear(states, *self._head())
        if self.new_tokens.temperature is not None:
            return self.new_tokens.cosines(states)
        return F.linear(self.new_tokens.drop(states), *self._head())

    def _head(self) -> tuple[Tensor, Tensor | None]:
        """Return the head's weight [A, D] and bias [A] for the alphabet."""
        if self.new_tokens is not None:
            return self.new_tokens.head(self.alphabet), None
        head = self.model.get_base_model().get_output_embeddings()
        bias = getattr(head, "bias", None)
        return head.weight[self.alphabet], None if bias is None else bias[self.alphabet]


def _one_token_each(alternatives: Alternatives | None) -> bool:
    """Say whether every item is one token of the alphabet, and no two the same."""
    return alternatives is not None and len(alternatives.alphabet) == len(alternatives.prefixes) == len(
        alternatives.code
    )


@torch.no_grad()
def _plain_head(causal: Any) -> bool:
    """Say whether logits are the head's weight times the last hidden state and nothing else."""
    head = causal.get_output_embeddings()
    if type(getattr(head, "original_module", head)) is not nn.Linear:  # PEFT wraps a head that has new tokens
        return False
    was_training = causal.training
    causal.eval()
    ids = torch.arange(1, 5, device=head.weight.device)[None]
    output = causal(input_ids=ids, output_hidden_states=True, use_cache=False)
    expected = head(output.hidden_states[-1])
    causal.train(was_training)
    return bool(torch.allclose(output.logits.float(), expected.float(), rtol=1e-2, atol=1e-3))
