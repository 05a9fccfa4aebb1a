"""Weights spread over processes: the loss, its gradients, checkpoints, validation by loss and the adapter are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).parent / "fsdp_worker.py"


@pytest.mark.parametrize(
    ("scheme", "start", "dtype"),
    [
        ("title", "title", "float32"),
        ("token", "title", "float32"),
        ("token", "collaborative", "float32"),
        ("title", "title", "bfloat16"),
    ],
)
def test_spread_weights_learn_the_same(tiny_lm, tmp_path, scheme, start, dtype):
    losses, adapters = {}, {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = [
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={processes}",
            "--rdzv_backend=c10d",
            "--rdzv_endpoint=localhost:0",
        ]
        command = [sys.executable, *launch, str(WORKER), str(folder), str(tiny_lm), scheme, start, dtype]
        env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[processes] = json.loads((folder / "losses.json").read_text())
        adapters[processes] = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert losses[1][-1] != losses[1][0]
    assert losses[2] == pytest.approx(losses[1], rel=1e-3 if dtype == "float32" else 1e-2)
    assert adapters[2].keys() == adapters[1].keys()
    for name, weights in adapters[1].items():
        assert adapters[2][name].shape == weights.shape
        torch.testing.assert_close(adapters[2][name], weights, rtol=1e-2, atol=3e-3)
