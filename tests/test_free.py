"""Free generation: the search against brute force over all texts, and what becomes of what it writes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from pipeline_cases import llmrec
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llmrec.data.recommendations import read_meta
from llmrec.decoding.free import FreeCounts, beam_of_texts, free_search
from llmrec.identifiers.title import title_identifiers
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer

VOCAB, END, LONGEST = 6, 1, 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, max_position_embeddings=64, **shape)).eval()
    for parameter in made.parameters():
        parameter.data.mul_(6)
    return made


def log_probs(model, prompt, text):
    with torch.no_grad():
        return model(torch.tensor([[*prompt, *text]])).logits[0].log_softmax(-1)


def all_texts(model, prompt, end):
    """Every text with its log-probability, the most probable first: ended, or of full length."""
    found = []
    for length in range(1, LONGEST + 1):
        for text in product(range(VOCAB), repeat=length):
            ended = text[-1] == end
            if end in text[:-1] or not (ended or length == LONGEST):
                continue
            rows = log_probs(model, prompt, text)[len(prompt) - 1 : -1]
            found.append((float(rows[range(length), text].sum()), text))
    return sorted(found, reverse=True)


def by_model(model, prompts):
    """What the loop asks for, computed without a cache."""

    def best(texts, n):
        rows = [log_probs(model, prompts[user], text)[-1].topk(min(n, VOCAB)) for user, text in texts]
        return [dict(zip(r.indices.tolist(), r.values.tolist(), strict=True)) for r in rows]

    return best


@pytest.mark.parametrize("end", [END, None])
def test_wide_search_finds_the_most_probable_of_all_texts(model, end):
    prompts, width = [np.array([2, 3]), np.array([4, 5, 2, 3, 3])], 40
    loop = beam_of_texts(by_model(model, prompts), 2, width, end_token_id=end, max_tokens=LONGEST)
    for prompt, found in zip(prompts, loop, strict=True):
        truth = all_texts(model, prompt, end)[:10]
        assert [text for _, text in found[:10]] == [text for _, text in truth]
        assert [s for s, _ in found[:10]] == pytest.approx([s for s, _ in truth], abs=1e-4)


@pytest.mark.parametrize("end", [END, None])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_both_searches_agree(model, end, width):
    rng = np.random.default_rng(width)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 9)) for _ in range(6)]
    options = {"end_token_id": end, "max_tokens": LONGEST}
    ours = beam_of_texts(by_model(model, prompts), len(prompts), width, **options)
    theirs = free_search(model, prompts, width, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert [s for s, _ in a] == pytest.approx([s for s, _ in b], abs=1e-4)
        assert [t for _, t in a] == [t for _, t in b]


def test_what_becomes_of_texts():
    counts = FreeCounts()
    assert counts.usable([3, None, 5, 3, 7], excluded=np.array([5])) == [(0, 3), (4, 7)]
    assert counts.usable([None], excluded=np.array([], int)) == []
    assert counts.rates() == {"valid": 4 / 6, "duplicates": 1 / 6, "excluded": 1 / 6}
    assert all(np.isnan(rate) for rate in FreeCounts().rates().values())


def test_texts_are_read_whatever_their_tokens(catalog, tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    identifiers = title_identifiers(catalog, tokenizer, end="\n", distinguish_by=("year",))
    verbalizer = Verbalizer(load_template("films"), tokenizer, catalog, identifiers.token_ids)
    assert verbalizer.read(identifiers.token_ids) == list(range(len(catalog)))
    bytes_alone = [tokenizer.convert_tokens_to_ids(letter) for letter in ["H", "e", "a", "t", "Ċ"]]
    assert tuple(bytes_alone) not in identifiers.token_ids  # another spelling of the same title
    assert verbalizer.read([bytes_alone, bytes_alone[:-1], [], bytes_alone[1:]]) == [3, None, None, None]
    assert verbalizer.end_token_id == identifiers.end_token_id
    codes = Verbalizer(load_template("films"), tokenizer, catalog, [(i, i) for i in range(len(catalog))])
    assert codes.end_token_id is None


def test_a_run_compares_free_and_constrained_lists(config, tmp_path, capsys):
    free = {"kind": "llm", "search": "free", "beam_width": 8}
    path = config(systems={"llm": {}, "free": free, "sasrec": {"max_epochs": 1, "device": "cpu"}})
    llmrec("run", path, capsys=capsys)
    meta = read_meta(tmp_path / "run" / "recommendations" / "free.parquet")
    assert set(meta["free"]) == {"valid", "duplicates", "excluded"}
    assert "certified" not in meta
    assert "free" not in read_meta(tmp_path / "run" / "recommendations" / "llm.parquet")
    for report in ("report.html", "report.md"):
        assert "Without the trie" in (tmp_path / "run" / report).read_text()


def test_wrong_options_of_a_language_model_are_named(config, tmp_path, capsys):
    def said(**options):
        return llmrec("run", config(systems={"llm": options, "sasrec": {}}), code=2, capsys=capsys).err

    assert "systems.llm.epochs: expected one of search, beam_width" in said(epochs=3)
    assert "systems.llm.search: got 'wild'" in said(search="wild")
    assert "systems.llm.beam_width is 2; expected at least evaluation.k = 5" in said(beam_width=2)
