from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_cases import TOKENIZERS, awkward_catalog
from transformers import AutoTokenizer

from llmrec.data.catalog import Catalog
from llmrec.data.datasets import load_dataset
from llmrec.data.histories import Histories, History
from llmrec.errors import ArtefactError, ConfigError, IdentifierError
from llmrec.identifiers.base import ItemIdentifiers, tokenizer_fingerprint, with_new_tokens
from llmrec.identifiers.files import read_identifiers, write_identifiers
from llmrec.identifiers.index import by_appearance, by_similarity
from llmrec.identifiers.schemes import Material, build_identifiers, extend_identifiers, load_scheme
from llmrec.identifiers.semantic import distinct_codes, quantise
from llmrec.identifiers.title import distinct_titles, title_identifiers
from llmrec.models import load_tokenizer
from llmrec.settings import Identifiers


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
    with pytest.raises(IdentifierError, match="is the beginning of 'c' of item number 2"):
        ItemIdentifiers("x", ("a", "b", "c"), ((1,), (2, 3), (1, 4)))
    with pytest.raises(IdentifierError, match="empty"):
        ItemIdentifiers("x", ("a",), ((),))


SCHEMES = [
    {"scheme": "title"},
    {"scheme": "index"},
    {"scheme": "index", "numbering": "collaborative"},
    {"scheme": "semantic", "levels": 3, "codes": 16},
    {"scheme": "semantic", "levels": 2, "codes": 64, "vectors": "both"},
    {"scheme": "token"},
]


