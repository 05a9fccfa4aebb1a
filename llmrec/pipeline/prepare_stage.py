"""The first stage: data in, split out."""

from __future__ import annotations

from llmrec.config import RunConfig
from llmrec.config_file import dump_config
from llmrec.data.catalog import Catalog
from llmrec.data.cleaning.ledger import Ledger
from llmrec.data.split import Split
from llmrec.data.split_files import read_split, write_split
from llmrec.pipeline.artefacts import check_key, read_json, whole_folder, write_json, write_text
from llmrec.pipeline.keys import prepare_key
from llmrec.pipeline.parts import load_data, make_split, told_split
from llmrec.progress import say

__all__ = ["prepare"]


def prepare(config: RunConfig) -> tuple[Split, Catalog]:
    """Read the data and split it, or read the split that is there."""
    run = config.output
    folder = run / "split"
    key = prepare_key(config)
    if folder.is_dir():
        check_key(folder, read_json(folder / "meta.json")["key"], key)
        split, catalog = read_split(folder)
        return told_split(config, split), catalog
    run.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as work:
        data = load_data(config, rejects=run / "rejects.parquet")
        catalog = data.catalog
        split = make_split(config, data.interactions, catalog)
        write_split(work, split, catalog)
        write_json(work / "ledger.json", data.ledger.to_list())
        write_json(work / "meta.json", {"key": key, "provenance": list(data.provenance)})
        # Before the folder: once that is there, the stage counts as done.
        write_text(run / "config.yaml", dump_config(config))
        write_json(run / "protocol.json", split.protocol.to_dict())
    _say_ledger(data.ledger)
    p = split.protocol
    say(
        f"Split: {p.all_users:,} users, {p.items:,} items, {p.interactions:,} interactions; {p.split}, {p.train_events:,} "
        f"interactions for training, {p.valid_users:,} users asked for validation and {p.users:,} for the test; ties in "
        f"{p.ties} order ({p.tie_rate_last_two:.0%} of test targets have the time of the event before)."
    )
    return split, catalog


def _say_ledger(ledger: Ledger) -> None:
    """Say what was left out and changed; nothing where nothing was."""
    left_out = [f"{s.removed:,} {s.table} for {s.step}" for s in ledger.steps if s.removed]
    changed = [f"{s.changed:,} {s.table} for {s.step}" for s in ledger.steps if s.changed]
    if left_out:
        say(f"Cleaning left out {', '.join(left_out)}; they are in {ledger.rejects}.")
    if changed:
        say(f"Cleaning changed {', '.join(changed)}.")
