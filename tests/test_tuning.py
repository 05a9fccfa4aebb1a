"""Tuning: one budget for all, the config's own options first, nothing of the test, and a kill costs one trial."""

from __future__ import annotations

import importlib.util
import itertools
import json

import pytest
from pipeline_cases import llmrec

from llmrec.config import RunConfig
from llmrec.config_file import load_config
from llmrec.data.recommendations import read_meta
from llmrec.errors import ArtefactError, AssetError, ConfigError
from llmrec.pipeline import tuning
from llmrec.pipeline.tuning_defaults import SPACES
from llmrec.pipeline.tuning_spaces import Choices, Range, read_spaces
from llmrec.pipeline.tuning_study import Study
from llmrec.recommenders.registry import RECOMMENDERS
from llmrec.settings import Tuning
from llmrec.testing import without_test
from llmrec.yaml_text import read_yaml

SPACE = {
    "rate": Range(1e-4, 1e-1, log=True),
    "width": Range(10, 50, step=10),
    "share": Range(0.1, 0.5, step=0.1),
    "mode": Choices(("a", None, True, 3)),
}
CURRENT = {"rate": 1e-2, "width": 20, "share": 0.3, "mode": None}
FINITE = {"width": Range(1, 3), "mode": Choices(("a", "b"))}


def study(path, *, space=SPACE, current=CURRENT, seed=0, key=None, **budget):
    return Study(path / "x.json", key or {"it": 1}, space, current, Tuning(**budget), seed)


def quality(number, options, on_epoch):
    return options["width"] / 100 - abs(options["rate"] - 3e-3) * 10 + (options["mode"] == "a") / 10


def tried(made):
    return [(t.options, t.state, t.value) for t in made.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_present_options_come_first_and_all_others_are_in_the_space(tmp_path, sampler):
    made = study(tmp_path, sampler=sampler, trials=15)
    made.run(quality, lambda trial: None)
    assert made.trials[0].options == CURRENT
    assert len(made.trials) == 15
    for trial in made.trials:
        assert all(SPACE[o].holds(trial.options[o]) for o in ("rate", "width", "share"))
        assert trial.options["mode"] in SPACE["mode"].values
        assert type(trial.options["width"]) is int
    assert made.best.value == max(t.value for t in made.trials) >= made.trials[0].value


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_equal_seeds_try_the_same_and_a_budget_in_pieces_is_the_budget(tmp_path, sampler):
    found = {}
    for name, seed, budgets in (("a", 0, [15]), ("b", 0, [2, 11, 12, 15]), ("c", 1, [15])):
        (tmp_path / name).mkdir()
        for trials in budgets:
            made = study(tmp_path / name, seed=seed, sampler=sampler, trials=trials)
            made.run(quality, lambda trial: None)
        found[name] = tried(made)
    assert found["a"] == found["b"]
    assert found["a"][1:] != found["c"][1:]


def test_a_kill_repeats_the_trial_it_interrupted_and_no_other(tmp_path):
    whole = study(tmp_path, trials=14)
    whole.run(quality, lambda trial: None)
    (tmp_path / "killed").mkdir()
    measured = []

    def dies(number, options, on_epoch):
        measured.append(number)
        if number in (0, 3, 12) and measured.count(number) == 1:
            raise KeyboardInterrupt
        return quality(number, options, on_epoch)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "killed", trials=14).run(dies, lambda trial: None)
    made = study(tmp_path / "killed", trials=14)
    made.run(dies, lambda trial: None)
    assert tried(made) == tried(whole)
    assert sorted(measured) == sorted([*range(14), 0, 3, 12])


@pytest.mark.parametrize("error", [KeyboardInterrupt, AssetError, OSError])
def test_what_has_nothing_to_do_with_the_options_fails_no_trial(tmp_path, error):
    def cannot(number, options, on_epoch):
        raise error("the network is down")

    for _ in range(4):
        with pytest.raises(error):
            study(tmp_path, trials=3).run(cannot, lambda trial: None)
    made = study(tmp_path, trials=3)
    made.run(quality, lambda trial: None)
    assert [trial.state for trial in made.trials] == ["done"] * 3
    assert made.trials[0].options == CURRENT


