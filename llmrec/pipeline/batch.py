"""The nightly job: lists for every user of a file of histories, in shards, with rejects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.data.catalog import Catalog
from llmrec.data.load import read_histories
from llmrec.data.sources import open_source
from llmrec.errors import ConfigError
from llmrec.pipeline.adapter import adapter_meta
from llmrec.pipeline.artefacts import locked, read_json, remove_unfinished, write_json, write_text
from llmrec.pipeline.keys import decoding_key, finetune_key, weights_key
from llmrec.pipeline.parts import LanguageParts, language_parts
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.pipeline.shards import Shard, shards_of
from llmrec.pipeline.worker import COUNTS, Worker
from llmrec.progress import bar, clock, say
from llmrec.settings.data import SourceSettings

__all__ = ["recommend_file"]


def recommend_file(
    config_path: Path,
    overrides: Sequence[str],
    histories_path: Path,
    output: Path,
    *,
    k: int | None = None,
    shard_users: int = 1024,
    replicas: int | None = None,
) -> None:
    """Recommend to every user of a log with a run's fine-tuned model, searched as its first system that is kept inside the catalogue.

    The run is used as it is: its own log and catalogue may have grown since.

    Writes ``part-00000.parquet`` and so on, a shard of users each, as they are made; then ``rejects.jsonl``, one line for
    each user without a list, with the reason, and ``summary.json``, which says that the job is complete. Killed at any
    point, the same command goes on with the shards that are not there yet.

    Parameters
    ----------
    histories_path
        A log, with columns as the config names them. All events of a user are its history.
    k
        Length of the lists; ``evaluation.k`` if left out.
    shard_users
        Users of a shard.
    replicas
        Copies of the model under Ray Data, see :func:`llmrec.pipeline.replicas.in_replicas`; one in this process if left
        out.

    Raises
    ------
    LlmrecError
        There is no adapter yet, the log cannot be read, or ``output`` holds another job's lists.
    """
    config = load_config(config_path, overrides)
    k = config.evaluation.k if k is None else k
    if k < 1 or shard_users < 1 or (replicas is not None and replicas < 1):
        among = "" if replicas is None else f" and {replicas} replicas"
        raise ConfigError(f"Got k={k}, {shard_users} users a shard{among}. Expected 1 or more of each.")
    if config.prompt.target_time:
        raise ConfigError(
            "prompt.target_time is on, and nobody knows when the next event of a user is. Expected it off."
        )
    if (name := config.served_system) is not None:
        config = config.model_copy(update={"decoding": config.decoding_for(name)})
    if config.decoding.search == "free":
        raise ConfigError(
            "search is free, which may write what is no item and leave lists short. Expected beam or exact: set decoding.search."
        )
    # The log grows every day, and the model is of the day on which it was trained.
    split_meta = config.output / "split" / "meta.json"
    if split_meta.is_file():
        config = config.made_of(read_json(split_meta)["key"]["files"])
    with locked(output):
        adapter_meta(config.output / "adapter", finetune_key(config))
        split, catalog = prepare(config)
        parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
        source = SourceSettings.model_validate(histories_path)
        histories, unknown, left_out = read_histories(
            source,
            config.data,
            catalog,
            ties=config.split.ties,
            seed=config.split_seed,
        )
        key = {
            **weights_key(config),
            "decoding": decoding_key(config.decoding),
            "k": k,
            "shard_users": shard_users,
            "histories": dict(open_source(source, "--histories").digests()),
        }
        shards = shards_of(output, key, histories, unknown, shard_users)
        pace, began = _Pace(), time.monotonic()
        noted = {shard.path: there for shard in shards if (there := shard.noted()) is not None}
        missing = [shard for shard in shards if shard.path not in noted]
        if missing:  # what says that a job is complete was of another one
            for name in ("summary.json", "rejects.jsonl"):
                (output / name).unlink(missing_ok=True)
        with bar("Users", pace.words) as progress:
            done = sum(len(shard.histories) for shard in shards if shard.path in noted)
            progress(done, len(histories))
            made = _made(config, catalog, parts, missing, k, replicas)
            for shard, new in made:
                noted[shard.path] = new
                pace.add(new)
                done += len(shard.histories)
                progress(done, len(histories))
        remove_unfinished(output)  # of replicas that were killed
        found = [noted[shard.path] for shard in shards]
        rejects = [reject for there in found for reject in there["rejects"]]
        totals = {name: sum(there["counts"][name] for there in found) for name in COUNTS}
        lines = (json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
        write_text(output / "rejects.jsonl", "".join(lines))
        counted = {"histories": len(histories), "rejects": len(rejects), "unknown_items": left_out, "k": k}
        write_json(output / "summary.json", {**counted, **totals})
    rejected = f"{len(rejects):,} users without one"
    if rejects:
        rejected += f" ({rejects[0]['user_id']}: {rejects[0]['reason']}; see rejects.jsonl for all)"
    if left_out:
        rejected += f"; {left_out:,} events of items that the model does not know were left out"
    say(f"Lists for {totals['users']:,} users in {output}, {clock(time.monotonic() - began)}; {rejected}.")


def _made(
    config: RunConfig,
    catalog: Catalog,
    parts: LanguageParts,
    missing: list[Shard],
    k: int,
    replicas: int | None,
) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """Make shards, here or in replicas; yield each with what was noted of it."""
    if replicas is not None and missing:
        from llmrec.pipeline.replicas import in_replicas

        yield from in_replicas(config, catalog, parts, missing, k, replicas)
        return
    worker = Worker(config, catalog, parts, k)
    try:
        for shard in missing:
            yield shard, worker.make(shard)
    finally:
        worker.close()


class _Pace:
    """How fast the shards of this process and its replicas are made."""

    def __init__(self) -> None:
        self.started: float | None = None  # of the first shard: loading a model is no pace
        self.users = self.tokens = 0.0
        self.hit_rate: float | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else time.monotonic() - self.started

    def add(self, noted: dict[str, Any]) -> None:
        counts = noted["counts"]
        if self.started is None:
            self.started = time.monotonic() - counts["seconds"]
        self.users += counts["users"]
        self.tokens += counts["prompt_tokens"] + counts["beam_tokens"]
        self.hit_rate = noted["prefix_cache_hit_rate"]

    def words(self) -> str:
        if not self.seconds:
            return ""
        hits = (
            "" if self.hit_rate is None else f", {self.hit_rate:.0%} of prompt tokens from the prefix cache"
        )
        return f"{self.users / self.seconds:,.1f} users/s, {self.tokens / self.seconds:,.0f} tokens/s{hits}"
