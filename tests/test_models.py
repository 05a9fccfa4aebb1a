"""Models: a name, a directory or a hub id leads to safe weights and the tokenizer they were trained with."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import regex
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from llmrec.builtin_models import MODELS
from llmrec.data.datasets import load_dataset
from llmrec.errors import AssetError
from llmrec.gguf import convert_gguf
from llmrec.models import fingerprint, load_model, load_tokenizer, resolve_model

TINY = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Make a directory as ``save_pretrained`` writes it: an untied Llama of 16 dimensions and a tokenizer."""
    folder = tmp_path / "tiny"
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="?"
    ).save_pretrained(folder)
    return folder


# --- where a model is --------------------------------------------------------------------------------


def test_a_directory_is_itself(tiny: Path) -> None:
    assert resolve_model(tiny) == tiny
    assert resolve_model(str(tiny)) == tiny


@pytest.mark.parametrize("hub_id", ["gpt2", "owner/name-1.5B_x", "HuggingFaceTB/SmolLM2-135M"])
def test_everything_shaped_like_one_is_a_hub_id(hub_id: str) -> None:
    assert resolve_model(hub_id) == hub_id


@pytest.mark.parametrize(
    "path", [Path("no-such-directory"), "./no-such-directory", "/no/such/directory", "a/b/c", "runs/x/"]
)
def test_everything_else_was_meant_as_a_path(path: str | Path) -> None:
    with pytest.raises(AssetError, match=r"does not exist.*built-in name \(smollm2-135m\)"):
        resolve_model(path)


def test_a_file_is_no_model(tiny: Path) -> None:
    with pytest.raises(AssetError, match="is a file"):
        resolve_model(tiny / "config.json")


def test_a_directory_without_tokenizer_is_an_error_that_says_how_to_add_it(tiny: Path) -> None:
    (tiny / "tokenizer.json").unlink()  # tokenizer_config.json stays, and holds no vocabulary
    for action in (resolve_model, load_tokenizer):
        with pytest.raises(AssetError, match=r"has no tokenizer.*tokenizer\.save_pretrained"):
            action(tiny)
    assert load_model(tiny).config.vocab_size == 300  # needs none


def test_a_directory_without_config_is_an_error(tiny: Path) -> None:
    (tiny / "config.json").unlink()
    for action in (resolve_model, load_model):
        with pytest.raises(AssetError, match=r"has no config\.json"):
            action(tiny)


def test_an_adapter_is_told_from_a_model(tiny: Path) -> None:
    (tiny / "config.json").unlink()
    (tiny / "adapter_config.json").write_text("{}")
    with pytest.raises(AssetError, match="holds a PEFT adapter"):
        resolve_model(tiny)


def test_pickled_weights_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    for action in (resolve_model, load_model):
        with pytest.raises(AssetError, match="only pickled ones"):
            action(tiny)


# --- loading -----------------------------------------------------------------------------------------


def test_a_model_is_loaded_ready_for_inference(tiny: Path) -> None:
    model = load_model(tiny)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert load_model(tiny, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_model(tiny, attn_implementation="eager").config._attn_implementation == "eager"


def test_a_tokenizer_without_padding_pads_with_its_end(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    assert tokenizer(["a", "a b"], padding=True)["input_ids"] == [[1, 0], [1, 2]]


def _t5() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def _bert() -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=300, **sizes))


def _headless() -> Any:
    return transformers.LlamaModel(transformers.LlamaConfig(**TINY))


@pytest.mark.parametrize(
    ("make", "kind"), [(_t5, "T5ForCond"), (_bert, "BertForMaskedLM"), (_headless, "LlamaModel")]
)
def test_what_is_no_causal_language_model_is_refused(tiny: Path, make: Any, kind: str) -> None:
    make().save_pretrained(tiny)
    with pytest.raises(AssetError, match=f"not a causal language model: it is a {kind}"):
        load_model(tiny)


def test_missing_weights_are_never_made_up(tiny: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"no weights for lm_head\.weight"):
        load_model(tiny)


def test_a_damaged_file_is_an_error_with_its_reason(tiny: Path) -> None:
    (tiny / "config.json").write_text("{")
    with pytest.raises(AssetError, match=r"cannot be loaded: .*JSON"):
        load_model(tiny)


