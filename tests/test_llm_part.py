"""The fine-tuned language model as a part of other systems, and trainings and scores that several systems share."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
from pipeline_cases import foretold, llmrec

from llmrec.config import System
from llmrec.config_file import load_config
from llmrec.data.recommendations import read_meta
from llmrec.decoding.exact import score_catalogue
from llmrec.errors import ArtefactError, ConfigError
from llmrec.pipeline import recommend_stage
from llmrec.pipeline.keys import recommend_key
from llmrec.recommenders import llm_scores
from llmrec.recommenders.kept_scores import KeptScores
from llmrec.recommenders.registry import build_recommender, system_problems
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.sequential import SequentialRecommender
from llmrec.testing import RecommenderConformance, histories

SPLIT = RecommenderConformance.split
SASREC = {"max_epochs": 2, "device": "cpu", "dim": 8, "layers": 1}
FUSED = {"kind": "hybrid", "parts": {"llm": {}, "sasrec": SASREC}, "steps": 20}
SYSTEMS = {
    "llm": {"search": "exact"},
    "sasrec": SASREC,
    "only": {"kind": "hybrid", "parts": {"llm": {}, "sasrec": SASREC}, "weights": {"llm": 1, "sasrec": 0}},
    "fused": FUSED,
    "seeds": {
        "kind": "hybrid",
        "parts": {"sasrec": SASREC, "again": {"kind": "sasrec", "seed": 1, **SASREC}},
    },
}


@pytest.fixture
def work(monkeypatch):
    """Count epochs of sequence models, and users that the language model scores for other systems."""
    counts = {"epochs": 0, "users": 0}
    epoch = SequentialRecommender._epoch

    def counted_epoch(self, *args, **options):
        counts["epochs"] += 1
        return epoch(self, *args, **options)

    def counted_scores(model, trie, prompts, **options):
        counts["users"] += len(prompts)
        return score_catalogue(model, trie, prompts, **options)

    monkeypatch.setattr(SequentialRecommender, "_epoch", counted_epoch)
    monkeypatch.setattr(llm_scores, "score_catalogue", counted_scores)
    return counts


def lists_of(run, name):
    return pl.read_parquet(run / "recommendations" / f"{name}.parquet")


def test_from_config_to_report(config, tmp_path, work, capsys):
    path, run = config(systems=SYSTEMS), tmp_path / "run"
    assert sum("; " in work for work in foretold(path, capsys).values()) == 3  # of two parts
    assert not (run / "adapter").exists()
    work.update(epochs=0, users=0)
    llmrec("run", path, capsys=capsys)
    # Two trainings of SASRec in four systems; 24 validation users and 10 test users in two systems.
    assert work == {"epochs": 4, "users": 34}
    # With all the weight it makes the lists that it makes by itself; batches of other users differ in the last bits.
    only, alone = lists_of(run, "only"), lists_of(run, "llm")
    assert (only["item_id"] == alone["item_id"]).all()
    np.testing.assert_allclose(only["score"], alone["score"], rtol=1e-4)
    meta = {name: read_meta(run / "recommendations" / f"{name}.parquet") for name in SYSTEMS}
    assert set(meta["fused"]["chosen"]["weights"]) == {"llm", "sasrec"}
    assert meta["fused"]["chosen"]["users"] == 24
    assert meta["fused"]["adapter"] == meta["llm"]["adapter"]
    # What is shared costs each system as if it was alone.
    cost = {name: m["cost"] for name, m in meta.items()}
    trained = json.loads((run / "adapter" / "llmrec.json").read_text())["seconds"]
    epochs = meta["sasrec"]["epochs"][-1]["seconds"]
    for name in ("only", "fused"):
        assert cost[name]["fit_seconds"] >= trained + epochs
        assert cost[name]["recommend_users"] == 10
    assert cost["seeds"]["fit_seconds"] >= epochs
    assert cost["fused"]["recommend_seconds"] >= 0.5 * cost["only"]["recommend_seconds"]
    report = (run / "report.md").read_text()
    assert "fused: chosen on the validation users" in report
    assert "ndcg@10 alone: llm" in report
    assert not (run / "checkpoints").exists()
    stamps = {p: p.stat().st_mtime_ns for p in (run / "recommendations").iterdir()}
    llmrec("run", path, capsys=capsys)
    assert stamps == {p: p.stat().st_mtime_ns for p in (run / "recommendations").iterdir()}
    assert work == {"epochs": 4, "users": 34}
    # Another adapter makes all systems stale that have the model as a part.
    (run / "recommendations" / "llm.parquet").unlink()
    weights = run / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    err = llmrec("recommend", path, code=2, capsys=capsys).err
    assert "fused.parquet' was made with another config: adapter was" in err


def test_the_progress_bar_ends_where_it_says(config, capsys, monkeypatch):
    """Of the validation users, 24, only those are counted by whom weights are chosen."""
    told = []

    @contextmanager
    def noted(description, *args):
        yield lambda done, total: told.append((description, done, total))

    monkeypatch.setattr(recommend_stage, "bar", noted)
    sampled = {**FUSED, "validation_users": 8}
    twice = {"kind": "rerank", "parts": {"llm": {}, "sasrec": SASREC}}
    llmrec("run", config(systems={"sasrec": SASREC, "sampled": sampled, "twice": twice}), capsys=capsys)
    last = {what: done_of for what, *done_of in told}
    assert last["Fitting sampled, epochs and users"] == [18, 18]  # 8 and the 10 of the test
    assert last["Fitting twice, epochs and users"] == [34, 34]
    assert all(done <= of for _, done, of in told)


def test_a_guided_search_ranks_as_the_sum_of_all_scores_does(config, tmp_path, capsys):
    parts = {"llm": {}, "sasrec": SASREC}
    systems = {
        "popularity": {},
        "guided": {"kind": "guided", "parts": parts, "weight": 1.0},
        "sum": {"kind": "hybrid", "parts": parts, "fusion": "logprob", "weights": {"llm": 1, "sasrec": 1}},
        "chosen": {"kind": "guided", "parts": parts, "validation_users": 8},
        "off": {"kind": "guided", "parts": parts, "weight": 0},
        "llm": {},
    }
    over_vocabulary = {"llm": {"normalisation": "vocab"}, "sasrec": SASREC}
    for name in ("guided", "sum"):
        systems[f"{name}_vocab"] = systems[name] | {"parts": over_vocabulary}
    decoding = {"beam_width": 16, "until_certified": True}
    evaluation = {"users": 10, "k": 5, "cutoffs": [5], "baseline": "popularity"}
    path, run = config(systems=systems, decoding=decoding, evaluation=evaluation), tmp_path / "run"
    llmrec("run", path, capsys=capsys)
    assert lists_of(run, "guided")["item_id"].to_list() == lists_of(run, "sum")["item_id"].to_list()
    ours, other = lists_of(run, "guided_vocab"), lists_of(run, "guided")
    assert ours["item_id"].to_list() == lists_of(run, "sum_vocab")["item_id"].to_list()
    assert not np.allclose(ours["score"], other["score"], atol=1e-3)
    assert "constrained beam search, width 16" in (run / "report.md").read_text()
    # How it searches decides its lists, and nothing about those of systems that have all items scored.
    wider = ("--set", "decoding.beam_width=17", "--set", "systems.llm.beam_width=16")
    refused = llmrec("run", path, *wider, code=2, capsys=capsys).err
    assert "decoding.beam_width was 16 and is now 17" in refused
    before, after = (load_config(path, changes) for changes in ((), wider[1::2]))
    same = {name: recommend_key(before, name) == recommend_key(after, name) for name in ("guided", "sum")}
    assert same == {"guided": False, "sum": True}
    assert lists_of(run, "off")["item_id"].to_list() == lists_of(run, "llm")["item_id"].to_list()
    chosen = read_meta(run / "recommendations" / "chosen.parquet")["chosen"]
    assert chosen["users"] == 8
    assert f"{chosen['weight']:g}" in chosen["ndcg@10"]
    assert max(chosen["ndcg@10"].values()) == chosen["ndcg@10"][f"{chosen['weight']:g}"]
    assert "chosen: chosen on the validation users" in (run / "report.md").read_text()


def test_guided_settings_that_make_no_sense_are_refused():
    for options, message in (
        ({"parts": {"sasrec": {}, "ease": {}}}, "expected two, the language model and one that guides it"),
        ({"parts": {"llm": {}}}, "expected two"),
        ({"parts": {"llm": {}, "sasrec": {}}, "weight": -1}, "weight: got -1.0; expected 0 or more"),
        ({"parts": {"llm": {}, "sasrec": {}}, "validation_users": 0}, "validation_users: got 0"),
    ):
        problems = system_problems("x", System.model_validate({"kind": "guided", **options}))
        assert len(problems) == 1
        assert message in problems[0]


def test_a_killed_run_scores_no_user_twice_and_ends_the_same(config, tmp_path, work, capsys, monkeypatch):
    systems = {"popularity": {}, "fused": FUSED, "only": SYSTEMS["only"]}
    evaluation = {"users": 10, "k": 5, "cutoffs": [5], "baseline": "popularity"}
    path, run = config(systems=systems, evaluation=evaluation), tmp_path / "run"
    monkeypatch.setattr(llm_scores.LanguageModelScores, "users_at_once", 7)
    kept = KeptScores.write

    def killed(self, asked, scores, seconds):
        kept(self, asked, scores, seconds)
        if work["users"] > 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptScores, "write", killed)
        llmrec("run", path, code=130, capsys=capsys)
    assert work == {"epochs": 2, "users": 14}
    llmrec("run", path, capsys=capsys)
    assert work == {"epochs": 2, "users": 34}
    assert not (run / "checkpoints").exists()
    llmrec("run", path, "--set", f"output={tmp_path / 'other'}", capsys=capsys)
    for name in systems:
        assert lists_of(run, name).equals(lists_of(tmp_path / "other", name))
    # There are notes on the language model although no system is it alone.
    assert "every item of the catalogue scored" in (run / "report.md").read_text()
    # The lists of both runs are of the same systems.
    llmrec("compare", run, tmp_path / "other", "--output", tmp_path / "both", capsys=capsys)
    assert "fused" in (tmp_path / "both" / "report.md").read_text()


def test_what_a_part_of_this_kind_may_say():
    def problems(**llm):
        parts = {"llm": llm, "popularity": {}}
        return system_problems("x", System.model_validate({"kind": "hybrid", "parts": parts}))

    assert problems() == problems(normalisation="vocab") == []
    (problem,) = problems(beam_width=3)
    assert problem.startswith("systems.x.parts.llm.beam_width: llm has no such setting")
    (problem,) = problems(normalisation="words")
    assert problem.startswith("systems.x.parts.llm.normalisation: got 'words'")
    (problem,) = problems(seed=1)
    assert problem.startswith("systems.x.parts.llm.seed: llm has no such setting")


def test_without_a_run_there_is_no_fine_tuned_model():
    with pytest.raises(ConfigError, match="there is none here"):
        build_recommender("llm", System()).fit(SPLIT)


def test_a_dry_run_counts_what_is_done_once_only_once(config, capsys):
    """As the run does: no user is scored twice, whichever system asks, and no training is done twice; each guided search is a new one."""
    inner = {"kind": "hybrid", "parts": {"llm": {}, "popularity": {}}}
    systems = {
        "sasrec": SASREC,
        "fused": FUSED,
        "again": FUSED,
        "words": {"kind": "hybrid", "parts": {"llm": {"normalisation": "vocab"}, "popularity": {}}},
        "outer": {"kind": "hybrid", "parts": {"inner": inner, "sasrec": {**SASREC, "seed": 1}}},
        "guided": {"kind": "guided", "parts": {"llm": {}, "sasrec": SASREC}},
        "steered": {"kind": "guided", "parts": {"llm": {}, "popularity": {}}, "weight": 1},
    }
    evaluation = {"users": 10, "k": 5, "cutoffs": [5], "baseline": "sasrec"}
    said = foretold(config(systems=systems, evaluation=evaluation), capsys)
    assert said == {
        "stage": "work",
        "finetune": "4 steps",
        "again": "llm: scores for 34 users; sasrec: at most 2 epochs",  # 10 of the test, 24 of validation
        "fused": "llm: scored before; sasrec: trained before",
        "guided": "trained before; 154 searches",  # six weights for each of validation
        "outer": "inner: llm: scored before; popularity: fit; sasrec: at most 2 epochs",
        "sasrec": "trained before",
        "steered": "fit; 10 searches",
        "words": "llm: scores for 34 users; popularity: fit",
    }


def test_all_can_be_told_when_the_target_happens(config, tmp_path, work, capsys):
    """The prompt states it, SASRec has a vector for it, and a hybrid of both hands it on; popularity is not told."""
    template = tmp_path / "when.yaml"
    template.write_text(
        '{name: when, description: x, preamble: "Films:\\n", before: "After {time}: ", after: ""}'
    )
    sasrec = {**SASREC, "target_time": True}
    fused = {"kind": "hybrid", "parts": {"llm": {}, "sasrec": sasrec}, "weights": {"llm": 1, "sasrec": 0}}
    path = config(
        systems={"llm": {"search": "exact"}, "sasrec": sasrec, "fused": fused, "popularity": {}},
        prompt={"template": str(template), "min_gap": 1, "target_time": True},
    )
    run = tmp_path / "run"
    llmrec("run", path, "--dry-run", capsys=capsys)
    llmrec("run", path, capsys=capsys)
    np.testing.assert_array_equal(lists_of(run, "fused")["item_id"], lists_of(run, "llm")["item_id"])
    report = (run / "report.md").read_text()
    said = re.findall(
        r"(.*) are told when the next event happens\. The other systems do not get this information", report
    )
    assert len(said) == 2  # before the numbers, and in the protocol
    assert all(
        {*re.findall(r"LLM|SASRec|fused|Popularity", names)} == {"LLM", "SASRec", "fused"} for names in said
    )
    err = llmrec("run", path, "--set", "prompt.target_time=false", code=2, capsys=capsys).err
    for name in ("sasrec", "fused"):
        assert f"systems.{name} is to be told when the target happens (target_time)" in err


def test_the_config_refuses_what_a_part_cannot_do(config, capsys):
    systems = {"popularity": {}, "fused": FUSED}
    path = config(systems=systems, evaluation={"users": 10, "k": 5, "cutoffs": [5], "baseline": "popularity"})
    err = llmrec("tune", path, "--set", "tuning.spaces={fused: {steps: [10, 20]}}", code=2, capsys=capsys).err
    assert "tuning.spaces.fused: it has the fine-tuned language model as a part" in err


# --- trainings that several systems share -------------------------------------------------------------


def test_equal_trainings_are_one_and_others_are_not(tmp_path, work):
    def fitted(**options):
        recommender = SASRec(checkpoint=tmp_path, batch_size=8, **(SASREC | options))
        recommender.fit(SPLIT)
        return recommender

    first = fitted()
    assert (work["epochs"], first.spared_seconds_) == (2, 0.0)
    again = fitted(name="other", threads=2)
    assert work["epochs"] == 2
    assert again.spared_seconds_ == first.history_[-1]["seconds"]
    assert again.history_ == first.history_
    asked = SPLIT.test.histories
    assert (again.score(asked) == first.score(asked)).all()
    fitted(seed=1)
    fitted(lr=0.01)
    # One that may go on for longer keeps another epoch.
    fitted(max_epochs=1)
    assert work["epochs"] == 7
    assert len(list(tmp_path.iterdir())) == 4


def test_parts_may_have_seeds_of_their_own():
    parts = {
        "sasrec": SASREC,
        "again": {"kind": "sasrec", "seed": 1, **SASREC},
        "three": {"kind": "sasrec", "seed": 3},
    }
    hybrid = build_recommender("x", System.model_validate({"kind": "hybrid", "parts": parts}), seed=7)
    assert [part.seed for part in hybrid.parts_.values()] == [7, 1, 3]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"seed": -1}, "sasrec.seed: got -1"),
        ({"seed": "one"}, "sasrec.seed: got 'one'"),
        ({"seeds": 2}, "sasrec.seeds is 2; expected 1 for a part"),
        ({"kind": 3}, "sasrec.kind: got 3"),
        ({"checkpoint": "x"}, "sasrec.checkpoint: sasrec has no such setting"),
    ],
)
def test_wrong_seeds_of_parts_are_told(part, expected):
    (problem,) = system_problems("x", System.model_validate({"kind": "hybrid", "parts": {"sasrec": part}}))
    assert problem.startswith(f"systems.x.parts.{expected}")
    (problem,) = system_problems("sasrec", System.model_validate({"seed": 1}))
    assert "has no such setting" in problem


# --- scores that are kept -----------------------------------------------------------------------------


def test_kept_scores_are_those_of_the_question(tmp_path):
    rng = np.random.default_rng(0)
    first = histories([1, 2], [3], [4, 5, 6])
    scores = rng.standard_normal((3, 9))
    writer = KeptScores(tmp_path / "a", 9)
    writer.write(first, scores, 6.0)
    assert writer.read(first)[2] == 0  # it has spent them itself
    kept = KeptScores(tmp_path / "a", 9)
    # Other users with the same past ask the same; the same items at other times do not.
    asked = histories([4, 5, 6], [7], [3], [3], timestamps=[[0, 1, 2], [0], [0], [5]], users=list("wxyz"))
    found, missing, seconds = kept.read(asked)
    assert missing.tolist() == [1, 3]
    assert (found[[0, 2]] == scores[[2, 1]]).all()
    assert seconds == pytest.approx(4.0)
    assert kept.read(first)[2] == pytest.approx(2.0)  # of the one that is new
    assert kept.read(first.told(np.array([2, 1, 9])))[1].tolist() == [
        0,
        1,
        2,
    ]  # nor is it the same where the target's time is told
    assert KeptScores(tmp_path / "b", 9).read(first)[1].tolist() == [0, 1, 2]
    nothing = KeptScores(None, 9)
    nothing.write(first, scores, 1.0)
    assert nothing.read(first)[1].tolist() == [0, 1, 2]
    (file,) = (tmp_path / "a").iterdir()
    file.write_bytes(b"PK")
    with pytest.raises(ArtefactError, match="cannot be read as kept scores"):
        KeptScores(tmp_path / "a", 9)
