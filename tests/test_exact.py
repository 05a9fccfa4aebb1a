"""Every item's score against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from decoding_cases import END, FAMILIES, VOCAB, brute_force, model_of, problems
from hypothesis import HealthCheck, given, settings

from llmrec.decoding.exact import score_catalogue, top_items
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems(unique=False))
def test_scores_are_those_of_brute_force(family, normalisation, problem):
    sequences, prompts, *_ = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    found = score_catalogue(model, trie, prompts, normalisation=normalisation).scores
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(
            found[row], brute_force(model, sequences, prompt, normalisation), atol=1e-4
        )
    if normalisation == "catalogue":
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("nodes", [1, 3, 7])
def test_chunks_of_any_size_give_the_same_scores(monkeypatch, nodes, normalisation):
    rng = np.random.default_rng(0)
    sequences = [(*rng.integers(2, 5, rng.integers(0, 6)), END) for _ in range(80)]
    trie, prompts = CompiledTrie.from_sequences(sequences), [rng.integers(2, VOCAB, n) for n in (6, 2)]
    whole = score_catalogue(model_of("llama"), trie, prompts, normalisation=normalisation)
    monkeypatch.setattr("llmrec.decoding.exact._MOST_NODES", nodes)
    parts = score_catalogue(model_of("llama"), trie, prompts, normalisation=normalisation)
    assert whole.forward_passes == 1 < parts.forward_passes
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_single_tokens_take_one_softmax():
    trie = CompiledTrie.from_sequences([(n,) for n in range(3, 20)])
    found = score_catalogue(model_of("qwen"), trie, [np.array([4, 5])])
    assert found.forward_passes == found.fed_tokens == 0
    logits = brute_force(model_of("qwen"), [(n,) for n in range(3, 20)], [4, 5], "vocab")
    np.testing.assert_allclose(found.scores[0], logits, atol=1e-5)


def test_each_shared_prefix_is_fed_once():
    trie = CompiledTrie.from_sequences([(2, 3, n, END) for n in range(4, 14)])
    assert score_catalogue(model_of("llama"), trie, [np.array([9])]).fed_tokens == 2 + 10
    few = score_catalogue(model_of("llama"), trie, [np.array([9])], normalisation="catalogue")
    assert few.fed_tokens == 2  # what follows each n is certain


def test_top_items_leaves_out_what_is_excluded_and_pads():
    scores = np.array([[-1.0, -3.0, -1.0, -2.0]])
    items, best = top_items(scores, [np.array([3])], 4)
    assert items.tolist() == [[0, 2, 1, -1]]
    assert best.tolist() == [[-1, -1, -3, -np.inf]]
    with pytest.raises(TrieError, match="Every item of the catalogue is excluded for the user at position 0"):
        top_items(scores, [np.arange(4)], 2)
    assert top_items(scores, None, 6)[0].tolist() == [[0, 2, 3, 1, -1, -1]]


def test_users_are_taken_in_groups_where_all_of_them_would_not_fit():
    rng = np.random.default_rng(0)
    trie = CompiledTrie.from_sequences([(*rng.integers(2, 5, 4), END) for _ in range(30)])
    model, prompts = model_of("llama"), [rng.integers(2, VOCAB, n) for n in (6, 2, 4, 3, 5)]
    whole = score_catalogue(model, trie, prompts)
    # Of a node: three logits in float32 of each token, and nine bytes of mask for each of the prompt's tokens and 512 more.
    a_node = 12 * model.get_output_embeddings().weight.shape[0] + 9 * (6 + 512)
    for users in (1, 2, 5):
        found = score_catalogue(model, trie, prompts, memory=users * a_node * 2 * trie.depth)
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-5)
        assert found.forward_passes >= -(-5 // users)


def test_single_tokens_need_no_memory_for_nodes():
    trie = CompiledTrie.from_sequences([(n,) for n in range(3, 20)])
    prompts = [np.array([4, 5])]
    found = score_catalogue(model_of("qwen"), trie, prompts, memory=10)
    np.testing.assert_array_equal(found.scores, score_catalogue(model_of("qwen"), trie, prompts).scores)


def test_a_budget_too_small_says_what_is_enough():
    trie = CompiledTrie.from_sequences([(2, END), (3, END)])
    with pytest.raises(TrieError, match=r"memory budget of 10 bytes is too small .* Expected at least \d"):
        score_catalogue(model_of("llama"), trie, [np.array([1])], memory=10)
