"""Arrays that one system makes for another, kept with the settings that decided them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.data.recommendations import replacing

__all__ = ["read_tensors", "write_tensors"]


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], key: dict[str, Any]) -> None:
    """Write arrays by name, whole or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            temporary,
            metadata={"key": json.dumps(key)},
        )


def read_tensors(
    path: Path, key: dict[str, Any], only: Collection[str] | None = None
) -> dict[str, NDArray[Any]] | None:
    """Return the arrays, all or those of some names; ``None`` where there are none of these settings."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    with safe_open(path, "numpy") as file:
        if json.loads(file.metadata()["key"]) != json.loads(json.dumps(key)):
            return None
        return {name: file.get_tensor(name) for name in file.keys() if only is None or name in only}  # noqa: SIM118 (no mapping)
