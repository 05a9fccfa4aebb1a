"""One of several processes that share a model's weights (FSDP2 on a CPU); started by test_fsdp.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from conftest import TITLES, YEARS
from finetune_cases import Case
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, History, Holdout
from llmrec.finetune.batches import collate
from llmrec.finetune.checkpoints import load_checkpoint, random_state, save_checkpoint
from llmrec.finetune.lora import whole_adapter
from llmrec.recommenders.llm_training import Training
from llmrec.settings import Finetune, NewTokens


def learn(folder: Path, tiny_lm: Path, world: int, rank: int, scheme: str, start: str, dtype: str) -> None:
    """Train for a few steps, through a checkpoint, and write losses and adapter."""
    catalog = Catalog(tuple(f"i{n}" for n in range(len(TITLES))), tuple(TITLES), {"year": tuple(YEARS)})
    settings = Finetune(lora_rank=2, micro_batch_tokens=150, new_tokens=NewTokens(start=start, dropout=0.0))
    case = Case(tiny_lm, catalog, settings, scheme=scheme)
    case.dtype = dtype
    objective = case.objective()
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for module in objective.modules():
            if type(module).__name__ in objective._no_split_modules:
                fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    examples, losses = case.examples(), []
    for step in range(6):
        if step == 3:  # through a checkpoint, as after a kill
            state = {"random": random_state()}
            save_checkpoint(folder, 3, objective, optimizer, state, best_step=0, write=rank == 0)
            if world > 1:
                dist.barrier()
            with torch.no_grad():
                for p in objective.parameters():
                    if p.requires_grad:
                        p.mul_(0)
            load_checkpoint(folder / "step-3", objective, optimizer)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = objective.loss(collate(examples)) / sum(e.targets for e in examples)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    # What a validation by loss does: one process has more batches than the other.
    training = Training.__new__(Training)  # what it makes is here already
    training.verbalizer, training.settings, training.alternatives = (
        case.verbalizer,
        settings,
        case.alternatives,
    )
    training.objective, training.model = objective, objective.model
    histories = case.histories
    last = histories.indptr[1:] - 1
    before = Histories.from_list([History(h.user_id, h.items[:-1], h.timestamps[:-1]) for h in histories])
    users = Holdout(before, histories.items[last], histories.timestamps[last])
    mine = users.select(np.arange(0 if rank == 0 else len(users), len(users)))
    held_out = training.held_out_loss(mine)
    # What the end of a training does.
    objective.eval()
    if objective.new_tokens is not None:
        objective.new_tokens.materialise(objective)
    weights = whole_adapter(objective.model)
    if rank == 0:
        objective.model.save_pretrained(
            str(folder / "adapter"), save_embedding_layers=False, state_dict=weights
        )
        (folder / "losses.json").write_text(json.dumps([*losses, held_out]))


def main() -> None:
    """Learn every case, of which each has a folder under the first argument."""
    folder, tiny_lm, cases = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[5:]
    world, rank = int(sys.argv[3]), int(sys.argv[4])
    if world > 1:
        # They meet by a file: a free port may be somebody else's by the time it is taken.
        store = (folder / "store").absolute().as_uri()
        dist.init_process_group("gloo", init_method=store, world_size=world, rank=rank)
    for case in cases:
        torch.manual_seed(0)
        learn(folder / case, tiny_lm, world, rank, *case.split("-"))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
