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

from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError
from llmrec.finetune.spread import like, whole, whole_weights

__all__ = [
    "last_checkpoint",
    "load_best",
    "load_checkpoint",
    "put_weights",
    "random_state",
    "save_best",
    "save_checkpoint",
    "set_random_state",
    "trained_parts",
]

_KEPT = 2


def save_checkpoint(
    folder: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    average: Mapping[str, Tensor] | None = None,
    best_step: int,
    write: bool,
) -> None:
    """Write ``folder/step-N`` in one step, and remove what is no longer needed.

    Parameters
    ----------
    state
        What else the training has to remember, as JSON; its random states as tensors under ``random``.
    average
        The average of the weights, where there is one.
    best_step
        The step whose weights :func:`save_best` wrote and are still the best; 0 for none.
    write
        Whether this process writes; all must call, since parameters may be spread over them.

    Raises
    ------
    ArtefactError
        The disk is full or cannot be written; the checkpoint before is still there.
    """
    weights, moments, groups = (
        whole_weights(trained_parts(model)),
        _moments(model, optimizer),
        _groups(optimizer),
    )
    if not write:
        return
    rest = dict(state)
    tensors = {"trainable": weights, "optimizer": moments, "random": rest.pop("random")}
    if average is not None:
        tensors["average"] = dict(average)
    work, final = folder / f".step-{step}.tmp", folder / f"step-{step}"
    with _explained(
        folder, f"The checkpoint of step {step}", [t for part in tensors.values() for t in part.values()]
    ):
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            for name, part in tensors.items():
                save_file(part, work / f"{name}.safetensors")
            (work / "state.json").write_text(json.dumps({"step": step, "groups": groups, **rest}))
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
    weights = whole_weights(trained_parts(model))
    if write:
        with _explained(folder, f"The best weights so far, of step {step},", weights.values()):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(_best(folder, step)) as work:
                save_file(weights, work)
                _flush(work)


def load_best(folder: Path, step: int, model: Any) -> None:
    """Put back what :func:`save_best` wrote."""
    path = _best(folder, step)
    try:
        put_weights(trained_parts(model), load_file(path))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtefactError(
            f"The best weights, {str(path)!r}, cannot be read: {error}. Expected what the training wrote: remove "
            f"{str(folder)!r} and train again."
        ) from error


def load_checkpoint(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a checkpoint's weights and moments into place and return what else it remembers, an ``average`` if it has one.

    Raises
    ------
    ArtefactError
        The checkpoint is damaged.
    """
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        weights, moments = (load_file(path / f"{name}.safetensors") for name in ("trainable", "optimizer"))
        state["random"] = load_file(path / "random.safetensors")
        if (path / "average.safetensors").is_file():
            state["average"] = load_file(path / "average.safetensors")
        put_weights(trained_parts(model), weights)
        _put_moments(model, optimizer, moments)
        for group, saved in zip(optimizer.param_groups, state.pop("groups"), strict=True):
            group.update(saved)
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


def trained_parts(model: Any) -> dict[str, Any]:
    """Return what is trained, by name, whatever the model is wrapped in; frozen weights stay where they are."""
    trained = {n.removeprefix("module."): p for n, p in model.named_parameters() if p.requires_grad}
    # A running mean is learned without a gradient.
    return trained | {
        n.removeprefix("module."): b for n, b in model.named_buffers() if n.endswith("new_tokens.length")
    }


def put_weights(parts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into ``parts`` of the same names, which may be spread over processes."""
    with torch.no_grad():
        for name, p in parts.items():
            p.copy_(like(weights[name], p))


def _moments(model: Any, optimizer: Any) -> dict[str, Tensor]:
    return {
        f"{name}|{moment}": whole(value)
        for name, p in trained_parts(model).items()
        for moment, value in optimizer.state.get(p, {}).items()
    }


def _put_moments(model: Any, optimizer: Any, moments: Mapping[str, Tensor]) -> None:
    parameters = trained_parts(model)
    for key, value in moments.items():
        name, moment = key.split("|")
        p = parameters[name]
        optimizer.state[p][moment] = value if value.ndim == 0 else like(value, p)


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


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
        raise ArtefactError(
            f"{what} could not be written to {str(folder)!r}: {'the disk is full' if full else error}. Expected room "
            f"for about {sum(t.nbytes for t in tensors) / 2**20:,.0f} MiB. "
            + (f"{str(before)!r} is whole: make" if before else "No checkpoint was written before it. Make")
            + " room and run the same command again; it goes on from there."
        ) from error
