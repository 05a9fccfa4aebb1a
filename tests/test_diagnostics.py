"""Changed histories are what they say, a loss is found where there is one, and memory where there is some."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pipeline_cases import llmrec
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.config_file import load_config
from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.diagnostics.ablation import ablate, mean_overlap, user_values
from llmrec.diagnostics.few_events import EVENTS, beside_each_other, newest, with_few_events
from llmrec.diagnostics.histories import ORDER, TIME, vary
from llmrec.diagnostics.memory import RECORDS, parse_record, probe_records, probe_titles
from llmrec.diagnostics.probes import Question, ask
from llmrec.diagnostics.tables import diagnostic_tables
from llmrec.errors import ArtefactError, ConfigError
from llmrec.pipeline.diagnose_stage import kept_diagnostics, read_diagnostics
from llmrec.recommenders.base import ScoringRecommender
from llmrec.testing import histories

# --- changed histories


@st.composite
def logs(draw):
    rows = draw(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=12), min_size=1, max_size=5))
    gaps = [draw(st.lists(st.integers(0, 99), min_size=len(r), max_size=len(r))) for r in rows]
    return histories(*rows, timestamps=[np.cumsum(g).tolist() for g in gaps])


@given(logs(), st.sampled_from([*ORDER.values(), *TIME.values()]), st.integers(1, 15), st.integers(0, 9))
def test_every_variant_keeps_items_older_events_and_ascending_times(before, change, window, seed):
    after = vary(before, change, window, seed)
    assert after.user_ids == before.user_ids
    assert after.indptr.tolist() == before.indptr.tolist()
    for old, new in zip(before, after, strict=True):
        rest = max(0, len(old) - window)
        assert sorted(new.items) == sorted(old.items)
        assert new.items[:rest].tolist() == old.items[:rest].tolist()
        assert new.timestamps[:rest].tolist() == old.timestamps[:rest].tolist()
        assert (np.diff(new.timestamps) >= 0).all()
        assert new.timestamps[-1] == old.timestamps[-1]
    again = vary(before, change, window, seed)
    assert again.items.tolist() == after.items.tolist()
    assert again.timestamps.tolist() == after.timestamps.tolist()


@given(logs(), st.integers(0, 9))
def test_variants_are_what_they_are_called(before, seed):
    for old, new in zip(before, vary(before, ORDER["reversed"], 99, seed), strict=True):
        assert new.items.tolist() == old.items.tolist()[::-1]
    for old, new in zip(
        before, vary(before, ORDER["shuffled but for the last event"], 99, seed), strict=True
    ):
        assert new.items[-1] == old.items[-1]
    for name in ORDER:
        assert vary(before, ORDER[name], 99, seed).timestamps.tolist() == before.timestamps.tolist()
    for old, new in zip(before, vary(before, TIME["gaps shuffled"], 99, seed), strict=True):
        assert sorted(np.diff(new.timestamps)) == sorted(np.diff(old.timestamps))
        assert new.timestamps[0] == old.timestamps[0]
    for new in vary(before, TIME["no gaps"], 99, seed):
        assert len(set(new.timestamps)) == 1
    for name in TIME:
        assert vary(before, TIME[name], 99, seed).items.tolist() == before.items.tolist()


def test_shuffles_do_shuffle():
    before = histories(list(range(50)), timestamps=[np.cumsum(np.arange(50)).tolist()])
    for name in ("shuffled", "shuffled but for the last event"):
        moved = vary(before, ORDER[name], 50, 0).items != before.items
        assert moved.mean() > 0.8
    assert (np.diff(vary(before, TIME["gaps shuffled"], 50, 0).timestamps) != np.arange(1, 50)).mean() > 0.8


# --- what lists lose

N = 30


class Blind(ScoringRecommender):
    """Scores items by how near they are to any in the history."""

    name = "blind"

    def fit(self, split):
        pass

    def score(self, histories):
        items = np.arange(N)
        return np.stack([-np.abs(items[:, None] - h.items).min(axis=1) for h in histories]).astype(float)


class LastOnly(Blind):
    """Scores items by how near they are to the last of the history."""

    name = "last"

    def score(self, histories):
        return np.stack([-np.abs(np.arange(N) - h.items[-1]) for h in histories]).astype(float)


def walks(users=200):
    """Everybody's next item is the one after the last."""
    rng = np.random.default_rng(0)
    rows = [[*rng.permutation(np.arange(0, N - 1, 3))[:6]] for _ in range(users)]
    past = histories(*rows)
    return Holdout(past, np.array([r[-1] + 1 for r in rows], dtype=np.int32), np.full(users, 9))


