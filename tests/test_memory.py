"""What a stage took is that of the device that worked, and what ran out is said."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from llmrec import cli
from llmrec.pipeline import memory


class FakeGpus(SimpleNamespace):
    """Two GPUs as torch.cuda tells of them."""

    def __init__(self, *taken: int) -> None:
        super().__init__(taken=list(taken), most=list(taken), emptied=0)

    def device_count(self) -> int:
        return len(self.taken)

    def max_memory_allocated(self, gpu: int) -> int:
        return self.most[gpu]

    def reset_peak_memory_stats(self, gpu: int) -> None:
        self.most[gpu] = self.taken[gpu]

    def empty_cache(self) -> None:
        self.emptied += 1


def test_the_peak_is_that_of_the_gpu_with_the_most_and_of_the_process_where_none_worked(monkeypatch):
    host = memory.peak_memory()
    gpus = FakeGpus(3, 5)
    monkeypatch.setattr(memory, "_cuda", lambda: gpus)
    memory.reset_peak_memory()
    gpus.most = [7, 40]
    assert memory.peak_memory() == 40
    memory.reset_peak_memory()  # 5 are still taken, by what others left: no work of this stage
    assert (memory.peak_memory() or 0) > 40 or host is None
    memory.free_memory()
    assert gpus.emptied == 1


def test_torch_is_not_imported_to_ask_for_gpus():
    code = "import sys; from llmrec.pipeline import memory as m; m.reset_peak_memory(); m.free_memory(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_gpu_whose_memory_ran_out_is_no_traceback(capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    def command():
        raise OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
        )

    with pytest.raises(SystemExit) as stop:
        cli.report_errors(command)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "llmrec: CUDA out of memory. Expected the work to fit. For training lower finetune.micro_batch_tokens"
    )
    with pytest.raises(ZeroDivisionError):
        cli.report_errors(lambda: 1 // 0)
