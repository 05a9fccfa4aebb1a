"""One trial: fit a system on the training histories and measure it on validation users; nothing of the test is read."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.eval.metrics import parse_metric, target_ranks
from llmrec.pipeline.decoder import open_decoder
from llmrec.pipeline.finetune_stage import finetune_stage
from llmrec.pipeline.parts import language_parts
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.pipeline.sources import leave, products
from llmrec.pipeline.tuning_study import OnEpoch
from llmrec.progress import bar
from llmrec.recommenders.registry import build_recommender, recommender_class
from llmrec.recommenders.rerank import Rerank
from llmrec.recommenders.sequential import SequentialRecommender

__all__ = ["measure_language_model", "measure_other", "validation_users"]


def validation_users(config: RunConfig, name: str, split: Split) -> Holdout:
    """Return who a system's trials are measured on."""
    wanted = config.tuning.users if name in config.llm_systems else None
    return split.valid.select(split.valid.sample_rows(wanted, config.seed))


def measure_other(
    config: RunConfig, name: str, split: Split, catalog: Catalog, on_epoch: OnEpoch | None = None
) -> float:
    """Fit a system of this config and return its metric on the validation users; of a re-ranker, which learns from them, by folds."""
    system = config.systems[name]
    # Of a recommender that is made of others, epochs are those of its parts.
    own_epochs = issubclass(recommender_class(system.kind_as(name)), SequentialRecommender)
    with bar(f"Fitting {name}, epochs") as progress:

        def epoch_done(epoch: int, of: int, metrics: dict[str, float]) -> None:
            progress(epoch, of)
            if on_epoch is not None and own_epochs:
                on_epoch(epoch, metrics["ndcg@10"])

        recommender = build_recommender(name, system, seed=config.seed, catalog=catalog, on_epoch=epoch_done)
        recommender.fit(split)
    if isinstance(recommender, Rerank):
        return recommender.validated
    users = validation_users(config, name, split)
    _, k = parse_metric(config.tuning.metric)
    return _metric(
        config, recommender.recommend(users.histories, k, exclude_seen=config.split.exclude_seen), users
    )


def measure_language_model(
    config: RunConfig, name: str, split: Split, catalog: Catalog, folder: Path
) -> float:
    """Fine-tune the language model of this config in a run directory of its own and return its metric.

    Parameters
    ----------
    folder
        The tuning's folder. What other systems have left for an earlier trial is there; the directory of this trial,
        ``config.output``, is below it and is removed when the trial is over. A killed training goes on in it.
    """
    try:
        _bring_sources(config, split, catalog, folder)
        finetune_stage(config, split, catalog)
        parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
        users = validation_users(config, name, split)
        _, k = parse_metric(config.tuning.metric)
        decoding = config.model_copy(update={"decoding": config.decoding_for(name)})
        with (
            bar(f"Decoding for {name}, users") as progress,
            open_decoder(decoding, catalog, parts, name=name, k=k, on_progress=progress) as llm,
        ):
            recs = llm.recommend(
                users.histories,
                k,
                exclude_seen=config.split.exclude_seen,
            )
        value = _metric(config, recs, users)
    except Exception:
        shutil.rmtree(config.output, ignore_errors=True)
        raise
    # Not on a kill or an interrupt: the same trial goes on from its last checkpoint.
    shutil.rmtree(config.output)
    return value


def _bring_sources(config: RunConfig, split: Split, catalog: Catalog, kept: Path) -> None:
    """Put what the language model takes from other systems where the run directory of a trial has it, made once for all."""
    for product in products(config).values():
        if not product.is_in(kept):
            with bar(f"Fitting {product.system} for the language model, epochs") as progress:
                recommender = build_recommender(
                    product.system,
                    config.systems[product.system],
                    seed=config.seed,
                    catalog=catalog,
                    on_epoch=lambda epoch, of, metrics: progress(epoch, of),
                )
                recommender.fit(split)
            leave(config, product.system, recommender, split, kept)
        (config.output / product.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept / product.path, config.output / product.path)


def _metric(config: RunConfig, recs: Recommendations, users: Holdout) -> float:
    function, k = parse_metric(config.tuning.metric)
    return float(function(target_ranks(recs, users.target_items), k).mean())
