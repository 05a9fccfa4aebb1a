"""Small tokenizers of the three families that language models use, and a catalogue that is hard on them."""

from __future__ import annotations

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmrec.data.catalog import Catalog

_AWKWARD = [
    "Alien", "Aliens", "Alien 3", "alien", "ALIEN", "Alien<item 3>", "<a 1><b 2>", "<item 0>", "Heat  ", " Heat\tagain",
    "Amélie", "Ame\u0301lie", "七人の侍", "Crème & co. – 50 ml", "&amp; more", "1984", "2001", "0", "00", "007", "a", "A",
    "Se7en", "e.t.", "[REC]", "x" * 300, "🎬 Film", "Film 🎬🎬", "Ünïcödé", "don't", "Don’t", "Heat", "Heat", "Heat (2)",
]  # fmt: skip


def awkward_catalog() -> Catalog:
    """Titles with every kind of trouble: doubles, look-alikes, digits, scripts, tokens of other schemes."""
    return Catalog(tuple(f"i{n}" for n in range(len(_AWKWARD))), tuple(_AWKWARD), {})


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator([*_AWKWARD, "films watched by one person\n0123456789\n"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@cache
def gpt2() -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits are merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=420, special_tokens=["</s>"], initial_alphabet=alphabet)
    )


@cache
def qwen() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind NFC and a pattern that takes digits one by one."""
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=420, special_tokens=["</s>"], initial_alphabet=alphabet)
    )


@cache
def llama() -> PreTrainedTokenizerFast:
    """BPE as sentencepiece does it: a mark in the place of spaces, and bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=special))


TOKENIZERS = {"gpt2": gpt2, "llama": llama, "qwen": qwen}
