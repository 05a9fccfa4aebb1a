"""What each of the classic recommenders computes, beside plain loops."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmrec.data.catalog import Catalog
from llmrec.data.split import Split
from llmrec.errors import ConfigError
from llmrec.recommenders import ease, userknn
from llmrec.recommenders.content import Content
from llmrec.recommenders.ease import EASE
from llmrec.recommenders.itemknn import ItemKNN
from llmrec.recommenders.markov import Markov
from llmrec.recommenders.popularity import Popularity
from llmrec.recommenders.svd import SVD
from llmrec.recommenders.trend import Trend
from llmrec.recommenders.userknn import UserKNN
from llmrec.testing import RecommenderConformance, histories, markov_sequences, split_of

DAY = 86_400
N = 8
SPLIT, CATALOG = RecommenderConformance.split, RecommenderConformance.catalog

logs = st.lists(st.lists(st.integers(0, N - 1), min_size=3, max_size=8), min_size=1, max_size=6)
decays = st.sampled_from([1.0, 0.5])


def newest(history, decay) -> dict[int, float]:
    """Weight of each item by the age of its newest event."""
    return {int(item): decay**age for age, item in reversed(list(enumerate(history.items[::-1])))}


# --- popularity ---------------------------------------------------------------------------------------


def test_popularity_counts_training_events():
    popularity = Popularity()
    popularity.fit(split_of([[0, 1, 2, 3], [0, 1, 4, 5], [0, 2, 3, 4]], 6))  # training: 0 1 | 0 1 | 0 2
    assert popularity.score(histories([5])).tolist() == [[3, 2, 1, 0, 0, 0]]


def test_popularity_window_ends_at_the_newest_training_event():
    train = histories([0, 1, 2], [0, 0], timestamps=[[0, 5 * DAY, 10 * DAY], [8 * DAY - 1, 8 * DAY]])
    split = Split(train, SPLIT.valid, SPLIT.test, SPLIT.protocol)
    popularity = Popularity(window_days=2)
    popularity.fit(split)  # from day 8, that day's first second included
    assert popularity.score(histories([5]))[0, :3].tolist() == [1, 0, 1]


# --- trend --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, 40)), min_size=1, max_size=30),
    st.lists(st.integers(-5, 60), min_size=1, max_size=6),
    st.sampled_from([(None, None), (1.5, None), (10.0, None), (None, 0.25), (None, 7.0)]),
    st.none() | st.integers(0, 50),
)
def test_trend_counts_the_training_events_before_each_moment(events, moments, lengths, valid_from):
    events.sort(key=lambda e: e[1])
    train = histories([i for i, _ in events], timestamps=[[t * DAY for _, t in events]])
    protocol = replace(SPLIT.protocol, items=N, valid_from=None if valid_from is None else valid_from * DAY)
    window, half_life = lengths
    trend = Trend(window_days=window, half_life_days=half_life)
    trend.fit(Split(train, SPLIT.valid, SPLIT.test, protocol))
    asked = histories(
        *[[0, 1] for _ in moments], [], timestamps=[*([-9 * DAY, m * DAY] for m in moments), []]
    )
    end = events[-1][1] * DAY + 1
    for moment, scores in zip([*moments, None], trend.score(asked), strict=True):
        # The newest known event, no sooner than the split asks and no later than the training events end.
        first = end if moment is None else moment * DAY
        at = min(max(first, -math.inf if valid_from is None else valid_from * DAY), end)
        expected = [0.0] * N
        for item, day in events:
            age = at - day * DAY
            if age > 0:
                if half_life is not None:
                    expected[item] += 2 ** (-age / DAY / half_life)
                else:
                    expected[item] += (window is None or age <= window * DAY) + 1 / (len(events) + 1)
        np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=0)


def test_trend_by_hand():
    # Item 0 on days 0 and 1, item 1 on days 1 and 9, item 2 on day 9. Asked on day 3, on day 9, and by nobody known.
    train = histories([0, 0, 1], [1, 2], timestamps=[[0, DAY, DAY], [9 * DAY, 9 * DAY]])
    split = Split(train, SPLIT.valid, SPLIT.test, replace(SPLIT.protocol, items=4))
    asked = histories([3], [3], [], timestamps=[[3 * DAY], [9 * DAY], []])
    trend = Trend(window_days=2)
    trend.fit(split)
    assert trend.score(asked).tolist() == [
        [1 + 2 / 6, 1 + 1 / 6, 0, 0],
        [2 / 6, 1 / 6, 0, 0],
        [2 / 6, 1 + 2 / 6, 1 + 1 / 6, 0],
    ]
    trend = Trend(window_days=None, half_life_days=1)
    trend.fit(split)
    np.testing.assert_allclose(trend.score(asked)[0], [1 / 8 + 1 / 4, 1 / 4, 0, 0])


def test_trend_is_recent_popularity_for_questions_after_the_training_events():
    train = histories([0, 1, 2], [0, 0], timestamps=[[0, 5 * DAY, 10 * DAY], [8 * DAY - 1, 8 * DAY]])
    split = Split(train, SPLIT.valid, SPLIT.test, replace(SPLIT.protocol, valid_from=11 * DAY))
    trend, popularity = Trend(window_days=4), Popularity(window_days=4)
    trend.fit(split)
    popularity.fit(split)
    asked = histories([5], [6], timestamps=[[0], [12 * DAY]])
    np.testing.assert_array_equal(trend.score(asked).astype(int), popularity.score(asked))


# --- ItemKNN ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(logs, st.integers(1, 9), st.sampled_from([0.0, 2.5]), decays)
def test_itemknn_is_dense_cosine(sequences, neighbours, shrink, decay):
    n, split = N, split_of(sequences, N)
    knn = ItemKNN(neighbours=neighbours, shrink=shrink, decay=decay)
    knn.fit(split)
    users = {i: {u for u, h in enumerate(split.train) if i in h.items} for i in range(n)}
    similarity = np.zeros((n, n))
    for i in range(n):
        common = {j: len(users[i] & users[j]) for j in range(n) if j != i and users[i] & users[j]}
        cosine = {j: c / (np.sqrt(len(users[i]) * len(users[j])) + shrink) for j, c in common.items()}
        for j in sorted(cosine, key=lambda j: (-cosine[j], j))[:neighbours]:
            similarity[i, j] = cosine[j]
    asked = split.test.histories
    for history, scores in zip(asked, knn.score(asked), strict=True):
        weight = newest(history, decay)
        expected = [sum(w * similarity[i, j] for j, w in weight.items()) for i in range(n)]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_itemknn_by_hand():
    # Training: 0 1 | 0 1 2. Users of 0, 1, 2: 2, 2, 1. s(0,1) = 2 / (2 + 1), s(0,2) = s(1,2) = 1 / (sqrt(2) + 1).
    knn = ItemKNN(neighbours=2, shrink=1, decay=0.5)
    knn.fit(split_of([[0, 1, 3, 3], [0, 1, 2, 3, 3]], 4))
    s02 = 1 / (np.sqrt(2) + 1)
    np.testing.assert_allclose(
        knn.score(histories([1, 0], [0, 1, 0], [3])),
        [[2 / 6, 2 / 3, s02 * 1.5, 0], [2 / 6, 2 / 3, s02 * 1.5, 0], [0, 0, 0, 0]],
    )


# --- UserKNN ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(logs, st.integers(1, 4), st.sampled_from([0.0, 2.5]), decays, st.booleans())
def test_userknn_is_dense_cosine_of_users(sequences, neighbours, shrink, decay, known):
    split = split_of(sequences, N, training_only=[[1, 2], []])
    knn = UserKNN(neighbours=neighbours, shrink=shrink, decay=decay)
    knn.fit(split)
    rows = [h.items.tolist() for h in split.test.histories]
    asked = histories(*rows, users=None if known else [f"new{u}" for u in range(len(rows))])
    for u, (history, scores) in enumerate(zip(asked, knn.score(asked), strict=True)):
        weight, similar = newest(history, decay), {}
        for v, other in enumerate(split.train):
            common = sum(weight.get(i, 0) for i in set(other.items.tolist()))
            if common and not (known and v == u):
                norm = math.sqrt(sum(w * w for w in weight.values())) * math.sqrt(
                    len(set(other.items.tolist()))
                )
                similar[v] = common / (norm + shrink)
        # Sums of floats may break ties between neighbours either way, so ties are told apart as they were.
        expected = np.zeros(N)
        for v in sorted(similar, key=lambda v: (-round(similar[v], 12), v))[:neighbours]:
            expected[np.unique(split.train[v].items)] += similar[v]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)


def test_userknn_by_hand():
    # Training: 0 1 2 | 0 3. Asked: 0 1, of somebody else. s = 2 / (sqrt(2 * 3) + 1) and 1 / (sqrt(2 * 2) + 1).
    knn = UserKNN(neighbours=2, shrink=1, decay=1.0)
    knn.fit(split_of([[0, 1, 2, 4, 4], [0, 3, 4, 4]], 5))
    a, b = 2 / (math.sqrt(6) + 1), 1 / 3
    np.testing.assert_allclose(knn.score(histories([0, 1], users=["new"])), [[a + b, a, a, b, 0]])
    np.testing.assert_allclose(knn.score(histories([0, 1], users=["u0"])), [[b, 0, 0, b, 0]])


def test_userknn_in_blocks_is_the_same(monkeypatch):
    knn = UserKNN(neighbours=5)
    knn.fit(SPLIT)
    whole = knn.score(SPLIT.test.histories)
    monkeypatch.setattr(userknn, "SIMILARITIES_AT_ONCE", 4 * len(SPLIT.train))
    np.testing.assert_array_equal(knn.score(SPLIT.test.histories), whole)


# --- EASE ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(logs, st.sampled_from([0.5, 20.0]), decays)
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(sequences, reg, decay):
    split = split_of(sequences, N)
    model = EASE(reg=reg, decay=decay)
    model.fit(split)
    seen = np.zeros((len(sequences), N))
    for u, history in enumerate(split.train):
        seen[u, history.items] = 1
    weights = np.zeros((N, N))
    for j in range(N):
        others = np.arange(N) != j
        gram = seen[:, others].T @ seen[:, others] + reg * np.eye(N - 1)
        weights[others, j] = np.linalg.solve(gram, seen[:, others].T @ seen[:, j])
    for history, scores in zip(split.test.histories, model.score(split.test.histories), strict=True):
        expected = sum(w * weights[i] for i, w in newest(history, decay).items())
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)


def test_ease_in_blocks_is_the_same(monkeypatch):
    def weights(block):
        monkeypatch.setattr(ease, "BLOCK", block)
        model = EASE(reg=3)
        model.fit(SPLIT)
        return model.score(histories(*[[i] for i in range(SPLIT.n_items)]))

    np.testing.assert_array_equal(weights(6), weights(1024))


def test_ease_says_what_memory_it_needs(monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr(ease.psutil, "virtual_memory", lambda: Little)
    with pytest.raises(ConfigError, match=r"needs 0\.0 GB for 20 x 20 weights.*itemknn"):
        EASE().fit(SPLIT)


# --- SVD ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(logs, st.sampled_from([0.0, 0.5, 1.0]), decays)
@pytest.mark.parametrize("dim", [2, 100])
def test_svd_projects_a_history_on_the_largest_eigenvectors(dim, sequences, scaling, decay):
    split = split_of(sequences, N)
    model = SVD(dim=dim, scaling=scaling, decay=decay)
    model.fit(split)
    seen = np.zeros((len(sequences), N))
    for u, history in enumerate(split.train):
        seen[u, history.items] = 1
    scale = np.maximum(seen.sum(axis=0), 1) ** ((scaling - 1) / 2)
    values, vectors = np.linalg.eigh((seen * scale).T @ (seen * scale))  # ascending
    rank = min(dim, len(sequences), N)
    # The projection is defined where the last eigenvalue that is kept differs from the first that is not.
    assume(rank == N or values[-rank] - values[-rank - 1] > 1e-6 or values[-rank] < 1e-9)
    kept = vectors[:, -rank:][:, values[-rank:] > 1e-9]
    for history, scores in zip(split.test.histories, model.score(split.test.histories), strict=True):
        weights = np.zeros(N)
        for item, weight in newest(history, decay).items():
            weights[item] = weight
        in_training = seen.sum(axis=0) > 0
        expected = ((weights * scale) @ kept @ kept.T) / scale
        np.testing.assert_allclose(scores[in_training], expected[in_training], rtol=0, atol=1e-6)


def test_svd_gives_every_item_a_direction():
    model = SVD(dim=3)
    model.fit(SPLIT)
    known = np.bincount(SPLIT.train.items, minlength=SPLIT.n_items) > 0
    lengths = np.linalg.norm(model.item_vectors(), axis=1)
    np.testing.assert_allclose(lengths, known, atol=1e-6)
    again = SVD(dim=3)
    again.fit(SPLIT)
    np.testing.assert_array_equal(model.item_vectors(), again.item_vectors())


# --- Markov chain -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(logs, st.sampled_from([0.3, 5.0]), st.sampled_from([0.0, 0.5]))
def test_markov_counts_transitions(sequences, shrink, decay):
    split = split_of(sequences, N, training_only=[[], [3], [1, 1]])
    chain = Markov(shrink=shrink, decay=decay)
    chain.fit(split)
    rows = [h.items.tolist() for h in split.train]
    follows = Counter(pair for row in rows for pair in itertools.pairwise(row))
    events = Counter(item for row in rows for item in row)
    prior = [(events[j] + 1) / (sum(events.values()) + N) for j in range(N)]

    def after(i: int, j: int) -> float:
        return (follows[i, j] + shrink * prior[j]) / (sum(follows[i, k] for k in range(N)) + shrink)

    asked = histories(*[h.items.tolist() for h in split.test.histories], [])
    got = np.exp(chain.score(asked))
    np.testing.assert_allclose(got.sum(axis=1), 1)
    for history, probability in zip(asked, got, strict=True):
        weight = newest(history, decay)
        expected = [
            sum(w * after(i, j) for i, w in weight.items()) / sum(weight.values()) if weight else prior[j]
            for j in range(N)
        ]
        np.testing.assert_allclose(probability, expected)


def test_markov_learns_a_markov_chain():
    split = split_of(markov_sequences(150, 12, 40), 40)
    chain = Markov(shrink=1, decay=0)
    chain.fit(split)
    best = chain.recommend(split.test.histories, 1).items[:, 0]
    assert (best == split.test.target_items).mean() > 0.5  # 4/5 of steps, less where the successor was seen


# --- content ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [(), ("genre",)])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_content_is_the_cosine_of_words(attributes, decay):
    content = Content(catalog=CATALOG, attributes=attributes, decay=decay)
    content.fit(SPLIT)
    words = [
        Counter(f"{t} {g if attributes else ''}".lower().replace(",", " ").split())
        for t, g in zip(CATALOG.titles, CATALOG.attributes["genre"], strict=True)
    ]
    holders = Counter(w for text in words for w in text)
    vectors = []
    for text in words:
        weight = {w: c * (math.log((1 + len(words)) / (1 + holders[w])) + 1) for w, c in text.items()}
        size = math.sqrt(sum(x * x for x in weight.values()))
        vectors.append({w: x / size for w, x in weight.items()})
    for history, scores in zip(SPLIT.test.histories, content.score(SPLIT.test.histories), strict=True):
        profile: Counter[str] = Counter()
        for item, age_weight in newest(history, decay).items():
            for w, x in vectors[item].items():
                profile[w] += age_weight * x
        size = math.sqrt(sum(x * x for x in profile.values()))
        expected = [sum(profile[w] * x for w, x in vector.items()) / size for vector in vectors]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_content_of_a_language_model_is_the_cosine_of_centred_mean_states(tiny_lm, catalog):
    from transformers import AutoModel, AutoTokenizer

    split = split_of(markov_sequences(5, 6, len(catalog)), len(catalog))
    content = Content(catalog=catalog, vectors="lm", model=str(tiny_lm), attributes=["year"], decay=0.5)
    content.fit(split)
    model, tokenizer = AutoModel.from_pretrained(tiny_lm).eval(), AutoTokenizer.from_pretrained(tiny_lm)
    states = []
    for title, year in zip(catalog.titles, catalog.attributes["year"], strict=True):
        with torch.inference_mode():
            read = model(**tokenizer(f"{title}, {year}", add_special_tokens=False, return_tensors="pt"))
        states.append(read.last_hidden_state[0].mean(dim=0).double().numpy())
    # Whitened: by the inverse square root of the covariance, from an eigendecomposition. 16 titles span 15 directions.
    centred = np.stack(states) - np.mean(states, axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    white = centred @ axes[:, -15:] / np.sqrt(values[-15:])
    unit = white / np.linalg.norm(white, axis=1, keepdims=True)
    for history, scores in zip(split.test.histories, content.score(split.test.histories), strict=True):
        profile = sum(w * unit[i] for i, w in newest(history, 0.5).items())
        np.testing.assert_allclose(scores, unit @ profile / np.linalg.norm(profile), rtol=0, atol=1e-4)
    assert content.pretrained == (str(tiny_lm),)
    assert Content(catalog=catalog).pretrained == ()


def test_item_vectors_of_content_keep_its_cosines():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(600)]
    brands = rng.integers(0, 40, 120)
    titles = [" ".join([f"brand{b}", *rng.choice(words, 6)]) for b in brands]
    content = Content(catalog=Catalog(tuple(map(str, range(121))), (*titles, "!!!")), decay=1.0)
    content.fit(split_of([[0, 1, 2]], 121))
    vectors = content.item_vectors()
    assert vectors.shape == (121, 256)
    assert not vectors[-1].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:-1], axis=1), 1, atol=1e-5)
    exact = content.vectors_.toarray()[:-1]
    exact = exact - exact.mean(axis=0)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    error = vectors[:-1] @ vectors[:-1].T - exact @ exact.T
    # A random projection to D features has cosines with a standard error of about 1 / sqrt(D).
    assert np.sqrt(np.mean(error**2)) < 1.2 / math.sqrt(256)
    np.testing.assert_array_equal(vectors, content.item_vectors())


def test_item_vectors_of_content_with_few_words_are_the_words():
    content = Content(catalog=CATALOG, attributes=())
    content.fit(SPLIT)
    exact = content.vectors_.toarray() - content.vectors_.toarray().mean(axis=0)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(content.item_vectors(), exact, atol=1e-6)


def test_content_without_words_scores_nothing():
    catalog = Catalog(("a", "b", "c"), ("Heat", "!!!", "Heat 2"))
    content = Content(catalog=catalog, decay=1.0)
    content.fit(split_of([[0, 1, 2]], 3))
    assert (content.score(histories([1]))[0] == 0).all()
    scores = content.score(histories([0, 1]))[0]
    assert scores[0] == pytest.approx(1)
    assert scores[1] == 0
    assert 0 < scores[2] < 1


# --- errors -------------------------------------------------------------------------------------------


def test_wrong_settings_are_told_all_at_once():
    with pytest.raises(ConfigError, match=r"neighbours=0.*shrink=-1.*decay=0"):
        ItemKNN(neighbours=0, shrink=-1, decay=0)
    with pytest.raises(ConfigError, match="window_days=0"):
        Popularity(window_days=0)
    with pytest.raises(ConfigError, match=r"window_days=0.*half_life_days=-1.*expected one of them"):
        Trend(window_days=0, half_life_days=-1)
    with pytest.raises(ConfigError, match=r"neighbours=0.*shrink=-1.*decay=2"):
        UserKNN(neighbours=0, shrink=-1, decay=2)
    with pytest.raises(ConfigError, match=r"reg=0.*decay=0"):
        EASE(reg=0, decay=0)
    with pytest.raises(ConfigError, match=r"dim=0.*scaling=2.*decay=0"):
        SVD(dim=0, scaling=2, decay=0)
    with pytest.raises(ConfigError, match=r"shrink=0.*decay=1"):
        Markov(shrink=0, decay=1)
    with pytest.raises(
        ConfigError, match=r"vectors='bow'.*decay=0.*attributes with 'genr' \(did you mean 'genre'"
    ):
        Content(catalog=CATALOG, vectors="bow", attributes=["genr"], decay=0)


def test_content_needs_the_catalogue_of_the_split():
    with pytest.raises(ConfigError, match="no catalogue for a split of 20 items"):
        Content().fit(SPLIT)
    with pytest.raises(ConfigError, match="a catalogue of 1 items for a split of 20 items"):
        Content(catalog=Catalog(("a",), ("A",))).fit(SPLIT)
