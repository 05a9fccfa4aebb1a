"""Data sets in the form of ``datasets``: from a folder, and what is said where the hub cannot be asked."""

from __future__ import annotations

import datasets
import pytest

import llmrec.data.sources.hub as hub_module
from llmrec.data.sources import open_source
from llmrec.data.update import update_store
from llmrec.errors import DataError
from llmrec.settings.data import Data, SourceSettings


def source(location, **settings):
    return open_source(
        SourceSettings.model_validate({"location": str(location), **settings}), "data.interactions"
    )


@pytest.fixture
def saved(tmp_path):
    kinds = datasets.ClassLabel(names=["view", "buy"])
    features = datasets.Features(
        {
            "user": datasets.Value("string"),
            "item": datasets.Value("int64"),
            "kind": kinds,
            "at": datasets.Value("timestamp[s]"),
        }
    )

    def make(first, last):
        ids = range(first, last)
        content = {
            "user": [f"u{n % 3}" for n in ids],
            "item": list(ids),
            "kind": [n % 2 for n in ids],
            "at": list(ids),
        }
        return datasets.Dataset.from_dict(content, features=features)

    folder = tmp_path / "saved"
    datasets.DatasetDict({"train": make(0, 25), "test": make(25, 30)}).save_to_disk(folder)
    make(0, 25).save_to_disk(tmp_path / "single")
    return folder


def test_a_saved_data_set_is_read_in_batches_with_its_types(saved, monkeypatch):
    monkeypatch.setattr(hub_module, "_BATCH", 10)
    for opened in (source(saved), source(saved.parent / "single"), source(saved, format="datasets")):
        assert opened.columns() == ["user", "item", "kind", "at"]
        batches = list(opened.batches(["item", "user", "kind"]))
        assert [len(batch.frame) for batch in batches] == [10, 10, 5]
        rows = [row for batch in batches for row in batch.frame.iter_rows()]
        assert rows == [(n, f"u{n % 3}", ["view", "buy"][n % 2]) for n in range(25)]
        assert [n for batch in batches for n in batch.rows] == list(range(1, 26))
    (batch,) = source(saved, split="test").batches(["at"])
    assert batch.frame["at"].dt.epoch("s").to_list() == list(range(25, 30))


def test_a_changed_data_set_is_noticed(saved):
    before = source(saved).digests()
    assert before == source(saved).digests()
    assert before
    path = next(saved.rglob("*.arrow"))
    path.write_bytes(path.read_bytes() + b" ")
    assert source(saved).digests() != before


def test_splits_and_folders_that_are_not_there(saved, tmp_path):
    with pytest.raises(DataError, match=r"did you mean 'train'\?\), and .* has the splits train, test"):
        source(saved, split="trian").columns()
    with pytest.raises(DataError, match="no folder of save_to_disk"):
        source(tmp_path, format="datasets").columns()
    next(saved.rglob("*.arrow")).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        source(saved).columns()


def test_without_the_hub_the_error_says_what_to_do(monkeypatch, no_network):
    monkeypatch.setenv("LLMREC_OFFLINE", "1")
    no_network()
    opened = source("hf://owner/name@main")
    with pytest.raises(DataError, match=r"load_dataset\('owner/name'\)\.save_to_disk") as caught:
        opened.columns()
    assert "\n" not in str(caught.value)
    assert "LLMREC_OFFLINE" in str(caught.value)


def test_the_hub_is_streamed_with_what_the_settings_say(monkeypatch, saved):
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return datasets.load_from_disk(saved)["train"].to_iterable_dataset()

    monkeypatch.setattr(hub_module, "hub_problem", lambda repo: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    opened = source("hf://datasets/owner/name@abc", subset="5core", split="all")
    assert opened.columns() == ["user", "item", "kind", "at"]
    assert [row for b in opened.batches(["kind", "item"]) for row in b.frame.iter_rows()] == [
        (["view", "buy"][n % 2], n) for n in range(25)
    ]
    assert asked == [(("owner/name", "5core"), {"split": "all", "revision": "abc", "streaming": True})]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **o: 1 / 0)
    with pytest.raises(DataError, match="cannot be read: division by zero"):
        source("hf://owner/name").columns()


def test_data_sets_cannot_be_updated_from(saved, tmp_path):
    data = Data.model_validate(
        {"interactions": str(saved), "items": "items.csv", "store": str(tmp_path / "store")}
    )
    with pytest.raises(DataError, match="cannot tell what is new"):
        update_store(data)
