"""A tiny but real language model with a tokenizer of its own, and a log to go with it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmrec.data.catalog import Catalog

# setuptools, which vLLM imports, wants to replace the distutils of a process, and stops where something has been imported
# from Python's own already, as it has been late in a run of all tests.
os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")

TITLES = [
    "Alien", "Aliens", "Alien 3", "Heat", "Sabrina", "Sabrina", "Casino", "Babe", "Toy Story",
    "The Land Before Time", "The Land Before Time II", "Amélie", "七人の侍", "Die Hard", "Die Hard 2", "Se7en",
]  # fmt: skip
YEARS = [
    "1979", "1986", "1992", "1995", "1954", "1995", "1995", "1995", "1995",
    "1988", "1994", "2001", "1954", "1988", "1990", "1995",
]  # fmt: skip


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call a socket or a subprocess fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    def close() -> None:
        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(subprocess, "run", refuse)

    return close


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog(tuple(f"i{n}" for n in range(len(TITLES))), tuple(TITLES), {"year": tuple(YEARS)})


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a randomly initialised two-layer Llama and a byte-level BPE tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-lm")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*TITLES, "watched 3 days later\n"] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_lm(tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with rows of 64 weights, which is what bitsandbytes packs into blocks."""
    folder = tmp_path_factory.mktemp("wide-lm")
    shutil.copytree(tiny_lm, folder, dirs_exist_ok=True)
    config = LlamaConfig.from_pretrained(
        tiny_lm, hidden_size=64, intermediate_size=128, num_key_value_heads=4, head_dim=16
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def csv_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with log.csv and items.csv: 24 users with 4 to 12 events each."""
    folder = tmp_path_factory.mktemp("csv")
    draw = random.Random(0)
    lines = ["user,item,time"]
    for user in range(24):
        when = 800_000_000 + draw.randrange(10**6)
        for item in draw.sample(range(len(TITLES)), draw.randint(4, 12)):
            when += draw.choice([0, 60, 7_200, 86_400 * 3, 86_400 * 40])
            lines.append(f"u{user},i{item},{when}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = [f"i{n},{t},{y}" for n, (t, y) in enumerate(zip(TITLES, YEARS, strict=True))]
    (folder / "items.csv").write_text("item,title,year\n" + "\n".join(items) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def csv_data(csv_log: Path) -> dict[str, object]:
    """The section 'data' of a config for that log."""
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time", "attributes": ["year"]}
    return {
        "interactions": str(csv_log / "log.csv"),
        "items": str(csv_log / "items.csv"),
        "columns": columns,
    }


@pytest.fixture
def config(tmp_path, tiny_lm, csv_data):
    """Write a config and return its path; keywords replace sections."""

    def write(**changes):
        content = {
            "name": "tiny",
            "output": str(tmp_path / "run"),
            "data": csv_data,
            "prompt": {"template": "films"},
            "model": {"name": str(tiny_lm), "device": "cpu"},
            "finetune": {"steps": 4, "batch_tokens": 400, "save_steps": 1},
            "decoding": {"beam_width": 6},
            "systems": {
                "llm": {},
                "popularity": {},
                "itemknn": {},
                "sasrec": {"max_epochs": 2, "device": "cpu"},
            },
            "evaluation": {"users": 10, "k": 5, "cutoffs": [1, 5], "users_shown": 2},
        } | changes
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write
