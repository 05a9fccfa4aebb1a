"""Language models: had by name, from a directory, or from the hub; loaded safely, with errors one can act on.

Weights are read from safetensors only, and remote code is not run unless asked for. PyTorch and transformers are
imported where they are needed, because they take seconds and a command such as ``--help`` needs neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import cache, places
from llmrec.builtin_models import MODELS
from llmrec.errors import AssetError, ConfigError, nearest
from llmrec.gguf import without_progress_bars

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "fingerprint",
    "load_model",
    "load_model_config",
    "load_tokenizer",
    "resolve_model",
]

log = logging.getLogger("llmrec")

# Any of these holds a vocabulary; tokenizer_config.json alone holds none.
_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
# What else decides which token ids a text becomes.
_TOKENIZER_OPTIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)
_CONFIGS = ("config.json", "adapter_config.json", "model.safetensors.index.json")


def resolve_model(name_or_path: str | Path, notify: Callable[[str], None] = log.info) -> Path | str:
    """Return where a model is: a local directory, or the id of a repository on the Hugging Face hub.

    Parameters
    ----------
    name_or_path
        In this order: a name of :data:`~llmrec.builtin_models.MODELS`, an existing directory with config, weights and
        tokenizer, a hub id. A directory that has the name of a built-in model is written ``./name``.
    notify
        Takes the line that says where a built-in model came from and under what licence, and progress.

    Raises
    ------
    AssetError
        A built-in model cannot be had, a directory is not there or lacks something.
    """
    where = _locate(name_or_path, notify)
    if isinstance(where, Path):
        _need_weights(where)
        _need_tokenizer(where)
    return where


def load_tokenizer(
    name_or_path: str | Path, notify: Callable[[str], None] = log.info, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model (see :func:`resolve_model`).

    One without a padding token pads with its end token: padded positions are masked, so which token
    stands there has no effect, but a batch needs one.
    """
    from transformers import AutoTokenizer

    where = _locate(name_or_path, notify)
    if isinstance(where, Path):
        _need_tokenizer(where)
    with _loading(where, notify, trust_remote_code) as options:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model_config(
    name_or_path: str | Path,
    notify: Callable[[str], None] = log.info,
    *,
    keep_layers: int | None = None,
    trust_remote_code: bool = False,
) -> PretrainedConfig:
    """Load the config of a model, without its weights.

    Parameters
    ----------
    keep_layers
        Of the model's layers the first so many; all if left out.

    Raises
    ------
    ConfigError
        The model has fewer layers than ``keep_layers``.
    """
    from transformers import AutoConfig

    where = _locate(name_or_path, notify)
    if isinstance(where, Path):
        _need_config(where)
    with _loading(where, notify, trust_remote_code) as options:
        config: PretrainedConfig = AutoConfig.from_pretrained(where, **options)
    if keep_layers is not None:
        if keep_layers > config.num_hidden_layers:
            raise ConfigError(
                f"model.keep_layers is {keep_layers}, and {name_or_path} has {config.num_hidden_layers} layers. Expected "
                "at most that many, or null for all."
            )
        config.num_hidden_layers = keep_layers
        # Models that mix kinds of attention list one for each layer.
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:keep_layers]
    return config


