"""A real vLLM engine, against our torch decoder on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.decoding.beam import beam_search
from llmrec.decoding.trie import CompiledTrie

vllm = pytest.importorskip("vllm", reason="vLLM is not installed")

from llmrec.decoding.vllm import start_engine, vllm_beam_search  # noqa: E402

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
        skip_tokenizer_init=True, enforce_eager=True, max_num_seqs=64,
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


def test_requests_that_do_not_ask_for_the_trie_are_left_alone(engine, model):
    prompt = [5, 6, 7]
    params = vllm.SamplingParams(max_tokens=1, temperature=0.0, logprobs=5, detokenize=False)
    out = engine.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    assert out.token_ids[0] == int(logits.argmax())
    assert out.logprobs[0][out.token_ids[0]].logprob == pytest.approx(float(logits.max()), abs=1e-3)
