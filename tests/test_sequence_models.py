"""The losses, the other architectures, and training that was interrupted."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sequence_cases import inputs
from torch.nn import functional as F

from llmrec.data.histories import Histories, History
from llmrec.data.split import Split
from llmrec.data.time_features import gaps
from llmrec.errors import ArtefactError, ConfigError, DataError
from llmrec.recommenders import losses
from llmrec.recommenders.bert4rec import BERT4Rec
from llmrec.recommenders.gru4rec import CELLS, GRU4Rec
from llmrec.recommenders.losses import bce, sampled_softmax, softmax
from llmrec.recommenders.sasrec import SASRec
from llmrec.recommenders.sequence_model import gap_classes
from llmrec.recommenders.sequential import SequentialRecommender
from llmrec.recommenders.windows import Batch
from llmrec.testing import N_ITEMS, markov_sequences, split_of
from llmrec.testing import histories as histories_of

SPLIT = split_of(markov_sequences(30, 9, N_ITEMS), N_ITEMS)

EMPTY = torch.empty(0, 0, dtype=torch.long)


def parts(seed: int, positions: int, items: int, dim: int = 3):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(positions, dim, generator=generator, dtype=torch.float64).requires_grad_()
    keys = torch.randn(items, dim, generator=generator, dtype=torch.float64).requires_grad_()
    return queries, keys, torch.randint(items, (positions,), generator=generator)


# --- losses -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(0, 99), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 0.1]), st.integers(1, 40)
)
def test_softmax_and_its_gradients_are_those_of_torch(seed, positions, items, smoothing, at_once):
    queries, keys, right = parts(seed, positions, items)
    expected = F.cross_entropy(queries @ keys.T, right, label_smoothing=smoothing)
    wanted = torch.autograd.grad(expected, (queries, keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOGITS_AT_ONCE, "cpu", at_once)  # in pieces of one position and more
        loss = softmax(queries, keys, right, negatives=0, smoothing=smoothing, context=EMPTY)
        found = torch.autograd.grad(loss, (queries, keys))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_softmax_keeps_its_head_at_large_logits():
    queries, keys, right = parts(0, 4, 5)
    loss = softmax(1e3 * queries, keys, right, negatives=0, smoothing=0.0, context=EMPTY)
    torch.testing.assert_close(loss, F.cross_entropy(1e3 * queries @ keys.T, right))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_sample_of_everything_is_the_softmax(smoothing):
    queries, keys, right = parts(1, 6, 7)
    arguments = {"smoothing": smoothing, "context": EMPTY}
    torch.testing.assert_close(
        sampled_softmax(queries, keys, right, negatives=7, **arguments),
        softmax(queries, keys, right, negatives=0, **arguments),
    )


def test_the_sampled_sum_is_unbiased(monkeypatch):
    # The mean of exp(loss + own logit) over all samples of 3 of 6 items is the sum over the catalogue.
    queries, keys, right = parts(2, 1, 6)
    own = (queries * keys[right]).sum()
    sums = []
    for chosen in combinations(range(6), 3):
        monkeypatch.setattr(torch, "randperm", lambda n, device, chosen=chosen: torch.tensor(chosen))
        loss = sampled_softmax(queries, keys, right, negatives=3, smoothing=0.0, context=EMPTY)
        sums.append((loss + own).exp().item())
    assert np.mean(sums) == pytest.approx((queries @ keys.T).exp().sum().item(), rel=1e-6)


def test_bce_by_hand(monkeypatch):
    queries = torch.tensor([[1.0], [2.0]])
    keys = torch.tensor([[0.5], [-1.0], [3.0]])
    right = torch.tensor([0, 1])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([[1], [2]]))
    context = torch.tensor([[0, -1], [2, 1]])  # the second position's negative is in its window
    found = bce(queries, keys, right, negatives=1, smoothing=0.0, context=context)

    def softplus(x: float) -> float:
        return math.log(1 + math.exp(x))

    # -log sigmoid(0.5) - log(1 - sigmoid(-1)), and -log sigmoid(-2) alone.
    assert float(found) == pytest.approx((softplus(-0.5) + softplus(-1.0) + softplus(2.0)) / 2)


# --- architectures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_feature_sees_the_past_alone(cell):
    torch.manual_seed(0)
    model = GRU4Rec(cell=cell, dim=8, layers=2, device="cpu").build(20).eval()
    events, lengths = torch.tensor([[1, 2, 3, 4]]), torch.tensor([4])
    before = model(inputs(events, lengths))
    for changed in range(4):
        other = events.clone()
        other[0, changed] = 9
        after = model(inputs(other, lengths))
        assert torch.equal(before[:, :changed], after[:, :changed])
        assert not torch.isclose(before[:, changed:], after[:, changed:]).all(dim=-1).any()


def bert(**changes) -> BERT4Rec:
    return BERT4Rec(**{"dim": 8, "layers": 2, "max_len": 5, "device": "cpu", **changes})


def test_bert_sees_both_sides_and_no_padding():
    torch.manual_seed(0)
    model = bert().build(20).eval()
    torch.nn.init.normal_(model.items.weight)
    events, lengths = torch.tensor([[1, 2, 3, 0, 7]]), torch.tensor([3])
    features = model(inputs(events, lengths))
    torch.testing.assert_close(features[:, :3], model(inputs(events[:, :3], lengths)))
    changed = model(inputs(torch.tensor([[1, 2, 9, 0, 7]]), lengths))
    assert not torch.isclose(features[:, :3], changed[:, :3]).all(dim=-1).any()


@settings(deadline=None)
@given(st.integers(0, 99), st.floats(0.05, 0.95), st.floats(0, 1), st.booleans())
def test_masks_hide_targets_and_nothing_else(seed, mask_share, last_share, target_time):
    torch.manual_seed(seed)
    recommender = bert(mask_share=mask_share, last_share=last_share, target_time=target_time)
    recommender._n_items = 20
    lengths = torch.tensor([6, 4, 2])
    real = torch.arange(6) < lengths[:, None]
    events = torch.randint(1, 20, (3, 6)).masked_fill(~real, 0)
    before = torch.randint(1, 30, (3, 7)).masked_fill(~F.pad(real, (0, 1)), 0)
    batch = Batch(events, before, lengths, real & (torch.arange(6) >= torch.tensor([[3], [1], [1]])))
    read, hidden, right = recommender.examples(batch)
    assert (hidden & ~batch.is_target).sum() == 0
    assert hidden.any(dim=1).all()
    assert torch.equal(read.items[hidden], torch.full((len(right),), 20))
    assert torch.equal(torch.where(hidden, events, read.items), events)
    # When the next event will be is not known either where it is asked for, unless that is told.
    assert torch.equal(read.gaps, before if target_time else torch.where(F.pad(hidden, (0, 1)), 0, before))
    assert torch.equal(right, events[hidden])
    assert torch.equal(read.lengths, lengths)


def test_bert_asks_with_a_mask_after_the_newest_event():
    torch.manual_seed(0)
    recommender = bert()
    recommender._n_items = 20
    model = recommender.build(20).eval()
    events = torch.tensor([[1, 2, 3], [4, 0, 0]])
    got = recommender.query(model, inputs(events, torch.tensor([3, 1])))
    full = model(inputs(torch.tensor([[1, 2, 3, 20]]), torch.tensor([4])))[0, 3]
    short = model(inputs(torch.tensor([[4, 20]]), torch.tensor([2])))[0, 1]
    torch.testing.assert_close(got, torch.stack([full, short]))
    assert model.logits(got).shape == (2, 20)  # the mask is no item


# --- learning -----------------------------------------------------------------------------------------

TINY = {"dim": 8, "max_len": 4, "batch_size": 8, "seed": 1, "device": "cpu"}


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: SASRec(layers=1, **TINY, **more),
        lambda **more: SASRec(layers=1, loss="sampled", negatives=5, **TINY, **more),
        lambda **more: GRU4Rec(cell="lstm", **TINY, **more),
        lambda **more: BERT4Rec(layers=1, **TINY, **more),
    ],
    ids=["sasrec", "sampled", "gru4rec", "bert4rec"],
)
def test_a_training_that_was_killed_ends_as_if_it_was_not(make, tmp_path):
    whole = make(max_epochs=5)
    whole.fit(SPLIT)

    def kill(epoch, *_):
        if epoch == 2:
            raise KeyboardInterrupt

    file = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        make(max_epochs=5, checkpoint=file, on_epoch=kill).fit(SPLIT)
    again = make(max_epochs=5, checkpoint=file)
    again.fit(SPLIT)
    assert [e["loss"] for e in again.history_] == [e["loss"] for e in whole.history_]
    assert again.best_epoch_ == whole.best_epoch_
    first, second = whole.model_.state_dict(), again.model_.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    seconds = [e["seconds"] for e in again.history_]
    assert seconds == sorted(seconds)
    done = make(max_epochs=5, checkpoint=file)  # once more: nothing is left to do
    done.fit(SPLIT)
    assert done.history_ == again.history_
    longer, further = make(max_epochs=7), make(max_epochs=7, checkpoint=file)
    longer.fit(SPLIT)
    further.fit(SPLIT)
    assert [e["loss"] for e in further.history_] == [e["loss"] for e in longer.history_]


def test_another_training_is_not_continued(tmp_path):
    file = tmp_path / "state.pt"
    SASRec(layers=1, max_epochs=1, checkpoint=file, **TINY).fit(SPLIT)
    with pytest.raises(ArtefactError, match=r"state\.pt.*other settings: dropout, lr\."):
        SASRec(layers=1, max_epochs=1, checkpoint=file, lr=0.1, dropout=0.5, **TINY).fit(SPLIT)
    file.write_bytes(b"\x00" * 10)
    with pytest.raises(ArtefactError, match=r"cannot be read as the state of a training"):
        SASRec(layers=1, max_epochs=1, checkpoint=file, **TINY).fit(SPLIT)


def test_wrong_settings_of_the_architectures_are_told():
    with pytest.raises(ConfigError, match=r"loss=hinge.*cell='tree'.*hidden=0"):
        GRU4Rec(cell="tree", hidden=0, loss="hinge")
    with pytest.raises(ConfigError, match=r"mask_share=1.*last_share=-1"):
        BERT4Rec(mask_share=1, last_share=-1)
    with pytest.raises(ConfigError, match=r"label_smoothing=0.1 with loss='bce'"):
        SASRec(loss="bce")


def test_item_vectors_are_of_the_items_alone():
    recommender = BERT4Rec(layers=1, max_epochs=1, **TINY)
    recommender.fit(SPLIT)
    vectors = recommender.item_vectors()
    assert vectors.shape == (SPLIT.n_items, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, BERT4Rec])
def test_items_that_training_has_not_seen_are_left_out_of_histories(kind):
    split = split_of(markov_sequences(30, 9, N_ITEMS), N_ITEMS + 1)  # nobody has the last item
    recommender = kind(max_epochs=1, **({"hidden": 8} if kind is GRU4Rec else TINY))
    recommender.fit(split)

    def scores(*items: int):
        return recommender.score(
            Histories.from_list([History("u", np.array(items, np.int32), np.arange(len(items)))])
        )

    np.testing.assert_array_equal(scores(3, N_ITEMS, 5, N_ITEMS), scores(3, 5))
    alone = scores(N_ITEMS)  # there is nothing else to go by
    assert np.isfinite(alone).all()
    assert not np.array_equal(alone, scores(3))


# --- gaps ---------------------------------------------------------------------------------------------


def test_classes_of_gaps_by_hand():
    far = 2**40
    log = Histories.from_list(
        [
            History("a", np.arange(8, dtype=np.int32), np.array([5, 5, 6, 8, 11, 15, 15 + 3600, far])),
            History("b", np.array([], np.int32), np.array([], np.int64)),
            History("c", np.array([3], np.int32), np.array([7])),
        ]
    )
    # First, tied, 1 second, 2 to 3 (twice), 4 to 7, 2^11 to 2^12 - 1, more than 2^31.
    assert gap_classes(gaps(log)).tolist() == [0, 1, 2, 3, 3, 4, 13, 33, 0]


PAST = [5, 0, 7, 1, 9, 0, 6, 1, 8, 1, 4]


def paced(users: int, *, foretold: bool) -> Split:
    """Return a split of random items: after one that is tied with the one before comes item 0, after any other item 1.

    ``foretold``: item 0 is itself tied with the one before, and item 1 is not.
    """
    rng = np.random.default_rng(0)
    tied = rng.random((users, 13)) < 0.5  # so that the validation target is one of those that can be known
    tied[:, 0] = False
    items = rng.integers(2, N_ITEMS, (users, 13))
    items[:, 1::2] = np.where(tied[:, 1::2] if foretold else tied[:, :-1:2], 0, 1)
    split = split_of(items.tolist(), N_ITEMS)
    times = np.cumsum(np.where(tied, 0, 60), axis=1)
    past = times[:, :-2].ravel()
    histories = replace(split.valid.histories, timestamps=past)
    valid = replace(split.valid, histories=histories, target_timestamps=times[:, -2])
    protocol = replace(split.protocol, exclude_seen=False)
    return replace(split, train=replace(split.train, timestamps=past), valid=valid, protocol=protocol)


def tiny(kind: type, **options) -> SequentialRecommender:
    small = {"dim": 16, "max_len": 10, "batch_size": 8, "lr": 1e-2, "device": "cpu", "max_epochs": 12}
    if kind is BERT4Rec:  # learns from a few events of each window
        small |= {"max_epochs": 40, "patience": 40, "last_share": 0.9}
    return kind(**small, **options)


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, BERT4Rec])
def test_gaps_are_read_where_they_are_asked_for(kind):
    split = paced(60, foretold=False)
    asked = histories_of(PAST, PAST, timestamps=[[*range(0, 600, 60), 540 + gap] for gap in (0, 60)])
    found = {}
    for time_gaps in (False, True):
        model = tiny(kind, time_gaps=time_gaps)
        model.fit(split)
        found[time_gaps] = model.score(asked)
    np.testing.assert_allclose(*found[False], atol=1e-5)  # two rows of one product may be rounded apart
    ahead = found[True][:, 0] - found[True][:, 1]  # of item 0, after a tie and after a pause
    assert ahead[0] > 0 > ahead[1]


@pytest.mark.parametrize("time_gaps", [False, True])
@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, BERT4Rec])
def test_when_the_target_happens_is_read_where_it_is_to_be(kind, time_gaps):
    split = paced(60, foretold=True).told()
    histories = histories_of(PAST, PAST, timestamps=[list(range(0, 660, 60))] * 2)
    asked = histories.told(np.array([600, 660]))
    found = {}
    for target_time in (False, True):
        model = tiny(kind, target_time=target_time, time_gaps=time_gaps)
        model.fit(split)
        found[target_time] = model.score(asked)
    np.testing.assert_allclose(*found[False], atol=1e-5)  # two rows of one product may be rounded apart
    ahead = found[True][:, 0] - found[True][:, 1]  # of item 0, if the target is tied and if it is not
    assert ahead[0] > 0 > ahead[1]
    with pytest.raises(DataError, match="do not tell when the target happens"):
        model.score(histories)
