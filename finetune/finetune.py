"""Fine-tune a language model on histories: on one device, or on many under ``accelerate launch``.

    python finetune/finetune.py finetune/ml-100k-cpu.yaml
    accelerate launch --config_file finetune/accelerate/ddp.yaml finetune/finetune.py RECIPE
    python finetune/finetune.py RECIPE --set finetune.epochs=2 --set output=runs/other

A recipe is a run's config: the same file gives the report with ``llmrec run RECIPE`` afterwards. A killed training goes on
from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.cli import Overrides, report_errors


def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, for example finetune/ml-100k-cpu.yaml.")],
    set_: Overrides = None,
) -> None:
    """Read the data, make identifiers and train the adapter of RECIPE."""
    from llmrec.pipeline.finetune_stage import is_main_process
    from llmrec.pipeline.run import finetune
    from llmrec.progress import say

    adapter = finetune(recipe, set_ or [])
    if is_main_process():
        say(f"The adapter is in {adapter}. Next: llmrec run {recipe} (the comparison with the baselines).")


if __name__ == "__main__":
    report_errors(lambda: typer.run(main))
