"""The trainer of the sequence models, and SASRec."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sequence_cases import inputs

from llmrec.data.histories import Holdout
from llmrec.data.split import Split
from llmrec.data.windows import Windows
from llmrec.errors import ConfigError, DataError
from llmrec.eval.metrics import hit_rate, ndcg, target_ranks
from llmrec.recommenders.bert4rec import BERT4Rec
from llmrec.recommenders.gru4rec import GRU4Rec
from llmrec.recommenders.holdout import holdout_metrics
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.transformer import Encoder
from llmrec.recommenders.windows import last_events, training_batches
from llmrec.testing import N_ITEMS, UNUSED, ScoringConformance, histories, markov_sequences, split_of

SPLIT = split_of(markov_sequences(30, 9, N_ITEMS - UNUSED), N_ITEMS)


def tiny_sasrec(**changes) -> SASRec:
    tiny = {"dim": 8, "layers": 1, "heads": 2, "max_len": 4, "batch_size": 8, "max_epochs": 3, "seed": 1}
    return SASRec(**{**tiny, "device": "cpu", **changes})


@cache
def fitted() -> SASRec:
    recommender = tiny_sasrec()
    recommender.fit(SPLIT)
    return recommender


class TestSASRec(ScoringConformance):
    reads_validation = True
    answers_empty_histories = False

    def make(self):
        return tiny_sasrec()


class TestSASRecOverlappingWindows(TestSASRec):
    def make(self):
        return tiny_sasrec(stride=2, layers=2)


class TestSASRecOfGaps(TestSASRec):
    def make(self):
        return tiny_sasrec(time_gaps=True)


class TestSASRecOfSampledItems(TestSASRec):
    def make(self):
        return tiny_sasrec(loss="sampled", negatives=7)


class TestSASRecAsPublished(TestSASRec):
    def make(self):
        return tiny_sasrec(loss="bce", label_smoothing=0.0, temperature=None)


class TestGRU4Rec(TestSASRec):
    def make(self):
        return GRU4Rec(dim=8, max_len=4, batch_size=8, max_epochs=3, device="cpu")


class TestGRU4RecOfLSTMs(TestSASRec):
    def make(self):
        return GRU4Rec(cell="lstm", dim=8, layers=2, hidden=6, max_len=4, max_epochs=2, device="cpu")


class TestGRU4RecOfPlainCells(TestSASRec):
    def make(self):
        return GRU4Rec(cell="rnn", dim=8, max_len=4, max_epochs=2, device="cpu")


class TestBERT4Rec(TestSASRec):
    def make(self):
        return BERT4Rec(dim=8, layers=1, max_len=4, batch_size=8, max_epochs=3, device="cpu")


# --- windows ------------------------------------------------------------------------------------------


@st.composite
def cuts(draw):
    lengths = draw(st.lists(st.integers(0, 25), min_size=1, max_size=5))
    max_len = draw(st.integers(1, 8))
    stride = draw(st.integers(1, max_len))
    offsets = draw(
        st.none()
        | st.lists(st.integers(0, stride - 1), min_size=len(lengths), max_size=len(lengths)).map(np.array)
    )
    return np.concatenate([[0], np.cumsum(lengths)]), max_len, stride, offsets


@given(cuts())
def test_every_next_item_is_a_target_exactly_once(cut):
    indptr, max_len, stride, offsets = cut
    windows = Windows.cut(indptr, max_len, stride, offsets)
    owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    targets = []
    for start, first, stop in zip(windows.start, windows.first_target, windows.stop, strict=True):
        assert owner[start] == owner[stop - 1]
        assert start < first < stop
        assert stop - 1 - start <= max_len
        assert stop - first <= stride
        targets += range(first, stop)
        context = first - start
        assert context >= min(first - indptr[owner[first]], max_len - stride + 1)
    assert sorted(targets) == sorted(set(range(indptr[-1])) - set(indptr[:-1].tolist()))


@given(cuts(), st.integers(1, 5), st.integers(0, 9))
def test_batches_pair_each_target_with_the_event_before_it(cut, batch_size, seed):
    indptr, max_len, stride, offsets = cut
    windows = Windows.cut(indptr, max_len, stride, offsets)
    events = torch.arange(int(indptr[-1])) + 100  # each event its own name; padding is 0
    pairs, sizes = [], []
    recommender = tiny_sasrec(max_len=max_len, stride=stride)
    generator = torch.Generator().manual_seed(seed)
    for batch in training_batches(events, events + 1000, windows, batch_size, generator):
        sizes.append(int(batch.is_target.sum()))
        assert batch.items.shape[1] == batch.lengths.max()
        assert ((batch.items > 0).sum(dim=1) == batch.lengths).all()
        read, mask, right = recommender.examples(batch)
        assert torch.equal(
            read.gaps[:, :-1], torch.where(read.items > 0, read.items + 1000, 0)
        )  # an event's own gap
        assert torch.equal(read.gaps[:, 1:][mask], right + 1000)  # and that of what is to be predicted
        pairs += zip(read.items[mask].tolist(), right.tolist(), strict=True)
    targets = sorted(set(range(indptr[-1])) - set(indptr[:-1].tolist()))
    assert sorted(pairs) == [(t + 99, t + 100) for t in targets]
    # About as many targets in each: none is further from the mean than by the targets of one window.
    wanted = math.ceil(len(windows) / batch_size)
    assert len(sizes) <= wanted
    assert all(size < len(targets) / wanted + stride for size in sizes)


def test_the_newest_events_are_what_a_prediction_reads():
    read = last_events(histories([1, 2, 3, 4], [5], []), 3, torch.device("cpu"))
    assert read.items.tolist() == [[2, 3, 4], [5, 0, 0], [0, 0, 0]]
    assert read.gaps.tolist() == [
        [2, 2, 2, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]  # a second each, but for a first event
    assert read.lengths.tolist() == [3, 1, 0]


def test_a_prediction_reads_when_its_target_happens_where_that_is_told():
    asked = histories([1, 2, 3, 4], [5], [])
    read = last_events(asked.told(np.array([3, 5, 9])), 3, torch.device("cpu"))
    assert read.gaps.tolist() == [
        [2, 2, 2, 1],
        [0, 4, 0, 0],
        [0, 0, 0, 0],
    ]  # tied; 4 to 7 seconds; nothing to count from


# --- SASRec -------------------------------------------------------------------------------------------


def random_model(max_len: int = 6, blocks: str = "pre-norm") -> Encoder:
    torch.manual_seed(0)
    model = SASRec(dim=8, max_len=max_len, dropout=0.5, blocks=blocks, device="cpu").build(N_ITEMS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("blocks", ["pre-norm", "published"])
@pytest.mark.parametrize("changed", range(1, 6))
def test_later_events_change_no_earlier_feature(changed, blocks):
    model, lengths = random_model(blocks=blocks), torch.tensor([6])
    events = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = events.clone()
    other[0, changed] = 9
    before, after = model(inputs(events, lengths)), model(inputs(other, lengths))
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(dim=-1).any()


@pytest.mark.parametrize("blocks", ["pre-norm", "published"])
def test_padding_changes_nothing(blocks):
    model, lengths = random_model(blocks=blocks), torch.tensor([3])
    features = model(inputs(torch.tensor([[1, 2, 3]]), lengths))
    padded = model(inputs(torch.tensor([[1, 2, 3, 0, 7]]), lengths))
    torch.testing.assert_close(padded[:, :3], features)


def test_the_newest_event_has_the_last_position_whatever_the_length():
    for length in range(1, 7):
        model, read = random_model(max_len=6), inputs(torch.arange(length)[None], torch.tensor([length]))
        before = model(read)[0, -1]
        with torch.no_grad():
            model.positions.weight[: 6 - length] += 1  # positions that a shorter history does not reach
        assert torch.equal(model(read)[0, -1], before)
        with torch.no_grad():
            model.positions.weight[5, 0] += 1
        assert not torch.isclose(model(read)[0, -1], before).all()


def test_published_blocks_are_those_of_the_papers_code():
    """Written with torch's own attention and convolutions over events, as the public implementations have it."""
    torch.manual_seed(0)
    model = SASRec(dim=8, heads=2, max_len=6, blocks="published", device="cpu").build(N_ITEMS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    events = torch.randint(N_ITEMS, (3, 6))
    x = model.items(events) * 8**0.5 + model.positions.weight
    for block in model.blocks:
        attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        parts = [(block.query, block.key_value)[i] for i in (0, 1)]
        attention.in_proj_weight.data = torch.cat([p.weight for p in parts])
        attention.in_proj_bias.data = torch.cat([p.bias for p in parts])
        attention.out_proj.load_state_dict(block.attention_out.state_dict())
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        x = x + attention(block.query_norm(x), x, x, attn_mask=later)[0]
        x = block.forward_norm(x)
        layers = []
        for linear in (block.first, block.second):
            layers.append(torch.nn.Conv1d(8, 8, 1))
            layers[-1].load_state_dict({"weight": linear.weight[:, :, None], "bias": linear.bias})
        x = x + layers[1](torch.relu(layers[0](x.transpose(1, 2)))).transpose(1, 2)
    torch.testing.assert_close(model(inputs(events, torch.full((3,), 6))), model.norm(x))


def test_scores_are_those_of_the_newest_event_whatever_came_before_the_window():
    sasrec = fitted()  # reads 4 events
    np.testing.assert_array_equal(
        sasrec.score(histories([1, 2, 3, 4, 5])), sasrec.score(histories([9, 9, 2, 3, 4, 5]))
    )
    assert (sasrec.score(histories([2, 3, 4, 5])) != sasrec.score(histories([1, 3, 4, 5]))).any()


def test_sasrec_learns_a_markov_chain():
    split = split_of(markov_sequences(150, 12, 40), 40)
    sasrec = SASRec(dim=16, layers=1, heads=1, max_len=8, lr=1e-2, batch_size=32, max_epochs=20, device="cpu")
    popularity = Popularity()
    hits = {}
    for recommender in (sasrec, popularity):
        recommender.fit(split)
        recs = recommender.recommend(split.test.histories, 1)
        hits[recommender.name] = hit_rate(target_ranks(recs, split.test.target_items), 1).mean()
    # A step leads to the successor with 4/5 (less where it was seen); a constant list hits about 1 in 40.
    assert hits["sasrec"] > 0.5
    assert hits["popularity"] < 0.2


def test_the_best_epoch_is_kept_and_training_stops_after_patience():
    seen = []
    sasrec = tiny_sasrec(max_epochs=60, patience=2, lr=0.03, on_epoch=lambda *told: seen.append(told))
    sasrec.fit(SPLIT)
    curve = [epoch["ndcg@10"] for epoch in sasrec.history_]
    assert len(curve) == sasrec.best_epoch_ + 2 < 60
    assert sasrec.best_epoch_ == 1 + int(np.argmax(curve))
    assert [(epoch, most) for epoch, most, _ in seen] == [(e + 1, 60) for e in range(len(curve))]
    assert [metrics for *_, metrics in seen] == sasrec.history_
    hr, gain = holdout_metrics(sasrec, SPLIT.valid, exclude_seen=True)
    assert (hr, gain) == (sasrec.history_[sasrec.best_epoch_ - 1]["hr@10"], max(curve))


@pytest.mark.parametrize("make", [Popularity, ItemKNN, tiny_sasrec])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("users_at_once", [7, 1024])
def test_validation_metrics_are_those_of_the_lists(make, exclude_seen, users_at_once):
    recommender = make()
    recommender.fit(SPLIT)
    recommender.users_at_once = users_at_once
    # One user's target was seen before: unreachable where seen items are excluded.
    targets = SPLIT.valid.target_items.copy()
    targets[3] = SPLIT.valid.histories[3].items[0]
    asked = Holdout(SPLIT.valid.histories, targets, SPLIT.valid.target_timestamps)
    ranks = target_ranks(recommender.recommend(asked.histories, 5, exclude_seen=exclude_seen), targets)
    expected = hit_rate(ranks, 5).mean(), ndcg(ranks, 5).mean()
    got = holdout_metrics(recommender, asked, exclude_seen=exclude_seen, k=5)
    assert got == pytest.approx(expected, abs=1e-12)


def test_equal_seeds_give_equal_weights_and_others_do_not():
    def weights(seed):
        sasrec = tiny_sasrec(seed=seed, dropout=0.3)
        sasrec.fit(SPLIT)
        return sasrec.model_.state_dict()

    first = weights(5)
    torch.rand(1)  # the caller's random state must not matter
    second, other = weights(5), weights(6)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["items.weight"], other["items.weight"])


