"""A compiled trie as a file: safetensors, so that it is mapped into memory instead of read, and shared by processes.

The header says what the trie was made for, in the caller's words (fingerprints of catalogue, tokenizer, settings), and
holds a digest of the content.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmrec.data.recommendations import replacing
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError

__all__ = ["load_trie", "save_trie"]

_FORMAT = "llmrec.trie/1"
_TYPES = {"I32": np.int32, "U16": np.uint16, "U32": np.uint32}


def save_trie(trie: CompiledTrie, path: Path, made_for: Mapping[str, str]) -> None:
    """Write ``trie`` to ``path``, atomically.

    Parameters
    ----------
    made_for
        What the trie belongs to: texts that are equal only where the trie may be used, for example ``{"catalogue":
        catalog.fingerprint, "tokenizer": tokenizer_fingerprint(tokenizer), "identifiers": "title"}``.
    """
    from safetensors.numpy import save_file

    meta = {"format": _FORMAT, "fingerprint": trie.fingerprint, "made_for": json.dumps(dict(made_for))}
    with replacing(path) as temporary:
        save_file({k: np.ascontiguousarray(a) for k, a in trie.arrays().items()}, temporary, metadata=meta)


def load_trie(path: Path, made_for: Mapping[str, str]) -> CompiledTrie:
    """Map the trie at ``path`` into memory, read-only.

    Raises
    ------
    TrieError
        There is no such file, it is damaged, or it was made for something else; the message names what differs.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise TrieError(
            f"{path} cannot be read: {error}. Expected a file that CompiledTrie.save wrote."
        ) from error
    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        meta = header.pop("__metadata__")
        if meta["format"] != _FORMAT:
            raise KeyError(meta["format"])
        stored = json.loads(meta["made_for"])
        arrays = {}
        for name, about in header.items():
            start, stop = about["data_offsets"]
            kind = np.dtype(_TYPES[about["dtype"]])
            arrays[name] = np.frombuffer(content, kind, (stop - start) // kind.itemsize, 8 + size + start)
        trie = CompiledTrie(**arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise TrieError(
            f"{path} is not a trie of this version of llmrec, or is damaged. Expected a file that CompiledTrie.save "
            "wrote. Make it anew."
        ) from error
    for key in sorted({*stored, *made_for}):
        if stored.get(key) != made_for.get(key):
            raise TrieError(
                f"The trie in {path} was made for another {key}: {stored.get(key)!r}, but {made_for.get(key)!r} is in "
                "use. With it the model would write identifiers of other items. Make the trie anew."
            )
    if trie.fingerprint != meta["fingerprint"]:
        raise TrieError(f"The content of {path} is damaged: its digest is another. Make the trie anew.")
    return trie
