"""Training that survives a kill: everything that decides how it goes on, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.data.recommendations import replacing
from llmrec.errors import ArtefactError

__all__ = ["TrainingState"]


class TrainingState:
    """The state between two epochs: weights, optimiser, best weights so far, curve, and all random generators.

    Parameters
    ----------
    path
        The file; ``None`` keeps nothing.
    key
        What decides the training, JSON-ready. A file of another training is refused.
    """

    def __init__(self, path: Path | None, key: dict[str, Any]) -> None:
        self.path = path
        self.key = key

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        batches: torch.Generator,
        **more: Any,
    ) -> None:
        """Write the state in one step: a kill leaves the old file or the new one."""
        if self.path is None:
            return
        device = next(model.parameters()).device
        state = {
            "key": self.key,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "numpy": rng.bit_generator.state,
            "batches": batches.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            **more,
        }
        with replacing(self.path) as temporary:
            torch.save(state, temporary)

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        batches: torch.Generator,
    ) -> dict[str, Any]:
        """Put everything back as it was saved, and return what else was; empty where there is no file.

        Raises
        ------
        ArtefactError
            The file cannot be read, or it belongs to another training.
        """
        if self.path is None or not self.path.is_file():
            return {}
        device = next(model.parameters()).device
        try:
            # Weights and plain numbers only: a file from elsewhere cannot run code.
            state = torch.load(self.path, map_location=device, weights_only=True)
            found = state["key"]
        except Exception as error:
            raise ArtefactError(
                f"{str(self.path)!r} cannot be read as the state of a training ({type(error).__name__}). Expected what "
                "an interrupted one has left: remove it, and training starts again."
            ) from None
        if found != self.key:
            other = sorted(
                name for name in found.keys() | self.key.keys() if found.get(name) != self.key.get(name)
            )
            raise ArtefactError(
                f"{str(self.path)!r} holds an interrupted training with other settings: {', '.join(other)}. Expected the "
                "same ones to go on: set them back, or remove the file to start again."
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["numpy"]
        batches.set_state(state["batches"].cpu())
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
        restored = ("model", "optimizer", "numpy", "batches", "torch", "cuda", "key")
        return {name: value for name, value in state.items() if name not in restored}