def ablated(recommender):
    users = walks()
    families = {"order": {name: vary(users.histories, change, 6, 1) for name, change in ORDER.items()}}
    ask = partial(recommender.recommend, k=10)
    found = ablate(recommender.name, ask, ask(users.histories), users, families, seed=0)["order"]
    assert [v.histories for v in found] == ["true", *ORDER]
    return {v.histories: v for v in found}


def test_a_system_blind_to_order_loses_nothing():
    found = ablated(Blind())
    assert found["true"].differences == {}
    for name in ORDER:
        for difference in found[name].differences.values():
            assert (difference.mean, difference.p_holm) == (0.0, 1.0)
        assert found[name].overlap == 1.0
        assert found[name].means == found["true"].means


def test_a_system_that_looks_at_the_last_event_loses_only_with_it():
    found = ablated(LastOnly())
    assert found["true"].means["hr@10"] == 1.0
    kept = found["shuffled but for the last event"]
    assert kept.differences["ndcg@10"].mean == 0.0
    assert kept.overlap == 1.0
    for name in ("shuffled", "reversed"):
        difference = found[name].differences["ndcg@10"]
        assert difference.shown()
        assert difference.mean < -0.2
        assert difference.mean == pytest.approx(found[name].means["ndcg@10"] - found["true"].means["ndcg@10"])
        assert found[name].overlap < 1
    # Holm: the smallest of three p-values is multiplied by three.
    assert found["reversed"].differences["hr@10"].p_holm >= found["reversed"].differences["hr@10"].p


def test_overlap_counts_items_and_not_places():
    lists = np.array([[1, 2, 3, -1], [4, 5, 6, 7], [-1, -1, -1, -1]])
    others = np.array([[3, 9, 1, -1], [7, 6, 5, 4], [1, 2, 3, 4]])
    assert mean_overlap(lists, others) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(mean_overlap(lists[2:], others[2:]))


# --- few events


@given(logs(), st.integers(1, 15))
def test_the_newest_events_are_those_at_the_end(before, events):
    after = newest(before, events)
    assert after.user_ids == before.user_ids
    for old, new in zip(before, after, strict=True):
        assert new.items.tolist() == old.items.tolist()[-events:]
        assert new.timestamps.tolist() == old.timestamps.tolist()[-events:]


def test_systems_are_compared_where_as_much_is_known():
    users = walks()
    asks = {system.name: partial(system.recommend, k=10) for system in (LastOnly(), Blind())}
    found = {name: with_few_events(ask, ask(users.histories), users, (1, 6)) for name, ask in asks.items()}
    rows = {(row.system, row.events): row for row in beside_each_other(found, seed=0)}
    assert list(rows) == [(name, n) for n in (1, 6, None) for name in ("last", "blind")]
    assert rows["last", 1].means == rows["blind", 1].means == rows["last", 6].means  # one event says the same
    assert rows["last", 6].differences == {}
    assert rows["blind", 1].differences["ndcg@10"].mean == 0.0
    difference = rows["blind", 6].differences["ndcg@10"]
    ndcg = [user_values(ask(users.histories), users)["ndcg@10"] for ask in asks.values()]
    assert difference.mean == pytest.approx((ndcg[0] - ndcg[1]).mean())
    assert difference.mean > 0
    assert difference.p_holm == pytest.approx(3 * difference.p)  # of three comparisons
    assert rows["blind", None].differences["ndcg@10"].mean == difference.mean  # histories have six events


