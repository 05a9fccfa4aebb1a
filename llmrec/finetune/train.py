"""The training loop, on accelerate: the same steps on one device and on many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_scheduler

from llmrec.errors import LlmrecError
from llmrec.finetune.averaging import WeightAverage
from llmrec.finetune.batches import collate, micro_batches
from llmrec.finetune.checkpoints import (
    last_checkpoint,
    load_best,
    load_checkpoint,
    random_state,
    save_best,
    save_checkpoint,
    set_random_state,
)
from llmrec.finetune.objective import NextItemLoss
from llmrec.finetune.plan import Examples, Plan
from llmrec.finetune.spread import whole, will_be_spread
from llmrec.finetune.stopping import EarlyStopping
from llmrec.settings import Finetune

__all__ = ["Outcome", "Step", "Validate", "finetune"]

Validate = Callable[[int, int], tuple[float, int]]
"""Called with (process, processes); returns the sum of the metric over this process' share of users, and their number."""

_LOGGED = ("step", "epoch", "loss", "tokens", "padded_tokens", "targets", "seconds")


@dataclass(frozen=True)
class Step:
    """What an optimiser step did."""

    step: int  # from 1
    steps: int  # of the whole training
    epoch: float  # passes over the data so far
    loss: float  # nats per target
    learning_rate: float  # of the adapters
    tokens: int  # without padding
    padded_tokens: int  # with it
    targets: int
    seconds: float  # of this step


@dataclass(frozen=True)
class Outcome:
    """What a training did: one entry per step and per validation, and the step whose weights were kept."""

    log: list[dict[str, float]]
    validations: list[dict[str, float]]
    best_step: int


