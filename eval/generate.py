"""Recommend with a fine-tuned model: for the test users of a run, or for every user of a file of histories.

    python eval/generate.py eval/demo.yaml --backend vllm
    python eval/generate.py shop.yaml --backend vllm --histories log.csv --output runs/shop-nightly

The same as ``llmrec recommend``. Killed at any point, the same command goes on with the shards that are not there yet.
"""

from __future__ import annotations

import typer

from llmrec.cli import recommend, report_errors

if __name__ == "__main__":
    report_errors(lambda: typer.run(recommend))
