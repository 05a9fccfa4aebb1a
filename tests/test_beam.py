"""The beam against brute force, on tiny models of three families and on the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmrec.data.datasets import load_dataset
from llmrec.data.split import leave_one_out
from llmrec.decoding.beam import beam_search
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError
from llmrec.identifiers.title import title_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer

END, VOCAB = 1, 30
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": None, "eos_token_id": None}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **SIZE, **IDS)),
    "qwen": lambda: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=VOCAB, num_key_value_heads=2, tie_word_embeddings=True, **SIZE, **IDS)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, **IDS)),
}
MODELS: dict[str, torch.nn.Module] = {}


def model_of(family):
    if family not in MODELS:
        torch.manual_seed(0)
        model = FAMILIES[family]().eval()
        for parameter in model.parameters():
            parameter.data.mul_(4)  # sharper, so that hypotheses differ by more than rounding
        MODELS[family] = model
    return MODELS[family]


@torch.no_grad()
def brute_force(model, trie, sequences, prompt, normalisation):
    """One forward pass per item, no cache, no mask, no trie arithmetic."""
    scores = []
    for s in sequences:
        logits = model(torch.tensor([[*prompt, *s]])).logits[0].double()
        total = 0.0
        for n, token in enumerate(s):
            row = logits[len(prompt) - 1 + n]
            allowed = slice(None)
            if normalisation == "catalogue":
                allowed = sorted({t[n] for t in sequences if t[:n] == s[:n]})
            total += float(row[token] - torch.logsumexp(row[allowed], 0))
        scores.append(total)
    return np.array(scores)


@st.composite
def problems(draw):
    titles = st.lists(st.integers(2, 6), max_size=4).map(lambda s: (*s, END))
    sequences = draw(st.lists(titles, min_size=2, max_size=15, unique=True))
    prompt = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)
    prompts = [np.array(p) for p in draw(st.lists(prompt, min_size=1, max_size=4))]
    hide = st.lists(st.integers(0, len(sequences) - 1), max_size=len(sequences) - 1, unique=True)
    exclude = [np.array(draw(hide), dtype=np.int64) for _ in prompts]
    width = draw(st.integers(1, len(sequences)))
    return sequences, prompts, exclude, width, draw(st.integers(1, width))


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_beam_against_brute_force(family, normalisation, problem):
    sequences, prompts, exclude, width, k = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    n = len(sequences)
    for w in (width, n):
        found = beam_search(model, trie, prompts, k, width=w, exclude=exclude, normalisation=normalisation)
        for row, prompt in enumerate(prompts):
            scores = brute_force(model, trie, sequences, prompt, normalisation)
            got = [i for i in found.items[row] if i >= 0]
            # Valid, not repeated, not excluded, never fewer than there are.
            assert len(set(got)) == len(got)
            assert not set(got) & set(exclude[row].tolist())
            if w == n:
                assert len(got) == min(k, n - len(exclude[row]))
                assert found.certified[row]
            np.testing.assert_allclose(found.scores[row, : len(got)], scores[got], atol=1e-4)
            if found.certified[row]:  # a certificate is never wrong
                allowed = np.setdiff1d(np.arange(n), exclude[row])
                best = np.sort(scores[allowed])[::-1][:k]
                np.testing.assert_allclose(found.scores[row, : len(got)], best, atol=1e-4)


def test_catalogue_probabilities_sum_to_one():
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END)]
    trie = CompiledTrie.from_sequences(sequences)
    found = beam_search(model_of("llama"), trie, [np.array([1, 2])], 4, width=4, normalisation="catalogue")
    assert np.exp(found.scores[0]).sum() == pytest.approx(1, abs=1e-5)


def test_batch_and_single_users_agree():
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END), (5, 5, END)]
    trie = CompiledTrie.from_sequences(sequences)
    prompts = [np.array([3] * n) for n in (1, 7, 4)]
    together = beam_search(model_of("gpt2"), trie, prompts, 3, width=4)
    for row, prompt in enumerate(prompts):
        alone = beam_search(model_of("gpt2"), trie, [prompt], 3, width=4)
        assert (alone.items[0] == together.items[row]).all()
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_bad_requests_are_refused():
    trie = CompiledTrie.from_sequences([(2, END), (3, END)])
    model, prompt = model_of("llama"), [np.array([1])]
    with pytest.raises(TrieError, match="k <= beam_width"):
        beam_search(model, trie, prompt, 2, width=1)
    with pytest.raises(TrieError, match="Every item of the catalogue is excluded"):
        beam_search(model, trie, prompt, 1, width=1, exclude=[np.array([0, 1])])
    with pytest.raises(TrieError, match="Unknown normalisation"):
        beam_search(model, trie, prompt, 1, width=1, normalisation="tokens")


@pytest.mark.lm
def test_real_model_recommends_only_unseen_catalogue_items_with_the_right_scores():
    interactions, catalog = load_dataset("ml-100k")
    split = leave_one_out(interactions, catalog, dataset="ml-100k")
    tokenizer, model = load_tokenizer("smollm2-135m"), load_model("smollm2-135m")
    ids = title_identifiers(catalog, tokenizer).token_ids
    verbalizer = Verbalizer(load_template("films"), tokenizer, catalog, ids, max_events=8)
    trie = CompiledTrie.from_sequences(ids)
    users = [split.test.histories[u] for u in (0, 400, 800)]
    prompts = [verbalizer.prompt(h) for h in users]
    found = beam_search(model, trie, prompts, 5, width=8, exclude=[h.items for h in users])
    for row, history in enumerate(users):
        items = found.items[row]
        assert len(set(items)) == 5
        assert items.min() >= 0
        assert not set(items) & set(history.items)
        for item, score in zip(items, found.scores[row], strict=True):
            tokens = np.concatenate([prompts[row], ids[item]])
            with torch.no_grad():
                logp = model(torch.as_tensor(tokens)[None]).logits[0].log_softmax(-1)
            n = len(ids[item])
            whole = logp[torch.arange(len(tokens) - n - 1, len(tokens) - 1), list(ids[item])].sum()
            assert score == pytest.approx(float(whole), abs=2e-3)