def finetune(
    objective: NextItemLoss,
    examples: Examples,
    settings: Finetune,
    *,
    checkpoints: Path,
    seed: int,
    validate: Validate | None = None,
    on_step: Callable[[Step], None] | None = None,
    logs: Path | None = None,
    run_name: str = "llmrec",
) -> Outcome:
    """Train the adapters and new tokens of ``objective`` in place.

    A folder of checkpoints that a killed run left behind is taken up where it ended, with the optimiser's and the
    random numbers' state, so the result is that of an uninterrupted run. What a step reads depends on the seed and
    ``batch_tokens`` alone: N processes share it, and add up the same gradient as one.

    Parameters
    ----------
    examples
        Gives the examples of each epoch.
    checkpoints
        Folder for checkpoints.
    validate
        Measures the metric of ``settings.validation`` on the current weights; needed if that asks for validation.
    on_step
        Called after each step, on the first process.
    logs, run_name
        Folder and name for the trackers of ``settings.report_to``; needed if there are any.

    Raises
    ------
    LlmrecError
        The loss became NaN or infinite, or a checkpoint cannot be written.
    """
    device = next(objective.parameters()).device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # accelerate takes the current one
    accelerator = Accelerator(
        cpu=device.type == "cpu" and not will_be_spread(), mixed_precision="no", log_with=list(settings.report_to) or None,
        project_dir=str(logs) if settings.report_to else None,
    )  # fmt: skip
    device = accelerator.device
    groups = _groups(objective, settings)
    optimizer: Any = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    model, optimizer = accelerator.prepare(objective, optimizer)
    if not (settings.steps or settings.epochs):
        _finish(objective)
        return Outcome([], [], 0)
    plan = Plan(examples, settings, seed)
    scheduler = get_scheduler(
        {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        getattr(optimizer, "optimizer", optimizer),
        num_warmup_steps=min(settings.warmup_steps, plan.steps - 1),  # the last one at the full rate
        num_training_steps=plan.steps,
    )
    stopping = EarlyStopping(settings.validation, plan.steps)
    average = WeightAverage(model, settings.averaging * plan.steps_per_epoch) if settings.averaging else None
    torch.manual_seed(seed + accelerator.process_index)
    log: list[dict[str, float]] = []
    done = 0
    found = last_checkpoint(checkpoints)
    if found is not None:
        state = load_checkpoint(found, model, optimizer)
        done, log = state["step"], state["log"]
        stopping.seen = state["validations"]
        scheduler.load_state_dict(state["scheduler"])
        set_random_state(state["random"])
        if average is not None:
            average.load(state["average"])
        if accelerator.process_index:
            # Only the first process' random numbers are kept; others go on with numbers of their own.
            torch.manual_seed(seed + accelerator.process_index + done)
    if settings.report_to:
        accelerator.init_trackers(run_name, config=_flat(settings))

    def save(step: int) -> None:
        save_checkpoint(
            checkpoints, step, model, optimizer,
            {"log": log, "validations": stopping.seen, "scheduler": scheduler.state_dict(), "random": random_state()},
            average=None if average is None else average.state(), best_step=stopping.best_step, write=accelerator.is_main_process,
        )  # fmt: skip

    objective.train()
    for step, epoch, batch, lengths, read in () if stopping.over else plan.follow(done):
        started = time.monotonic()
        # 1. This process' share of the step, as micro-batches.
        targets = sum(read[i].targets for i in batch)
        parts = micro_batches(batch, lengths, settings.micro_batch_tokens, accelerator.num_processes)
        mine = [collate([read[i] for i in part]).to(device) for part in parts[accelerator.process_index]]
        # 2. Gradients of the mean over all targets of all processes (DDP takes the mean over processes).
        total = torch.zeros((), device=device)
        for at, part in enumerate(mine):
            last = at == len(mine) - 1
            with nullcontext() if last else accelerator.no_sync(model), objective.precision():
                loss = model(part.token_ids, part.positions, part.labels, part.prefixes, part.events)
            with nullcontext() if last else accelerator.no_sync(model):
                accelerator.backward(loss * (accelerator.num_processes / targets))
            total += loss.detach()
        mean = float(accelerator.reduce(total, "sum")) / targets
        # 3. Weights are left alone by a loss or a gradient that is no number, and so are the checkpoints.
        length: Any = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        norm = float(whole(length))
        if not math.isfinite(mean) or not math.isfinite(norm):
            what = f"loss became {mean}" if not math.isfinite(mean) else f"gradient's length became {norm}"
            raise LlmrecError(
                f"The training {what} at step {step}. Expected a finite number: lower "
                "finetune.learning_rate or finetune.new_tokens.learning_rate, or raise finetune.warmup_steps. The "
                f"last good checkpoint is {last_checkpoint(checkpoints) or 'the start of the training'}."
            )
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if average is not None:
            average.add(step)
        # 4. Tell.
        padded = sum(share.size * int(lengths[share].max()) for ps in parts for share in ps if share.size)
        entry = Step(
            step, plan.steps, epoch, mean, rate, int(lengths[batch].sum()), padded, targets,
            time.monotonic() - started,
        )  # fmt: skip
        log.append({name: getattr(entry, name) for name in _LOGGED})
        if settings.report_to:
            accelerator.log(
                {"loss": mean, "gradient": norm, "learning_rate": rate, "epoch": epoch}, step=step
            )
        if on_step is not None and accelerator.is_main_process:
            on_step(entry)
        # 5. Validate, keep the best, checkpoint.
        if stopping.due(step, epoch):
            started = time.monotonic()
            with nullcontext() if average is None else average.in_place():
                value = _validated(objective, validate, accelerator)
                if stopping.add(step, epoch, value, mean):
                    save_best(checkpoints, step, model, write=accelerator.is_main_process)
            if settings.report_to:
                accelerator.log({f"validation {settings.validation.metric}": value}, step=step)
            log[-1]["seconds"] += time.monotonic() - started
        if step % settings.save_steps == 0 and step < plan.steps:
            save(step)
        if stopping.over:
            break
    accelerator.wait_for_everyone()
    best_step = int(log[-1]["step"])
    if average is not None:
        average.put()
    if stopping.seen and stopping.best_step != best_step:
        best_step = stopping.best_step
        load_best(checkpoints, best_step, model)
    # Not accelerator.end_training(), which ends the process group too, and others wait for this process afterwards.
    for tracker in accelerator.trackers:
        tracker.finish()
    _finish(objective)
    return Outcome(log, stopping.seen, best_step)


def _finish(objective: NextItemLoss) -> None:
    """Leave a model to be decoded and saved."""
    objective.eval()
    if objective.new_tokens is not None:
        objective.new_tokens.materialise(objective)


def _groups(objective: NextItemLoss, settings: Finetune) -> list[dict[str, Any]]:
    """Return the optimiser's groups: adapters, then what belongs to new tokens."""
    new = settings.new_tokens
    rates = {
        "adapters": settings.learning_rate,
        "vectors": new.vector_learning_rate,
        "rows": new.learning_rate,
    }
    members: dict[str, list[Any]] = {kind: [] for kind in rates}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            kind = "adapters"
            if name.startswith("new_tokens.") or "trainable_tokens" in name:
                kind = "vectors" if name == "new_tokens.vectors" else "rows"
            members[kind].append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[kind],
            "weight_decay": settings.weight_decay if kind == "adapters" else 0.0,
        }
        for kind, parameters in members.items()
        if parameters
    ]


def _validated(objective: NextItemLoss, validate: Validate | None, accelerator: Accelerator) -> float:
    """Return the mean of the metric over all processes' users."""
    if validate is None:
        raise ValueError("finetune.validation asks for validation, and no function for it was given")
    _finish(objective)
    value, n = validate(accelerator.process_index, accelerator.num_processes)
    both: torch.Tensor = accelerator.reduce(
        torch.tensor([value, n], dtype=torch.float32, device=accelerator.device), "sum"
    )
    objective.train()
    return float(both[0] / both[1])


def _flat(settings: Finetune) -> dict[str, Any]:
    """Return settings as trackers take them: texts and numbers."""
    dumped = settings.model_dump(mode="json")
    flat = {f"{a}.{b}": v for a, part in dumped.items() if isinstance(part, dict) for b, v in part.items()}
    flat |= {k: v for k, v in dumped.items() if not isinstance(v, dict)}
    return {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in flat.items()}
