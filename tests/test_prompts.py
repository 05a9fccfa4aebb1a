from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from decoding_cases import brute_force
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaForCausalLM

from llmrec.data.histories import History
from llmrec.decoding.beam import beam_search
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import PromptError
from llmrec.identifiers.title import title_identifiers
from llmrec.prompts.template import PromptTemplate, load_template, render, template_names
from llmrec.prompts.time import TIME_STYLES, verbalise_times
from llmrec.prompts.verbalize import Verbalizer

ROOT = Path(__file__).parents[1]
DAY = 86_400
WORDY = PromptTemplate("wordy", "Films:\n", "[{time}: ]", "[({year}) ]|\n")


def history(n: int, step: int = DAY) -> History:
    return History(
        "secret-user-4711", np.arange(n, dtype=np.int32), 10**9 + step * np.arange(n, dtype=np.int64)
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_lm):
    return AutoTokenizer.from_pretrained(tiny_lm)


@pytest.fixture
def verbalizer(tokenizer, catalog):
    def make(template=WORDY, **options):
        ids = title_identifiers(catalog, tokenizer).token_ids
        return Verbalizer(template, tokenizer, catalog, ids, **options)

    return make


# --- templates


def test_every_shipped_template_loads_and_hides_the_target_time():
    assert {p.stem for p in ROOT.joinpath("prompts").rglob("*.yaml")} == set(template_names())
    for name in template_names():
        template = load_template(name)
        assert template.name == name
        assert not template.reveals_target_time


def test_optional_stretch_disappears_when_a_field_is_empty():
    assert render("[watched {time}\n]", {"time": ""}) == ""
    assert render("[watched {time}\n]", {"time": "1 day later"}) == "watched 1 day later\n"
    assert render("a[ {x}]{y}", {"x": "", "y": "2"}) == "a2"


def test_values_are_never_read_as_template_text():
    assert render("[{title}]", {"title": "[{year}]"}) == "[{year}]"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("{time}", "", ""), "preamble has a field"),
        (("", "[a [b]]", ""), "does not close"),
        (("", "", "{time"), "does not close"),
        (("", "{title}", ""), "give the answer away"),
    ],
)
def test_bad_templates_are_refused(parts, message):
    with pytest.raises(PromptError, match=message):
        PromptTemplate("bad", *parts)


def test_template_file_with_a_wrong_key_names_the_right_ones(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "preample": "x"}))
    with pytest.raises(PromptError, match="Expected exactly name, description, preamble, before, after"):
        load_template(str(path))
    with pytest.raises(PromptError, match="did you mean 'films'"):
        load_template("film")


def test_unknown_field_names_the_nearest(verbalizer):
    with pytest.raises(PromptError, match="did you mean 'year'"):
        verbalizer(PromptTemplate("t", "", "", "{yeer}"))


# --- time


def test_gap_words():
    times = np.array([0, 30, 3_630, 3_630 + 3 * DAY, 3_630 + 17 * DAY, 3_630 + 17 * DAY + 32_000_000])
    assert verbalise_times("gap", times) == [
        "",
        "",
        "1 hour later",
        "3 days later",
        "2 weeks later",
        "1 year later",
    ]
    assert verbalise_times("bucket", times)[2:] == ["hours later", "days later", "weeks later", "years later"]


def test_date_is_said_only_when_it_changes():
    assert verbalise_times("date", np.array([0, 10, DAY])) == ["1 January 1970", "", "2 January 1970"]


@given(
    st.sampled_from(sorted(TIME_STYLES)),
    st.lists(st.integers(0, 20_000), max_size=8),
    st.sampled_from([DAY, 3_600, 60, 1]),
)
def test_nothing_finer_than_the_resolution_is_said(style, days, resolution):
    times = np.sort(np.array(days, dtype=np.int64)) * DAY
    words = verbalise_times(style, times, resolution=resolution, min_gap=1)
    assert len(words) == len(times)
    assert not any(unit in w for w in words for unit in ("minute", "hour"))


# --- documents and prompts


@pytest.mark.parametrize("template", [WORDY, load_template("films")], ids=["before and after", "films"])
def test_prompt_is_a_token_prefix_of_the_document(verbalizer, template):
    v = verbalizer(template, max_events=50)
    whole = v.document(history(9))
    for n in range(1, 9):
        prompt = v.prompt(history(n), 10**9 + DAY * n)
        assert whole.starts[n] == len(prompt)
        assert (whole.token_ids[: len(prompt)] == prompt).all()


def test_a_document_knows_where_its_identifiers_stand(verbalizer, tokenizer, catalog):
    document = verbalizer().document(history(6))
    ids = title_identifiers(catalog, tokenizer).token_ids
    assert document.items.tolist() == list(range(6))
    spans = zip(document.starts, document.stops, strict=True)
    assert [tuple(document.token_ids[a:b].tolist()) for a, b in spans] == list(ids[:6])


def test_only_the_newest_events_are_shown(verbalizer):
    v = verbalizer(load_template("films"), max_events=3)
    assert (
        v.prompt(history(8))
        == v.prompt(History("x", *(a[5:] for a in (history(8).items, history(8).timestamps))))
    ).all()


def test_user_id_never_enters_the_prompt(verbalizer, tokenizer):
    assert "4711" not in tokenizer.decode(verbalizer(load_template("films")).prompt(history(8)))


def test_prompt_longer_than_the_context_is_refused_and_nothing_is_cut(verbalizer):
    v = verbalizer(load_template("films"), context_length=60)
    with pytest.raises(PromptError, match=r"lower prompt.max_events \(now 20\)"):
        v.prompt(history(12))


def test_empty_history_is_refused(verbalizer):
    with pytest.raises(PromptError, match="has no events"):
        verbalizer().prompt(history(0))


def test_target_time_is_needed_only_by_a_template_that_states_it(verbalizer):
    with pytest.raises(PromptError, match="states the target's time"):
        verbalizer(WORDY).prompt(history(3))
    verbalizer(load_template("films")).prompt(history(3))


def test_a_tokenizer_with_a_bos_token_starts_prompts_with_it_and_nothing_else(tiny_lm, catalog):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert tokenizer("Alien")["input_ids"][0] == bos
    ids = title_identifiers(catalog, tokenizer).token_ids
    assert not any(bos in i for i in ids)
    template = load_template("films")
    prompt = Verbalizer(template, tokenizer, catalog, ids).prompt(history(5)).tolist()
    plain = (
        Verbalizer(template, AutoTokenizer.from_pretrained(tiny_lm), catalog, ids).prompt(history(5)).tolist()
    )
    assert prompt == [bos, *plain]
    # What the model reads in decoding is this prompt and an identifier, so nothing comes between them.
    model = LlamaForCausalLM.from_pretrained(tiny_lm).eval()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    found = beam_search(model, CompiledTrie.from_sequences(ids), [np.array(prompt)], 1, width=16)
    expected = brute_force(model, [ids[found.items[0, 0]]], prompt, "vocab")
    assert found.scores[0, 0] == pytest.approx(expected[0], abs=1e-4)
