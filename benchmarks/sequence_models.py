"""The curve and the figures of one sequence model of a suite, on a log of your own.

    python benchmarks/sequence_models.py eval/ml-1m.yaml sasrec --data FOLDER/ml-1m               (an hour on one core)
    python benchmarks/sequence_models.py eval/ml-1m.yaml gru4rec --data FOLDER/ml-1m
    python benchmarks/sequence_models.py eval/amazon-beauty.yaml sasrec --data FOLDER/amazon-beauty

FOLDER/... holds interactions.parquet and items.parquet. The split is the suite's (leave-one-out, seen items masked, ties in
source order), the whole catalogue is ranked; epochs are chosen on the validation targets, the test is looked at once, after training. ``--state FILE`` goes on from
an interrupted training. Kept in results/sequence_NAME_SYSTEM.json. The suite itself (``llmrec run``) does the same for all of its
systems and writes a report.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from common import load_suite, of_both_holdouts, save

from llmrec.recommenders.registry import build_recommender


def show(epoch: int, most: int, metrics: Mapping[str, float]) -> None:
    """Print one point of the validation curve."""
    print(
        f"epoch {epoch:3}/{most}  loss {metrics['loss']:.4f}  valid HR@10 {metrics['hr@10']:.4f}  "
        f"NDCG@10 {metrics['ndcg@10']:.4f}  {metrics['seconds']:7.1f} s",
        flush=True,
    )


def main() -> None:
    """Fit, measure and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("system", help="a sequence model of the suite")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="file for the state of the training")
    arguments = parser.parse_args()
    config, split = load_suite(arguments.suite, arguments.data)
    recommender = build_recommender(
        arguments.system,
        config.systems[arguments.system],
        seed=config.seed,
        on_epoch=show,
        checkpoint=arguments.state,
    )
    recommender.fit(split)
    found = of_both_holdouts(recommender, split)
    print(found)
    settings = {"settings": config.systems[arguments.system].options, "curve": recommender.history_}
    protocol = {"protocol": split.protocol.to_dict()}
    save(f"sequence_{arguments.data.name}_{arguments.system}", {**protocol, **found, **settings})


if __name__ == "__main__":
    main()
