"""What is it worth to SASRec to know how long after one another events happened? With and without ``time_gaps``, in both orders of ties.

    python benchmarks/time_gaps.py eval/ml-100k-fusion.yaml                                                    (half an hour on one core)
    python benchmarks/time_gaps.py eval/amazon-beauty-fusion.yaml --data FOLDER/amazon-beauty --seeds 0 --ties shuffle

Leave-one-out, the whole catalogue ranked, seen items masked; ``sasrec`` with its settings in the suite. Epochs are chosen on the validation
targets, the test is looked at once, after training. ``--states FOLDER`` goes on from interrupted trainings. Kept in results/time_gaps_SUITE.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import load_suite, of_both_holdouts, save

from llmrec.config import System
from llmrec.recommenders.registry import build_recommender


def main() -> None:
    """Train, measure and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", type=Path)
    parser.add_argument("--data", type=Path, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ties", nargs="+", choices=["source", "shuffle"], default=["source", "shuffle"])
    parser.add_argument("--states", type=Path, help="folder for the states of trainings")
    arguments = parser.parse_args()
    if arguments.states is not None:
        arguments.states.mkdir(parents=True, exist_ok=True)
    rows = []
    for ties in arguments.ties:
        config, split = load_suite(arguments.suite, arguments.data, [f"split.ties={ties}", "split.seed=0"])
        for time_gaps in (False, True):
            system = System.model_validate({**config.systems["sasrec"].options, "time_gaps": time_gaps})
            for seed in arguments.seeds:
                recommender = build_recommender("sasrec", system, seed=seed, checkpoint=arguments.states)
                recommender.fit(split)
                row = {
                    "ties": ties,
                    "time_gaps": time_gaps,
                    "seed": seed,
                    **of_both_holdouts(recommender, split),
                }
                print(row, flush=True)
                rows.append(row)
        for time_gaps in (False, True):
            of = [row for row in rows if row["ties"] == ties and row["time_gaps"] is time_gaps]
            means = {
                key: round(float(np.mean([row[key] for row in of])), 4)
                for key in ("valid ndcg@10", "test ndcg@10")
            }
            print(f"ties {ties}, time_gaps {time_gaps}: {means}", flush=True)
    save(f"time_gaps_{arguments.suite.stem}", {"runs": rows})


if __name__ == "__main__":
    main()