def test_a_re_ranker_is_measured_by_its_folds(config, tmp_path, capsys):
    """It learns from the validation users, so what it has of them says nothing."""
    systems = {"popularity": {}, "rerank": {"parts": {"popularity": {}, "itemknn": {}}}}
    tuning = {"trials": 2, "sampler": "random", "spaces": {"rerank": {"leaves": [4, 8]}, "popularity": {}}}
    evaluation = {"baseline": "popularity", "k": 5, "cutoffs": [5]}
    path = config(systems=systems, tuning=tuning, evaluation=evaluation)
    llmrec("tune", path, capsys=capsys)
    trials = json.loads((tmp_path / "run" / "tuning" / "rerank.json").read_text())["trials"]
    llmrec("run", tmp_path / "run" / "tuned.yaml", capsys=capsys)
    chosen = read_meta(tmp_path / "run" / "tuned" / "recommendations" / "rerank.parquet")["chosen"]
    assert max(trial["value"] for trial in trials) == pytest.approx(chosen["cross-validated ndcg@10"])
    other = llmrec("tune", path, "--set", "tuning.metric=hr@10", code=2, capsys=capsys).err
    assert "only its cross-validated ndcg@10 says something" in " ".join(other.split())


def test_a_trial_that_takes_the_process_with_it_is_given_up(tmp_path):
    def dies(number, options, on_epoch):
        if number == 1:
            raise SystemExit
        return 0.5

    for _ in range(2):
        with pytest.raises(SystemExit):
            study(tmp_path, trials=4).run(dies, lambda trial: None)
    made = study(tmp_path, trials=4)
    made.run(dies, lambda trial: None)
    assert [t.state for t in made.trials] == ["done", "failed", "done", "done"]
    assert "ended in it 2 times" in made.trials[1].reason


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_a_finite_space_is_tried_whole_and_nothing_twice(tmp_path, sampler):
    made = study(tmp_path, space=FINITE, current={"width": 2, "mode": "b"}, sampler=sampler, trials=50)
    made.run(lambda number, options, on_epoch: options["width"] / 9, lambda trial: None)
    assert made.trials[0].options == {"width": 2, "mode": "b"}
    found = sorted((t.options["width"], t.options["mode"]) for t in made.trials)
    assert found == sorted(itertools.product([1, 2, 3], ["a", "b"]))
    assert made.exhausted


def test_a_failed_trial_is_recorded_counts_and_stops_nothing(tmp_path):
    errors = {
        1: ConfigError("x diverged"),
        2: MemoryError(),
        3: RuntimeError("CUDA out of memory"),
        4: None,
        5: ZeroDivisionError("division"),
    }

    def fails(number, options, on_epoch):
        if errors.get(number) is not None:
            raise errors[number]
        return float("nan") if number == 4 else 0.1

    made = study(tmp_path, trials=14)
    made.run(fails, lambda trial: None)
    assert len(made.trials) == 14
    reasons = [t.reason for t in made.trials if t.state == "failed"]
    assert reasons == ["x diverged", "MemoryError", "CUDA out of memory", "the metric is nan", "division"]
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["spent"] | {"seconds": 0} == {
        "trials": 14, "seconds": 0, "done": 9, "failed": 5, "pruned": 0
    }  # fmt: skip
    assert made.best.number == 0  # the first of equally good ones


@pytest.mark.parametrize("error", [ArtefactError("the disk is full"), TypeError("a bug")])
def test_what_no_other_options_would_help_ends_the_study(tmp_path, error):
    def fails(number, options, on_epoch):
        raise error

    with pytest.raises(type(error)):
        study(tmp_path, trials=3).run(fails, lambda trial: None)


