"""How probable a language model finds texts, and whether it would write them of its own accord.

Shapes: B texts of a batch, T tokens, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from llmrec.eval.significance import Difference, Interval, bootstrap_mean, paired_difference

__all__ = ["Answers", "OnProgress", "Probe", "Question", "ask", "certain_of", "likely", "start_of_text"]

OnProgress = Callable[[int, int], None]  # (done, of how many)
_TOKENS_AT_ONCE = 512  # their logits are held: 300 MB at the 152,064 tokens of Qwen's vocabulary


@dataclass(frozen=True)
class Question:
    """What a model reads, and what it should go on with."""

    given: Sequence[int]
    answer: Sequence[int]  # one token or more
    hint: int = 0  # tokens of the answer that greedy decoding is given; fewer than it has


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model makes of n questions."""

    exact: NDArray[np.bool_]  # [n] greedy decoding would write the answer behind the hint, token by token
    log_probs: NDArray[np.float64]  # [n] mean log-probability of the answer's tokens, in nats


@dataclass(frozen=True)
class Probe:
    """The model's answers to true questions beside those to controls, of the same number and in pairs."""

    name: str
    of: int  # pairs
    unit: str  # "share" or "nats per token"
    true: Interval
    control: Interval
    difference: Difference  # true minus control


@torch.inference_mode()
def ask(model: Any, questions: Sequence[Question], on_progress: OnProgress | None = None) -> Answers:
    """Ask a causal language model of transformers; one forward pass per question, no generation.

    Greedy decoding writes an answer exactly if each of its tokens is the most probable one behind the tokens
    before it, which one pass over the answer tells.
    """
    exact = np.zeros(len(questions), dtype=bool)
    log_probs = np.zeros(len(questions))
    lengths = np.array([len(q.given) + len(q.answer) for q in questions])
    order = np.argsort(lengths, kind="stable")[::-1]  # those of like length share a batch
    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        rows = order[start : start + max(1, _TOKENS_AT_ONCE // width)]
        ids = torch.zeros((len(rows), width), dtype=torch.long)  # [B, T], padded on the right
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            tokens = [*questions[row].given, *questions[row].answer]
            ids[i, : len(tokens)] = torch.as_tensor(tokens)
            mask[i, : len(tokens)] = 1
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for i, row in enumerate(rows):
            first = len(questions[row].given)
            right = torch.as_tensor(questions[row].answer, device=logits.device)
            scores = logits[i, first - 1 : first - 1 + len(right)].float()  # [answer, vocabulary]
            exact[row] = bool((scores.argmax(-1) == right)[questions[row].hint :].all())
            own = scores.gather(-1, right[:, None])[:, 0]
            log_probs[row] = float((own - scores.logsumexp(-1)).mean())
        start += len(rows)
        if on_progress is not None:
            on_progress(start, len(order))
    return Answers(exact, log_probs)


def certain_of(name: str, true: Answers, control: Answers, seed: int) -> Probe:
    """Compare how many answers greedy decoding would write."""
    return Probe(
        name=name,
        of=len(true.exact),
        unit="share",
        true=_share(true.exact),
        control=_share(control.exact),
        difference=paired_difference(true.exact.astype(np.float64), control.exact.astype(np.float64), seed),
    )


def likely(name: str, true: Answers, control: Answers, seed: int) -> Probe:
    """Compare how probable the answers are."""
    return Probe(
        name=name,
        of=len(true.log_probs),
        unit="nats per token",
        true=bootstrap_mean(true.log_probs, seed),
        control=bootstrap_mean(control.log_probs, seed),
        difference=paired_difference(true.log_probs, control.log_probs, seed),
    )


def _share(hits: NDArray[np.bool_]) -> Interval:
    # Clopper and Pearson, Biometrika 1934: of none in n a bootstrap would say nothing, and this says "below 3.7 / n".
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, method="exact")
    return Interval(float(hits.mean()), float(found.low), float(found.high))


def start_of_text(tokenizer: Any) -> list[int]:
    """Return the tokens with which a model expects every text to begin, if any."""
    return list(tokenizer("", add_special_tokens=True)["input_ids"])
