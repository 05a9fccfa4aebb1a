"""Free generation: beam search over all texts, without the trie, to see what the trie buys.

What comes out is text: it may be no item of the catalogue, an item that stands higher in the list already, or one that the user
must not get. The search is that of transformers with ``length_penalty=0`` and ``early_stopping="never"``: the most
probable texts first.

Shapes: B users, W prefixes per user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["FreeCounts", "Scored", "Text", "beam_of_texts", "free_search"]

Text = tuple[int, ...]  # token ids behind a prompt, with the end token where it was reached
Scored = tuple[float, Text]  # log-probability and text
BestTokens = Callable[[list[tuple[int, Text]], int], list[dict[int, float]]]
"""(user and text so far, how many) -> log-probabilities of the best next tokens of each."""


@dataclass
class FreeCounts:
    """What became of the texts that were written."""

    texts: int = 0
    valid: int = 0  # texts that are an item of the catalogue
    duplicates: int = 0  # items that stand higher in the same list
    excluded: int = 0  # items that the user must not get, such as those seen

    def usable(self, items: Sequence[int | None], excluded: NDArray[np.integer]) -> list[tuple[int, int]]:
        """Count one list, and return the places in it whose items the user can get, with these items.

        ``items`` are those that the texts name, ``None`` where a text names none.
        """
        hidden, seen = set(excluded.tolist()), set[int]()
        found: list[tuple[int, int]] = []
        for place, item in enumerate(items):
            self.texts += 1
            if item is None:
                continue
            self.valid += 1
            if item in seen:
                self.duplicates += 1
            elif item in hidden:
                self.excluded += 1
            else:
                found.append((place, item))
            seen.add(item)
        return found

    def rates(self) -> dict[str, float]:
        """Return each count as a share of the texts; NaN where there are none."""
        names = ("valid", "duplicates", "excluded")
        return {name: getattr(self, name) / self.texts if self.texts else float("nan") for name in names}


@torch.inference_mode()
def free_search(
    model: Any,
    prompts: Sequence[NDArray[np.integer]],
    width: int,
    *,
    end_token_id: int | None,
    max_tokens: int,
) -> list[list[Scored]]:
    """Return the ``width`` most probable texts after each prompt [B][W], found by ``model.generate``.

    Parameters
    ----------
    end_token_id
        The token that ends a text; ``None`` where every text has ``max_tokens`` tokens.
    """
    length = max(map(len, prompts))
    ids = torch.zeros((len(prompts), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    found = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        num_beams=width,
        num_return_sequences=width,
        **({"length_penalty": 0.0, "early_stopping": "never"} if width > 1 else {}),
        max_new_tokens=max_tokens,
        eos_token_id=end_token_id,
        pad_token_id=0,
        # A chat model brings settings of its own.
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    written = [_up_to(end_token_id, row) for row in found.sequences[:, length:].tolist()]
    if width > 1:
        scores = found.sequences_scores.tolist()
    else:  # a beam of one is another method to transformers, which gives no scores of sequences
        steps = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        scores = [sum(row[: len(text)]) for row, text in zip(steps.tolist(), written, strict=True)]
    texts = list(zip(scores, written, strict=True))
    return [texts[start : start + width] for start in range(0, len(texts), width)]


def _up_to(end: int | None, tokens: list[int]) -> Text:
    return tuple(tokens[: tokens.index(end) + 1] if end in tokens else tokens)


@dataclass
class _Beam:
    live: list[Scored] = field(default_factory=lambda: [(0.0, ())])
    done: list[Scored] = field(default_factory=list)


def beam_of_texts(
    best_tokens: BestTokens, users: int, width: int, *, end_token_id: int | None, max_tokens: int
) -> list[list[Scored]]:
    """Return what :func:`free_search` returns, for a model that tells the best next tokens [B][W]."""
    beams = [_Beam() for _ in range(users)]
    for _ in range(max_tokens):
        asked = [(user, text) for user, beam in enumerate(beams) for _, text in beam.live]
        if not asked:
            break
        answers = iter(best_tokens(asked, 2 * width))
        for beam in beams:
            grown = [
                (score + logp, (*text, token))
                for score, text in beam.live
                for token, logp in next(answers).items()
            ]
            grown.sort(key=lambda g: -g[0])
            grown = grown[: 2 * width]
            ended = [g for g in grown[:width] if g[1][-1] == end_token_id]
            beam.done = sorted(beam.done + ended, key=lambda g: -g[0])[:width]
            beam.live = [g for g in grown if g[1][-1] != end_token_id][:width]
            if len(beam.done) == width and (not beam.live or beam.live[0][0] <= beam.done[-1][0]):
                beam.live = []
    return [sorted(beam.done + beam.live, key=lambda g: -g[0])[:width] for beam in beams]
