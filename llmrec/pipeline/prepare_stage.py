"""The first stage: data in, split out."""

from __future__ import annotations

from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.data.split_files import read_split, write_split
from llmrec.pipeline.artefacts import check_key, read_json, whole_folder, write_json, write_text
from llmrec.pipeline.keys import prepare_key
from llmrec.pipeline.parts import load_data, make_split
from llmrec.progress import say

__all__ = ["prepare"]


def prepare(config: RunConfig) -> tuple[Split, Catalog]:
    """Read the data and split it, or read the split that is there."""
    run = config.output
    folder = run / "split"
    key = prepare_key(config)
    if folder.is_dir():
        check_key(folder, read_json(folder / "meta.json")["key"], key)
        return read_split(folder)
    interactions, catalog, provenance = load_data(config)
    split = make_split(config, interactions, catalog)
    run.mkdir(parents=True, exist_ok=True)
    # Before the folder: once that is there, the stage counts as done.
    write_text(run / "config.yaml", dump_config(config))
    write_json(run / "protocol.json", split.protocol.to_dict())
    with whole_folder(folder) as work:
        write_split(work, split, catalog)
        write_json(work / "meta.json", {"key": key, "provenance": provenance})
    p = split.protocol
    say(
        f"Split: {p.all_users:,} users, {p.items:,} items, {p.interactions:,} interactions; {p.split}, {p.train_events:,} "
        f"interactions for training, {p.valid_users:,} users asked for validation and {p.users:,} for the test; ties in "
        f"{p.ties} order ({p.tie_rate_last_two:.0%} of test targets have the time of the event before)."
    )
    return split, catalog
