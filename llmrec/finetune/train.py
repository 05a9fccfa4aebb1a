"""LoRA fine-tuning on verbalised histories, on transformers' Trainer.

Shapes: B documents of a batch, T tokens of the longest, C columns that hold a target in any document.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import set_seed

from llmrec.config import Finetune
from llmrec.errors import ConfigError, LlmrecError, nearest
from llmrec.prompts.verbalize import Document

__all__ = ["add_lora", "batch_order", "collate", "finetune", "target_loss"]


def add_lora(model: Any, settings: Finetune, seed: int) -> Any:
    """Wrap a model with trainable low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    Raises
    ------
    ConfigError
        The model has no layer of a name in ``settings.target_modules``.
    """
    linear = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if n and not list(m.children())}
    modules = settings.target_modules
    if modules != "all-linear":
        unknown = [m for m in modules if m not in linear]
        if unknown:
            raise ConfigError(
                f"finetune.target_modules names {unknown[0]!r}{nearest(unknown[0], linear)}, which this model does not "
                f"have. Expected 'all-linear' or some of {', '.join(sorted(linear))}."
            )
    set_seed(seed)  # the adapters' first matrices are random
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=modules if modules == "all-linear" else list(modules),
        ),
    )


def collate(documents: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad a batch on the right [B, T]; padding is masked and never a target."""
    width = max(len(d["input_ids"]) for d in documents)

    def padded(name: str, fill: int) -> torch.Tensor:
        rows = [np.pad(d[name], (0, width - len(d[name])), constant_values=fill) for d in documents]
        return torch.as_tensor(np.stack(rows))

    mask = [[1] * len(d["input_ids"]) + [0] * (width - len(d["input_ids"])) for d in documents]
    return {
        "input_ids": padded("input_ids", 0),
        "attention_mask": torch.as_tensor(mask),
        "labels": padded("labels", -100),
    }


def target_loss(
    model: Any, inputs: dict[str, torch.Tensor], total: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy over all target tokens.

    The head is computed for the columns that predict a target in some document only: with 49k entries in the
    vocabulary it costs as much as a quarter of SmolLM2's backbone.

    Parameters
    ----------
    total
        Number of target tokens to divide by; those of this batch if left out (the Trainer gives the number of all
        batches of an accumulated step).
    """
    labels = inputs["labels"][:, 1:]  # [B, T - 1]
    columns = torch.nonzero((labels != -100).any(dim=0)).squeeze(1)  # [C]
    logits = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], logits_to_keep=columns
    ).logits  # [B, C, V]
    targets = labels[:, columns]
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    return loss / (total if total is not None else (targets != -100).sum())


class _Trainer(Trainer):
    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        return target_loss(model, inputs, num_items_in_batch)


class _Watch(TrainerCallback):
    """Reports progress, and stops at a loss that is no number before it reaches a checkpoint."""

    def __init__(self, on_step: Callable[[int, int], None] | None) -> None:
        self.on_step = on_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise LlmrecError(
                f"The training loss became {loss} at step {state.global_step}. Expected a finite number: lower "
                "finetune.learning_rate or raise finetune.warmup_steps. The last checkpoint was written before that."
            )


def finetune(
    model: Any,
    documents: Sequence[Document],
    settings: Finetune,
    *,
    checkpoints: Path,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, float]], list[int]]:
    """Train the adapters of ``model`` in place.

    Returns the log, one dict per step with ``step`` and ``loss``, and the documents that were read, in order.

    A folder of checkpoints that a killed run left behind is taken up where it ended, with the optimiser's and the
    random numbers' state, so the result is that of an uninterrupted run.

    Parameters
    ----------
    model
        The result of :func:`add_lora`.
    documents
        At least one, each with at least one target.
    checkpoints
        Folder for checkpoints.
    on_step
        Called with (steps done, steps in all).

    Raises
    ------
    LlmrecError
        The loss became NaN or infinite.
    """
    order = batch_order([len(d.token_ids) for d in documents], settings.steps, settings.batch_size, seed)
    rows = Dataset.from_dict(
        {"input_ids": [d.token_ids for d in documents], "labels": [d.labels() for d in documents]}
    ).select(order)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        train_sampling_strategy="sequential",  # batch_order has shuffled and grouped them
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a NaN in the log by the mean so far, and hide it
        save_steps=settings.save_steps,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        use_cpu=next(model.parameters()).device.type == "cpu",
        dataloader_num_workers=0,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    trainer = _Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[_Watch(on_step)]
    )
    trainer.remove_callback(PrinterCallback)
    model.train()
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    model.eval()
    log = [{"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e]
    return log, order


def batch_order(lengths: Sequence[int], steps: int, batch_size: int, seed: int) -> list[int]:
    """Return the documents of all batches, one after the other: ``steps * batch_size`` indices.

    Every pass over the documents is a new random order, in which documents of like length share a batch: sorting
    stretches of 32 batches keeps padding to a few per cent and the order random. Passes follow each other
    without a gap, so every batch is full.
    """
    rng = np.random.default_rng(seed)
    wanted = steps * batch_size
    drawn: list[int] = []
    while len(drawn) < wanted:
        drawn += rng.permutation(len(lengths)).tolist()
    order: list[int] = []
    stretch = 32 * batch_size
    for start in range(0, wanted, stretch):
        part = sorted(drawn[start : min(start + stretch, wanted)], key=lambda i: lengths[i])
        batches = [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
        order += [i for b in rng.permutation(len(batches)) for i in batches[b]]
    return order


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, and remove those that a kill left half-written.

    The Trainer writes trainer_state.json last; without a readable one the checkpoint is not whole.
    """
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            whole.append((int(json.loads((path / "trainer_state.json").read_text())["global_step"]), path))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path, ignore_errors=True)
    return str(max(whole)[1]) if whole else None
