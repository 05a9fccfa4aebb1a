"""Read every identifier of every scheme back, with the tokenizers that people use.

    pip download --no-deps --no-binary :all: llama-cpp-python      (its source holds vocabularies as ggml-vocab-*.gguf)
    tar xzf llama_cpp_python-*.tar.gz --wildcards '*ggml-vocab*.gguf'
    python benchmarks/identifiers.py FOLDER_OF_GGUF --data FOLDER_OF_DATA     (about 10 minutes)

For each scheme, tokenizer and catalogue: item -> text -> token ids -> item, for every item; how many tokens an identifier
has; how many items had to be changed to be told apart; seconds to build. Catalogues are ml-100k and every folder of
``--data`` that holds an ``items.parquet`` with ``item_id`` and ``title``. Vectors are random: what is tested is that nothing
is lost, not what codes mean. Kept in ``results/identifiers.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import save
from transformers import AutoTokenizer

from llmrec.data.catalog import Catalog
from llmrec.data.datasets import load_dataset
from llmrec.data.histories import Histories, History
from llmrec.identifiers.base import with_new_tokens
from llmrec.identifiers.schemes import Material, build_identifiers
from llmrec.models import load_tokenizer
from llmrec.settings import Identifiers

VOCABULARIES = {
    "Llama 2": "ggml-vocab-llama-spm.gguf",
    "Llama 3": "ggml-vocab-llama-bpe.gguf",
    "Qwen2": "ggml-vocab-qwen2.gguf",
    "GPT-2": "ggml-vocab-gpt-2.gguf",
}
SCHEMES: list[dict[str, Any]] = [
    {"scheme": "title"},
    {"scheme": "index"},
    {"scheme": "index", "numbering": "collaborative"},
    {"scheme": "semantic", "levels": 3, "codes": 256, "vectors": "both"},
    {"scheme": "token"},
]


def round_trip(catalog: Catalog, tokenizer: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Build identifiers and read every one of them back."""
    n = len(catalog)
    vectors = np.random.default_rng(0).standard_normal((n, 32)).astype(np.float32)
    histories = Histories.from_list([History("u", np.arange(0, n, 2, dtype=np.int32), np.arange(0, n, 2))])
    started = time.perf_counter()
    made = build_identifiers(
        Material(catalog, tokenizer, Identifiers(**settings), histories, lambda: vectors, lambda: vectors)
    )
    seconds = time.perf_counter() - started
    extended = with_new_tokens(tokenizer, made.new_tokens)
    owner = {tokens: item for item, tokens in enumerate(made.token_ids)}
    end = () if made.end_token_id is None else (made.end_token_id,)
    encoded = extended(list(made.texts), add_special_tokens=False)["input_ids"]
    lost = sum(owner.get((*ids, *end)) != item for item, ids in enumerate(encoded))
    lengths = [len(t) for t in made.token_ids]
    return {
        **settings,
        "items": n,
        "lost": lost,
        "tokens_mean": float(np.mean(lengths)),
        "tokens_most": max(lengths),
        "changed": len(made.changed),
        "new_tokens": len(made.new_tokens),
        "seconds": seconds,
    }


def main() -> None:
    """Try everything, print and keep it; fails if an item was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vocabularies", type=Path, help="folder of ggml-vocab-*.gguf")
    parser.add_argument("--data", type=Path, help="folder of data sets")
    arguments = parser.parse_args()
    catalogs = {"ml-100k": load_dataset("ml-100k")[1]}
    for path in sorted(arguments.data.glob("*/items.parquet")) if arguments.data else []:
        table = pl.read_parquet(path)
        catalogs[path.parent.name] = Catalog(tuple(table["item_id"].cast(str)), tuple(table["title"]), {})
    tokenizers = {"SmolLM2": load_tokenizer("smollm2-135m")}
    for name, file in VOCABULARIES.items():
        tokenizers[name] = AutoTokenizer.from_pretrained(arguments.vocabularies, gguf_file=file)
    rows = []
    for data, catalog in catalogs.items():
        for name, tokenizer in tokenizers.items():
            for settings in SCHEMES:
                row = {"data": data, "tokenizer": name, **round_trip(catalog, tokenizer, settings)}
                rows.append(row)
                words = " ".join(str(v) for v in settings.values() if isinstance(v, str))
                print(
                    f"{data:14} {name:8} {words:24} {row['lost']} of {row['items']:,} lost, "
                    f"{row['tokens_mean']:.1f} tokens (at most {row['tokens_most']}), {row['changed']} changed, "
                    f"{row['seconds']:.1f} s",
                    flush=True,
                )
    save("identifiers", {"rows": rows})
    if any(row["lost"] for row in rows):
        raise SystemExit("items were lost")


if __name__ == "__main__":
    main()
