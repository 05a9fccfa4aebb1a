"""What fine-tuning costs: targets and tokens a second, against one prompt per target and against the machine's peak.

    python benchmarks/finetune.py            (about 12 minutes on two cores)

On MovieLens-100K with SmolLM2-135M, LoRA on all linear layers, the whole model. ``targets``: next items learned a second
from documents whose every event is a target, and from one prompt per target, with the same window, for titles and for
item tokens. ``peak``: tokens a second against what the measured rate of float32 matrix products allows, at 4
floating-point operations per backbone parameter and token (forward, and gradients of activations; weights are frozen),
and 4 per parameter of the head where it is computed. Both sides take turns in one run. Kept in ``results/finetune.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from common import save

from llmrec.data.datasets import load_dataset
from llmrec.data.split import leave_one_out
from llmrec.decoding.trie import CompiledTrie
from llmrec.finetune.batches import collate, plan_epoch
from llmrec.finetune.examples import one_target_windows, training_examples, training_windows
from llmrec.finetune.lora import add_lora
from llmrec.finetune.new_tokens import NewTokens as NewTokenRows
from llmrec.finetune.new_tokens import title_rows
from llmrec.finetune.objective import NextItemLoss
from llmrec.identifiers.base import with_new_tokens
from llmrec.identifiers.schemes import Material, build_identifiers
from llmrec.models import load_model, load_tokenizer
from llmrec.new_rows import make_room
from llmrec.prompts.template import load_template
from llmrec.prompts.verbalize import Verbalizer
from llmrec.recommenders.llm_training import alternatives_of
from llmrec.settings import Finetune, Identifiers, NewTokens

MODEL = "smollm2-135m"
# Windows as the demo has them for each scheme.
CASES = {
    "title": {"max_events": 20, "batch_tokens": 2_400},
    "token": {"max_events": 64, "batch_tokens": 2_400},
}


class Case:
    """One identifier scheme, ready to take steps."""

    def __init__(self, scheme: str, max_events: int, batch_tokens: int) -> None:
        interactions, catalog = load_dataset("ml-100k")
        split = leave_one_out(interactions, catalog, dataset="ml-100k")
        base = load_tokenizer(MODEL)
        vectors = np.random.default_rng(0).standard_normal((len(catalog), 64)).astype(np.float32)
        identifiers = build_identifiers(
            Material(catalog, base, Identifiers(scheme=scheme), split.train, lambda: vectors, lambda: vectors)
        )
        tokenizer = with_new_tokens(base, identifiers.new_tokens)
        self.verbalizer = Verbalizer(
            load_template("films"),
            tokenizer,
            catalog,
            identifiers.token_ids,
            time="none",
            max_events=max_events,
        )
        self.alternatives = alternatives_of(CompiledTrie.from_sequences(identifiers.token_ids))
        self.settings = Finetune(batch_tokens=batch_tokens, new_tokens=NewTokens(start="collaborative"))
        model, new = load_model(MODEL), None
        ids = range(len(base), len(tokenizer)) if identifiers.new_tokens else None
        if ids is not None:
            model = make_room(model, ids.stop)
        self.model = add_lora(model, self.settings, seed=0, new_tokens=ids)
        if ids is not None:
            titles = base(list(catalog.titles), add_special_tokens=False)["input_ids"]
            rows = title_rows(model.get_input_embeddings().weight[: ids.start], titles)
            new = NewTokenRows(self.model, rows, vectors, dropout=0.25, seed=0)
        self.objective = NextItemLoss(self.model, self.alternatives, new).train()
        parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        windows = training_windows(split.train, max_events)
        single = one_target_windows(windows, split.train, max_events)
        # Every tenth prompt is enough to take steps from.
        some = slice(None, None, 10)
        single = type(single)(single.start[some], single.first_target[some], single.stop[some])
        self.forms = {
            name: self._epoch(training_examples(self.verbalizer, split.train, w, self.alternatives))
            for name, w in (("every-event", windows), ("one-target", single))
        }

    def _epoch(self, examples: list[Any]) -> dict[str, Any]:
        lengths = np.array([len(e) for e in examples])
        plan = plan_epoch(lengths, self.settings.batch_tokens, np.random.default_rng(0))
        padded = sum(len(b) * int(lengths[b].max()) for b in plan)
        return {"examples": examples, "plan": iter(plan), "padding": 1 - float(lengths.sum()) / padded}

    def step(self, form: str) -> dict[str, float]:
        """Take one optimiser step and return what it read and how long it took."""
        epoch = self.forms[form]
        examples = [epoch["examples"][i] for i in next(epoch["plan"])]
        started = time.perf_counter()
        batch = collate(examples)
        targets = sum(e.targets for e in examples)
        torch.autograd.backward(self.objective.loss(batch) / targets)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "seconds": time.perf_counter() - started,
            "tokens": sum(map(len, examples)),
            "padded": batch.token_ids.numel(),
            "targets": targets,
            "predictions": len(batch.labels),
        }

    def operations(self, step: dict[str, float]) -> float:
        """Return the floating-point operations that a step cannot do without."""
        causal = self.model.get_base_model()
        backbone = sum(
            m.weight.numel()
            for n, m in causal.named_modules()
            if isinstance(m, torch.nn.Linear) and "base_layer" in n and "lm_head" not in n
        )
        head = len(self.alternatives.alphabet) * causal.config.hidden_size
        return 4.0 * (backbone * step["tokens"] + head * step["predictions"])


def peak() -> float:
    """Return the best rate of a large float32 matrix product, in operations a second, over a second or so."""
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    rates = []
    with torch.no_grad():
        for _ in range(5):
            started = time.perf_counter()
            a @ b
            rates.append(2 * n**3 / (time.perf_counter() - started))
    return max(rates)


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12, help="steps of each form and scheme")
    steps = parser.parse_args().steps
    results: dict[str, Any] = {}
    for scheme, options in CASES.items():
        case = Case(scheme, **options)
        sums: dict[str, dict[str, float]] = {form: {} for form in case.forms}
        shares, peaks = [], []
        for n in range(steps + 1):
            for form, total in sums.items():
                before = peak()
                step = case.step(form)
                fastest = max(before, peak())
                if n == 0:
                    continue  # memory is laid out
                for name, value in step.items():
                    total[name] = total.get(name, 0) + value
                if form == "every-event":
                    peaks.append(fastest)
                    shares.append(case.operations(step) / step["seconds"] / fastest)
        rates = {form: t["targets"] / t["seconds"] for form, t in sums.items()}
        every = sums["every-event"]
        results[scheme] = {
            **options,
            "targets_per_second": rates,
            "times_as_many_targets": rates["every-event"] / rates["one-target"],
            "tokens_per_second": {form: t["tokens"] / t["seconds"] for form, t in sums.items()},
            "tokens_per_target": {form: t["tokens"] / t["targets"] for form, t in sums.items()},
            "padding_of_an_epoch": case.forms["every-event"]["padding"],
            "padding_of_these_steps": 1 - every["tokens"] / every["padded"],
            "matmul_peak_gflops": float(np.median(peaks)) / 1e9,
            "share_of_peak": {
                "median": float(np.median(shares)), "least": min(shares), "most": max(shares)
            },
        }  # fmt: skip
        r = results[scheme]
        print(
            f"{scheme}: {rates['every-event']:,.1f} against {rates['one-target']:,.1f} targets/s, "
            f"{r['times_as_many_targets']:.1f}x; {r['tokens_per_second']['every-event']:,.0f} tokens/s, "
            f"{r['share_of_peak']['median']:.0%} of a peak of {r['matmul_peak_gflops']:.0f} GFLOP/s "
            f"(steps {min(shares):.0%} to {max(shares):.0%}); padding {r['padding_of_an_epoch']:.1%}",
            flush=True,
        )
    save("finetune", {"model": MODEL, "steps": steps, **results})


if __name__ == "__main__":
    main()
