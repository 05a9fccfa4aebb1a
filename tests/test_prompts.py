from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from decoding_cases import brute_force
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaForCausalLM

from llmrec.config import RunConfig
from llmrec.data.histories import Histories, History
from llmrec.decoding.beam import beam_search
from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import ConfigError, PromptError
from llmrec.finetune.examples import one_target_windows, training_examples, training_windows
from llmrec.identifiers.title import title_identifiers
from llmrec.prompts.template import PromptTemplate, load_template, render, template_names
from llmrec.prompts.time import TimeWords
from llmrec.prompts.verbalize import Verbalizer
from llmrec.settings import TIME_STYLES, Prompt

ROOT = Path(__file__).parents[1]
DAY = 86_400
WORDY_AFTER = PromptTemplate("wordy after", "Films:\n", "", "[{time}]|\n")
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


def at(*texts: str) -> np.ndarray:
    """Seconds since 1970 of ISO times, UTC where they do not say."""
    return np.array([int(datetime.fromisoformat(t + "Z" * ("+" not in t)).timestamp()) for t in texts])


def test_gap_words():
    times = np.array([0, 30, 3_630, 3_630 + 3 * DAY, 3_630 + 17 * DAY, 3_630 + 17 * DAY + 32_000_000])
    assert TimeWords("gap")(times) == [
        "",
        "",
        "1 hour later",
        "3 days later",
        "2 weeks later",
        "1 year later",
    ]
    assert TimeWords("bucket")(times)[2:] == ["hours later", "days later", "weeks later", "years later"]
    assert TimeWords("bucket", min_gap=1)(times)[1] == ""
    assert TimeWords("unit")(times) == ["", "", "hours", "days", "weeks", "years"]


def test_ties_are_what_goes_without_saying_when_every_gap_is_told():
    times = np.array([7, 7, 8, 8, 68, 128, 128 + 59])
    assert TimeWords("unit", min_gap=1)(times) == ["", "", "seconds", "", "minutes", "minutes", "seconds"]
    assert TimeWords("gap", min_gap=1)(times)[2:] == [
        "1 second later",
        "",
        "1 minute later",
        "1 minute later",
        "59 seconds later",
    ]
    assert TimeWords("age", min_gap=1)(times)[-2:] == ["59 seconds ago", ""]
    minutes = TimeWords("unit", 60, min_gap=1)  # a log that knows no seconds
    assert minutes(np.array([0, 0, 60])) == ["", "", "minutes"]


def test_date_is_said_only_when_it_changes():
    assert TimeWords("date")(np.array([0, 10, DAY])) == ["1 January 1970", "", "2 January 1970"]


def test_calendar_and_clock_are_said_only_when_they_change():
    # Monday morning, the same morning, that day's evening, Tuesday's, the next Tuesday's night.
    times = at(
        "2024-01-15T08:05", "2024-01-15T08:59", "2024-01-15T18:00", "2024-01-16T21:59", "2024-04-23T00:30"
    )
    assert TimeWords("weekday")(times) == ["Monday", "", "", "Tuesday", ""]
    assert TimeWords("part_of_day")(times) == ["morning", "", "evening", "", "night"]
    assert TimeWords("hour")(times) == ["8 am", "", "6 pm", "9 pm", "12 am"]
    assert TimeWords("season")(times) == ["winter", "", "", "", "spring"]
    assert TimeWords("season", hemisphere="south")(times) == ["summer", "", "", "", "autumn"]


def test_parts_of_day_and_noon():
    hours = at(*(f"2024-01-15T{h:02}:00" for h in range(24)))
    parts = [TimeWords("part_of_day")(hours[h : h + 1])[0] for h in range(24)]
    expected = ["night"] * 6 + ["morning"] * 6 + ["afternoon"] * 6 + ["evening"] * 4 + ["night"] * 2
    assert parts == expected
    assert [TimeWords("hour")(hours)[h] for h in (0, 1, 11, 12, 13, 23)] == [
        "12 am",
        "1 am",
        "11 am",
        "12 pm",
        "1 pm",
        "11 pm",
    ]


def test_a_session_begins_after_a_pause():
    times = np.array([0, 1_799, 1_799 + 1_800, 10_000])
    assert TimeWords("session", min_gap=1_800)(times) == ["", "", "new visit", "new visit"]


