"""Embeddings of new tokens: trained on their own, beside a frozen pretrained matrix.

They live in PEFT's trainable tokens, one set for the input embedding and one for the head, so that the adapter loads
wherever PEFT does. While they are trained neither matrix is ever copied or multiplied as a whole.

Shapes: n new tokens, D features of the language model, d features of the collaborative vectors, B documents, T tokens,
P predictions, A tokens of the catalogue's alphabet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from llmrec.finetune.spread import gathered, like

__all__ = ["NewTokens", "mean_of_items", "title_rows"]

_ADAPTER = "default"  # PEFT's name of the only adapter


class NewTokens(nn.Module):
    """Input and output embeddings of n new tokens.

    Parameters
    ----------
    model
        What :func:`llmrec.finetune.lora.add_lora` returned for a model with new tokens.
    rows
        What the tokens stand for in the language model's own terms [n, D], see :func:`title_rows`.
    vectors
        Collaborative vectors [n, d], or ``None``. Without them both embeddings are free and start from ``rows``. With
        them a token's input embedding is ``row + Q v`` and its logit ``v . P h``, where h is the model's state and v the
        token's vector: the two maps and the vectors are trained, n x d + 2 D x d numbers instead of 2 n x D.
    temperature
        With it, and with vectors, what is trained is the softmax over ``cos(v, P h) / temperature``. The head that is
        saved has ``v . P h / (|v| c temperature)``, where c is the mean of ``|P h|``: a plain matrix product that ranks
        the tokens just so, since ``|P h|`` is the same for all of them. Its probabilities are close, not equal.
    dropout
        Share of features of new tokens' embeddings, and of states that are scored, zeroed in training.
    seed
        Of the maps.
    """

    rows: Tensor  # [n, D]
    length: Tensor  # [] running mean of |P h|; 0 before the first step

    def __init__(
        self,
        model: Any,
        rows: NDArray[np.floating],
        vectors: NDArray[np.floating] | None,
        *,
        temperature: float | None = None,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__()
        causal = model.get_base_model()
        # In tuples, so that the layers are not registered (and saved) a second time.
        self._layers = (causal.get_input_embeddings(), causal.get_output_embeddings())
        self.first = int(_tokens(self._layers[0])[0])
        self.dropout, self.temperature = dropout, None if vectors is None else temperature
        device = self._delta(0).device
        start = torch.as_tensor(rows, dtype=torch.float32, device=device)
        self.aligned = vectors is not None
        if vectors is None:
            for which in (0, 1):
                self._delta(which).data.copy_(start)
            return
        for which in (0, 1):
            self._delta(which).requires_grad_(False)
        self.register_buffer("rows", start, persistent=False)
        if temperature is not None:
            self.register_buffer("length", torch.zeros((), device=device))
        d = vectors.shape[1]
        scale = float(start.square().mean().sqrt())
        generator = torch.Generator().manual_seed(seed)
        unit = F.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=-1) * d**0.5
        self.vectors = nn.Parameter(unit.to(device))
        # Both parts of an input embedding have the same size at the start; a logit is of size 1.
        self.to_input = nn.Parameter(
            (torch.randn(start.shape[1], d, generator=generator) * scale / d**0.5).to(device)
        )
        self.to_score = nn.Parameter(
            (torch.randn(d, start.shape[1], generator=generator) / (3 * start.shape[1]) ** 0.5).to(device)
        )
        self.materialise()

    def inputs(self, new: Tensor | None = None) -> Tensor:
        """Return the input embeddings of all new tokens [n, D], or of those with these numbers [..., D]."""

        def of(table: Tensor) -> Tensor:
            return table if new is None else F.embedding(new, table)

        if not self.aligned:
            return of(self._delta(0))
        return of(self.rows) + F.linear(of(self.vectors), self.to_input)

    def outputs(self) -> Tensor:
        """Return the rows of the head [n, D]."""
        if not self.aligned:
            return self._delta(1)
        if self.temperature is None:
            rows: Tensor = self.vectors @ self.to_score / self.vectors.shape[1] ** 0.5
        else:
            length = torch.where(self.length > 0, self.length, 1.0)
            rows = self._directions() @ self.to_score / (self.temperature * length)
        return rows

    def cosines(self, states: Tensor) -> Tensor:
        """Return the cosine of every token's vector and the mapped states, over the temperature [P, n]."""
        assert self.temperature is not None
        if self.training:
            with torch.no_grad():
                mean = F.linear(states, self.to_score).float().norm(dim=-1).mean()
                self.length.copy_(torch.where(self.length > 0, self.length.lerp(mean, 0.02), mean))
        mapped = F.linear(self.drop(states), self.to_score).float()
        return F.linear(F.normalize(mapped, dim=-1) / self.temperature, self._directions())

    def _directions(self) -> Tensor:
        """Return the vectors at length 1, or shorter where they are shorter than that themselves [n, d].

        An item without events has a vector of 0, and the direction of that a gradient without bound, which would be all that
        is left of the first steps' after clipping; others have a length of the root of d.
        """
        return F.normalize(self.vectors, dim=-1, eps=1.0)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the input embeddings of tokens, old and new [B, T, D]."""
        new = token_ids >= self.first  # [B, T]
        old_rows = self._layers[0].token_adapter.base_layer(token_ids.masked_fill(new, 0))
        # Of the tokens at hand alone: mapping those of a large catalogue costs more than some layers of the model.
        new_rows = self.inputs((token_ids - self.first).clamp(min=0))
        return torch.where(new[..., None], self.drop(new_rows).to(old_rows.dtype), old_rows)

    def drop(self, features: Tensor) -> Tensor:
        """Apply dropout."""
        return F.dropout(features, self.dropout, self.training)

    def head(self, alphabet: Tensor) -> Tensor:
        """Return the head's rows for some tokens, old and new [A, D]."""
        outputs = self.outputs()
        if len(alphabet) == len(outputs) and int(alphabet[0]) == self.first:
            return outputs
        old = self._layers[1].token_adapter.base_layer.weight[alphabet]
        new = outputs[(alphabet - self.first).clamp(min=0)]
        return torch.where((alphabet >= self.first)[:, None], new.to(old.dtype), old)

    @torch.no_grad()
    def materialise(self, root: nn.Module | None = None) -> None:
        """Write the embeddings into PEFT's trainable tokens, from where they are decoded and saved.

        ``root`` is what accelerate has spread over processes, if it has; by itself this module's weights are no longer whole then.
        """
        if self.aligned:
            with gathered(root or self):
                made = (self.inputs().clone(), self.outputs().clone())
            for which, rows in enumerate(made):
                place = self._delta(which)
                place.copy_(like(rows, place))

    def _delta(self, which: int) -> Tensor:
        delta: Tensor = self._layers[which].token_adapter.trainable_tokens_delta[_ADAPTER]
        return delta


