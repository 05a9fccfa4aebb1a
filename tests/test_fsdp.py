"""Weights spread over processes: the loss, its gradients, checkpoints, validation by loss and the adapter are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).parent / "fsdp_worker.py"
CASES = ("title-title-float32", "token-title-float32", "token-collaborative-float32", "title-title-bfloat16")


@pytest.fixture(scope="module")
def learned(tiny_lm, tmp_path_factory) -> dict[int, Path]:
    """Return where one process and two have written what they learned of each case."""
    folders = {}
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for processes in (1, 2):
        folder = folders[processes] = tmp_path_factory.mktemp(f"processes-{processes}")
        for case in CASES:
            (folder / case).mkdir()
        errors = [folder / f"errors-{rank}.txt" for rank in range(processes)]
        with ExitStack() as stack:
            running = []
            for rank, file in enumerate(errors):
                where = [str(folder), str(tiny_lm), str(processes), str(rank)]
                process = subprocess.Popen(
                    [sys.executable, str(WORKER), *where, *CASES],
                    env=env,
                    stderr=stack.enter_context(file.open("w")),
                )
                stack.callback(process.kill)
                running.append(process)
            codes = [process.wait(timeout=300) for process in running]
        assert codes == [0] * processes, "\n".join(file.read_text()[-3000:] for file in errors)
    return folders


@pytest.mark.parametrize("case", CASES)
def test_spread_weights_learn_the_same(learned, case):
    losses, adapters = {}, {}
    for processes, folder in learned.items():
        losses[processes] = json.loads((folder / case / "losses.json").read_text())
        adapters[processes] = load_file(folder / case / "adapter" / "adapter_model.safetensors")
    assert losses[1][-1] != losses[1][0]
    assert losses[2] == pytest.approx(losses[1], rel=1e-2 if "bfloat16" in case else 1e-3)
    assert adapters[2].keys() == adapters[1].keys()
    for name, weights in adapters[1].items():
        assert adapters[2][name].shape == weights.shape
        torch.testing.assert_close(adapters[2][name], weights, rtol=1e-2, atol=3e-3)