def test_ages_are_relative_to_the_moment_of_asking():
    times = np.array([0, DAY, 14 * DAY, 14 * DAY + 60, 15 * DAY])
    assert TimeWords("age")(times) == ["2 weeks ago", "", "1 day ago", "23 hours ago", ""]
    assert TimeWords("age")(times, now=14 * DAY) == ["2 weeks ago", "1 week ago", "", "", ""]
    assert TimeWords("age", resolution=DAY)(times // DAY * DAY, now=15 * DAY)[2:] == ["1 day ago", "", ""]


def test_styles_are_combined_in_their_order():
    times = at("2024-01-15T08:00", "2024-01-15T08:01", "2024-01-15T19:00", "2024-01-19T19:00")
    assert TimeWords("gap+weekday+part_of_day")(times) == [
        "Monday, morning",
        "",
        "10 hours later, evening",
        "4 days later, Friday",
    ]
    assert TimeWords("weekday+gap")(times)[-1] == "Friday, 4 days later"


def test_time_is_local_but_for_logs_of_days():
    new_year = at("2023-12-31T23:30")
    assert TimeWords("date", timezone="Europe/Berlin")(new_year) == ["1 January 2024"]
    assert TimeWords("hour+weekday", timezone="Europe/Berlin")(new_year) == ["12 am, Monday"]
    assert TimeWords("weekday", DAY, timezone="America/New_York")(at("2024-01-01T00:00")) == ["Monday"]


@pytest.mark.parametrize("style", ["hour", "part_of_day", "gap+hour"])
def test_a_log_of_days_has_no_hours_to_tell(style, verbalizer):
    with pytest.raises(ConfigError, match=r"this log knows days only.*weekday, date"):
        TimeWords(style, DAY)
    with pytest.raises(ConfigError, match="this log knows days only"):
        verbalizer(time=style, resolution=DAY)
    assert TimeWords(style, 3_600)(at("2024-01-15T08:00"))[0]


def test_a_session_is_not_finer_than_the_log():
    with pytest.raises(ConfigError, match=r"min_gap is 3600 seconds.*at least 86400"):
        TimeWords("session", DAY)
    assert TimeWords("session", DAY, DAY)(np.array([0, 0, DAY])) == ["", "", "new visit"]


@settings(deadline=None)
@given(
    st.sampled_from([s for s in sorted(TIME_STYLES) if s not in ("hour", "part_of_day")]),
    st.lists(st.integers(0, 20_000), max_size=8),
)
def test_nothing_finer_than_days_is_said_of_a_log_of_days(style, days):
    times = np.sort(np.array(days, dtype=np.int64)) * DAY
    words = TimeWords(style, DAY, min_gap=DAY)(times)
    assert len(words) == len(times)
    assert not any(unit in w for w in words for unit in ("minute", "hour", "am", "pm"))
    # What is said does not depend on when in its day an event was.
    later = np.random.default_rng(0).integers(0, DAY, len(times))
    assert TimeWords(style, DAY, min_gap=DAY)((times + later) // DAY * DAY) == words


def test_time_styles_of_a_config():
    assert Prompt(time="gap+weekday").time_styles == ("gap", "weekday")
    with pytest.raises(ValidationError, match=r"no time style 'weekdy' \(did you mean 'weekday'"):
        Prompt(time="gap+weekdy")
    with pytest.raises(ValidationError, match="expected each once"):
        Prompt(time="gap+gap")
    with pytest.raises(ValidationError, match="expected each once"):
        Prompt(time="none+gap")
    with pytest.raises(ValidationError, match="there is no time zone 'Berlin'"):
        Prompt(timezone="Berlin")


def test_ages_need_one_target_a_document():
    config = {
        "name": "x",
        "output": "x",
        "data": {"dataset": "ml-100k"},
        "prompt": {"time": "gap+age"},
        "evaluation": {"baseline": "llm"},
    }
    with pytest.raises(ValidationError, match=r"prompt.time has age.*expected finetune.examples: one-target"):
        RunConfig.model_validate(config)
    RunConfig.model_validate(config | {"finetune": {"examples": "one-target"}})


@pytest.mark.parametrize("style", sorted(TIME_STYLES))
def test_a_one_target_document_begins_with_the_prompt_for_its_target(verbalizer, style):
    v = verbalizer(WORDY_AFTER, time=style, max_events=4)
    whole = Histories.from_list([history(9, step=40_000)])
    windows = one_target_windows(training_windows(whole, 4), whole, 4)
    examples = training_examples(v, whole, windows, None)
    assert sorted(windows.first_target) == list(range(1, 9))
    for target, example in zip(windows.first_target, examples, strict=True):
        past = whole[0]
        prompt = v.prompt(History("u", past.items[:target], past.timestamps[:target]))
        assert (example.token_ids[: len(prompt)] == prompt).all()
        assert example.positions[0] == len(prompt) - 1


# --- documents and prompts


@pytest.mark.parametrize("template", [WORDY, load_template("films")], ids=["before and after", "films"])
def test_prompt_is_a_token_prefix_of_the_document(verbalizer, template):
    v = verbalizer(template, max_events=50)
    whole = v.document(history(9))
    for n in range(1, 9):
        prompt = v.prompt(replace(history(n), next_timestamp=10**9 + DAY * n))
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
    with pytest.raises(
        PromptError,
        match=r"states the target's time, which the history of user 'secret-user-4711' does not tell",
    ):
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


def test_fields_may_have_blanks_in_their_names():
    assert render("[ by {brand name}]", {"brand name": "Hearth"}) == " by Hearth"


def test_a_template_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_bytes("name: Über\n".encode("latin-1"))
    with pytest.raises(PromptError, match="is not UTF-8"):
        load_template(str(path))


def test_what_is_too_long_says_whether_it_is_a_document_or_a_prompt(verbalizer):
    short = verbalizer(load_template("films"), context_length=12)
    with pytest.raises(PromptError, match=r"The document of user .* the model reads at most 12"):
        short.document(history(5))
    with pytest.raises(PromptError, match=r"The prompt of user .* and the longest identifier [1-9]"):
        short.prompt(history(5))
