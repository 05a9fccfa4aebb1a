"""A batch job on many machines: copies of the model as actors of Ray Data, a shard of users at a time.

Every replica sees the run's folder and the job's, so these are on a file system that all machines share. A replica that is
lost is started again, here or on another machine, and its shard made again; shards are whole or absent, so that this
cannot show. Ray's own vLLM integration (``ray.data.llm``) sends one request per row; a beam is many, each decided by
the last, so an actor holds the engine and the search.
"""

from __future__ import annotations

import os
import pickle
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.data.catalog import Catalog
from llmrec.errors import ConfigError, LlmrecError
from llmrec.pipeline.decoder import make_servable
from llmrec.pipeline.memory import free_memory
from llmrec.pipeline.parts import LanguageParts, language_parts
from llmrec.pipeline.prepare_stage import prepare
from llmrec.pipeline.recommend_stage import run_identifiers
from llmrec.pipeline.shards import Shard
from llmrec.pipeline.worker import Worker
from llmrec.progress import say

__all__ = ["in_replicas"]


def in_replicas(
    config: RunConfig, catalog: Catalog, parts: LanguageParts, shards: list[Shard], k: int, replicas: int
) -> Iterator[tuple[Shard, dict[str, Any]]]:
    """Make shards in ``replicas`` copies of the model; yield each, as it is done, with what was noted of it.

    On the cluster that ``RAY_ADDRESS`` names, or else on this machine. A replica gets ``decoding.vllm.tensor_parallel_size``
    GPUs, or one; without GPUs its share of the cores.

    Raises
    ------
    ConfigError
        Ray is not installed, or the cluster cannot hold a single replica.
    LlmrecError
        A replica met an error that would meet the others too.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a job is for others
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"--replicas needs the package ray, which cannot be imported: {error}. Expected it to be installed: pip install "
            "'llmrec[ray]'."
        ) from error

    if config.decoding.backend == "vllm":
        make_servable(config, catalog, parts)  # once, before replicas look for it
        free_memory()
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, logging_level="warning")
    try:
        needs = _needs(config, ray.cluster_resources(), replicas)
        if "num_cpus" in needs:
            config = _sharing_memory(config, -(-replicas // len(ray.nodes())))
        say(f"{replicas} replicas on {len(ray.nodes())} machines, each with {_words(needs)}.")
        ray.data.DataContext.get_current().enable_progress_bars = False
        waiting = ray.data.from_items(
            [{"position": at, "shard": pickle.dumps(shard)} for at, shard in enumerate(shards)],
            override_num_blocks=len(shards),
        )
        made = waiting.map_batches(
            _Replica,
            fn_constructor_args=(config, k, os.getcwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(replicas, len(shards)), max_tasks_in_flight_per_actor=1
            ),
            **needs,
        )
        for row in made.iter_rows():
            if row["error"]:
                raise LlmrecError(row["error"])
            shard = shards[row["position"]]
            if not shard.path.is_file():
                raise LlmrecError(_not_shared(str(shard.path), "this machine"))
            yield shard, pickle.loads(row["noted"])
    finally:
        if ours:
            ray.shutdown()


class _Replica:
    """What an actor holds."""

    def __init__(self, config: RunConfig, k: int, folder: str) -> None:
        # An exception here would make Ray start the actor again and again; it is told with the first shard.
        self.error: str | None = None
        try:
            # Paths of a config may be relative to where the command was given.
            if not (Path(folder) / config.output / "adapter").is_dir():
                raise LlmrecError(
                    _not_shared(str(config.output / "adapter"), f"the machine {platform.node()}")
                )
            os.chdir(folder)
            split, catalog = prepare(config)
            parts = language_parts(config, split, catalog, run_identifiers(config, split, catalog))
            self.worker = Worker(config, catalog, parts, k)
        except LlmrecError as error:
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        noted = b""
        if self.error is None:
            try:
                noted = pickle.dumps(self.worker.make(pickle.loads(batch["shard"][0])))
            except LlmrecError as error:
                self.error = str(error)
        return {"position": [int(batch["position"][0])], "noted": [noted], "error": [self.error or ""]}


def _needs(config: RunConfig, cluster: dict[str, float], replicas: int) -> dict[str, float]:
    """Return what Ray sets aside for a replica."""
    gpus = int(cluster.get("GPU", 0))
    if gpus and config.model.device != "cpu":
        wanted = (
            config.decoding.vllm.get("tensor_parallel_size", 1) if config.decoding.backend == "vllm" else 1
        )
        if wanted > gpus:
            raise ConfigError(
                f"A replica needs {wanted} GPUs (decoding.vllm.tensor_parallel_size) and the cluster has {gpus}."
            )
        return {"num_gpus": wanted}
    cores = int(cluster.get("CPU", 0))
    if replicas > cores:
        raise ConfigError(
            f"Got --replicas {replicas} for a cluster of {cores} cores without a GPU. Expected at most one for each."
        )
    return {"num_cpus": cores // replicas}


def _not_shared(path: str, where: str) -> str:
    return (
        f"{path!r} is not there on {where}. Expected the run's folder and the job's on a file system that all machines of "
        "the cluster share: move them to one, and give the command from a folder on it."
    )


def _sharing_memory(config: RunConfig, on_one_machine: int) -> RunConfig:
    """Return a config under which so many engines without a GPU fit into a machine's memory, unless it says itself."""
    options = {"gpu_memory_utilization": min(0.4, 0.8 / on_one_machine), **config.decoding.vllm}
    return config.model_copy(update={"decoding": config.decoding.model_copy(update={"vllm": options})})


def _words(needs: dict[str, float]) -> str:
    [(what, number)] = needs.items()
    return f"{number} {'GPU' if what == 'num_gpus' else 'core'}{'s' if number > 1 else ''}"
