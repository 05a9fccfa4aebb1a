"""diagnostics.json as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmrec.diagnostics.ablation import CUTOFF, METRICS
from llmrec.eval.context import NoteTable
from llmrec.eval.words import MISSING, count, interval_text, label, metric_label, number, p_text, percent

__all__ = ["diagnostic_tables"]


def diagnostic_tables(found: Mapping[str, Any]) -> tuple[NoteTable, ...]:
    """Return the tables of what :func:`llmrec.pipeline.diagnose_stage.diagnose` has written."""
    # Files of before have no few events, or do not say whether these users were learned from.
    few = (_few_events(found),) if "known_users" in found else ()
    return _order(found), _time(found), *few, _memory(found["memory"])


def _order(found: Mapping[str, Any]) -> NoteTable:
    note = (
        f"The newest {count(found['window'])} events of each history in another order, their times left as they are. "
        f"{_users(found)} Where lists stay as good, order is not used; where they do only while the last event is kept, it is "
        "the last event that counts. Events at the same time are in an order of the log's making."
    )
    return NoteTable("Does it use the order of events?", note, _HEADER, _rows(found["order"]))


def _time(found: Mapping[str, Any]) -> NoteTable:
    title = "Does it use time?"
    if not found["time"]:
        return NoteTable(
            title, "The prompt says nothing about time, so there is nothing that could be taken away."
        )
    note = (
        f"The newest {count(found['prompt_events'])} events of each history in the true order, with the gaps between them "
        f"shuffled, or all at the time of the newest. {_users(found)} Other systems were not asked."
    )
    return NoteTable(title, note, _HEADER, _rows(found["time"]))


def _few_events(found: Mapping[str, Any]) -> NoteTable:
    rows = found["few_events"]
    first = label(rows[0]["system"])
    learned = (
        "what they learned of these users in training they keep"
        if found["known_users"]
        else "none of them has seen an event of these users"
    )
    note = (
        f"The newest events of each history alone, and only these ruled out as seen. {_drawn(found)}; differences with 95% intervals "
        f"and p Holm-corrected for all of a metric. Systems stay as they were fitted, on whole histories, and {learned}."
    )
    header = (
        "Events known",
        "System",
        *(
            text
            for metric in METRICS
            for text in (metric_label(metric), f"{metric_label(metric)} of {first} minus that")
        ),
    )
    return NoteTable(
        "How does it do where little is known?",
        note,
        header,
        tuple(
            (count(r["events"]) if r["events"] else "all", label(r["system"]), *_measured(r)) for r in rows
        ),
    )


def _drawn(found: Mapping[str, Any]) -> str:
    users, everybody = found["users"], found["evaluation_users"]
    drawn = f", drawn from {count(everybody)} with seed {found['seed']}" if users < everybody else ""
    return f"{count(users)} test users{drawn}"


def _users(found: Mapping[str, Any]) -> str:
    return (
        f"{_drawn(found)}; differences to the true histories with 95% intervals and Holm-corrected p. "
        "Systems stay as they were fitted: this shows what they use, not what they could do without."
    )


_HEADER = (
    "System",
    "Histories",
    *(text for metric in METRICS for text in (metric_label(metric), f"change of {metric_label(metric)}")),
    f"First {CUTOFF} kept",
)


def _rows(variants: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            label(v["system"]),
            v["histories"],
            *_measured(v),
            percent(v["overlap"]),
        )
        for v in variants
    )


def _measured(found: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        text
        for metric in METRICS
        for text in (number(found["means"][metric]), _difference(found["differences"].get(metric)))
    )


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return MISSING
    relative = percent(found["relative"], 1, sign=True)
    return (
        f"{number(found['mean'], sign=True)} ({_interval(found, 4)}; {relative}), p {p_text(found['p_holm'])}"
    )


def _memory(found: Mapping[str, Any]) -> NoteTable:
    probes = found["probes"]
    records = (
        ""
        if found["record"]
        else " The form of the data set's own file is not known, so records were not asked for."
    )
    note = (
        f"{found['model']} as it was pretrained, with all its layers. Titles beside the same words in another order: what is "
        "above the control is known as a title, from whatever text. Titles in the data set's file beside the same titles behind "
        f"another item's id: above the control, the file itself was read. Nothing found is no proof that it was not.{records}"
    )
    header = ("Probe", "Asked", "True", "Control", "True minus control")
    return NoteTable(
        "Does the pretrained model know the data set by heart?", note, header, tuple(map(_probe, probes))
    )


def _probe(probe: Mapping[str, Any]) -> tuple[str, ...]:
    shares, difference = probe["unit"] == "share", probe["difference"]

    def text(value: float | None, sign: bool = False) -> str:
        return percent(value, 1, sign=sign) if shares else number(value, 2, sign=sign)

    def interval(found: Mapping[str, Any]) -> str:
        if not shares:
            return _interval(found, 2)
        return MISSING if found["low"] is None else f"{text(found['low'])} to {text(found['high'])}"

    def side(found: Mapping[str, Any]) -> str:
        return f"{text(found['mean'])} ({interval(found)})"

    return (
        probe["name"] + ("" if shares else f" ({probe['unit']})"),
        count(probe["of"]),
        side(probe["true"]),
        side(probe["control"]),
        f"{text(difference['mean'], sign=True)} ({interval(difference)}), p {p_text(difference['p'])}",
    )


def _interval(found: Mapping[str, Any], digits: int) -> str:
    return MISSING if found["low"] is None else interval_text(found["low"], found["high"], digits)
