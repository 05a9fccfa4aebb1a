"""The trie inside transformers' own generate, against brute force and against our beam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoding_cases import END, FAMILIES, PAD, best, brute_force, generate, model_of, padded, problems
from hypothesis import HealthCheck, given, settings
from transformers import LogitsProcessorList, PrefixConstrainedLogitsProcessor

from llmrec.decoding.beam import beam_search
from llmrec.decoding.hf import TrieLogitsProcessor, generate_in_trie
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError

HARD = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("normalisation", ["vocab", "catalogue"])
@pytest.mark.parametrize("family", FAMILIES)
@HARD
@given(problems())
def test_generate_with_the_processor_is_beam_search_in_the_catalogue(family, normalisation, problem):
    sequences, prompts, exclude, _, k = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    width = max(2, len(sequences))  # one beam would be greedy search, without scores
    items, scores = generate(model, trie, prompts, width, k, exclude, normalisation)
    for row, prompt in enumerate(prompts):
        got = items[row][items[row] >= 0]
        assert len(set(got)) == len(got) == min(k, len(sequences) - len(exclude[row]))
        assert not set(got) & set(exclude[row])
        truth = brute_force(model, sequences, prompt, normalisation)
        np.testing.assert_allclose(scores[row, : len(got)], best(truth, exclude[row], k), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@HARD
@given(problems())
def test_our_beam_is_that_of_transformers_when_it_prunes_like_it(family, problem):
    sequences, prompts, exclude, width, k = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    width = max(2, width)
    items, theirs = generate(model, trie, prompts, width, k, exclude)
    ours = beam_search(model, trie, prompts, k, width=width, exclude=exclude, prune_like_transformers=True)
    for row in range(len(prompts)):
        real = items[row] >= 0
        assert (items[row][real] == ours.items[row][: real.sum()]).all()
        np.testing.assert_allclose(ours.scores[row][: real.sum()], theirs[row][real], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@HARD
@given(problems())
def test_custom_generate_is_our_beam(family, problem):
    sequences, prompts, _, width, k = problem
    model, trie = model_of(family), CompiledTrie.from_sequences(sequences)
    ours = beam_search(model, trie, prompts, k, width=width)
    inputs = padded(prompts)
    found = model.generate(
        **inputs, custom_generate=generate_in_trie, trie=trie, num_beams=width, num_return_sequences=k,
        max_new_tokens=trie.depth, pad_token_id=PAD, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    assert (found.sequences[:, :length] == inputs["input_ids"].repeat_interleave(k, 0)).all()
    written = [tuple(t for t in row if t != PAD) for row in found.sequences[:, length:].tolist()]
    assert written == [sequences[i] for i in ours.items.ravel()]
    np.testing.assert_allclose(found.sequences_scores, ours.scores.ravel(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_and_greedy_search_stay_in_the_catalogue(family):
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END), (5, 5, END)]
    trie, inputs = CompiledTrie.from_sequences(sequences), padded([np.array([7, 8, 9]), np.array([6])])
    exclude = [np.array([0, 3]), np.array([1])]
    torch.manual_seed(0)
    for options in ({"do_sample": True, "num_return_sequences": 50, "top_k": 0}, {"do_sample": False}):
        processor = TrieLogitsProcessor(trie, 3, END, exclude=exclude)
        rows = model_of(family).generate(
            **inputs, **options, logits_processor=LogitsProcessorList([processor]), max_new_tokens=trie.depth,
            eos_token_id=END, pad_token_id=PAD,
        )[:, 3:].tolist()  # fmt: skip
        items = np.array([sequences.index(tuple(row[: row.index(END) + 1])) for row in rows]).reshape(2, -1)
        assert not np.isin(items[0], exclude[0]).any()
        assert not np.isin(items[1], exclude[1]).any()


def test_identifiers_without_an_end_token_end_with_a_free_end_of_sequence():
    sequences = [(2, 3), (2, 4), (3, 4)]
    model, trie = model_of("llama"), CompiledTrie.from_sequences(sequences)
    processor = TrieLogitsProcessor(trie, 2, END)
    found = model.generate(
        torch.tensor([[7, 8]]), logits_processor=LogitsProcessorList([processor]), num_beams=3,
        num_return_sequences=3, length_penalty=0.0, early_stopping="never", max_new_tokens=3, eos_token_id=END,
        pad_token_id=PAD, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    assert {tuple(row) for row in found.sequences[:, 2:].tolist()} == {(*s, END) for s in sequences}
    truth = np.sort(brute_force(model, sequences, [7, 8], "vocab"))[::-1]
    np.testing.assert_allclose(found.sequences_scores, truth, atol=1e-4)


def test_the_mask_is_that_of_the_prefix_constrained_processor():
    sequences = [(2, END), (2, 3, END), (3, 4, 5, END), (4, END)]
    trie = CompiledTrie.from_sequences(sequences)
    ours = TrieLogitsProcessor(trie, 1, END)
    theirs = PrefixConstrainedLogitsProcessor(
        lambda _, ids: sorted(
            {s[len(ids) - 1] for s in sequences if list(s[: len(ids) - 1]) == ids.tolist()[1:]}
        ),
        1,
    )
    scores = torch.randn(3, 30)
    ours(torch.tensor([[9], [9], [9]]), scores)
    for ids in ([[9, 2], [9, 3], [9, 2]], [[9, 2, 3], [9, 3, 4], [9, 2, 3]]):
        assert torch.equal(ours(torch.tensor(ids), scores), theirs(torch.tensor(ids), scores))


def test_a_result_that_somebody_holds_or_has_changed_is_not_used_again():
    trie = CompiledTrie.from_sequences([(2, END), (3, END)])
    processor, prompt = TrieLogitsProcessor(trie, 1, END), torch.tensor([[9]])
    held = processor(prompt, torch.zeros(1, 30))
    copy = held.clone()
    again = processor(torch.tensor([[9, 2]]), torch.ones(1, 30))
    assert torch.equal(held, copy)
    assert again.data_ptr() != held.data_ptr()
    address = again.data_ptr()
    del again
    again = processor(prompt, torch.ones(1, 30))
    assert again.data_ptr() == address
    assert torch.isfinite(again).nonzero()[:, 1].tolist() == [2, 3]
    again[0, 20] = 5.0  # another processor in the list
    del again
    again = processor(torch.tensor([[9, 3]]), torch.ones(1, 30))
    assert torch.isfinite(again).nonzero()[:, 1].tolist() == [END]


def test_misuse_is_refused():
    trie = CompiledTrie.from_sequences([(2, END), (3, 4, END)])
    scores = torch.zeros(2, 30)
    with pytest.raises(TrieError, match="begins no identifier"):
        TrieLogitsProcessor(trie, 1, END)(torch.tensor([[9, 9], [9, 2]]), scores)
    with pytest.raises(TrieError, match="at least prompt_length = 5"):
        TrieLogitsProcessor(trie, 5, END)(torch.tensor([[9, 9], [9, 2]]), scores)
    with pytest.raises(TrieError, match="rows for each of 3 users"):
        TrieLogitsProcessor(trie, 1, END, exclude=[np.array([0])] * 3)(torch.tensor([[9], [9]]), scores)
    with pytest.raises(TrieError, match="Every item of the catalogue is excluded"):
        TrieLogitsProcessor(trie, 1, END, exclude=[np.array([0, 1])])
    with pytest.raises(TrieError, match="exclusions for no user"):
        TrieLogitsProcessor(trie, 1, END, exclude=[])
    with pytest.raises(TrieError, match="Unknown normalisation"):
        TrieLogitsProcessor(trie, 1, END, normalisation="catalog")
    use = {"custom_generate": generate_in_trie, "trie": trie, "num_beams": 2, "pad_token_id": PAD}
    for message, options in {
        "max_new_tokens=trie.depth": {"max_new_tokens": 2},
        "RepetitionPenalty": {"max_new_tokens": 3, "repetition_penalty": 1.5},
        "Only 1 items are left": {"max_new_tokens": 3, "num_return_sequences": 2, "exclude": [np.array([0])]},
    }.items():
        with pytest.raises(TrieError, match=message):
            model_of("llama").generate(torch.tensor([[7]]), **use, **options)
