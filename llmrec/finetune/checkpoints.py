"""Checkpoints of what is trained: whole or absent, in safetensors, with all that an exact continuation needs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError, LlmrecError

__all__ = [
    "last_checkpoint",
    "load_best",
    "load_checkpoint",
    "random_state",
    "save_best",
    "save_checkpoint",
    "set_random_state",
]

_KEPT = 2
# Frozen weights stay where they are; gathered on every process where they are spread over several (FSDP).
_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


def save_checkpoint(
    folder: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    best_step: int,
    write: bool,
) -> None:
    """Write ``folder/step-N`` in one step, and remove what is no longer needed.

    Parameters
    ----------
    state
        What else the training has to remember, as JSON; its random states as tensors under ``random``.
    best_step
        The step whose weights :func:`save_best` wrote and are still the best; 0 for none.
    write
        Whether this process writes; all must call, since parameters may be spread over them.

    Raises
    ------
    LlmrecError
        The disk is full or cannot be written; the checkpoint before is still there.
    """
    weights: Any
    moments: Any
    weights, moments = get_state_dict(model, optimizer, options=_OPTIONS)
    if not write:
        return
    tensors = {
        f"{parameter}|{moment}": value.contiguous()
        for parameter, values in moments["state"].items()
        for moment, value in values.items()
    }
    rest = dict(state)
    work, final = folder / f".step-{step}.tmp", folder / f"step-{step}"
    with _explained(folder, f"The checkpoint of step {step}", [*weights.values(), *tensors.values()]):
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            save_file(_contiguous(weights), work / "trainable.safetensors")
            save_file(tensors, work / "optimizer.safetensors")
            save_file(rest.pop("random"), work / "random.safetensors")
            (work / "state.json").write_text(
                json.dumps({"step": step, "groups": moments["param_groups"], **rest})
            )
            for file in work.iterdir():
                _flush(file)
            shutil.rmtree(final, ignore_errors=True)
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    for old in sorted(_steps(folder))[:-_KEPT]:
        shutil.rmtree(folder / f"step-{old}", ignore_errors=True)
    for file in folder.glob("best-*.safetensors"):
        if file != _best(folder, best_step):
            file.unlink()


def save_best(folder: Path, step: int, model: Any, *, write: bool) -> None:
    """Write the weights of a step that is better than all before it."""
    weights: Any = get_model_state_dict(model, options=_OPTIONS)
    if write:
        with _explained(folder, f"The best weights so far, of step {step},", list(weights.values())):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(_best(folder, step)) as work:
                save_file(_contiguous(weights), work)
                _flush(work)


def load_best(folder: Path, step: int, model: Any) -> None:
    """Put back what :func:`save_best` wrote."""
    path = _best(folder, step)
    try:
        weights: Any = load_file(path)
        set_model_state_dict(model, weights, options=_OPTIONS)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"The best weights, {str(path)!r}, cannot be read: {error}. Expected what the training wrote: remove "
            f"{str(folder)!r} and train again."
        ) from error


def load_checkpoint(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments into place and return what else it remembers.

    Raises
    ------
    ArtefactError
        The checkpoint is damaged.
    """
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        weights: Any = load_file(path / "trainable.safetensors")
        values: dict[str, dict[str, Tensor]] = {}
        for name, value in load_file(path / "optimizer.safetensors").items():
            parameter, moment = name.split("|")
            values.setdefault(parameter, {})[moment] = value
        moments: Any = {"state": values, "param_groups": state.pop("groups")}
        state["random"] = load_file(path / "random.safetensors")
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_OPTIONS)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtefactError(
            f"The checkpoint {str(path)!r} cannot be read: {error}. Expected what an interrupted training wrote: remove "
            "it, and training goes on from the one before, or from the start."
        ) from error
    return state


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint; what a kill left half-written does not count, and is removed."""
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    steps = _steps(folder)
    return folder / f"step-{max(steps)}" if steps else None


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's random numbers, which decide dropout."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _steps(folder: Path) -> list[int]:
    return [int(p.name.removeprefix("step-")) for p in folder.glob("step-*") if p.name[5:].isdigit()]


def _best(folder: Path, step: int) -> Path:
    return folder / f"best-{step}.safetensors"


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.contiguous() for k, v in tensors.items()}


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def _explained(folder: Path, what: str, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Turn errors of writing into a message that says what is still there."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        before = last_checkpoint(folder)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        raise LlmrecError(
            f"{what} could not be written to {str(folder)!r}: {'the disk is full' if full else error}. Expected room "
            f"for about {sum(t.nbytes for t in tensors) / 2**20:,.0f} MiB. "
            + (f"{str(before)!r} is whole: make" if before else "No checkpoint was written before it. Make")
            + " room and run the same command again; it goes on from there."
        ) from error
