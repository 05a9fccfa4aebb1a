"""What a report says about the split, and about what is not asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_metrics import protocol_of
from test_report import U, evaluated

from llmrec.data.protocol import Protocol
from llmrec.eval.compare import compare
from llmrec.eval.context import ReportContext
from llmrec.eval.protocol_words import protocol_words

ASKED = {"log_users": 500, "train_users": 300, "train_events": 4000, "valid_users": 90, "known_users": 70}


def words_of(protocol: Protocol) -> dict[str, str]:
    evaluations = [replace(e, protocol=protocol) for e in evaluated("llm", "sasrec")]
    context = ReportContext(run_name="x", created="2026-01-02")
    return dict(protocol_words(compare(evaluations, resamples=200), context))


@pytest.mark.parametrize(
    ("changes", "term", "text"),
    [
        ({}, "Data", "of 500 users"),
        ({"split": "temporal", "valid_quantile": 0.8, "test_quantile": 0.9, "valid_from": 86_400, "test_from": 864_000},
         "Split", "Validation from 1970-01-02, test from 1970-01-11 (80.0% and 90.0% of all events lie before"),
        ({"split": "users", "valid_share": 0.1, "test_share": 0.2},
         "Split", "Held out: 10.0% of the users for validation, 20.0% for the test (seed 0)"),
        ({"train_after_target": 0.25}, "Weakness of this split", "25.0% of the training events are later than a test target"),
        ({"train_after_target": 0.0}, "Weakness of this split", "No training event is later than a test target"),
        ({"no_history": 7, "repeats_dropped": 2, "valid_repeats_dropped": 3}, "Questions",
         "Not asked: 7 test and 0 validation questions because nothing comes before the target and 2 test and 3 validation "
         "questions because the user has seen the target before."),
        ({}, "Questions", "Training has 4,000 events of 300 users, among them 70 of the test's"),
        ({}, "Questions", "No possible question is left out."),
        ({"repeats": "drop"}, "Items already seen", "Questions whose target the user has seen before are left out."),
        ({"cold_targets": 5}, "Items new to training", "5 test and 0 validation targets have no training event."),
        ({"cold_items": "drop"}, "Items new to training", "Are candidates, but not asked for"),
        ({}, "Items new to training", "Every target has a training event."),
    ],
)  # fmt: skip
def test_a_protocol_is_put_into_words(changes, term, text):
    assert text in words_of(protocol_of(U, **ASKED, **changes))[term]


def test_nothing_is_said_of_what_an_earlier_version_did_not_record():
    words = words_of(protocol_of(U))
    assert words["Questions"] == f"{U:,} for the test, one per user."
    assert "is not recorded" in words["Items new to training"]
