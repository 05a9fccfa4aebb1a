"""Peak memory of a stage, and memory given back after it."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path
from typing import Any

__all__ = ["free_memory", "peak_memory", "reset_peak_memory"]

_on_gpus = 0  # bytes that tensors took at the last reset


def reset_peak_memory() -> None:
    """Start to watch: on Linux the kernel's high-water mark is set back to what is in use now, and so is each GPU's."""
    global _on_gpus
    if (cuda := _cuda()) is not None:
        for gpu in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(gpu)
        _on_gpus = _most(cuda)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Return the most memory since :func:`reset_peak_memory`, in bytes; ``None`` where not known.

    It is that of tensors on a GPU where these have grown since, of the GPU with the most, and else what was resident.
    """
    if (cuda := _cuda()) is not None and (most := _most(cuda)) > _on_gpus:
        return most
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None


def free_memory() -> None:
    """Give back what nobody uses: another process, such as an engine's, cannot have what PyTorch keeps on a GPU for later."""
    gc.collect()
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def _cuda() -> Any:
    """Return torch.cuda where this process uses a GPU; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _most(cuda: Any) -> int:
    return max(int(cuda.max_memory_allocated(gpu)) for gpu in range(cuda.device_count()))