def test_a_truncated_weight_file_is_an_error_with_its_reason(tiny: Path) -> None:
    os.truncate(tiny / "model.safetensors", 5000)
    with pytest.raises(AssetError, match="cannot be loaded: "):
        load_model(tiny)


def test_a_directory_needs_no_network(tiny: Path, no_network: Callable[[], None]) -> None:
    no_network()
    load_tokenizer(tiny)
    load_model(tiny)


@pytest.mark.parametrize("action", [load_tokenizer, load_model])
def test_a_hub_that_cannot_be_reached_is_said(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    with pytest.raises(AssetError) as caught:
        action("smollm2-135")
    message = str(caught.value)
    for part in (
        "did you mean 'smollm2-135m'?",
        "hub cannot be reached (skipped: LLMREC_OFFLINE",
        "directory",
    ):
        assert part in message


def test_loading_leaves_the_switches_of_transformers_as_they_were(tiny: Path) -> None:
    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    load_model(tiny)
    after = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    assert after == before


# --- fingerprints ------------------------------------------------------------------------------------


def test_a_copy_has_the_same_fingerprint_and_a_readme_none(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    (copy / "README.md").write_text("about")
    (copy / "checkpoint-1").mkdir()
    assert fingerprint(copy) == fingerprint(str(tiny))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"]
)
def test_every_file_that_matters_changes_the_fingerprint(tiny: Path, name: str) -> None:
    before = fingerprint(tiny)
    content = bytearray((tiny / name).read_bytes())
    content[-2] ^= 1
    (tiny / name).write_bytes(content)
    assert fingerprint(tiny) != before


def test_a_hub_id_that_cannot_be_had_has_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    with pytest.raises(AssetError, match="the hub cannot be reached"):
        fingerprint("owner/no-such-model-anywhere")


# --- the conversion of GGUF, with a model of a few dimensions ----------------------------------------


def _write_gguf(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write what llama.cpp writes for SmolLM2, in small; return the tensors."""
    merges = ["Ċ Ċ", "Ġ Ġ", "Ġ a", "1 9"]  # the last never applies where every digit stands alone
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [m.replace(" ", "") for m in merges]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), 16),
        "output_norm": (16,),
        "blk.0.attn_norm": (16,),
        "blk.0.ffn_norm": (16,),
        "blk.0.attn_q": (16, 16),
        "blk.0.attn_k": (8, 16),
        "blk.0.attn_v": (8, 16),
        "blk.0.attn_output": (16, 16),
        "blk.0.ffn_gate": (32, 16),
        "blk.0.ffn_up": (32, 16),
        "blk.0.ffn_down": (16, 32),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    (tmp_path / "gguf").mkdir()
    tensors = _write_gguf(tmp_path / "gguf" / "tiny.gguf")
    folder = tmp_path / "plain"
    folder.mkdir()
    convert_gguf(tmp_path / "gguf" / "tiny.gguf", folder)
    return folder, tensors


def test_gguf_becomes_a_plain_directory(
    converted: tuple[Path, dict[str, np.ndarray[Any, Any]]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, tensors = converted
    assert resolve_model(folder) == folder
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert capfd.readouterr() == ("", "")
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert "transformers_version" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    layer = model.model.layers[0]
    np.testing.assert_array_equal(model.model.embed_tokens.weight.detach(), tensors["token_embd"])
    np.testing.assert_array_equal(layer.mlp.down_proj.weight.detach(), tensors["blk.0.ffn_down"])
    np.testing.assert_array_equal(layer.self_attn.v_proj.weight.detach(), tensors["blk.0.attn_v"])
    # llama.cpp interleaves the two halves of each head's rotation: rows 0, 4, 1, 5, 2, 6, 3, 7.
    key = tensors["blk.0.attn_k"].reshape(4, 2, 16).swapaxes(0, 1).reshape(8, 16)
    np.testing.assert_array_equal(layer.self_attn.k_proj.weight.detach(), key)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert ids == (1, 2, 2, 0)
    assert tokenizer.model_max_length == 64


def test_gguf_keeps_the_pre_tokenizer_that_isolates_digits(
    converted: tuple[Path, dict[str, np.ndarray[Any, Any]]],
) -> None:
    tokenizer = load_tokenizer(converted[0])
    assert tokenizer.tokenize("\n\n19") == ["ĊĊ", "1", "9"]
    assert tokenizer.tokenize("a  1 a") == ["a", "ĠĠ", "1", "Ġa"]
    assert tokenizer.decode(tokenizer("it 's  a , \n\n19 ½ é")["input_ids"]) == "it 's  a , \n\n19 ½ é"


# --- the real one ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    return load_model("smollm2-135m"), load_tokenizer("smollm2-135m")


@pytest.mark.lm
def test_smollm2_says_where_it_came_from_and_its_licence() -> None:
    said = list[str]()
    folder = resolve_model("smollm2-135m", notify=said.append)
    assert isinstance(folder, Path)
    assert said[-1].startswith("models/smollm2-135m: from ")
    assert "Apache-2.0" in said[-1]
    assert fingerprint("smollm2-135m") == fingerprint(folder)


@pytest.mark.lm
def test_smollm2_is_a_pretrained_language_model(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    # A generation config with sampling in it would leak into the search.
    assert not model.generation_config.do_sample
    with torch.no_grad():
        out = model.generate(**prompt, max_new_tokens=2, do_sample=False)
        text = "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times."
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert tokenizer.decode(out[0]) == "The capital of France is Paris."
    assert loss < 3  # nats per token; 10.8 = log(49152) knows nothing


@pytest.mark.lm
def test_smollm2_has_the_special_tokens_of_the_original(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    assert len(tokenizer) == model.config.vocab_size == 49_152
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.unk_token, tokenizer.unk_token_id) == ("<|endoftext|>", 0)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8_192
    assert model.generation_config.eos_token_id == 2
    # Nothing is put before or after a text.
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
    assert len(tokenizer("a")["input_ids"]) == 1
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def _texts() -> list[str]:
    _, catalog = load_dataset("ml-100k")
    years = catalog.attributes["year"]
    texts = [
        t for pair in zip(catalog.titles, years, strict=True) for t in (pair[0], " {} ({})".format(*pair))
    ]
    odd = [
        "\n\n3. ",
        "a  12",
        "x\n\n  3",
        "\t\t7",
        "½ 3² Ⅷ",
        "12:30 - 3.5",
        "   100",
        "3 days later,\n1 week ago",
    ]
    return (
        texts
        + odd
        + ["Don't ... it's 'n' I'LL", "naïve – 日本 🎬🎬", "tail  ", " \n ", "def f(x):\n    return 1"]
    )


@pytest.mark.lm
def test_smollm2_decodes_what_it_encoded(smollm2: tuple[Any, Any]) -> None:
    tokenizer = smollm2[1]
    assert [t for t in _texts() if tokenizer.decode(tokenizer(t)["input_ids"]) != t] == []


@pytest.mark.lm
def test_smollm2_tokenises_as_llama_cpp_specifies(smollm2: tuple[Any, Any]) -> None:
    """Compare with byte-pair encoding in its plainest form, after llama.cpp's two splits for "smollm"."""
    tokenizer = smollm2[1]
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    rank = {tuple(pair): i for i, pair in enumerate(state["merges"])}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    byte = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    words = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )  # llama.cpp leaves out the last alternative, because its splitter keeps what nothing matches

    def encode(text: str) -> list[int]:
        ids = []
        for piece in regex.findall(r"\p{N}|\P{N}+", text):
            for word in words.findall(piece):
                parts = [byte[b] for b in word.encode()]
                while pairs := [p for p in itertools.pairwise(parts) if p in rank]:
                    best, merged = min(pairs, key=rank.__getitem__), []
                    while parts:
                        size = 2 if tuple(parts[:2]) == best else 1
                        merged.append("".join(parts[:size]))
                        parts = parts[size:]
                    parts = merged
                ids += [state["vocab"][p] for p in parts]
        return ids

    texts = _texts()
    assert [t for t in texts if tokenizer(t)["input_ids"] != encode(t)] == []


@pytest.mark.lm
def test_smollm2_warm_loads_offline_in_silence() -> None:
    resolve_model("smollm2-135m")
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = refuse\n"
        "from llmrec.models import load_model, load_tokenizer\n"
        "load_tokenizer('smollm2-135m'); load_model('smollm2-135m')\n"
    )
    env = {**os.environ, "LLMREC_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_built_in_model_says_what_it_is() -> None:
    for model in MODELS.values():
        assert model.about
        assert model.licence
        assert len(model.sources) == 2