def _tokens(layer: Any) -> list[int]:
    tokens: list[int] = layer.token_adapter.token_indices[_ADAPTER]
    return tokens


def title_rows(embedding: Tensor, titles: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return for each item the mean input embedding of its title's tokens, centred and of natural size [N, D].

    Means of several embeddings are all alike; without their common part, and scaled up to the size of single
    embeddings, they tell items apart from the start.

    Parameters
    ----------
    embedding
        The pretrained input embedding [V, D].
    titles
        Token ids of each title [N].
    """
    weight = embedding.detach().float().cpu()
    means = torch.stack(
        [weight[torch.as_tensor(t, dtype=torch.long)].sum(0) / max(len(t), 1) for t in titles]
    )
    means = means - means.mean(0)
    size = weight.square().mean().sqrt() / means.square().mean().sqrt().clamp(min=1e-12)
    rows: NDArray[np.float32] = (means * size).numpy()
    return rows


def mean_of_items(
    values: NDArray[np.floating], token_ids: Sequence[Sequence[int]], first: int, n_tokens: int
) -> NDArray[np.float32]:
    """Return for each new token the mean over the items whose identifiers hold it; 0 for a token of none [n, D].

    Parameters
    ----------
    values
        A row per item [N, D].
    token_ids
        Identifiers [N].
    first, n_tokens
        The new tokens' ids begin at ``first``.
    """
    item = np.repeat(np.arange(len(token_ids)), [len(t) for t in token_ids])
    token = np.concatenate([np.asarray(t) for t in token_ids]) - first
    item, token = item[token >= 0], token[token >= 0]
    total = np.zeros((n_tokens, values.shape[1]), dtype=np.float64)
    np.add.at(total, token, values[item])
    counts = np.bincount(token, minlength=n_tokens)[:, None]
    means: NDArray[np.float32] = (total / np.maximum(counts, 1)).astype(np.float32)
    return means