def material(catalog, tokenizer, seed=0, **settings):
    """What schemes build from, with made-up vectors in which items of a like number are alike."""
    n = len(catalog)
    draw = np.random.default_rng(seed)
    vectors = (np.linspace(0, 9, n)[:, None] * draw.standard_normal(8) + draw.standard_normal((n, 8))).astype(
        np.float32
    )
    histories = Histories.from_list(
        [
            History(
                "u",
                draw.permutation(n)[: max(1, n // 2)].astype(np.int32),
                np.zeros(max(1, n // 2), np.int64),
            )
        ]
    )
    return Material(catalog, tokenizer, Identifiers(**settings), histories, lambda: vectors, lambda: vectors)


def names(case):
    return "-".join(map(str, case.values()))


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("settings", SCHEMES, ids=names)
def test_every_item_survives_the_round_trip(any_tokenizer, settings):
    """Item to text to token ids to item, on names as awkward as catalogues have them."""
    catalog = awkward_catalog()
    made = build_identifiers(material(catalog, any_tokenizer, **settings))
    assert len(made) == len(catalog)
    tokenizer = with_new_tokens(any_tokenizer, made.new_tokens)
    end = [] if made.end_token_id is None else [made.end_token_id]
    owner = {tokens: item for item, tokens in enumerate(made.token_ids)}
    for item, text in enumerate(made.texts):
        assert owner[(*tokenizer(text, add_special_tokens=False)["input_ids"], *end)] == item
    again = build_identifiers(material(catalog, any_tokenizer, **settings))
    assert again.token_ids == made.token_ids
    assert again.fingerprint == made.fingerprint


@pytest.mark.parametrize("settings", SCHEMES, ids=names)
def test_identifiers_survive_the_disk(tiny_lm, catalog, settings, tmp_path):
    made = build_identifiers(material(catalog, AutoTokenizer.from_pretrained(tiny_lm), **settings))
    write_identifiers(tmp_path, made, catalog, {"key": {"a": 1}})
    read = read_identifiers(tmp_path, catalog)
    for name in ("scheme", "texts", "token_ids", "end_token_id", "new_tokens", "fingerprint"):
        assert getattr(read, name) == getattr(made, name)
    assert dict(read.changed) == dict(made.changed)
    assert all((read.state[k] == made.state[k]).all() for k in made.state)
    other = catalog_of(["A"] * len(catalog))
    with pytest.raises(ArtefactError, match="another catalogue"):
        read_identifiers(tmp_path, other)


GROW = [s for s in SCHEMES if s["scheme"] != "token" and s.get("vectors", "title") == "title"]


@pytest.mark.parametrize("settings", GROW, ids=names)
def test_new_items_get_identifiers_and_old_ones_keep_theirs(tiny_lm, settings):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    before, after = (
        catalog_of([f"Film {i}" for i in range(20)]),
        catalog_of([f"Film {i % 22}" for i in range(27)]),
    )
    known = build_identifiers(material(before, tokenizer, **settings))
    grown = material(after, tokenizer, **settings)
    more = extend_identifiers(known, grown)
    assert len(more) == 27
    assert more.token_ids[:20] == known.token_ids
    assert more.new_tokens == known.new_tokens
    with pytest.raises(IdentifierError, match="Expected those and new ones"):
        extend_identifiers(more, material(before, tokenizer, **settings))


def test_codes_of_item_vectors_need_a_training(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    before, after = (catalog_of([f"Film {i}" for i in range(n)]) for n in (20, 21))
    for vectors in ("collaborative", "both"):
        settings = {"scheme": "semantic", "levels": 2, "codes": 8, "vectors": vectors}
        known = build_identifiers(material(before, tokenizer, **settings))
        with pytest.raises(IdentifierError, match="need training to add an item"):
            extend_identifiers(known, material(after, tokenizer, **settings))


def test_items_share_codes_however_few_there_are(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    catalog = catalog_of([f"Film {i}" for i in range(40)])
    made = build_identifiers(material(catalog, tokenizer, scheme="semantic", levels=3, codes=64))
    assert len({ids[0] for ids in made.token_ids}) <= 20
    assert len({ids[1] for ids in made.token_ids}) > 1


def test_an_attribute_that_is_not_there_cannot_tell_titles_apart(tiny_lm, catalog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    with pytest.raises(IdentifierError, match=r"'yaer' \(did you mean 'year'\?\)"):
        title_identifiers(catalog, tokenizer, distinguish_by=("yaer",))


def test_damaged_identifiers_are_named(tiny_lm, catalog, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    made = build_identifiers(material(catalog, tokenizer, scheme="semantic", levels=2, codes=6))
    write_identifiers(tmp_path, made, catalog, {"key": {}})
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:20])
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_identifiers(tmp_path, catalog)


def test_a_token_that_was_never_trained_is_refused(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    known = build_identifiers(material(catalog_of(["A", "B"]), tokenizer, scheme="token"))
    assert extend_identifiers(known, material(catalog_of(["A", "B"]), tokenizer, scheme="token")) is known
    with pytest.raises(IdentifierError, match="train again, or use title"):
        extend_identifiers(known, material(catalog_of(["A", "B", "C"]), tokenizer, scheme="token"))


def test_numbers_last_for_as_long_as_their_width(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    known = build_identifiers(material(catalog_of(list("ABCD")), tokenizer, scheme="index"))
    assert {len(t) for t in known.texts} == {1}
    with pytest.raises(IdentifierError, match=r"11 items do not fit into numbers of 1 digits"):
        extend_identifiers(known, material(catalog_of(list("ABCDEFGHIJK")), tokenizer, scheme="index"))


def test_sequential_numbers_follow_the_training_histories():
    histories = Histories.from_list(
        [
            History("a", np.array([4, 2, 4]), np.zeros(3, int)),
            History("b", np.array([0, 2]), np.zeros(2, int)),
        ]
    )
    assert by_appearance(histories, 6).tolist() == [4, 2, 0, 1, 3, 5]


@given(st.integers(1, 60), st.integers(0, 5))
def test_similar_items_get_neighbouring_numbers(n, seed):
    draw = np.random.default_rng(seed)
    centres = 100 * draw.standard_normal((4, 5))
    group = draw.integers(0, 4, n)
    order = by_similarity(centres[group] + 0.01 * draw.standard_normal((n, 5)))
    assert sorted(order.tolist()) == list(range(n))
    if n > 2:
        on_a_line = by_similarity(np.arange(n)[draw.permutation(n)][:, None] * np.ones(3))
        assert sorted(on_a_line.tolist()) == list(range(n))


def test_items_on_a_line_are_numbered_along_it():
    place = np.random.default_rng(0).permutation(40)
    order = by_similarity(place[:, None] * np.array([[1.0, -2.0, 0.5]]))
    assert place[order].tolist() in (list(range(40)), list(range(39, -1, -1)))


@given(st.integers(1, 40), st.integers(1, 3), st.integers(2, 8), st.booleans())
def test_codes_are_the_nearest_centres_and_never_shared(n, levels, codes, alike):
    draw = np.random.default_rng(n)
    vectors = draw.standard_normal((n, 4)).astype(np.float32)
    if alike:
        vectors[:] = vectors[0]
    books = draw.standard_normal((levels, codes, 4)).astype(np.float32)
    own = quantise(vectors, books)
    rest = vectors.copy()
    for level in range(levels):  # by definition
        distance = np.square(rest[:, None] - books[level]).sum(-1)
        assert (distance.argmin(1) == own[:, level]).all()
        rest = rest - books[level][own[:, level]]
    if n > codes ** min(levels, 2):
        return
    found, same = distinct_codes(vectors, books)
    assert (same == own).all()
    assert len(set(map(tuple, found.tolist()))) == n
    # Whoever is nearest to its centres stays.
    for path in set(map(tuple, own.tolist())):
        members = [i for i in range(n) if tuple(own[i]) == path]
        assert any(tuple(found[i]) == path for i in range(n)) or len(members) == 0


def test_a_catalogue_with_too_few_codes_is_told_what_to_raise(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    with pytest.raises(IdentifierError, match=r"raise identifiers.codes"):
        build_identifiers(
            material(catalog_of([str(i) for i in range(9)]), tokenizer, scheme="semantic", levels=1, codes=4)
        )


def test_a_tokenizer_that_knows_the_new_tokens_is_refused(tiny_lm):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    made = build_identifiers(material(catalog_of(["A", "B"]), tokenizer, scheme="token"))
    extended = with_new_tokens(tokenizer, made.new_tokens)
    with pytest.raises(IdentifierError, match="'<item 0>' already"):
        with_new_tokens(extended, made.new_tokens)
    assert load_scheme("token").problems(Identifiers(scheme="token"), extended)


def test_an_unknown_scheme_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no scheme 'titel' \(did you mean 'title'\?\)"):
        load_scheme("titel")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_scheme("nowhere:Scheme")


@pytest.mark.lm
@pytest.mark.parametrize("settings", SCHEMES, ids=names)
def test_every_real_film_survives_the_round_trip(settings):
    _, catalog = load_dataset("ml-100k")
    base = load_tokenizer("smollm2-135m")
    if settings["scheme"] == "semantic":
        settings = settings | {"codes": 64}
    made = build_identifiers(material(catalog, base, **settings))
    tokenizer = with_new_tokens(base, made.new_tokens)
    owner = {tokens: item for item, tokens in enumerate(made.token_ids)}
    end = () if made.end_token_id is None else (made.end_token_id,)
    for item, text in enumerate(made.texts):
        assert owner[(*tokenizer(text, add_special_tokens=False)["input_ids"], *end)] == item
        assert tokenizer.decode(made.token_ids[item]) == text + tokenizer.decode(list(end))


def test_fingerprints_tell_tokenizers_and_catalogues_apart(tiny_lm, catalog):
    one, same, other = (AutoTokenizer.from_pretrained(tiny_lm) for _ in range(3))
    other.add_tokens(["<item_1>"])
    same(["a", "longer text"], padding=True, truncation=True, max_length=5)
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same) != tokenizer_fingerprint(other)
    parts = (catalog.item_ids, catalog.titles)
    assert Catalog(*parts).fingerprint == Catalog(*parts, catalog.attributes).fingerprint
    assert Catalog(*parts).fingerprint != Catalog(parts[0][::-1], parts[1]).fingerprint
    assert Catalog(("a", "bc"), ("x", "y")).fingerprint != Catalog(("ab", "c"), ("x", "y")).fingerprint
