"""Tiny models of three families, random problems, and brute force, for the tests and benchmarks of decoding."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmrec.decoding.hf import TrieLogitsProcessor

PAD, END, VOCAB = 0, 1, 30
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": None, "eos_token_id": None}
FAMILIES = {  # untied heads and tied ones, grouped and plain attention, rotary and absolute positions
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_key_value_heads=2, **SIZE, **IDS)),
    "qwen": lambda: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=VOCAB, num_key_value_heads=2, tie_word_embeddings=True, **SIZE, **IDS)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, **IDS)),
}
_MODELS: dict[tuple[str, torch.dtype], torch.nn.Module] = {}


def model_of(family, dtype=torch.float32):
    if (family, dtype) not in _MODELS:
        torch.manual_seed(0)
        model = FAMILIES[family]().eval()
        for parameter in model.parameters():
            parameter.data.mul_(4)  # sharper, so that hypotheses differ by more than rounding
        _MODELS[family, dtype] = model.to(dtype)
    return _MODELS[family, dtype]


@torch.no_grad()
def brute_force(model, sequences, prompt, normalisation):
    """One forward pass per item, no cache, no mask, no trie."""
    scores = []
    for s in sequences:
        logits = model(torch.tensor([[*map(int, prompt), *s]])).logits[0].double()
        total = 0.0
        for n, token in enumerate(s):
            row = logits[len(prompt) - 1 + n]
            allowed = slice(None)
            if normalisation == "catalogue":
                allowed = sorted({t[n] for t in sequences if t[:n] == s[:n]})
            total += float(row[token] - torch.logsumexp(row[allowed], 0))
        scores.append(
            total - np.log(sequences.count(s))
        )  # items that share an identifier share its probability
    return np.array(scores)


@st.composite
def problems(draw, unique=True):
    titles = st.lists(st.integers(2, 6), max_size=4).map(lambda s: (*s, END))
    sequences = draw(st.lists(titles, min_size=2, max_size=15, unique=unique))
    prompt = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)
    prompts = [np.array(p) for p in draw(st.lists(prompt, min_size=1, max_size=4))]
    hide = st.lists(st.integers(0, len(sequences) - 1), max_size=len(sequences) - 1, unique=True)
    exclude = [np.array(draw(hide), dtype=np.int64) for _ in prompts]
    width = draw(st.integers(1, len(sequences)))
    return sequences, prompts, exclude, width, draw(st.integers(1, width))


def best(scores, excluded, k):
    """The k best scores that are not excluded."""
    return np.sort(np.delete(scores, excluded))[::-1][:k]


def padded(prompts):
    """Left-padded ids and mask, as a tokenizer with padding_side="left" makes them."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), PAD)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def generate(model, trie, prompts, width, k, exclude=None, normalisation="vocab", end=END):
    """Items and scores of beam search by transformers; -1 for rows without an item."""
    inputs = padded(prompts)
    length = inputs["input_ids"].shape[1]
    found = model.generate(
        **inputs,
        logits_processor=LogitsProcessorList(
            [TrieLogitsProcessor(trie, length, end, exclude=exclude, normalisation=normalisation)]
        ),
        num_beams=width,
        num_return_sequences=k,
        length_penalty=0.0,
        early_stopping="never",
        # A chat model brings settings of its own.
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=None,
        max_new_tokens=trie.depth,
        eos_token_id=end,
        pad_token_id=PAD,
        output_scores=True,
        return_dict_in_generate=True,
    )
    scores = found.sequences_scores.view(len(prompts), k).double().numpy()
    items = np.full(scores.shape, -1)
    for n, row in enumerate(found.sequences[:, length:].tolist()):
        if scores.flat[n] > -1e8:
            items.flat[n] = trie.items(trie.walk(row[: row.index(end) + 1]))[0]
    return items, scores
