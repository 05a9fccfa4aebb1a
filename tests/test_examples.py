"""What is learned from which document, and how documents become batches."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from finetune_cases import Case
from hypothesis import given
from hypothesis import strategies as st

from llmrec.data.histories import Histories, History
from llmrec.errors import PromptError
from llmrec.finetune.batches import collate, micro_batches, plan_epoch
from llmrec.finetune.examples import Example, one_target_windows, training_windows
from llmrec.recommenders.llm_training import Training
from llmrec.settings import Finetune

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def histories_of(lengths):
    return Histories.from_list(
        [History(str(u), np.arange(n, dtype=np.int32), np.arange(n)) for u, n in enumerate(lengths)]
    )


def all_targets(histories):
    return [
        e for a, b in zip(histories.indptr[:-1], histories.indptr[1:], strict=True) for e in range(a + 1, b)
    ]


@given(LENGTHS, st.integers(1, 8), st.none() | st.integers(0, 5))
def test_every_event_after_the_first_is_a_target_exactly_once(lengths, max_events, seed):
    histories = histories_of(lengths)
    rng = None if seed is None else np.random.default_rng(seed)
    for cut in (
        w := training_windows(histories, max_events, rng=rng),
        one_target_windows(w, histories, max_events),
    ):
        targets = [e for a, b in zip(cut.first_target, cut.stop, strict=True) for e in range(a, b)]
        assert sorted(targets) == all_targets(histories)
        assert (cut.stop - cut.start <= max_events + 1).all()
        assert (cut.first_target > cut.start).all()
        owner = histories.indptr.searchsorted(cut.start, side="right")
        assert (owner == histories.indptr.searchsorted(cut.stop - 1, side="right")).all()


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=8).map(sorted), min_size=1, max_size=4), st.integers(0, 5)
)
def test_only_ties_are_shuffled(times, seed):
    histories = Histories.from_list(
        [
            History(str(u), np.arange(len(t), dtype=np.int32), np.array(t, np.int64))
            for u, t in enumerate(times)
        ]
    )
    order = histories.ties_shuffled(np.random.default_rng(seed))
    assert sorted(order) == list(range(len(histories.items)))
    assert (histories.timestamps[order] == histories.timestamps).all()
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    assert (owner[order] == owner).all()


def test_every_order_of_a_tie_comes_up():
    histories = Histories.from_list([History("a", np.arange(4, dtype=np.int32), np.array([5, 7, 7, 7]))])
    rng = np.random.default_rng(0)
    assert {tuple(histories.ties_shuffled(rng)) for _ in range(200)} == {
        (0, *rest) for rest in itertools.permutations((1, 2, 3))
    }


def test_a_teacher_is_asked_about_the_event_that_is_shown(tiny_lm, catalog):
    """Where ties are shuffled, the event of each prediction is still that of the item that is predicted, or none where it is a user's first."""
    case = Case(tiny_lm, catalog, Finetune(shuffle_ties=True, lora_rank=2), scheme="title")
    tied = replace(case.histories, timestamps=np.arange(len(case.histories.items)) // 4)
    warm = np.ones(len(catalog), dtype=bool)
    training = Training(
        case.base(), case.verbalizer, case.trie, case.settings, None, None, None, warm, seed=0
    )
    firsts, untold = tied.indptr[:-1].tolist(), 0
    for epoch in range(3):
        for example in training.examples(tied, epoch):
            for position, event in zip(example.positions, example.events, strict=True):
                # No teacher is asked about a first event, which another of its tie may stand before now.
                assert event not in firsts
                token = example.token_ids[position + 1]
                assert any(
                    token in case.identifiers.token_ids[tied.items[e]]
                    for e in (firsts if event < 0 else [event])
                )
                untold += event < 0
    assert untold
    first, again, later = (
        [e.token_ids.tolist() for e in training.examples(tied, epoch)] for epoch in (1, 1, 2)
    )
    assert first == again != later


@given(LENGTHS, st.integers(1, 8))
def test_one_target_windows_show_all_the_context_a_target_may_have(lengths, max_events):
    histories = histories_of(lengths)
    cut = one_target_windows(training_windows(histories, max_events), histories, max_events)
    begin = np.repeat(histories.indptr[:-1], np.maximum(histories.lengths - 1, 0))
    target = np.array(all_targets(histories), dtype=np.int64)
    order = np.argsort(cut.first_target)
    assert (cut.start[order] == np.maximum(begin, target - max_events)).all()


@given(LENGTHS, st.integers(1, 8))
def test_newest_windows_of_each_user(lengths, max_events):
    histories = histories_of(lengths)
    cut = training_windows(histories, max_events, per_user=1)
    assert cut.stop.tolist() == [b for b, n in zip(histories.indptr[1:], lengths, strict=True) if n > 1]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=80), st.integers(99, 400), st.integers(0, 3))
def test_a_planned_epoch_reads_every_document_once_within_the_budget(lengths, budget, seed):
    lengths = np.array(lengths)
    plan = plan_epoch(lengths, budget, np.random.default_rng(seed))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert all(len(b) * lengths[b].max() <= budget for b in plan)
    again = plan_epoch(lengths, budget, np.random.default_rng(seed))
    assert [b.tolist() for b in plan] == [b.tolist() for b in again]


def test_little_of_a_planned_epoch_is_padding():
    lengths = np.random.default_rng(0).integers(10, 66, 5_000)
    plan = plan_epoch(lengths, 1_024, np.random.default_rng(0))
    padded = sum(len(b) * lengths[b].max() for b in plan)
    assert 1 - lengths.sum() / padded < 0.05


def test_a_document_that_fits_no_batch_is_refused_not_cut():
    with pytest.raises(PromptError, match=r"takes 70 tokens and finetune.batch_tokens is 64"):
        plan_epoch(np.array([5, 70]), 64, np.random.default_rng(0))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.none() | st.integers(1, 200),
    st.integers(1, 4),
)
def test_micro_batches_are_the_batch(lengths, most, processes):
    lengths = np.array(lengths)
    batch = np.arange(len(lengths))
    shares = micro_batches(batch, lengths, most, processes)
    assert len(shares) == processes
    assert len({len(parts) for parts in shares}) == 1
    assert sorted(i for parts in shares for part in parts for i in part) == batch.tolist()
    if most is not None and most >= lengths.max():
        assert all(len(p) * lengths[p].max() <= most for parts in shares for p in parts if len(p))


def test_collated_positions_predict_their_labels():
    examples = [
        Example(np.array([5, 6, 7, 8]), np.array([1, 2]), np.array([0, 3]), 1, np.array([7, 8])),
        Example(np.array([9, 4]), np.array([0]), np.array([1]), 1, np.array([-1])),
    ]
    batch = collate(examples)
    assert batch.token_ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert batch.token_ids.flatten()[batch.positions + 1].tolist() == batch.labels.tolist() == [7, 8, 4]
    assert batch.prefixes.tolist() == [0, 3, 1]
    assert batch.events.tolist() == [7, 8, -1]
    assert collate([]).labels.tolist() == []