def test_seconds_are_a_budget_that_earlier_processes_have_spent_of(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("llmrec.pipeline.tuning_study.time.monotonic", lambda: clock[0])

    def slow(number, options, on_epoch):
        clock[0] += 4
        return 0.1

    def run(**budget):
        made = study(tmp_path, **budget)
        made.run(slow, lambda trial: None)
        return len(made.trials), made.seconds

    assert run(trials=None, seconds=10) == (3, 12)  # the one that is running is finished
    assert run(trials=None, seconds=12) == (3, 12)
    assert run(trials=None, seconds=13) == (4, 16)
    assert run(trials=4, seconds=100) == (4, 16)
    assert run(trials=5, seconds=100) == (5, 20)


def test_hopeless_trials_are_stopped_at_the_median(tmp_path):
    steps = []

    def learns(number, options, on_epoch):
        top = 0.5 if number < 6 else 0.1
        for epoch in range(1, 11):
            on_epoch(epoch, top * epoch / 10)
            steps.append((number, epoch))
        return top

    made = study(tmp_path, trials=8, prune=True)
    made.run(learns, lambda trial: None)
    assert [t.state for t in made.trials] == ["done"] * 6 + ["pruned"] * 2
    assert made.trials[6].value == pytest.approx(0.1 * 5 / 10)
    assert max(epoch for number, epoch in steps if number == 6) == 4
    assert study(tmp_path, trials=8, prune=True).trials == made.trials


def test_a_study_of_other_settings_is_refused(tmp_path):
    study(tmp_path, trials=2).run(quality, lambda trial: None)
    with pytest.raises(ArtefactError, match="it was 1 and is now 2"):
        study(tmp_path, trials=2, key={"it": 2})


# --- through the command line

OTHERS = {"popularity": {}, "itemknn": {}, "blend": {"kind": "tuning_cases:Blend"}}
BASELINE = {"users": 10, "k": 5, "cutoffs": [1, 5], "baseline": "itemknn"}


def test_every_system_gets_the_budget_and_the_tuned_config_runs_to_the_report(config, tmp_path, capsys):
    spaces = {"blend": {"weight": {"low": -1.0, "high": 2.0}, "trouble": ["none", "config", "memory"]}}
    path = config(
        systems=OTHERS | {"fixed": {"kind": "popularity"}},
        evaluation=BASELINE,
        tuning={"spaces": spaces | {"fixed": {}, "popularity": {"window_days": {"low": 1, "high": 900}}}},
    )
    now = ("--set", "systems.popularity.window_days=30")
    printed = llmrec("tune", path, "--set", "tuning.trials=4", *now, capsys=capsys)
    run = tmp_path / "run"
    assert "Popularity, trial 4 of 4" in printed.out
    assert (
        "failed: Blend diverged"
        in printed.out + llmrec("tune", path, "--set", "tuning.trials=9", *now, capsys=capsys).out
    )
    for system in OTHERS:
        assert len(json.loads((run / "tuning" / f"{system}.json").read_text())["trials"]) == 9
    tuned = load_config(run / "tuned.yaml")
    record = tuned.tuning.record
    assert set(record) == set(OTHERS)
    assert all(r.trials == 9 and r.users == 24 and r.best >= r.default for r in record.values())
    assert tuned.systems["itemknn"].options == record["itemknn"].options
    assert tuned.output == run / "tuned"
    assert tuning.tuning_rows(tuned) == record
    changed = load_config(run / "tuned.yaml", ["systems.itemknn.neighbours=7"])
    assert set(tuning.tuning_rows(changed)) == {"popularity", "blend"}
    llmrec("run", run / "tuned.yaml", capsys=capsys)
    # The record decides no artefact: without it the same directory is taken.
    llmrec("run", run / "tuned.yaml", "--set", "tuning.record={}", capsys=capsys)
    assert (run / "tuned" / "report.html").is_file()


def test_best_validation_value_is_what_evaluation_gives(config, tmp_path, capsys):
    """The metric of a trial against the lists of a fresh recommender, ranked by hand."""
    from math import log2

    from llmrec.pipeline.prepare_stage import prepare
    from llmrec.recommenders.itemknn import ItemKNN

    path = config(systems={"itemknn": {}}, evaluation=BASELINE, tuning={"trials": 3, "metric": "ndcg@3"})
    llmrec("tune", path, capsys=capsys)
    split, _ = prepare(load_config(path))
    for trial in json.loads((tmp_path / "run" / "tuning" / "itemknn.json").read_text())["trials"]:
        model = ItemKNN(**trial["options"])
        model.fit(split)
        lists = model.recommend(split.valid.histories, 3).items.tolist()
        gains = [
            1 / log2(2 + items.index(target)) if target in items else 0
            for items, target in zip(lists, split.valid.target_items.tolist(), strict=True)
        ]
        assert trial["value"] == pytest.approx(sum(gains) / 24)


TOKENS = {
    "identifiers": {"scheme": "token"},
    "prompt": {"template": "films", "time": "none"},
    "finetune": {"epochs": 1, "batch_tokens": 400, "new_tokens": {"start": "collaborative"}},
    "systems": {"llm": {}, "free": {"kind": "llm", "search": "free"}, "sasrec": {"max_epochs": 2}},
    "evaluation": BASELINE | {"baseline": "sasrec"},
    "decoding": {"beam_width": 10},
    "tuning": {
        "trials": 3,
        "users": 8,
        "spaces": {
            "llm": {
                "finetune.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "prompt.max_events": [5, 20],
            },
            "sasrec": {"dim": [8, 16, 64]},
        },
    },
}


def test_the_language_model_is_tuned_without_the_test_and_starts_from_tuned_vectors(
    config, tmp_path, capsys, monkeypatch
):
    from llmrec.pipeline import tuning_trial
    from llmrec.recommenders.llm import LLMRecommender
    from llmrec.recommenders.sasrec import SASRec

    path, fits, prepare = config(**TOKENS), [], tuning.prepare

    def prepare_blind(settings):
        split, catalog = prepare(settings)
        return without_test(split), catalog

    fit, finetune, open_decoder, trained = SASRec.fit, LLMRecommender.fit, tuning_trial.open_decoder, []

    def die_once(*arguments, **options):
        monkeypatch.setattr(tuning_trial, "open_decoder", open_decoder)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "prepare", prepare_blind)
    monkeypatch.setattr(SASRec, "fit", lambda self, split: (fits.append(self.dim), fit(self, split)))
    monkeypatch.setattr(LLMRecommender, "fit", lambda self, split: (trained.append(1), finetune(self, split)))
    monkeypatch.setattr(tuning_trial, "open_decoder", die_once)
    llmrec("tune", path, code=130, capsys=capsys)
    run = tmp_path / "run"
    assert (run / "tuning" / "llm" / "trial-0" / "adapter").is_dir()
    llmrec("tune", path, capsys=capsys)
    assert len(trained) == 3  # what the interrupted trial had trained was used
    study = json.loads((run / "tuning" / "llm.json").read_text())
    assert [t["state"] for t in study["trials"]] == ["done"] * 3
    tuned = load_config(run / "tuned.yaml")
    assert tuned.tuning.record["llm"].users == 8
    assert tuned.tuning.record["sasrec"].users == 24
    # Three trials of SASRec, and one fit of the best for the vectors of all trials of the language model.
    assert sorted(fits[:3]) == [8, 16, 64]
    assert fits[3:] == [tuned.systems["sasrec"].options["dim"]]
    best = study["best"]["options"]
    assert tuned.finetune.learning_rate == best["finetune.learning_rate"]
    assert tuned.prompt.max_events == best["prompt.max_events"]
    assert set(tuning.tuning_rows(tuned)) == {"llm", "sasrec"}
    # Only what was measured is kept of the trials.
    assert {p.name for p in (run / "tuning").iterdir()} == {"llm.json", "sasrec.json", "vectors"}
    assert not (run / "adapter").exists()
    # Started again it has nothing to do.
    count = len(fits)
    llmrec("tune", path, capsys=capsys)
    assert len(fits) == count
    assert json.loads((run / "tuning" / "llm.json").read_text()) == study
    two = ("--set", "tuning.spaces.free={finetune.lora_rank: [2, 16]}")
    assert "expected options under one of them" in llmrec("tune", path, *two, code=2, capsys=capsys).err


