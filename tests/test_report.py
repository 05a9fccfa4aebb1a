"""The sentence tells the truth, and the page holds every number, loads nothing and escapes everything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import holdout_of, protocol_of

from llmrec.data.catalog import Catalog
from llmrec.data.recommendations import Recommendations
from llmrec.errors import ConfigError, DataError
from llmrec.eval import words
from llmrec.eval.compare import Comparison, compare, default_metrics
from llmrec.eval.context import Curve, LLMNotes, NoteTable, ReportContext, Tuning
from llmrec.eval.evaluate import Cost, Evaluation, evaluate
from llmrec.eval.examples import pick_users, user_examples
from llmrec.eval.markup import latex_text
from llmrec.eval.plots import Dot, Point, curve_plot, dot_plot, scatter_plot, ticks
from llmrec.eval.report import render_html, render_json, render_latex, render_markdown
from llmrec.eval.slices import user_slices
from llmrec.eval.views import slice_tables

N, U = 40, 120
EVIL = "<script>alert('x')</script> | `Alien` & \"Co\""
CATALOG = Catalog(tuple(f"i{n}" for n in range(N)), (EVIL, *(f"Title {n}" for n in range(1, N))))
HOLDOUT = holdout_of(np.array([1 + u % (N - 1) for u in range(U)]), history=(0,))
COUNTS = np.arange(N, 0, -1)


def system(name: str, hits: float, seed: int) -> Recommendations:
    """Random lists, with the target put first for a share of the users."""
    rng = np.random.default_rng(seed)
    items = np.empty((U, 20), dtype=np.int32)
    for u, target in enumerate(HOLDOUT.target_items):
        order = 1 + rng.permutation(N - 1)
        first = rng.random() < hits
        items[u] = np.concatenate([[target] * first, order[order != target]])[:20]
    return Recommendations(name, HOLDOUT.histories.user_ids, items, np.tile(-np.arange(20.0), (U, 1)))


RECS = {
    "llm": system("llm", 0.7, 0),
    "sasrec": system("sasrec", 0.3, 1),
    "ease": system("ease", 0.3, 2),
    "popularity": system("popularity", 0.05, 3),
}
COST = Cost(fit_seconds=12.0, recommend_seconds=3.0, recommend_users=U, device="two cores")


def evaluated(*names: str) -> list[Evaluation]:
    return [evaluate(RECS[name], HOLDOUT, COUNTS, CATALOG, protocol_of(U), cost=COST) for name in names]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(evaluated(*RECS), subject="llm", slices=user_slices(HOLDOUT, COUNTS), resamples=2000)


@pytest.fixture(scope="module")
def context() -> ReportContext:
    return ReportContext(
        run_name=EVIL,
        created="2026-01-02",
        warnings=("Mind the gap.",),
        all_users=compare(evaluated("sasrec", "ease"), resamples=500),
        llm=(LLMNotes(system="llm", model="tiny", parameters=1000, trainable_parameters=25, template=EVIL),),
        certified={"llm": 0.25},
        curves=(Curve("Loss of it", "step", "nats", (1.0, 2.0, 3.0), (3.0, 2.0, 1.5), chosen_x=2.0),),
        users=user_examples(
            HOLDOUT,
            list(RECS.values()),
            CATALOG,
            pick_users(U, 3, 0),
            prompts=dict.fromkeys(HOLDOUT.histories.user_ids, EVIL),
        ),
        users_seed=17,
        provenance=("From a test, CC0.",),
        versions={"torch": "1.2.3"},
        config_yaml=f"a: {EVIL}",
        command="llmrec run x.yaml",
        hardware="an abacus",
    )


class Page(HTMLParser):
    """Collects what a page loads, and fails on tags that do not match."""

    VOID = {"meta", "link", "br", "hr", "img", "input", "col", "base", "source", "embed"}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "data", "action", "srcset", "poster")
        self.loads += [
            value or "" for name, value in attrs if name in loading and not (value or "").startswith("#")
        ]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> was never opened"
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(comparison: Comparison, context: ReportContext) -> None:
    text = render_html(comparison, context)
    page = Page(text)
    assert page.loads == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", text)


def test_markup_in_texts_is_shown_and_never_run(comparison: Comparison, context: ReportContext) -> None:
    text = render_html(comparison, context)
    assert Page(text).tags.count("script") == 1  # our own
    assert "<script>alert" not in text
    # Run name twice, template, config, and at least one title and one prompt of each of three users.
    assert text.count("&lt;script&gt;alert") >= 4 + 3 + 3
    inside_labels = compare(evaluated("llm", "sasrec"), labels={"llm": EVIL}, resamples=500)
    assert Page(render_html(inside_labels)).tags.count("script") == 1


def test_every_system_number_and_fact_is_in_both_forms(
    comparison: Comparison, context: ReportContext
) -> None:
    for text in (render_html(comparison, context), render_markdown(comparison, context)):
        for e in comparison.evaluations:
            assert words.label(e.system) in text
            for metric in comparison.metrics:
                interval = comparison.intervals[e.system][metric]
                assert f"{e.means[metric]:.4f}" in text
                assert f"{interval.low:.4f}–{interval.high:.4f}" in text
        for d in (by_metric["ndcg@10"] for by_metric in comparison.differences.values()):
            assert words.number(d.mean, sign=True) in text
            assert words.interval_text(d.low, d.high) in text
        for fact in (
            "Mind the gap.", "From a test, CC0.", "1.2.3", "llmrec run x.yaml", "an abacus", "25.0%", "All 120 test users",
            "seed 17", "tiny", "2.50%", "Weakness of this split", "25.0% of test targets have the same time", "Head: ",
        ):  # fmt: skip
            assert fact in text, fact


def test_the_table_of_items_has_the_columns_that_are_defined() -> None:
    columns = ("Coverage@10", "Gini@10", "Popularity@10", "Novelty@10", "Diversity@10", "Miscalibration@10")
    genres = Catalog(CATALOG.item_ids, CATALOG.titles, {"genres": ("Drama", "Comedy") * (N // 2)})
    arguments = (HOLDOUT, COUNTS, genres, protocol_of(U))
    with_genres = compare([evaluate(RECS[s], *arguments) for s in ("llm", "sasrec")], resamples=500)
    without = compare(evaluated("llm", "sasrec"), resamples=500)
    for render in (render_html, render_markdown):
        rich, plain = render(with_genres), render(without)
        assert all(column in rich for column in columns)
        assert [column in plain for column in columns] == [True] * 4 + [False] * 2
        for e in with_genres.evaluations:
            assert f"{e.means['diversity@10']:.3f}" in rich
            assert f"{e.means['novelty@10']:.2f}" in rich
    assert "Kullback-Leibler" in render_html(with_genres)
    assert "Kullback-Leibler" not in render_html(without)


def test_nothing_optional_is_needed() -> None:
    bare = compare([replace(e, cost=Cost()) for e in evaluated("llm", "sasrec")], resamples=500)
    alone = compare(evaluated("sasrec"), resamples=500)
    for c in (bare, alone):
        for context in (None, ReportContext()):
            Page(render_html(c, context))
            assert c.summary_sentence in render_markdown(c, context).replace("\\", "")
    assert "Not measured" in render_html(bare)
    assert alone.subject is None
    assert "SASRec has NDCG@10" in alone.summary_sentence


def test_markdown_tables_have_equal_columns_in_all_rows(
    comparison: Comparison, context: ReportContext
) -> None:
    labelled = compare(evaluated("llm", "sasrec"), labels={"llm": "a | b"}, resamples=500)
    for text in (
        render_markdown(comparison, context),
        render_markdown(labelled),
        render_markdown(comparison),
    ):
        tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert len(tables) >= 3
        for table in tables:
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(widths) == 1, table
            assert re.fullmatch(r"[|:-]+", table.splitlines()[1])


def test_code_blocks_keep_their_lines_and_nobody_is_mentioned() -> None:
    code = "a: 1\n\n\n\n# ```\nb: @someone"
    c = compare(evaluated("llm", "sasrec"), labels={"llm": "@someone"}, resamples=500)
    text = render_markdown(c, ReportContext(config_yaml=code))
    assert f"````yaml\n{code}\n````" in text
    assert "@someone" not in text.replace(code, "")
    assert "@\u2060someone" in text
    assert "\n\n\n" not in text.replace(code, "")


def test_the_sentence_names_winner_size_certainty_and_users() -> None:
    pair = evaluated("llm", "sasrec")
    wins = compare(pair, subject="llm").summary_sentence
    d = compare(pair).differences["llm"]["ndcg@10"]
    assert wins.startswith(f"LLM beats SASRec by {words.percent(d.relative)} on 120 test users: NDCG@10 ")
    assert words.interval_text(d.low, d.high) in wins
    assert "p < 0.001" in wins
    loses = compare(pair, baseline="llm", subject="sasrec").summary_sentence
    assert loses.startswith("SASRec loses to LLM by ")
    nothing = compare(evaluated("ease", "sasrec"), subject="ease").summary_sentence
    assert nothing.startswith("No difference between EASE (NDCG@10 ")
    assert "could be shown on 120 test users" in nothing
    third = compare(evaluated("popularity", "sasrec", "llm"), subject="popularity").summary_sentence
    assert third.startswith("Popularity loses to SASRec")
    assert f"; LLM has the highest value, {compare(pair).intervals['llm']['ndcg@10'].mean:.4f}." in third


def test_a_difference_that_holm_does_not_confirm_is_not_claimed() -> None:
    first = compare(evaluated("llm", "sasrec"))
    d = replace(first.differences["llm"]["ndcg@10"], p_holm=0.06)  # the interval still excludes 0
    weak = replace(first, differences={"llm": {**first.differences["llm"], "ndcg@10": d}})
    assert "No difference" in weak.summary_sentence


def test_systems_with_equal_lists_do_not_differ() -> None:
    twin = replace(evaluated("sasrec")[0], system="twin")
    c = compare([twin, *evaluated("sasrec")], resamples=500)
    assert c.differences["twin"]["ndcg@10"].p == 1
    assert "No difference" in c.summary_sentence
    assert c.best("ndcg@10") == ("twin", "sasrec")
    Page(render_html(c))


def test_the_default_metrics_follow_the_cutoffs_that_all_systems_share() -> None:
    assert default_metrics((1, 5, 10, 20)) == ("ndcg@10", "hr@10", "mrr@20", "hr@1", "hr@5", "hr@20")
    assert default_metrics((5, 1)) == ("ndcg@5", "hr@5", "mrr@5", "hr@1")
    arguments = (HOLDOUT, COUNTS, CATALOG, protocol_of(U))
    pair = [evaluate(RECS["llm"], *arguments, ks=(1, 5, 20)), evaluate(RECS["sasrec"], *arguments, ks=(1, 5))]
    c = compare(pair, resamples=500)
    assert c.metrics == ("ndcg@5", "hr@5", "mrr@5", "hr@1")
    for text in (render_html(c), render_markdown(c)):
        assert "NDCG@5" in text
        assert "@10" not in text


def test_the_page_says_which_users_were_asked() -> None:
    everyone = compare(evaluated("llm", "sasrec"), resamples=500)
    assert "All 120 test users." in render_html(everyone)
    part = compare([replace(e, protocol=protocol_of(999)) for e in evaluated("llm", "sasrec")], resamples=500)
    sample = ReportContext(sample_note="Drawn with seed 5.")
    for text in (render_html(part, sample), render_markdown(part, sample)):
        assert "A sample of 120 of 999 test users. Drawn with seed 5." in text
    assert "does not say how they were drawn" in render_html(part)


def seeded() -> list[Evaluation]:
    """A system with three trainings, one with two, one trained once and one in which nothing is random."""
    found = [replace(e, meta={"seed": None}) for e in evaluated("popularity")]
    found += [replace(e, meta={"seed": 5}) for e in evaluated("ease")]
    for name, hits, seeds in (("sasrec", 0.3, (0, 1)), ("llm", 0.7, (0, 1, 2))):
        for seed in seeds:
            lists = system(name, hits, 10 * seed + len(name))
            e = evaluate(
                lists, HOLDOUT, COUNTS, CATALOG, protocol_of(U), cost=replace(COST, fit_seconds=10.0 + seed)
            )
            found.append(replace(e, meta={"seed": seed}))
    return found


def test_a_system_with_several_seeds_is_the_mean_of_its_trainings() -> None:
    evaluations = seeded()
    c = compare(evaluations, subject="llm", slices=user_slices(HOLDOUT, COUNTS), resamples=500)
    own = [e for e in evaluations if e.system == "llm"]
    values = np.mean([e.values("ndcg@10") for e in own], axis=0)
    base = np.mean([e.values("ndcg@10") for e in evaluations if e.system == "sasrec"], axis=0)
    assert c.systems == ("llm", *(s for s in c.systems if s != "llm"))
    assert c.users == U
    assert c.intervals["llm"]["ndcg@10"].mean == pytest.approx(values.mean())
    d = c.differences["llm"]["ndcg@10"]
    assert d.mean == pytest.approx((values - base).mean())
    assert d.effect_size == pytest.approx((values - base).mean() / (values - base).std(ddof=1))
    assert c.seed_means("llm", "ndcg@10") == pytest.approx([e.means["ndcg@10"] for e in own])
    assert c.mean("llm", "coverage@10") == pytest.approx(np.mean([e.means["coverage@10"] for e in own]))
    assert c.cost("llm").fit_seconds == 11
    assert c.cost("llm").recommend_users == U
    assert c.seeds("llm") == (0, 1, 2)
    group = c.slices[0]
    inside = np.isin(HOLDOUT.target_items, np.flatnonzero(COUNTS >= 33)) if "Head" in group.label else None
    if inside is not None:
        assert group.means["llm"] == pytest.approx(values[inside].mean())
    # The mean over all pairs of trainings, counted one by one.
    pairs = [
        compare([replace(a, meta={}), replace(b, meta={})], resamples=50).overlap("llm", "sasrec")
        for a in own
        for b in evaluations
        if b.system == "sasrec"
    ]
    assert c.overlap("llm", "sasrec") == pytest.approx(np.mean(pairs, axis=0))


def test_the_spread_over_seeds_is_in_every_form() -> None:
    c = compare(seeded(), subject="llm", resamples=500)
    means = c.seed_means("llm", "ndcg@10")
    sd = words.number(float(np.std(means, ddof=1)))
    low, high = words.number(min(means)), words.number(max(means))
    assert f"3 seeds of LLM range from {low} to {high} and 2 seeds of SASRec range" in c.summary_sentence
    for text in (render_html(c), render_markdown(c)):
        assert f"seeds ±{sd}" in text
        assert "LLM with seeds 0, 1 and 2; " in text
        assert "EASE with seed 5" in text
        for mean in means:
            assert words.number(mean) in text
    Page(render_html(c))
    assert f"$\\pm${sd}" in render_latex(c)
    content = json.loads(render_json(c))
    assert content["version"] == 1
    assert content["systems"]["llm"]["seed_means"]["ndcg@10"] == pytest.approx(means)
    assert content["systems"]["popularity"]["seeds"] == [None]
    one = compare(
        [e for e in seeded() if e.system != "sasrec"], baseline="ease", subject="llm", resamples=500
    )
    assert "and EASE was trained once" in one.summary_sentence
    assert "which overlap" not in c.summary_sentence  # LLM hits 70%, SASRec 30%
    twin = [replace(e, system="twin") for e in seeded() if e.system == "sasrec"]
    close = compare([*seeded(), *twin], subject="twin", resamples=500).summary_sentence
    assert re.search(r"2 seeds of twin range .* and 2 seeds of SASRec range .*, which overlap[.;]", close)
    alone = compare(evaluated("llm", "sasrec"), resamples=500)
    for text in (render_html(alone), render_markdown(alone)):
        assert "Each system was trained once" in text
        assert "seeds ±" not in text
        assert "seed by seed" not in text.lower()


def test_tuning_and_diagnostics_are_shown_where_they_are_given(comparison: Comparison) -> None:
    rows = (("LLM", 0.25, 1200, "why"), ("x", None, 3, "so"))
    table = NoteTable(EVIL, "A | note.", ("System", "share | of", "n", "words"), rows)
    ctx = ReportContext(
        tuning={"sasrec": Tuning(30, 3600.0, 0.1234), "ease": Tuning(2)}, diagnostics=(table,)
    )
    assert "|\n\n|" not in render_markdown(comparison, ctx)  # a blank line would end a table
    for text in (render_html(comparison, ctx), render_markdown(comparison, ctx)):
        for fact in ("Tuning", "30", "60 min", "0.1234", "0.2500", "1,200", "Best on validation", "NDCG@10"):
            assert fact in text, fact
    Page(render_html(comparison, ctx))
    # Headers stand where their cells do: to the right over numbers alone.
    assert "|:--|--:|--:|:--|\n| LLM | 0.2500 | 1,200 | why |" in render_markdown(comparison, ctx)
    assert '<th scope="col" class="num">n</th><th scope="col">words</th>' in render_html(comparison, ctx)
    bare = render_html(comparison, ReportContext())
    assert "Tuning" not in bare
    assert "Diagnostics" not in bare


def test_the_json_is_strict_and_undefined_values_are_null(comparison: Comparison) -> None:
    twin = replace(evaluated("sasrec")[0], system="twin")
    c = compare([twin, *evaluated("sasrec")], resamples=500)
    text = render_json(c)
    assert "NaN" not in text
    d = json.loads(text)["systems"]["twin"]["differences"]["ndcg@10"]
    assert d["mean"] == 0
    assert d["low"] is d["effect_size"] is None
    found = json.loads(render_json(comparison))
    assert set(found["systems"]) == set(RECS)
    assert len(found["slices"]) == len(comparison.slices)


def latex_rows(text: str) -> list[list[str]]:
    """The rows of each tabular, without rules."""
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    rows = []
    for columns, body in tables:
        found = [row for row in re.split(r"\\\\\n", body) if "&" in row]
        rows.append([columns, *found])
    return rows


def test_latex_tables_mark_the_best_and_what_is_shown(comparison: Comparison) -> None:
    text = render_latex(comparison, ReportContext(run_name="50% & more"))
    results, differences = latex_rows(text)
    assert len(results) == 2 + len(RECS)
    assert len(differences) == 2 + len(RECS) - 1
    for columns, *rows in (results, differences):
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
    for row, name in zip(results[2:], comparison.systems, strict=True):
        assert words.label(name) in row
        for cell, metric in zip(row.split("&")[1:], comparison.metrics, strict=True):
            assert ("textbf" in cell) == (name in comparison.best(metric))
            d = comparison.differences.get(name, {}).get(metric)
            mark = "" if d is None or not d.shown() else "$^{+}$" if d.mean > 0 else "$^{-}$"
            assert ("$^" in cell) == bool(mark)
            assert mark in cell
    caption = re.search(r"\\caption\{(.*)\}\n", text)
    assert caption is not None
    for fact in (
        "120 users of toy",
        "leave-one-out",
        "sign-flip",
        "Holm",
        "trained once",
        "LLM beats SASRec",
    ):
        assert fact in caption[1], fact
    assert r"\label{tab:50-more-results}" in text


def compiles(folder: Path, name: str) -> bool:
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0 and (folder / name).with_suffix(".pdf").is_file()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles_alone_and_within_a_paper(tmp_path: Path) -> None:
    every = "".join(map(chr, [*range(32, 127), *range(0xA1, 0x100), 0x4E03, 0x1F600])) + EVIL + " -- --- ''"
    c = compare(seeded(), subject="llm", labels={"llm": every}, resamples=500)
    (tmp_path / "report.tex").write_text(render_latex(c, ReportContext(run_name=every)), encoding="utf-8")
    assert compiles(tmp_path, "report.tex")
    packages = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    paper = packages + r"\begin{document}A.\input{report.tex}B.\end{document}"
    (tmp_path / "paper.tex").write_text(paper)
    assert compiles(tmp_path, "paper.tex")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_no_text_reaches_latex_as_a_command(text: str) -> None:
    out = latex_text(re.sub("[–—]", "", text))
    assert out.isprintable()
    assert "--" not in out
    written = r"\\[{}$&#%_]|\\[a-z]+\{\}|\$(\\[a-z]+|-)\$|\\texttt\{U\+[0-9A-F]+\}|\{\}"
    assert not re.search(r"[\\{}$&#%_^~]", re.sub(written, "", out))


def test_overlap_counts_users() -> None:
    a, b = evaluated("llm", "sasrec")
    hit_a, hit_b = a.target_ranks <= 10, b.target_ranks <= 10
    expected = [
        (hit_a & hit_b).sum(),
        (hit_a & ~hit_b).sum(),
        (~hit_a & hit_b).sum(),
        (~hit_a & ~hit_b).sum(),
    ]
    assert list(compare([a, b], resamples=500).overlap("llm", "sasrec")) == expected
    assert sum(expected) == U


def test_order_of_users_and_repetition_do_not_matter(comparison: Comparison) -> None:
    llm, sasrec = evaluated("llm", "sasrec")
    rows = np.random.default_rng(0).permutation(U)
    moved = replace(
        sasrec,
        user_ids=tuple(sasrec.user_ids[r] for r in rows),
        target_items=tuple(sasrec.target_items[r] for r in rows),
        target_ranks=sasrec.target_ranks[rows],
    )
    assert compare([llm, moved]).differences == compare([llm, sasrec]).differences


def test_slices_partition_the_users(comparison: Comparison) -> None:
    titles = {group.title for group in comparison.slices}
    assert titles == {"Popularity of the next item", "Length of the history", "Time since the last event"}
    for title in titles:
        groups = [group for group in comparison.slices if group.title == title]
        assert sum(group.users for group in groups) == U
        for metric in comparison.metrics:
            means = [group.others.get(metric, group.means)["llm"] for group in groups]
            total = sum(group.users * mean for group, mean in zip(groups, means, strict=True)) / U
            assert total == pytest.approx(comparison.intervals["llm"][metric].mean)
        assert all({comparison.metrics[0], *group.others} == set(comparison.metrics) for group in groups)


def test_intervals_of_slices_are_as_wide_as_those_of_all() -> None:
    def widths(confidence: float) -> list[float]:
        groups = compare(
            evaluated(*RECS), slices=user_slices(HOLDOUT, COUNTS), resamples=500, confidence=confidence
        ).slices
        return [
            group.difference.high - group.difference.low
            for group in groups
            if group.difference.high > group.difference.low
        ]

    half, most = widths(0.5), widths(0.95)
    assert len(half) == len(most) > 0
    assert all(a < b for a, b in zip(half, most, strict=True))


def test_what_cannot_be_compared_is_refused() -> None:
    llm, sasrec = evaluated("llm", "sasrec")
    fewer = replace(
        sasrec,
        user_ids=sasrec.user_ids[:9],
        target_items=sasrec.target_items[:9],
        target_ranks=sasrec.target_ranks[:9],
    )
    other_targets = replace(sasrec, target_items=("i1",) * U)
    renamed = replace(sasrec, user_ids=("nobody", *sasrec.user_ids[1:]))
    for evaluations, message in (
        ([], "nothing to compare"),
        ([llm, llm], "'llm' occurs more than once"),
        ([llm, fewer], r"on 9 users and 'llm' on 120"),
        ([llm, renamed], r"'sasrec' was not evaluated on 1 of 120 users"),
        ([llm, other_targets], "asked for different items"),
        (
            [llm, replace(sasrec, meta={"seed": 3}), replace(sasrec, meta={"seed": 3})],
            "more than once with seed 3",
        ),
        ([llm, replace(sasrec, protocol=protocol_of(U, items=41))], "items = 41 and 'llm' with 40"),
        (
            [
                replace(llm, protocol=protocol_of(U, ties="shuffle")),
                replace(sasrec, protocol=protocol_of(U, ties="shuffle", seed=1)),
            ],
            "seed = 1 and 'llm' with 0",
        ),
    ):
        with pytest.raises(DataError, match=message):
            compare(evaluations)
    few = user_slices(HOLDOUT.select(np.arange(9)), COUNTS)
    with pytest.raises(DataError, match=r"slices do not cover 111 of 120 users, for example user 'u9'"):
        compare([llm, sasrec], slices=few)
    for arguments, message in (
        ({"baseline": "sasrc"}, "did you mean 'sasrec'"),
        ({"subject": "lm"}, "did you mean 'llm'"),
        ({"subject": "sasrec"}, "both 'sasrec'"),
        ({"metrics": ("ndgc@10",)}, "did you mean 'ndcg'"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare([llm, sasrec], **arguments)  # type: ignore[arg-type]


def test_example_users_are_drawn_by_the_seed_and_mark_the_hit() -> None:
    assert np.array_equal(pick_users(1000, 5, 7), pick_users(1000, 5, 7))
    assert not np.array_equal(pick_users(1000, 5, 7), pick_users(1000, 5, 8))
    assert pick_users(2, 5, 0).tolist() == [0, 1]
    rows = np.arange(U)
    for example, row in zip(user_examples(HOLDOUT, [RECS["llm"]], CATALOG, rows), rows, strict=True):
        titles = [item.title for item in example.lists["llm"]]
        rank = example.ranks["llm"]
        assert len(titles) == 5
        assert (example.target.title in titles) == (rank is not None and rank <= 5)
        if rank is not None and rank <= 5:
            assert titles[rank - 1] == CATALOG.titles[HOLDOUT.target_items[row]] == example.target.title
    example = user_examples(HOLDOUT, [RECS["llm"]], CATALOG, np.array([3]))
    page = render_html(compare(evaluated("llm"), baseline="llm", resamples=500), ReportContext(users=example))
    hit = example[0].ranks["llm"]
    assert page.count('class="hit"') == (hit is not None and hit <= 5)


def test_ticks_are_round_and_enclose_the_data() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.113, 0.179, 3) == [0.1, 0.125, 0.15, 0.175, 0.2]
    for low, high in ((0.0, 0.0), (3.0, 3.0), (-1.0, 2.5), (1e-7, 3e-7), (1.0, 12345.0)):
        marks = ticks(low, high)
        assert marks[0] <= low <= high <= marks[-1]
        assert len(marks) <= 9


def test_plots_stay_inside_their_frame_and_say_their_numbers() -> None:
    nan = float("nan")
    dots = [Dot("<b>", 0.2, 0.1, 0.3, "subject"), Dot("base", 0.25, nan, nan, "baseline")]
    points = [Point("<b>", 0.01, 0.2, 0.1, 0.3, "subject"), Point("base", 1e4, 0.2, nan, nan, "baseline")]
    curve = Curve("<b>", "x", "y", tuple(range(2000)), tuple(np.sin(np.arange(2000))), chosen_x=3.0)
    for plot in (dot_plot("t", dots), scatter_plot("t", "x", "y", points), curve_plot(curve)):
        Page(str(plot))
        assert "<b>" not in plot
        assert "nan" not in plot
        for share in re.findall(r'(?:cx|x1|x2)="([\d.-]+)%"', plot):
            assert 0 <= float(share) <= 100
    assert "0.2000" in dot_plot("t", dots)
    assert curve_plot(Curve("t", "x", "y", (nan,), (nan,))) == ""
    assert "circle" in curve_plot(Curve("t", "x", "y", (1.0,), (2.0,)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.number(-0.01234), "\u22120.0123"),
        (words.number(0.00001, sign=True), "0.0000"),
        (words.number(float("nan")), "–"),
        (words.percent(1.0), "100%"),
        (words.percent(0.99999), ">99.9%"),
        (words.percent(0.0), "0%"),
        (words.percent(0.00001), "<0.1%"),
        (words.percent(-0.5, sign=True), "\u221250.0%"),
        (words.p_text(0.0001), "< 0.001"),
        (words.p_text(0.0123), "= 0.012"),
        (words.p_text(1.0), "= 1.00"),
        (words.count(1_320_000), "1,320,000"),
        (words.count(134_515_008), "134.5 million"),
        (words.count(None), "–"),
        (words.duration(0.004), "<0.01 s"),
        (words.duration(212), "4 min"),
        (words.duration(9433), "2.6 h"),
        (words.duration(None), "–"),
        (words.bytes_text(2_900_000_000), "2.9 GB"),
        (words.date(0), "1970-01-01"),
        (words.date(3600, 60), "1970-01-01 01:00"),
        (words.metric_label("my.module.fn@5"), "fn@5"),
        (words.metric_label("ndcg@5"), "NDCG@5"),
        (words.metric_label("precision@5"), "Precision@5"),
        (words.sentence_list(["a", "b", "c"]), "a, b and c"),
        (words.sentence_list(["a"]), "a"),
    ],
)
def test_numbers_are_written_for_readers(text: str, expected: str) -> None:
    assert text == expected


def test_where_all_are_alike_none_is_the_best():
    def group(**means):
        return SimpleNamespace(title="Popularity", note="", means=means)

    slices = [group(a=0.0, b=0.0), group(a=0.2, b=0.1), group(a=0.2, b=0.2, c=0.1)]
    (table,) = slice_tables(SimpleNamespace(slices=slices))
    assert [entry["best"] for entry in table["groups"]] == [set(), {"a"}, {"a", "b"}]
