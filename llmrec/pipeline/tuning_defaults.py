"""The values that are tried for each kind of system where the config names none."""

from __future__ import annotations

from typing import Any

from llmrec.config import LLM

__all__ = ["SPACES"]

_SEQUENTIAL: dict[str, Any] = {
    "dim": [32, 64, 128],
    "dropout": {"low": 0.1, "high": 0.6, "step": 0.1},
    "lr": {"low": 3e-4, "high": 5e-3, "log": True},
    "max_len": [20, 50, 100],
}

SPACES: dict[str, dict[str, Any]] = {
    "popularity": {"window_days": [None, 7, 30, 90, 365]},
    "trend": {"window_days": [None, 3, 7, 10, 14, 30, 90, 365]},
    "markov": {
        "shrink": {"low": 1.0, "high": 1000.0, "log": True},
        "decay": {"low": 0.0, "high": 0.9, "step": 0.1},
    },
    "itemknn": {
        "neighbours": [20, 50, 100, 200, 400],
        "shrink": [0, 10, 30, 100],
        "decay": {"low": 0.5, "high": 1.0, "step": 0.1},
    },
    "userknn": {
        "neighbours": [20, 50, 100, 200, 400],
        "shrink": [0, 10, 30, 100],
        "decay": {"low": 0.5, "high": 1.0, "step": 0.1},
    },
    "ease": {
        "reg": {"low": 10.0, "high": 10_000.0, "log": True},
        "decay": {"low": 0.5, "high": 1.0, "step": 0.05},
    },
    "svd": {
        "dim": [16, 32, 64, 128],
        "scaling": {"low": 0.0, "high": 1.0, "step": 0.1},
        "decay": {"low": 0.5, "high": 1.0, "step": 0.05},
    },
    "content": {"vectors": ["tfidf", "lm"], "decay": {"low": 0.5, "high": 1.0, "step": 0.1}},
    "hybrid": {"fusion": ["zscore", "rank", "logprob"]},
    "adjusted": {},  # chooses its only number itself
    "rerank": {
        "candidates": [20, 50, 100, 200],
        "leaves": [4, 8, 16],
        "min_rows": [50, 100, 200, 400],
        "learning_rate": {"low": 0.01, "high": 0.1, "log": True},
    },
    "sasrec": {
        **_SEQUENTIAL,
        "layers": [1, 2, 3],
        "temperature": [0.05, 0.07, 0.1, 0.15, 0.2],
        "blocks": ["pre-norm", "published"],
    },
    "gru4rec": {
        **_SEQUENTIAL,
        "cell": ["gru", "lstm"],
        "layers": [1, 2],
        "temperature": [0.05, 0.07, 0.1, 0.15, 0.2],
    },
    "bert4rec": {**_SEQUENTIAL, "layers": [1, 2, 3]},
    LLM: {
        "finetune.learning_rate": {"low": 1e-4, "high": 2e-3, "log": True},
        "finetune.lora_rank": [4, 8, 16, 32],
        "finetune.label_smoothing": [0.0, 0.1, 0.2],
        "finetune.epochs": [1, 2, 3, 5],
        "prompt.max_events": [10, 20, 32, 64],
    },
}
"""For each built-in kind the options that matter most, where tuned values have been seen to lie."""
