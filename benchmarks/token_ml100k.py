"""How far does a language model get with a token for every item? Curves over epochs, beside SASRec of the same run.

    python benchmarks/token_ml100k.py finetune/ml-100k-cpu.yaml     (about the time that the recipe names)
    python benchmarks/token_ml100k.py finetune/ml-100k-cpu.yaml --set finetune.new_tokens.start=title --name free

Trains the recipe and measures HR@10 and NDCG@10 after every validation interval, on all validation and all test users.
The validation values decide which weights are kept; the test curve is for the reader only. SASRec, whose vectors the
tokens may start from, is fitted in the same run. Kept in ``results/token_ml100k_NAME.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import save

from llmrec.config_file import load_config
from llmrec.data.histories import Holdout
from llmrec.eval.metrics import hit_rate, ndcg, target_ranks
from llmrec.finetune.train import Step
from llmrec.pipeline.identifiers_stage import identifiers_for, new_token_start
from llmrec.pipeline.parts import language_parts, load_data, load_language_model, make_split
from llmrec.recommenders.llm import LLMRecommender
from llmrec.recommenders.registry import build_recommender

K = 10


def measured(recommender: Any, holdout: Holdout, exclude_seen: bool) -> dict[str, float]:
    """Return HR@10 and NDCG@10 over all users of a holdout."""
    recs = recommender.recommend(holdout.histories, K, exclude_seen=exclude_seen)
    ranks = target_ranks(recs, holdout.target_items)
    return {"hr@10": float(hit_rate(ranks, K).mean()), "ndcg@10": float(ndcg(ranks, K).mean())}


class WithCurve(LLMRecommender):
    """Notes both holdouts at every validation; validates on all users."""

    curve: list[dict[str, Any]]
    began: float
    measuring = 0.0

    def _validator(self, objective: Any, split: Any, alternatives: Any) -> Any:
        self.curve = []

        def validate(process: int, processes: int) -> tuple[float, int]:
            started = time.perf_counter()
            seen = split.protocol.exclude_seen
            point = {part: measured(self, getattr(split, part), seen) for part in ("valid", "test")}
            # Half of the measuring is for the curve of the test users.
            self.measuring += (time.perf_counter() - started) / 2
            minutes = (time.perf_counter() - self.began - self.measuring) / 60
            self.curve.append({"minutes": minutes, **point})
            print(
                f"  {minutes:5.1f} min  valid {point['valid']['hr@10']:.4f} / {point['valid']['ndcg@10']:.4f}"
                f"  test {point['test']['hr@10']:.4f} / {point['test']['ndcg@10']:.4f}",
                flush=True,
            )
            return point["valid"]["ndcg@10"] * len(split.valid), len(split.valid)

        return validate


def main() -> None:
    """Train, measure, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", default="recipe", help="what the results are kept under")
    arguments = parser.parse_args()
    config = load_config(arguments.recipe, arguments.set)
    interactions, catalog, _ = load_data(config)
    split = make_split(config, interactions, catalog)
    name = config.identifiers.collaborative_system
    started = time.perf_counter()
    sasrec = build_recommender(name, config.systems[name], seed=config.seed)
    sasrec.fit(split)
    baseline = {part: measured(sasrec, getattr(split, part), True) for part in ("valid", "test")}
    baseline["minutes"] = (time.perf_counter() - started) / 60
    print(f"{name}: {baseline}", flush=True)

    parts = language_parts(
        config, split, catalog, identifiers_for(config, split, catalog, sasrec.item_vectors)
    )
    model = load_language_model(config, tokens=parts.vocabulary, training=True)
    steps: list[Step] = []

    def show(step: Step) -> None:
        steps.append(step)
        if step.step % 25 == 0:
            loss = np.mean([s.loss for s in steps[-25:]])
            rate = sum(s.tokens for s in steps[-25:]) / sum(s.seconds for s in steps[-25:])
            print(f"  step {step.step} of {step.steps}, loss {loss:.3f}, {rate:,.0f} tokens/s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        llm = WithCurve(
            model, parts.verbalizer, parts.trie, finetune=config.finetune, decoding=config.decoding,
            new_tokens=new_token_start(model, config, catalog, parts, sasrec.item_vectors),
            checkpoints=Path(folder), seed=config.seed, on_step=show,
        )  # fmt: skip
        llm.began = time.perf_counter()
        llm.fit(split)
    curve = [point | measure for point, measure in zip(llm.validations_, llm.curve, strict=True)]
    kept = next(p for p in curve if p["step"] == llm.best_step_)
    print(f"kept step {llm.best_step_}: valid {kept['valid']}, test {kept['test']}", flush=True)
    save(
        f"token_ml100k_{arguments.name}",
        {
            "recipe": config.model_dump(mode="json", exclude={"output"}),
            name: baseline,
            "curve": curve,
            "kept": kept,
            "minutes_with_baseline": kept["minutes"] + baseline["minutes"],
        },
    )


if __name__ == "__main__":
    main()
