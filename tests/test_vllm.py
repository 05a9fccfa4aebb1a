"""A real vLLM engine, against our torch decoder on the same weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from pipeline_cases import llmrec
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.data.recommendations import read_meta
from llmrec.decoding.beam import beam_search
from llmrec.decoding.free import free_search
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import ConfigError, TrieError

vllm = pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext  # noqa: E402

from llmrec.decoding.vllm import vllm_beam_search, vllm_free_search  # noqa: E402
from llmrec.decoding.vllm_engine import start_engine  # noqa: E402
from llmrec.decoding.vllm_processors import (  # noqa: E402
    REQUEST_KEY,
    TRIE_KEY,
    TrieProcessorV1,
    TrieProcessorV2,
)

VOCAB, END, N_ITEMS = 64, 1, 200
MADE_FOR = {"catalogue": "test"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm-model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.mul_(4)  # sharper, so that hypotheses differ by more than rounding
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_served(tiny_lm, tmp_path_factory):
    """The tiny language model with heads of 32: vLLM on a CPU takes no smaller ones."""
    folder = tmp_path_factory.mktemp("tiny-served") / "model"
    shutil.copytree(tiny_lm, folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_lm, head_dim=32)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trie():
    """Prefixes that branch, chains without an alternative, and sequences of unlike lengths."""
    rng = np.random.default_rng(0)
    sequences = {(*rng.integers(2, 9, rng.integers(1, 5)).tolist(), END) for _ in range(4 * N_ITEMS)}
    chosen = sorted(sequences)[:: max(1, len(sequences) // N_ITEMS)]
    chosen += [(20, *range(30, 36), end, END) for end in (40, 41)]  # a chain, then a choice
    chosen += [(21, *range(30, 36), END)]  # a chain to the end
    return CompiledTrie.from_sequences(chosen)


@pytest.fixture(scope="module")
def engine(model_folder, trie, tmp_path_factory):
    path = tmp_path_factory.mktemp("vllm-trie") / "trie.safetensors"
    trie.save(path, MADE_FOR)
    return start_engine(
        model_folder, path, MADE_FOR, k=10, width=40, until_certified=True, dtype="float32", max_model_len=128, block_size=32,
        skip_tokenizer_init=True, enforce_eager=True, max_num_seqs=64, gpu_memory_utilization=0.2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(model_folder):
    return LlamaForCausalLM.from_pretrained(model_folder).eval()


def users(n, trie, seed):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, VOCAB, rng.integers(1, 60)) for _ in range(n)]
    exclude = [rng.choice(trie.n_items, rng.integers(0, trie.n_items // 2), replace=False) for _ in range(n)]
    return prompts, exclude


@pytest.mark.parametrize("normalisation", ["catalogue", "vocab"])
@pytest.mark.parametrize(("width", "k"), [(1, 1), (5, 5), (20, 10), (40, 10)])
def test_same_lists_as_the_torch_decoder(engine, model, trie, normalisation, width, k):
    prompts, exclude = users(30, trie, seed=width)
    options = {"width": width, "exclude": exclude, "normalisation": normalisation}
    ours = beam_search(model, trie, prompts, k, **options)
    theirs = vllm_beam_search(engine, trie, prompts, k, **options)
    assert theirs.scores == pytest.approx(ours.scores, abs=1e-3)
    for a, b, scores, hidden in zip(ours.items, theirs.items, ours.scores, exclude, strict=True):
        assert len(set(b.tolist())) == k
        assert not set(b.tolist()) & set(hidden.tolist())
        for rank in np.flatnonzero(a != b):  # only where scores tie
            assert np.abs(np.delete(scores, rank) - scores[rank]).min() < 1e-3 or rank == k - 1
    # What is certified here is certified there; bounds on what was never shown may cost a certificate.
    assert not (theirs.certified & ~ours.certified).any()


def test_until_certified_is_exact(engine, model, trie):
    prompts, exclude = users(10, trie, seed=3)
    options = {"exclude": exclude, "normalisation": "catalogue"}
    exact = beam_search(model, trie, prompts, 5, width=trie.n_items, **options)
    found = vllm_beam_search(engine, trie, prompts, 5, width=5, until_certified=True, **options)
    assert found.certified.all()
    assert found.scores == pytest.approx(exact.scores, abs=1e-3)


@pytest.mark.parametrize("end", [END, None])
def test_free_search_writes_the_texts_that_torch_writes(engine, model, end):
    prompts = [np.random.default_rng(n).integers(2, VOCAB, 5 + n) for n in range(8)]
    options = {"end_token_id": end, "max_tokens": 4}
    ours = free_search(model, prompts, 6, **options)
    theirs = vllm_free_search(engine, prompts, 6, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert [text for _, text in a] == [text for _, text in b]
        assert [score for score, _ in a] == pytest.approx([score for score, _ in b], abs=1e-3)


def test_requests_that_do_not_ask_for_the_trie_are_left_alone(engine, model):
    prompt = [5, 6, 7]
    params = vllm.SamplingParams(max_tokens=1, temperature=0.0, logprobs=5, detokenize=False)
    out = engine.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    assert out.token_ids[0] == int(logits.argmax())
    assert out.logprobs[0][out.token_ids[0]].logprob == pytest.approx(float(logits.max()), abs=1e-3)


@pytest.fixture
def trained(config, tiny_served, capsys):
    """Fine-tune on the tiny log, for a small engine."""

    def run(scheme="title", memory=0.4, **changes):
        # The memory is that of the whole process, in which another test's engine may live.
        engine = {
            "max_model_len": 512,
            "block_size": 32,
            "enforce_eager": True,
            "gpu_memory_utilization": memory,
        }
        path = config(
            model={"name": str(tiny_served), "device": "cpu"},
            identifiers={"scheme": scheme},
            finetune={"steps": 4, "batch_tokens": 400, "learning_rate": 1e-2},
            decoding={"beam_width": 6, "vllm": engine},
            **changes,
        )
        for stage in ("prepare", "finetune"):
            llmrec(stage, path, capsys=capsys)
        return path

    return run


@pytest.mark.parametrize("scheme", ["title", "token"])
def test_a_run_is_served_as_adapter_or_merged(trained, csv_log, tmp_path, capsys, scheme):
    """Titles: the adapter itself. Tokens: their rows are new to the base model, so it is merged, once."""
    path = trained(scheme)
    job = ("recommend", path, "--histories", csv_log / "log.csv", "-k", 3, "--output")
    llmrec(*job, tmp_path / "torch", capsys=capsys)
    llmrec(*job, tmp_path / "vllm", "--backend", "vllm", capsys=capsys)
    assert (tmp_path / "run" / "merged").is_dir() == (scheme == "token")
    ours, theirs = (pl.read_parquet(tmp_path / name / "part-00000.parquet") for name in ("torch", "vllm"))
    assert theirs["score"].to_list() == pytest.approx(ours["score"].to_list(), abs=1e-3)
    assert (ours["item_id"] == theirs["item_id"]).mean() > 0.95


def test_a_run_searches_one_model_in_two_ways(trained, tmp_path, capsys):
    free = {"kind": "llm", "search": "free", "beam_width": 8}
    path = trained(systems={"llm": {}, "free": free, "sasrec": {"max_epochs": 1, "device": "cpu"}})
    llmrec("recommend", path, "--backend", "vllm", capsys=capsys)
    lists = tmp_path / "run" / "recommendations"
    theirs = {name: read_meta(lists / f"{name}.parquet") for name in ("llm", "free")}
    shutil.rmtree(lists)
    llmrec("recommend", path, capsys=capsys)
    ours = {name: read_meta(lists / f"{name}.parquet") for name in ("llm", "free")}
    assert theirs["free"]["free"] == pytest.approx(ours["free"]["free"], abs=0.05)
    assert theirs["llm"]["certified"] == pytest.approx(ours["llm"]["certified"], abs=0.05)


def command_line(process):
    # The cluster's helpers come and go: one that has just ended has none, which is no error (a zombie is a NoSuchProcess).
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_replicas_make_the_same_lists_though_one_is_killed(trained, csv_log, tmp_path, capsys):
    path = trained(memory=0.15)
    job = ["recommend", path, "--histories", csv_log / "log.csv", "-k", 3, "--shard-users", 2, "--output"]
    llmrec(*job, tmp_path / "torch", capsys=capsys)
    command = [*job, tmp_path / "ray", "--backend", "vllm", "--replicas", 2]
    process = subprocess.Popen(
        [sys.executable, "-c", "from llmrec.cli import main; main()", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    while not list((tmp_path / "ray").glob("part-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    replicas = [p for p in family if "_Replica" in command_line(p)]
    assert len(replicas) == 2, [command_line(p) for p in family]
    replicas[0].kill()
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    ours, theirs = (
        pl.concat([pl.read_parquet(p) for p in sorted((tmp_path / name).glob("part-*"))])
        for name in ("torch", "ray")
    )
    assert theirs["user_id"].to_list() == ours["user_id"].to_list()
    assert theirs["score"].to_list() == pytest.approx(ours["score"].to_list(), abs=1e-3)
    assert not list((tmp_path / "ray").glob(".*.tmp"))


def test_an_adapter_of_another_model_is_refused_before_an_engine_starts(trained, csv_log, tmp_path, capsys):
    path = trained()
    weights = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    other = {
        name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in load_file(weights).items()
    }
    save_file(other, weights)
    job = (
        "recommend",
        path,
        "--histories",
        csv_log / "log.csv",
        "--output",
        tmp_path / "out",
        "--backend",
        "vllm",
    )
    said = llmrec(*job, code=2, capsys=capsys).err
    assert "does not fit" in said
    assert "and the model has a layer of width" in said


class Versions:
    """Drives both interfaces of logits processors by hand: the same requests, the same rows."""

    def __init__(self, trie, folder, slots=6):
        path = folder / "trie.safetensors"
        trie.save(path, MADE_FOR)
        about = SimpleNamespace(additional_config={TRIE_KEY: {"path": str(path), "made_for": MADE_FOR}})
        self.v1 = TrieProcessorV1(about, torch.device("cpu"), False)
        self.tokens = torch.zeros(slots, 40, dtype=torch.int32)
        self.prompt_len = np.zeros(slots, dtype=np.int32)
        states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=self.tokens), prompt_len=SimpleNamespace(np=self.prompt_len)
        )
        self.v2 = TrieProcessorV2(about, states)

    @staticmethod
    def params(node=None, hidden=(), normalisation="catalogue"):
        packed = np.array(sorted(hidden), np.int32).tobytes()
        asked = {"node": node, "hidden": packed, "normalisation": normalisation, "stop": VOCAB - 1}
        return vllm.SamplingParams(extra_args=None if node is None else {REQUEST_KEY: asked})

    def v2_add(self, slot, params, prompt, output=()):
        self.prompt_len[slot] = len(prompt)
        self.tokens[slot, : len(prompt) + len(output)] = torch.tensor([*prompt, *output])
        return self.v2.add_request(slot, params)

    def v2_apply(self, logits, slots, lengths):
        index = torch.tensor(slots)
        context = LogitsContext(
            expanded_idx_mapping=index,
            idx_mapping=index,
            idx_mapping_np=index.numpy(),
            expanded_local_pos=torch.zeros_like(index),
            input_ids=torch.zeros_like(index),
            pos=torch.tensor(lengths) - 1,
            seq_lens_upper_bound_np=np.array(lengths),
        )
        return self.v2.apply(logits.clone(), context)


def expected(trie, logits, node, hidden=(), normalisation="catalogue"):
    """The definition: allowed tokens one by one."""
    edges = trie.edges(np.array([node]))
    over = logits[torch.as_tensor(edges.tokens.astype(np.int64))] if normalisation == "catalogue" else logits
    row = torch.full_like(logits, -torch.inf)
    for token, child in zip(edges.tokens.tolist(), edges.nodes.tolist(), strict=True):
        if child not in hidden:
            row[token] = logits[token] - torch.logsumexp(over, 0)
    return row


def test_both_versions_give_the_definition_through_moves_and_reuse(trie, tmp_path):
    drive, generator = Versions(trie, tmp_path), torch.Generator().manual_seed(0)
    root = trie.edges(np.array([0]))
    inner = [int(n) for n, leaf in zip(root.nodes, trie.is_leaf(root.nodes), strict=True) if not leaf]
    hidden = sorted(root.nodes.tolist())[:2]
    a, b, c = (
        drive.params(0, hidden), drive.params(inner[0], normalisation="vocab"), drive.params(),
    )  # fmt: skip
    outputs = {"a": [], "b": [], "c": []}
    added = [(0, a, [5], outputs["a"]), (1, c, [5], outputs["c"]), (2, b, [5, 6], outputs["b"])]
    drive.v1.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
    assert [drive.v2_add(4, a, [5]), drive.v2_add(0, c, [5]), drive.v2_add(2, b, [5, 6])] == [
        True,
        False,
        True,
    ]

    logits = torch.randn(3, VOCAB, generator=generator)
    by_name = {
        "a": expected(trie, logits[0], 0, hidden),
        "c": logits[1],
        "b": expected(trie, logits[2], inner[0], normalisation="vocab"),
    }
    assert torch.allclose(drive.v1.apply(logits.clone()), torch.stack([by_name[n] for n in "acb"]), atol=1e-6)
    drive_v2 = drive.v2_apply(logits[[2, 0, 1]], [2, 4, 0], [2, 1, 1])  # rows are reordered every step
    assert torch.allclose(drive_v2, torch.stack([by_name[n] for n in "bac"]), atol=1e-6)

    # "a" goes on by one token, "c" ends, "b" is swapped with "a" and then moves.
    token = int(trie.tokens_to(np.array([inner[1]]))[0])
    outputs["a"].append(token)
    swap, move = MoveDirectionality.SWAP, MoveDirectionality.UNIDIRECTIONAL
    drive.v1.update_state(BatchUpdate(2, removed=[1], added=[], moved=[(0, 2, swap), (2, 1, move)]))
    logits = torch.randn(2, VOCAB, generator=generator)
    wanted = torch.stack(
        [expected(trie, logits[0], inner[0], normalisation="vocab"), expected(trie, logits[1], inner[1])]
    )
    assert torch.allclose(drive.v1.apply(logits.clone()), wanted, atol=1e-6)
    drive.tokens[4, 1] = token
    assert torch.allclose(drive.v2_apply(logits, [2, 4], [2, 2]), wanted, atol=1e-6)

    # A slot is used again, by a request that comes back after preemption with a token it has generated.
    drive.v2_add(2, drive.params(0), [7, 7, 7], output=[token])
    logits = torch.randn(1, VOCAB, generator=generator)
    assert torch.allclose(
        drive.v2_apply(logits, [2], [4]), expected(trie, logits[0], inner[1])[None], atol=1e-6
    )


@pytest.mark.parametrize("normalisation", ["catalogue", "vocab"])
def test_a_walk_that_is_over_is_told_to_stop(trie, tmp_path, normalisation):
    """Over the vocabulary at its leaf; over the catalogue where one identifier is left."""
    drive, stop = Versions(trie, tmp_path), VOCAB - 1
    sequence = trie.sequence(int(np.argmax((trie.sequences() >= 0).sum(axis=1))))
    nodes = [int(trie.walk(sequence[:n])) for n in range(len(sequence) + 1)]
    params = drive.params(0, normalisation=normalisation)
    output: list[int] = []
    drive.v1.update_state(BatchUpdate(1, removed=[], added=[(0, params, [5], output)], moved=[]))
    drive.v2_add(0, params, [5])
    for done, node in enumerate(nodes):
        logits = torch.randn(1, VOCAB)
        got = drive.v1.apply(logits.clone())
        assert torch.equal(drive.v2_apply(logits, [0], [1 + done]), got)
        over = trie.decided[node] if normalisation == "catalogue" else node == nodes[-1]
        if over:
            assert torch.isfinite(got[0]).nonzero().flatten().tolist() == [stop]
            token = stop
        else:
            assert torch.allclose(
                got[0], expected(trie, logits[0], node, normalisation=normalisation), atol=1e-6
            )
            token = sequence[done]
        output.append(token)
        drive.tokens[0, 1 + done] = token


def test_a_request_that_makes_no_sense_is_refused(trie):
    for version in (TrieProcessorV1, TrieProcessorV2):
        version.validate_params(Versions.params())
        version.validate_params(Versions.params(0))
        with pytest.raises(ValueError, match="Unknown normalisation"):
            version.validate_params(Versions.params(0, normalisation="softmax"))
        with pytest.raises(ValueError, match="Expected a mapping"):
            version.validate_params(vllm.SamplingParams(extra_args={REQUEST_KEY: 3}))


def test_a_trie_of_another_catalogue_is_refused_before_an_engine_starts(model_folder, trie, tmp_path):
    trie.save(tmp_path / "t.safetensors", MADE_FOR)
    with pytest.raises(TrieError, match="made for another catalogue"):
        start_engine(model_folder, tmp_path / "t.safetensors", {"catalogue": "other"}, k=1, width=1)


def test_an_argument_that_the_engine_does_not_have_is_named(model_folder, trie, tmp_path):
    trie.save(tmp_path / "t.safetensors", MADE_FOR)
    with pytest.raises(ConfigError, match=r"max_modellen \(did you mean 'max_model_len'\?\)"):
        start_engine(model_folder, tmp_path / "t.safetensors", MADE_FOR, k=1, width=1, max_modellen=128)


def test_an_engine_that_cannot_start_says_what_to_lower(model_folder, trie, tmp_path):
    trie.save(tmp_path / "t.safetensors", MADE_FOR)
    with pytest.raises(ConfigError, match="lower max_model_len"):
        start_engine(
            model_folder, tmp_path / "t.safetensors", MADE_FOR, k=1, width=1, max_model_len=10**6,
            skip_tokenizer_init=True,
        )  # fmt: skip