# --- memory


@pytest.fixture(scope="module")
def random_lm(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm).eval(), AutoTokenizer.from_pretrained(tiny_lm)


class Parrot:
    """A language model that has learned some texts by heart, from their first token on, and nothing else."""

    device = torch.device("cpu")

    def __init__(self, texts, vocabulary):
        self.vocabulary, self.next = vocabulary, {}
        for text in map(tuple, texts):
            for stop in range(1, len(text)):
                self.next.setdefault(text[:stop], set()).add(text[stop])

    def __call__(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        for row, ids in enumerate(input_ids.tolist()):
            for stop in range(1, len(ids) + 1):
                logits[row, stop - 1, list(self.next.get(tuple(ids[:stop]), ()))] = 30.0
        return SimpleNamespace(logits=logits)


def words(n, seed=0):
    """Return n different titles of three made-up words."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("bcdfghjklmnpqrstvwxz"))
    return [" ".join("".join(rng.choice(letters, 4)) for _ in range(3)) for _ in range(n)]


def test_greedy_answers_are_those_of_generate(random_lm):
    model, tokenizer = random_lm
    rng = np.random.default_rng(0)
    questions = []

    def greedy(given, n):
        ids = torch.tensor([given])
        return model.generate(ids, max_new_tokens=n, do_sample=False, eos_token_id=None)[
            0, len(given) :
        ].tolist()

    for length in (1, 3, 7, 20):
        given = rng.integers(1, len(tokenizer), length).tolist()
        right = greedy(given, 5)
        other = (right[0] + 1) % len(tokenizer)
        wrong = [*right[:-1], (right[-1] + 1) % len(tokenizer)]
        hinted = Question(given, [other, *greedy([*given, other], 4)], hint=1)
        questions += [Question(given, right), Question(given, wrong), Question(given, right[:1]), hinted]
    seen = []
    answers = ask(model, questions, lambda done, of: seen.append((done, of)))
    assert answers.exact.tolist() == [True, False, True, True] * 4
    assert seen[-1] == (len(questions), len(questions))
    for question, got in zip(questions, answers.log_probs, strict=True):
        ids = torch.tensor([[*question.given, *question.answer]])
        with torch.no_grad():
            rows = model(ids).logits[0].log_softmax(-1)[len(question.given) - 1 : -1]
        assert got == pytest.approx(
            float(rows[range(len(question.answer)), question.answer].mean()), abs=1e-5
        )


def test_titles_known_by_heart_are_found_and_their_words_in_another_order_are_not(random_lm):
    _, tokenizer = random_lm
    titles = [*words(40), "Oneword", "Twice Twice"]

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    parrot = Parrot([ids('The title is "') + ids(t) for t in titles], len(tokenizer))
    completed, probable = probe_titles(parrot, tokenizer, titles, seed=0)
    assert (completed.of, completed.true.mean, completed.control.mean) == (40, 1.0, 0.0)
    assert completed.true.low == pytest.approx(0.025 ** (1 / 40))  # Clopper and Pearson, by hand
    assert completed.difference.p < 0.001
    assert probable.difference.shown()
    assert probable.true.mean > probable.control.mean
    assert probe_titles(parrot, tokenizer, titles, seed=0, most=7)[0].of == 7
    assert probe_titles(parrot, tokenizer, ["Oneword", "Twice Twice"], seed=0) == []


def test_a_random_model_knows_nothing(random_lm):
    model, tokenizer = random_lm
    titles = words(60)
    catalog = Catalog(tuple(map(str, range(60))), tuple(titles), {"year": ("1999",) * 60})
    record = parse_record(RECORDS["ml-1m"], catalog)
    asked = probe_titles(model, tokenizer, titles, 0) + probe_records(model, tokenizer, catalog, record, 0)
    for probe in asked[::2]:
        assert probe.true.mean == probe.control.mean == 0
        assert probe.true.high < 0.1
    assert not asked[3].difference.shown()


def test_records_are_found_only_where_ids_and_titles_are_known_together(random_lm):
    _, tokenizer = random_lm
    titles = words(30)
    years = ("", *("1990",) * 29)  # the first has no year, so no line
    catalog = Catalog(tuple(f"{n}" for n in range(30)), tuple(titles), {"year": years})
    record = parse_record(RECORDS["ml-100k"], catalog)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    shown = "".join(f"{n}|{titles[n]} (1990)|\n" for n in (1, 2, 3))
    pairs = [(n, n) for n in range(4, 30)]
    everything = [(n, m) for n in range(4, 30) for m in range(4, 30)]
    for known, rate in ((pairs, 1.0), (everything, None)):
        texts = [ids(f"{shown}{n}|") + ids(f"{titles[m]} (1990)|") for n, m in known]
        recalled, probable = probe_records(Parrot(texts, len(tokenizer)), tokenizer, catalog, record, 0)
        assert recalled.of == 26
        if rate is None:  # titles known behind any id say nothing about the file
            assert probable.difference.mean == pytest.approx(0, abs=1e-6)
            assert recalled.true.mean == recalled.control.mean
        else:
            assert (recalled.true.mean, recalled.control.mean) == (1.0, 0.0)
            assert probable.difference.shown()
    few = Catalog(("1", "2", "3", "4"), tuple(titles[:4]), {"year": ("1990",) * 4})
    assert probe_records(Parrot([], len(tokenizer)), tokenizer, few, record, 0) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{title}|{item_id}", "no {item_id} before a {title}"),
        ("{item_id}|{titel}", "(did you mean 'title'?)"),
        ("{item_id}|{title} {year", "cannot be read"),
        ("{item_id}|{title}|{year:04d}", "cannot be read"),
        ("{item_id!r}|{title}", "cannot be read"),
    ],
)
def test_records_that_cannot_be_asked_for(catalog, record, message):
    with pytest.raises(ConfigError) as error:
        parse_record(record, catalog)
    assert message in str(error.value)


# --- the command


def test_diagnose_writes_one_whole_file_that_belongs_to_its_settings(config, tmp_path, capsys):
    path, run = config(), tmp_path / "run"
    assert "run 'llmrec finetune'" in llmrec("diagnose", path, code=2, capsys=capsys).err.replace("\n", " ")
    assert not run.exists()
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, capsys=capsys)
    ask_for = ("--users", 8, "--titles", 5, "--beside", "popularity", "--record", "{item_id},{title}")
    printed = llmrec("diagnose", path, *ask_for, capsys=capsys).out
    found = json.loads((run / "diagnostics.json").read_text())
    assert (found["users"], found["evaluation_users"], found["window"]) == (8, 10, 20)
    assert [v["histories"] for v in found["order"]] == ["true", *ORDER] * 2
    assert [v["histories"] for v in found["time"]] == ["true", *TIME]
    assert found["order"][0]["means"] == found["time"][0]["means"]
    for variant in found["order"][5:]:  # popularity
        assert variant["overlap"] == 1.0
        assert all(d["mean"] == 0 for d in variant["differences"].values())
    assert [v["events"] for v in found["few_events"]] == [n for n in (*EVENTS, None) for _ in range(2)]
    assert [v["system"] for v in found["few_events"]] == ["llm", "popularity"] * 6
    assert found["few_events"][-2]["means"] == found["order"][0]["means"]
    assert [p["of"] for p in found["memory"]["probes"]] == [5] * 4
    for text in (
        "use the order",
        "use time",
        "little is known",
        "by heart",
        "Popularity; Histories: reversed",
        "gaps shuffled",
    ):
        assert text in printed

    tables = diagnostic_tables(found)
    assert [len(t.rows) for t in tables] == [8, 3, 12, 4]
    assert all(len(row) == len(t.header) and all(row) for t in tables for row in t.rows)
    assert read_diagnostics(load_config(path)) == tables == kept_diagnostics(run)
    with pytest.raises(ArtefactError, match=r"evaluation\.users was 10 and is now 9"):
        read_diagnostics(load_config(path, ["evaluation.users=9"]))
    assert read_diagnostics(load_config(path, [f"output={tmp_path / 'elsewhere'}"])) == ()

    stamp = (run / "diagnostics.json").stat().st_mtime_ns
    llmrec("diagnose", path, *ask_for, capsys=capsys)
    assert (run / "diagnostics.json").stat().st_mtime_ns == stamp
    other = llmrec("diagnose", path, *ask_for, "--users", 7, code=2, capsys=capsys).err
    assert "diagnose.users was 8 and is now 7" in other
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "adapter was" in llmrec("diagnose", path, *ask_for, code=2, capsys=capsys).err
    with pytest.raises(ArtefactError, match="adapter was"):
        kept_diagnostics(run)


def test_the_window_is_that_of_the_shortest_sighted_and_silent_prompts_are_said_to_be(
    config, tmp_path, capsys
):
    path = config(
        prompt={"template": "films", "time": "none"},
        systems={"llm": {}, "free": {"kind": "llm", "search": "free"}, "sasrec": {"max_len": 4, "max_epochs": 1, "device": "cpu"}},
    )  # fmt: skip
    for stage in ("prepare", "finetune"):
        llmrec(stage, path, capsys=capsys)
    printed = llmrec("diagnose", path, "--users", 6, "--titles", 3, capsys=capsys).out
    found = json.loads((tmp_path / "run" / "diagnostics.json").read_text())
    assert found["window"] == 4
    # So it is where that one is a part.
    blend = {
        "kind": "hybrid",
        "parts": {"sasrec": {"max_len": 3, "max_epochs": 1, "device": "cpu"}, "content": {}},
    }
    own = ("--set", f"systems.blend={json.dumps(blend)}", "--beside", "blend", "--users", 6, "--titles", 3)
    (tmp_path / "run" / "diagnostics.json").rename(tmp_path / "before.json")
    llmrec("diagnose", path, *own, capsys=capsys)
    assert json.loads((tmp_path / "run" / "diagnostics.json").read_text())["window"] == 3
    # Another sample of users is another answer.
    other = llmrec("diagnose", path, *own, "--set", "evaluation.users_seed=9", code=2, capsys=capsys).err
    assert "users_seed" in other
    assert {v["system"] for v in found["order"]} == {"llm", "sasrec"}
    assert found["time"] == []
    assert found["memory"]["record"] is None
    assert "says nothing about time" in printed
    assert "records were not asked for" in " ".join(printed.split())


BASELINE = {"k": 5, "cutoffs": [5], "baseline": "popularity"}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"systems": {"popularity": {}}, "evaluation": BASELINE}, (), "no language model"),
        ({}, ("--beside", "sasrek"), "did you mean 'sasrec'"),
        ({}, ("--beside", "llm"), "no system 'llm' to put beside"),
        ({}, ("--beside", "sasrec", "--alone"), "--alone and --beside"),
    ],
)
def test_what_cannot_be_diagnosed_is_said_at_once(config, tmp_path, changes, options, message, capsys):
    printed = llmrec("diagnose", config(**changes), *options, code=2, capsys=capsys)
    assert message in " ".join(printed.err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.lm
def test_the_real_model_knows_famous_titles():
    from llmrec.models import load_model, load_tokenizer

    titles = ["The Empire Strikes Back", "The Lord of the Rings", "Gone with the Wind", "The Wizard of Oz",
              "The Silence of the Lambs", "Back to the Future", "Beauty and the Beast", "Romeo and Juliet"]  # fmt: skip
    model, tokenizer = load_model("smollm2-135m"), load_tokenizer("smollm2-135m")
    completed, probable = probe_titles(model, tokenizer, titles, seed=0)
    assert completed.true.mean >= 3 / 8
    assert completed.control.mean <= 1 / 8
    assert probable.difference.mean > 1
