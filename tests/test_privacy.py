"""User ids never enter a prompt: every template and time style, with ids that could not be there by chance."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from llmrec.data.catalog import Catalog
from llmrec.data.histories import History
from llmrec.data.load import load_data
from llmrec.identifiers.title import title_identifiers
from llmrec.models import load_tokenizer
from llmrec.prompts.template import load_template, template_names
from llmrec.prompts.verbalize import Verbalizer
from llmrec.settings import TIME_STYLES, Data

USERS = ("qzx-7f3a91", "Zaphod.Beeblebrox@zexample.org", "0815471199")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("smollm2-135m")


@pytest.mark.lm
@pytest.mark.parametrize("template", template_names())
def test_no_prompt_and_no_training_document_names_its_user(template, tokenizer):
    titles = tuple(f"Title number {n}" for n in range(12))
    attributes = {name: tuple(f"{name} {n}" for n in range(12)) for name in ("year", "genres", "brand")}
    catalog = Catalog(tuple(map(str, range(12))), titles, attributes)
    found = load_template(template)
    identifiers = title_identifiers(catalog, tokenizer, end="\n", distinguish_by=())
    for style in TIME_STYLES:
        verbalizer = Verbalizer(found, tokenizer, catalog, identifiers.token_ids, time=style, max_events=8)
        for user in USERS:
            history = History(
                user, np.arange(10, dtype=np.int32), np.arange(10, dtype=np.int64) * 90_000, 10**7
            )
            for ids in (verbalizer.prompt(history), verbalizer.document(history).token_ids):
                text = tokenizer.decode(ids)
                assert "Title number 9" in text
                for part in (user, *re.split(r"[@.-]", user)[:2]):
                    assert part.lower() not in text.lower()


@pytest.mark.lm
def test_the_prompt_does_not_depend_on_the_user(tokenizer):
    """Stronger than any scan: the same history of another user is the same prompt, token for token."""
    catalog = Catalog(("a", "b"), ("Alpha", "Beta"))
    identifiers = title_identifiers(catalog, tokenizer, end="\n", distinguish_by=())
    verbalizer = Verbalizer(load_template("items"), tokenizer, catalog, identifiers.token_ids)
    prompts = {
        tuple(
            verbalizer.prompt(History(user, np.array([0, 1], dtype=np.int32), np.array([0, 10**6]))).tolist()
        )
        for user in USERS
    }
    assert len(prompts) == 1


def test_redaction_reaches_every_row_that_is_left_out(tmp_path):
    """Whatever step leaves a row out, the file of rejects has no address and no number of anybody."""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\nu,x,1\nu,y,2\nu,x,3,bob@example.com,+49 30 1234567\n"
    )
    (tmp_path / "items.csv").write_text(
        "item_id,title\nx,Mug\nx,Mug by bob@example.com\n,Cup; call +49 30 1234567\ny,Ask bob@example.com\nz,Pot,bob@example.com\n"
        "w,Ask bob@example.com\nv,\n"
    )
    data = {
        "interactions": str(tmp_path / "log.csv"),
        "items": str(tmp_path / "items.csv"),
        "cleaning": {"max_rejected": 1.0, "duplicate_titles": "merge"},
    }
    for privacy, there in (({}, True), ({"redact": ["email", "phone"]}, False)):
        load_data(Data.model_validate({**data, "privacy": privacy}), rejects=tmp_path / "rejects.parquet")
        rejects = pl.read_parquet(tmp_path / "rejects.parquet")
        assert set(rejects["step"]) >= {
            "broken rows",
            "items without an id",
            "further rows of an item",
            "equal titles",
        }
        text = rejects.write_csv()
        assert ("bob@" in text, "1234567" in text) == (there, there)
        assert text.count("[email]") == (0 if there else 4)
        assert text.count("[phone]") == (0 if there else 2)


def test_hashed_users_are_not_in_the_text_of_broken_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_SALT", "pepper")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nann,x,1\nann-secret,x\n")
    (tmp_path / "items.csv").write_text("item_id,title\nx,X\n")
    data = {
        "interactions": str(tmp_path / "log.csv"),
        "items": str(tmp_path / "items.csv"),
        "cleaning": {"max_rejected": 1.0},
        "privacy": {"hash_users": True},
    }
    load_data(Data.model_validate(data), rejects=tmp_path / "rejects.parquet")
    rejects = pl.read_parquet(tmp_path / "rejects.parquet")
    assert rejects["value"].to_list() == ["2 fields, expected 3"]
    assert rejects["row"].to_list() == [2]