def load_model(
    name_or_path: str | Path,
    dtype: torch.dtype | str = "float32",
    device: torch.device | str = "cpu",
    notify: Callable[[str], None] = log.info,
    *,
    keep_layers: int | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Load a causal language model (see :func:`resolve_model`), in evaluation mode.

    Parameters
    ----------
    dtype
        Of the weights. On a CPU float32: bfloat16 is no faster on AVX2.
    device
        Where the weights go.
    keep_layers
        Only the first so many layers; all if left out.
    trust_remote_code
        Run code that comes with the model.
    **options
        More for ``from_pretrained``, for example ``attn_implementation`` or ``quantization_config``.

    Raises
    ------
    AssetError
        The model cannot be had, is not a causal language model, or lacks weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    where = _locate(name_or_path, notify)
    if isinstance(where, Path):
        _need_weights(where)
    config = load_model_config(
        name_or_path, notify, keep_layers=keep_layers, trust_remote_code=trust_remote_code
    )
    with _loading(where, notify, trust_remote_code) as common:
        # BERT and its like have a class for causal modelling too, but were not trained for it: what their
        # authors saved says so.
        saved_as: list[Any] = config.architectures or [CAUSAL.get(config.model_type)]
        classes = set(CAUSAL.values())
        if config.model_type not in CAUSAL or not classes.intersection(saved_as):
            kind = saved_as[0] or f"model type {config.model_type}"
            raise AssetError(
                f"{where} is not a causal language model: it is a {kind}. Expected a decoder that predicts the "
                "next token, such as a Llama, Qwen, Gemma or GPT checkpoint with its language-model head "
                "(a class named ...ForCausalLM). Choose another model."
            )
        if "quantization_config" in options:  # quantised weights cannot be moved afterwards
            options.setdefault("device_map", {"": device})
        auto: Any = AutoModelForCausalLM  # its annotation leaves out `output_loading_info`
        model, info = auto.from_pretrained(
            where,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **common,
            **options,
        )
    if missing := sorted(info["missing_keys"]):
        raise AssetError(
            f"{where} has no weights for {missing[0]} and {len(missing) - 1:,} more parameters; they would be "
            f"random numbers. Expected all weights of a {type(model).__name__}. Save the model again with "
            "its language-model head, or choose another."
        )
    if "device_map" not in options:
        model.to(device)
    result: PreTrainedModel = model.eval()
    return result


def fingerprint(name_or_path: str | Path, notify: Callable[[str], None] = log.info) -> str:
    """Return a SHA-256 that identifies the weights, their config and the tokenizer.

    Of a directory (a built-in model and a PEFT adapter are directories too) it depends on the content of
    those files only, not on where they are. A hub id stands for its commit in the Hugging Face cache, or
    else on the hub, so a copy of it in a directory has another fingerprint.
    """
    where = _locate(name_or_path, notify)
    digest = hashlib.sha256()
    if isinstance(where, str):
        import huggingface_hub as hub

        cached = hub.try_to_load_from_cache(where, "config.json")
        if not isinstance(cached, str):
            with _loading(where, notify) as options:
                cached = hub.hf_hub_download(
                    where, "config.json", local_files_only=options["local_files_only"]
                )
        return hashlib.sha256(f"{where}@{Path(cached).parent.name}".encode()).hexdigest()
    named = {*_VOCABULARIES, *_TOKENIZER_OPTIONS, *_CONFIGS}
    for file in sorted(where.iterdir()):
        if file.is_file() and (file.name in named or file.suffix == ".safetensors"):
            digest.update(f"{file.name}\0{cache.sha256(file)}\n".encode())
    return digest.hexdigest()


def _locate(name_or_path: str | Path, notify: Callable[[str], None]) -> Path | str:
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in MODELS:
        model = MODELS[name]
        return cache.entry(
            f"models/{name}", model.version, model.sources, licence=model.licence, notify=notify
        )
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    # A hub id is "name" or "owner/name"; everything else was meant as a path.
    if isinstance(name_or_path, Path) or path.exists() or not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name):
        kind = "is a file" if path.exists() else "does not exist"
        raise AssetError(
            f"The model {name!r} {kind}{nearest(name, MODELS)}. Expected a directory with config, weights and "
            f"tokenizer, a built-in name ({', '.join(MODELS)}), or a hub id such as owner/name."
        )
    return name


def _need_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise AssetError(
            f"The model directory {folder} has no config.json"
            + (
                ": it holds a PEFT adapter. Expected a whole model. Give the adapter's base model here, and the "
                "adapter as the adapter; or merge the two and save the result."
                if adapter
                else ". Expected what save_pretrained writes: config.json, model.safetensors and the tokenizer "
                "files. Give the directory that holds these files themselves."
            )
        )


def _need_weights(folder: Path) -> None:
    _need_config(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        raise AssetError(
            f"The model directory {folder} has no weights in the safetensors format"
            f"{', only pickled ones, and loading a pickle can run any code' if pickled else ''}. Expected "
            "model.safetensors. Load the model where you trust it and save it with save_pretrained."
        )


def _need_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise AssetError(
            f"The model directory {folder} has no tokenizer. Expected one of {', '.join(_VOCABULARIES)} beside "
            "the weights, because other weights and tokenizer must not be paired by guess. Save the tokenizer "
            "the model was trained with into the directory: tokenizer.save_pretrained(directory)."
        )


@contextlib.contextmanager
def _loading(
    where: Path | str, notify: Callable[[str], None], trust_remote_code: bool = False
) -> Iterator[dict[str, Any]]:
    """Give the options of every ``from_pretrained``; turn its errors into messages for the user."""
    from safetensors import SafetensorError

    # Asked once and first, because without a network transformers retries each file for 23 seconds.
    problem = None if isinstance(where, Path) else places.hub_problem(where)
    local = isinstance(where, Path) or problem is not None
    if isinstance(where, str):
        notify(
            f"{where}: from the Hugging Face {f'cache; the hub: {problem}' if problem else 'hub or its cache'}"
        )
    try:
        with without_progress_bars():
            yield {"trust_remote_code": trust_remote_code, "local_files_only": local}
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        said = " ".join(str(error).split())
        if isinstance(where, Path):
            raise AssetError(
                f"The model directory {where} cannot be loaded: {said} Expected what save_pretrained writes, "
                "in a form that the installed transformers knows."
            ) from error
        if problem is not None:
            raise AssetError(
                f"The model {where!r}{nearest(where, MODELS)} is not a built-in one ({', '.join(MODELS)}), there "
                f"is no directory of that name, the Hugging Face cache does not hold all of it, and the hub "
                f"cannot be reached ({problem}). Expected one of them to have it. Connect to the network, or "
                f"copy the model to this machine and give its directory. transformers said: {said}"
            ) from error
        raise AssetError(
            f"The model {where!r}{nearest(where, MODELS)} cannot be loaded from the Hugging Face hub: {said} "
            "Expected the id of a public repository, or of one your token may read, with safetensors weights "
            "and no code of its own."
        ) from error
