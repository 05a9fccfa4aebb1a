"""The beam against brute force, on tiny models of three families and on the real one."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from decoding_cases import END, FAMILIES, IDS, VOCAB, best, brute_force, model_of, problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from llmrec.data.datasets import load_dataset
from llmrec.data.split import leave_one_out
from llmrec.decoding.beam import beam_search
from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.guidance import Guide
from llmrec.decoding.head import with_float32_logits
from llmrec.decoding.packed import PackedPrompts, masked_attention
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError
from llmrec.identifiers.title import title_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer

HARD = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("family", FAMILIES)
@HARD
@given(problems())
def test_beam_against_brute_force(family, normalisation, problem):
    sequences, prompts, exclude, width, k = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    n = len(sequences)
    for w in (width, n):
        found = beam_search(model, trie, prompts, k, width=w, exclude=exclude, normalisation=normalisation)
        for row, prompt in enumerate(prompts):
            scores = brute_force(model, sequences, prompt, normalisation)
            got = [i for i in found.items[row] if i >= 0]
            # Valid, not repeated, not excluded, never fewer than there are.
            assert len(set(got)) == len(got) == min(k, n - len(exclude[row]))
            assert not set(got) & set(exclude[row].tolist())
            assert found.certified[row] or w < n
            np.testing.assert_allclose(found.scores[row, : len(got)], scores[got], atol=1e-4)
            if found.certified[row]:  # a certificate is never wrong
                expected = best(scores, exclude[row], k)
                np.testing.assert_allclose(found.scores[row, : len(got)], expected, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@HARD
@given(problems(unique=False))
def test_until_certified_is_exact_at_any_width_and_where_items_share_identifiers(normalisation, problem):
    sequences, prompts, exclude, width, k = problem
    model, trie = model_of("llama"), CompiledTrie.from_sequences(sequences)
    found = beam_search(
        model,
        trie,
        prompts,
        k,
        width=width,
        exclude=exclude,
        normalisation=normalisation,
        until_certified=True,
    )
    assert found.certified.all()
    for row, prompt in enumerate(prompts):
        scores = brute_force(model, sequences, prompt, normalisation)
        got = found.items[row][found.items[row] >= 0]
        assert len(set(got)) == len(got) == min(k, len(sequences) - len(exclude[row]))
        assert not set(got) & set(exclude[row])
        np.testing.assert_allclose(found.scores[row, : len(got)], scores[got], atol=1e-4)
        np.testing.assert_allclose(found.scores[row, : len(got)], best(scores, exclude[row], k), atol=1e-4)


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("unique", [True, False])
@HARD
@given(st.data())
def test_a_guided_search_finds_the_best_sums_of_both_opinions(unique, normalisation, data):
    sequences, prompts, exclude, width, k = data.draw(problems(unique=unique))
    weight = data.draw(st.sampled_from([0.1, 1.0, 5.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    second = rng.normal(size=(len(prompts), len(sequences))) * 3
    second -= np.logaddexp.reduce(second, axis=1, keepdims=True)
    if data.draw(st.booleans()):
        second[:, rng.integers(len(sequences))] = -np.inf  # a recommender may rule an item out
    model, trie = model_of("llama"), CompiledTrie.from_sequences(sequences)
    guide = Guide(trie, second, weight, exclude)
    for w, certify in ((width, True), (len(sequences), False)):
        found = beam_search(
            model,
            trie,
            prompts,
            k,
            width=w,
            exclude=exclude,
            normalisation=normalisation,
            until_certified=certify,
            guide=guide,
        )
        for row, prompt in enumerate(prompts):
            scores = brute_force(model, sequences, prompt, normalisation)
            visible = np.setdiff1d(np.arange(len(sequences)), exclude[row])
            for item in visible:
                mates = [i for i in visible if sequences[i] == sequences[item]]
                with np.errstate(divide="ignore"):
                    there = max(1, np.isfinite(second[row, mates]).sum())
                    scores[item] += weight * np.log(np.exp(second[row, mates]).sum() / there)
            got = found.items[row][found.items[row] >= 0]
            assert len(set(got)) == len(got) == min(k, len(visible))
            assert not set(got) & set(exclude[row])
            np.testing.assert_allclose(
                found.scores[row, : len(got)], best(scores, exclude[row], k), atol=1e-4
            )


def test_a_guide_that_is_none_is_refused():
    trie = CompiledTrie.from_sequences([(2, END), (3, END)])
    nothing = [np.array([], dtype=np.int64)]
    for scores, weight, message in (
        (np.zeros((1, 3)), 1, r"Expected \(1, 2\)"),
        (np.array([[0.5, -1.0]]), 1, "log-softmax, not raw scores"),
        (np.array([[np.nan, -1.0]]), 1, "log-softmax, not raw scores"),
        (np.zeros((1, 2)), 0, "weight is 0"),
        (np.zeros((1, 2)), np.inf, "weight is inf"),
    ):
        with pytest.raises(TrieError, match=message):
            Guide(trie, scores, weight, nothing)


def test_feeding_forced_tokens_ahead_changes_nothing_but_the_number_of_forward_passes(monkeypatch):
    rng = np.random.default_rng(0)
    sequences = sorted(
        {(*rng.integers(2, 9, 2), *rng.integers(2, 9, rng.integers(0, 5)), END) for _ in range(60)}
    )
    trie = CompiledTrie.from_sequences(sequences)
    prompts = [rng.integers(2, VOCAB, 5), rng.integers(2, VOCAB, 3)]
    ahead = beam_search(model_of("qwen"), trie, prompts, 5, width=8)
    monkeypatch.setattr("llmrec.decoding.beam.tokens_per_pass", lambda device: 0)
    stepwise = beam_search(model_of("qwen"), trie, prompts, 5, width=8)
    assert (ahead.items == stepwise.items).all()
    np.testing.assert_allclose(ahead.scores, stepwise.scores, atol=1e-5)
    assert ahead.forward_passes < stepwise.forward_passes
    assert ahead.beam_tokens > stepwise.beam_tokens


def test_certain_tokens_are_not_fed_when_only_the_catalogue_counts():
    trie = CompiledTrie.from_sequences([(2, 5, 6, 7, END), (3, 5, 6, 7, END)])
    found = beam_search(model_of("llama"), trie, [np.array([1, 2])], 2, width=2, normalisation="catalogue")
    assert found.beam_tokens == found.forward_passes == 0
    assert np.exp(found.scores).sum() == pytest.approx(1, abs=1e-6)


def test_equal_scores_come_in_the_order_of_items():
    trie = CompiledTrie.from_sequences([(3, END), (2, END), (2, END), (2, END)])
    found = beam_search(model_of("llama"), trie, [np.array([4])], 4, width=4, normalisation="catalogue")
    assert found.items[0].tolist() in ([0, 1, 2, 3], [1, 2, 3, 0])
    assert (found.scores[0][found.items[0] > 0] == found.scores[0][found.items[0] > 0][0]).all()


def test_of_many_equal_scores_at_the_last_place_the_first_items_come():
    """Where the whole catalogue ends in one step, what cannot be listed is not sorted: equals of the k-th must be."""
    trie = CompiledTrie.from_sequences([(token,) for token in range(VOCAB)])
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=4, **IDS)).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, 32))
    found = beam_search(
        model, trie, [np.array([4]), np.array([5])], 3, width=3, exclude=[np.array([1]), np.array([0, 2])]
    )
    assert found.items.tolist() == [[0, 2, 3], [1, 3, 4]]
    assert found.certified.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_reads_the_last_states_as_one_matrix(family):
    """Of a slice of all states torch would make one product with the whole head for each user."""
    model, read = model_of(family), []
    with model.get_output_embeddings().register_forward_pre_hook(lambda _, states: read.append(states[0])):
        PackedPrompts(model, [np.array([3] * n) for n in (5, 2, 7)])
    assert [(states.shape[:2], states.is_contiguous()) for states in read] == [((3, 1), True)]


def test_batch_and_single_users_agree():
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END), (5, 5, END)]
    trie = CompiledTrie.from_sequences(sequences)
    prompts = [np.array([3] * n) for n in (1, 7, 4)]
    together = beam_search(model_of("gpt2"), trie, prompts, 3, width=4)
    for row, prompt in enumerate(prompts):
        alone = beam_search(model_of("gpt2"), trie, [prompt], 3, width=4)
        assert (alone.items[0] == together.items[row]).all()
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_scores_are_those_of_the_bfloat16_model(family):
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END), (5, 5, END)]
    model, trie = model_of(family, torch.bfloat16), CompiledTrie.from_sequences(sequences)
    prompt = np.array([4, 9, 3])
    expected = brute_force(model, sequences, prompt, "vocab")
    found = beam_search(model, trie, [prompt, prompt[:1]], 5, width=5)
    assert sorted(found.items[0]) == [0, 1, 2, 3, 4]
    # The order of additions differs between a batch and a single row, and bfloat16 has 8 bits.
    np.testing.assert_allclose(found.scores[0], expected[found.items[0]], atol=0.35, rtol=0.02)
    exact = score_catalogue(model, trie, [prompt]).scores[0]
    np.testing.assert_allclose(exact, expected, atol=0.35, rtol=0.02)


def test_a_model_with_an_adapter_is_searched_with_it():
    trie = CompiledTrie.from_sequences([(2, END), (2, 3, END), (3, 4, END)])
    torch.manual_seed(0)
    model = get_peft_model(
        FAMILIES["llama"](), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    found = beam_search(model.eval(), trie, [np.array([4, 5])], 3, width=3)
    expected = brute_force(model, [(2, END), (2, 3, END), (3, 4, END)], [4, 5], "vocab")
    np.testing.assert_allclose(found.scores[0], expected[found.items[0]], atol=1e-4)


def test_bad_requests_are_refused():
    trie = CompiledTrie.from_sequences([(2, END), (3, END)])
    other = CompiledTrie.from_sequences([(2, END), (3, END)])
    model, prompt = model_of("llama"), [np.array([1])]
    for message, options in {
        "k <= beam_width": {"k": 2, "width": 1},
        "Every item of the catalogue is excluded": {"exclude": [np.array([0, 1])]},
        "Unknown normalisation": {"normalisation": "tokens"},
        "Expected one per prompt": {"exclude": []},
        "is of another trie": {"exclude": [other.exclude([0])]},
        "Item 2 is not in the trie": {"exclude": [np.array([2])]},
    }.items():
        with pytest.raises(TrieError, match=message):
            beam_search(model, trie, prompt, **{"k": 1, "width": 1} | options)
    with pytest.raises(TrieError, match="empty prompt"):
        beam_search(model, trie, [np.array([], dtype=np.int64)], 1, width=1)
    deep = CompiledTrie.from_sequences([(2, 3, END), (3, 4, END)])
    context = model_of("gpt2").config.max_position_embeddings
    for length in (context, context + 1):
        with pytest.raises(TrieError, match=rf"take 1,02\d tokens; the model reads at most {context:,}"):
            beam_search(model_of("gpt2"), deep, [np.full(length, 5)], 1, width=1)
    with pytest.raises(TrieError, match=r"Call model.eval\(\)"):
        beam_search(FAMILIES["llama"]().train(), trie, prompt, 1, width=1)


def test_a_model_that_cannot_read_a_tree_of_tokens_is_refused():
    trie = CompiledTrie.from_sequences([(2, END), (3, 4, END)])
    config = MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    with pytest.raises(TrieError, match="Expected full attention in every layer"):
        beam_search(MistralForCausalLM(config).eval(), trie, [np.arange(9)], 1, width=1)
    model = FAMILIES["llama"]().eval()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TrieError, match=r"set_attn_implementation\('sdpa'\)"):
        beam_search(model, trie, [np.array([1])], 1, width=1)


def test_a_model_that_trains_with_flash_attention_is_decoded_by_another_kernel(monkeypatch):
    trie = CompiledTrie.from_sequences([(2, END), (3, 4, END)])
    model = FAMILIES["llama"]().eval()
    own = beam_search(model, trie, [np.array([1])], 2, width=2)
    chosen = []

    def choose(kind):  # the kernel itself is for GPUs
        chosen.append(kind)
        model.config._attn_implementation = kind

    monkeypatch.setattr(model, "set_attn_implementation", choose)
    with masked_attention(model):
        assert chosen == []  # what can be decoded stays as it is
    model.config._attn_implementation = "flash_attention_2"
    with masked_attention(model):
        found = beam_search(model, trie, [np.array([1])], 2, width=2)
    assert (found.items == own.items).all()
    assert chosen == ["sdpa", "flash_attention_2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_model_in_bfloat16_are_not_rounded(family):
    model = FAMILIES[family]().eval().to(torch.bfloat16)
    ids = torch.arange(2, 9)[None]
    rounded = model(ids).logits
    states = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, given, __: states.append(given[0]))
    model(ids)
    hook.remove()
    logits = with_float32_logits(model)(ids).logits
    assert logits.dtype == torch.float32
    exact = states[0].double() @ head.weight.detach().double().T
    assert (logits - exact).abs().max() < 1e-5 < (rounded - exact).abs().max()
    # A model in float32 stays as it is.
    plain = FAMILIES[family]().eval()
    own = plain.get_output_embeddings()
    assert with_float32_logits(plain).get_output_embeddings() is own


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
    seen = [h.items for h in users]
    found = beam_search(model, trie, prompts, 5, width=8, exclude=seen)
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
    # All 1,682 titles scored exactly, and a beam that goes on until it is sure, name the same five.
    exact = score_catalogue(model, trie, prompts, normalisation="catalogue")
    np.testing.assert_allclose(np.exp(exact.scores).sum(axis=1), 1, atol=1e-4)
    sure = beam_search(
        model, trie, prompts, 5, width=8, exclude=seen, normalisation="catalogue", until_certified=True
    )
    assert sure.certified.all()
    assert (top_items(exact.scores, seen, 5)[0] == sure.items).all()


@pytest.mark.parametrize("search", [partial(beam_search, k=1, width=2), score_catalogue])
def test_a_model_that_returns_nan_is_an_error(search):
    model, trie = model_of("llama"), CompiledTrie.from_sequences([(2, END), (3, END)])
    head = copy.deepcopy(model)
    with torch.no_grad():
        head.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrieError, match="returned NaN"):
        search(head, trie, [np.array([4, 5])])