def test_all_mistakes_are_listed_at_once(config, capsys):
    path = config(
        systems={"llm": {}, "itemknn": {}, "sasrec": {}, "blend": {"kind": "tuning_cases:Blend"}},
        tuning={
            "sampler": "grid",
            "metric": "ndgc@10",
            "spaces": {
                "itmknn": {},
                "itemknn": {
                    "neigbours": [1],
                    "neighbours": [20, "many"],
                    "shrink": {"low": 10.0, "high": 30.0},
                    "decay": [0.5, 1.5],
                    "kind": ["popularity"],
                },
                "sasrec": {
                    "dim": [],
                    "lr": {"low": 1e-3, "hgh": 2},
                    "dropout": {"low": 0.3, "high": 0.5, "step": 0.1},
                    "layers": 3,
                    "max_len": {"low": 10, "high": 55, "step": 10},
                    "temperature": {"low": 0, "high": 1.0, "log": True},
                },
                "llm": {
                    "finetune.lora_rnk": [8],
                    "seed": [0, 1],
                    "decoding.beam_width": [3],
                    "finetune.learning_rate": [-1.0],
                    "finetune.epochs": [1, 2],
                },
            },
        },
    )
    printed = llmrec("tune", path, "--set", "finetune.lora_alpa=3", code=2, capsys=capsys)
    text = " ".join(printed.err.split())
    for part in (
        "finetune.lora_alpa: there is no such setting (did you mean 'lora_alpha'?)",
        "tuning.spaces.itmknn: there is no such system (did you mean 'itemknn'?)",
        "tuning.spaces has nothing about blend, and the kind tuning_cases:Blend has no space of its own",
        "tuning.spaces.itemknn.neigbours: itemknn has no such setting (did you mean 'neighbours'?)",
        "tuning.spaces.itemknn.neighbours: got 'many'",
        "tuning.spaces.itemknn.shrink: tuning.sampler is grid; expected a range with a step, or choices",
        "decay=1.5",
        "tuning.spaces.itemknn.kind: another kind is another system",
        "tuning.spaces.sasrec.dim: got []; expected one value or more",
        "tuning.spaces.sasrec.lr: got 'hgh' (did you mean 'high'?)",
        "tuning.spaces.sasrec.dropout: the value that the config has now, 0.2, is tried first",
        "tuning.spaces.sasrec.layers: got 3; expected choices such as",
        "tuning.spaces.sasrec.max_len: got {'high': 55, 'low': 10, 'step': 10}; expected whole steps",
        "tuning.spaces.sasrec.temperature: got {'high': 1.0, 'log': True, 'low': 0}; expected low above 0",
        "tuning.spaces.llm.finetune.lora_rnk: there is no such setting (did you mean 'finetune.lora_rank'?)",
        "tuning.spaces.llm.seed: got 'seed'; expected the dotted name of a setting in one of prompt,",
        "tuning.spaces.llm.decoding.beam_width: decoding.beam_width is 3; expected at least evaluation.k = 5",
        "tuning.spaces.llm.finetune.learning_rate: finetune.learning_rate: got -1.0",
        "tuning.spaces.llm.finetune.epochs: finetune.steps is set and hides it",
        "tuning.metric: Metric 'ndgc' is not known (did you mean 'ndcg'?)",
    ):
        assert part in text, part
    assert (
        "tuning.trials: got 0" in llmrec("tune", path, "--set", "tuning.trials=0", code=2, capsys=capsys).err
    )
    changes = ("--set", "tuning.trials=null", "--set", "tuning.prune=true")
    printed = llmrec("tune", path, *changes, code=2, capsys=capsys)
    assert "tuning: trials and seconds are both null" in printed.err
    assert "tuning: prune is true and metric is ndgc@10; expected ndcg@10" in printed.err


