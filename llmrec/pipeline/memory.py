"""Peak memory of this process, per stage."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["peak_memory", "reset_peak_memory"]


def reset_peak_memory() -> None:
    """Start to watch: on Linux the kernel's high-water mark is set back to what is in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Return the most resident memory since :func:`reset_peak_memory`, in bytes; ``None`` where not known."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) * 1024 if line else None
