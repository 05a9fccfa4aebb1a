"""Convert a SmolLM2 in the GGUF format into a directory that transformers loads and saves like any other."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["convert_gguf", "without_progress_bars"]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a plain transformers directory with float32 weights from a SmolLM2 in the GGUF format."""
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    hf: Any = transformers  # partly annotated

    # The conversion draws a bar of its own, which transformers' switch does not reach.
    with without_progress_bars(), contextlib.redirect_stderr(io.StringIO()):
        where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        read = hf.AutoTokenizer.from_pretrained(gguf.parent, **where)
        quantised = hf.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)

        # transformers refuses to save a model that was loaded from GGUF, though its weights are plain by
        # now. On "meta" no random weights are drawn, just to be replaced.
        config = quantised.config
        del config.quantization_config
        with torch.device("meta"):
            model = hf.LlamaForCausalLM(config)
        model.load_state_dict(quantised.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = quantised.generation_config
        model.save_pretrained(folder)

        # transformers 5.19 ignores GGUF's `tokenizer.ggml.pre = smollm`, whose first step isolates every
        # digit. Without it the white space before a number falls apart: "\n\n3" becomes \n, \n, 3, where
        # the model has learnt \n\n, 3.
        backend = read.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer = hf.PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token=read.bos_token,
            eos_token=read.eos_token,
            unk_token=read.unk_token,
            pad_token=read.pad_token,
            # GGUF says it in the model's config only; the tokenizer's own default means "no limit".
            model_max_length=config.max_position_embeddings,
            # "it 's" is what it is: a decoded title must be the title.
            clean_up_tokenization_spaces=False,
        )
        tokenizer.chat_template = read.chat_template
        tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        # The version that wrote the file, and notes on how it was made, would change the fingerprint and say
        # nothing about the model.
        read_back = json.loads((folder / name).read_text(encoding="utf-8"))
        values = {k: v for k, v in read_back.items() if k != "transformers_version" and not k.startswith("_")}
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars and printing warnings."""
    import transformers.utils.logging

    hf_logging: Any = transformers.utils.logging
    were_on, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if were_on:
            hf_logging.enable_progress_bar()