@pytest.mark.parametrize("shuffle", [False, True])
def test_ties_are_learned_in_another_order_in_every_epoch(monkeypatch, shuffle):
    train = replace(SPLIT.train, timestamps=SPLIT.train.timestamps // 3 * 3)
    shown = []

    def batches(items, *rest):
        shown.append(items.numpy())
        return training_batches(items, *rest)

    monkeypatch.setattr("llmrec.recommenders.sequential.training_batches", batches)
    tiny_sasrec(shuffle_ties=shuffle, max_epochs=3).fit(replace(SPLIT, train=train))
    moment = np.repeat(np.arange(len(train)), train.lengths) * 10**6 + train.timestamps
    for items in shown:
        order = np.lexsort((items, moment))
        expected = np.lexsort((train.items, moment))
        assert (items[order] == train.items[expected]).all()
        assert shuffle or (items == train.items).all()
    assert len({items.tobytes() for items in shown}) == (3 if shuffle else 1)


def test_fit_leaves_the_random_state_and_the_threads_of_the_caller():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    before, during = torch.get_num_threads(), []
    tiny_sasrec(threads=before + 1, on_epoch=lambda *_: during.append(torch.get_num_threads())).fit(SPLIT)
    assert torch.equal(torch.rand(4), expected)
    assert set(during) == {before + 1}
    assert torch.get_num_threads() == before


# --- errors -------------------------------------------------------------------------------------------


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ConfigError) as error:
        SASRec(
            dim=10,
            heads=4,
            dropout=1.0,
            temperature=0,
            max_len=50,
            stride=51,
            lr=0,
            batch_size=0,
            patience=0,
            device="gpu",
            threads=0,
        )
    for name in (
        "dim=10",
        "dropout=1.0",
        "lr=0",
        "stride=51",
        "batch_size=0",
        "patience=0",
        "temperature=0",
        "device='gpu'",
        "threads=0",
    ):
        assert name in str(error.value)


def test_sasrec_refuses_what_it_cannot_answer_or_learn_from():
    with pytest.raises(DataError, match=r"1 empty histories.*'nobody'"):
        fitted().score(histories([1], [], users=["somebody", "nobody"]))
    nobody = np.empty(0, dtype=np.int64)
    with pytest.raises(DataError, match="without validation users"):
        tiny_sasrec().fit(Split(SPLIT.train, SPLIT.valid.select(nobody), SPLIT.test, SPLIT.protocol))
    with pytest.raises(DataError, match="at most one event"):
        tiny_sasrec().fit(split_of([[1, 2, 3]], N_ITEMS))


def test_sasrec_says_that_it_diverged():
    with pytest.raises(ConfigError, match=r"diverged.*lr=1e\+30"):
        tiny_sasrec(lr=1e30).fit(SPLIT)
