from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmrec.data.catalog import Catalog
from llmrec.data.datasets import load_dataset
from llmrec.errors import IdentifierError
from llmrec.identifiers.base import ItemIdentifiers, tokenizer_fingerprint
from llmrec.identifiers.title import distinct_titles, title_identifiers
from llmrec.models import load_tokenizer


def catalog_of(titles, **attributes):
    return Catalog(tuple(map(str, range(len(titles)))), tuple(titles), attributes)


def test_same_titles_are_told_apart_by_year_and_the_change_is_recorded(tiny_lm, catalog):
    identifiers = title_identifiers(catalog, AutoTokenizer.from_pretrained(tiny_lm))
    assert identifiers.texts[4:6] == ("Sabrina (1954)", "Sabrina (1995)")
    assert identifiers.changed == {4: "Sabrina", 5: "Sabrina"}


def test_numbers_where_no_attribute_tells_apart():
    catalog = catalog_of(["A", "A", "A", "B"], year=("1", "1", "2", "3"))
    assert distinct_titles(catalog, ["year"])[0] == ["A", "A (2)", "A (3)", "B"]


def test_a_suffix_that_is_somebody_elses_title_is_not_taken():
    catalog = catalog_of(["A", "A", "A (2)"])
    texts, changed = distinct_titles(catalog, [])
    assert texts == ["A", "A (3)", "A (2)"]
    assert changed == {1: "A"}


@given(
    st.lists(
        st.sampled_from(["A", "A ", "A (2)", "A (3)", "A (1)", "B", "A (2) (2)"]), min_size=1, max_size=9
    )
)
def test_texts_are_always_distinct_and_unique_titles_untouched(titles):
    texts, _ = distinct_titles(catalog_of(titles, year=("1",) * len(titles)), ["year"])
    assert len(set(texts)) == len(texts)
    plain = [" ".join(t.split()) for t in titles]
    assert all(text == t for text, t in zip(texts, plain, strict=True) if plain.count(t) == 1)


def test_end_must_be_one_token(tiny_lm, catalog):
    with pytest.raises(IdentifierError, match="exactly one token"):
        title_identifiers(catalog, AutoTokenizer.from_pretrained(tiny_lm), end="zzzz")


def test_clashing_and_unterminated_identifiers_are_refused():
    with pytest.raises(IdentifierError, match="same identifier"):
        ItemIdentifiers("x", ("a", "b"), ((1, 0), (1, 0)), 0)
    for tokens in ((1, 2), (0, 1, 0), ()):
        with pytest.raises(IdentifierError, match="end token"):
            ItemIdentifiers("x", ("a",), (tokens,), 0)


@pytest.mark.lm
def test_every_real_title_survives_the_round_trip():
    _, catalog = load_dataset("ml-100k")
    tokenizer = load_tokenizer("smollm2-135m")
    identifiers = title_identifiers(catalog, tokenizer)
    owner = {tokens: item for item, tokens in enumerate(identifiers.token_ids)}
    for item, text in enumerate(identifiers.texts):
        again = (*tokenizer(text, add_special_tokens=False)["input_ids"], identifiers.end_token_id)
        assert owner[again] == item
        assert tokenizer.decode(identifiers.token_ids[item]) == text + "\n"


def test_fingerprints_tell_tokenizers_and_catalogues_apart(tiny_lm, catalog):
    one, same, other = (AutoTokenizer.from_pretrained(tiny_lm) for _ in range(3))
    other.add_tokens(["<item_1>"])
    same(["a", "longer text"], padding=True, truncation=True, max_length=5)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) != tokenizer_fingerprint(other)
    parts = (catalog.item_ids, catalog.titles)
    assert Catalog(*parts).fingerprint == Catalog(*parts, catalog.attributes).fingerprint
    assert Catalog(*parts).fingerprint != Catalog(parts[0][::-1], parts[1]).fingerprint
    assert Catalog(("a", "bc"), ("x", "y")).fingerprint != Catalog(("ab", "c"), ("x", "y")).fingerprint