def test_without_optuna_the_error_names_the_extra(config, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        tuning.importlib.util, "find_spec", lambda name: None if name == "optuna" else real(name)
    )
    path = config(systems={"itemknn": {}}, evaluation=BASELINE)
    assert "pip install 'llmrec[tune]'" in llmrec("tune", path, code=2, capsys=capsys).err


def test_every_built_in_kind_has_a_space_that_holds_its_defaults(csv_data):
    parts = {"parts": {"popularity": {}, "itemknn": {}}}
    given = {"hybrid": parts, "rerank": parts, "adjusted": {"parts": {"content": {}}}}
    # A guided search always has the fine-tuned model as a part, and such systems are not tuned.
    kinds = [kind for kind in RECOMMENDERS if kind != "guided"]
    systems = {"llm": {}} | {kind: given.get(kind, {}) for kind in kinds}
    settings = {"name": "x", "output": "x", "data": csv_data, "systems": systems}
    spaces, problems = read_spaces(RunConfig.model_validate(settings))
    assert problems == []
    for kind, (space, current) in spaces.items():
        assert space.keys() == current.keys() == SPACES[kind].keys()


def test_fractions_from_a_whole_number_are_fractions_all_of_them():
    points = Range(0, 4.0, step=1).points()
    assert points == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert all(isinstance(point, float) for point in points)
    assert all(isinstance(point, int) for point in Range(0, 4).points())


def test_spaces_as_people_write_them(csv_data):
    spaces = read_yaml("sasrec: {lr: {low: 1e-4, high: 1e-2, log: true}, dropout: [0.2, 5e-1]}")
    settings = {"name": "x", "output": "x", "data": csv_data, "systems": {"sasrec": {}}}
    config = RunConfig.model_validate(
        settings | {"tuning": {"spaces": spaces}, "evaluation": {"baseline": "sasrec"}}
    )
    found, problems = read_spaces(config)
    assert problems == []
    assert found["sasrec"][0] == {"lr": Range(1e-4, 1e-2, log=True), "dropout": Choices((0.2, 0.5))}
