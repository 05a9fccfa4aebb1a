"""What every recommender promises, as tests that anybody's recommender can be put through.

A recommender of your own passes if this file of yours does under pytest::

    from llmrec.testing import ScoringConformance

    class TestMine(ScoringConformance):
        def make(self):
            return Mine(neighbours=3, catalog=self.catalog)

``RecommenderConformance`` is for one that makes lists only. The data are small and made up: ``split`` and ``catalog``
below. The helpers that make them serve tests of your own.

Shapes: U users, N items of the catalogue.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, History, Holdout
from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import Recommendations
from llmrec.data.split import Split
from llmrec.errors import LlmrecError
from llmrec.recommenders.base import Recommender, ScoringRecommender

__all__ = ["RecommenderConformance", "ScoringConformance", "histories", "markov_sequences", "split_of"]

N_ITEMS = 20
UNUSED = 3  # the last items of the catalogue have no event
TOLERANCE = 1e-5  # of scores that are computed in another order, in float32


def histories(
    *items: Sequence[int],
    users: Sequence[str] | None = None,
    timestamps: Sequence[Sequence[int]] | None = None,
) -> Histories:
    """Return one history per list of items, of users u0, u1, ... and with timestamps 0, 1, ... unless given."""
    return Histories.from_list(
        [
            History(
                users[u] if users else f"u{u}",
                np.array(row, dtype=np.int32),
                np.array(timestamps[u] if timestamps else range(len(row)), dtype=np.int64),
            )
            for u, row in enumerate(items)
        ]
    )


def split_of(
    sequences: Sequence[Sequence[int]],
    n_items: int,
    *,
    exclude_seen: bool = True,
    training_only: Sequence[Sequence[int]] = (),
) -> Split:
    """Return the leave-one-out split of item sequences of at least 3 events.

    Parameters
    ----------
    training_only
        Further histories of any length, of users who are not asked about.
    """

    def hold(back: int) -> Holdout:
        return Holdout(
            histories(*[s[:-back] for s in sequences]),
            np.array([s[-back] for s in sequences], dtype=np.int32),
            np.array([len(s) - back for s in sequences], dtype=np.int64),
        )

    protocol = Protocol(
        dataset="fake",
        dataset_sha256="",
        split="leave-one-out",
        ties="source",
        seed=0,
        exclude_seen=exclude_seen,
        users=len(sequences),
        items=n_items,
        interactions=sum(map(len, [*sequences, *training_only])),
        time_resolution=1,
        tie_rate_last_two=0.0,
        tie_rate_neighbours=0.0,
        repeated_targets=0,
        short_histories=len(training_only),
        first_timestamp=0,
        last_timestamp=1,
    )
    return Split(histories(*[s[:-2] for s in sequences], *training_only), hold(2), hold(1), protocol)


def without_test(split: Split) -> Split:
    """Return the same split, but whoever reads its ``test`` gets an AssertionError."""

    class Blind(Split):
        def __getattribute__(self, name: str) -> Any:
            if name == "test":
                raise AssertionError("the test holdout was read")
            return super().__getattribute__(name)

    return Blind(**{field.name: getattr(split, field.name) for field in dataclasses.fields(split)})


def markov_sequences(n_users: int, length: int, n_items: int, seed: int = 0) -> list[list[int]]:
    """Return walks in which 4 of 5 steps lead from item i to its fixed successor, the fifth anywhere unseen."""
    rng = np.random.default_rng(seed)
    follow = rng.permutation(n_items)
    walks = []
    for _ in range(n_users):
        walk = [int(rng.integers(n_items))]
        while len(walk) < length:
            step = int(follow[walk[-1]])
            if rng.random() < 0.2 or step in walk:
                step = int(rng.choice(np.setdiff1d(np.arange(n_items), walk)))
            walk.append(step)
        walks.append(walk)
    return walks


class RecommenderConformance:
    """Tests of a recommender; a subclass whose name begins with ``Test`` says with :meth:`make` which one."""

    split: ClassVar[Split] = split_of(
        markov_sequences(30, 9, N_ITEMS - UNUSED), N_ITEMS, training_only=[[5], []]
    )
    """30 users of 7 training events, one of a single event and one of none; 20 items, the last 3 without an event."""
    catalog: ClassVar[Catalog] = Catalog(
        tuple(f"i{i}" for i in range(N_ITEMS)),
        tuple(f"The {('Red', 'Green', 'Blue')[i % 3]} Film, part {i // 3}" for i in range(N_ITEMS)),
        {"genre": tuple(("drama", "comedy")[i % 2] for i in range(N_ITEMS))},
    )
    """The catalogue of ``split``, for recommenders that read titles."""
    reads_validation: ClassVar[bool] = False
    """Whether ``fit`` chooses among settings or epochs on ``split.valid``. Otherwise it must not depend on it."""
    answers_empty_histories: ClassVar[bool] = True
    """Whether there is a list for a history without an event; otherwise that must raise an ``LlmrecError``."""

    _fitted: ClassVar[Recommender]

    def make(self) -> Recommender:
        """Return a new recommender that is not fitted, always the same."""
        raise NotImplementedError

    def fitted(self) -> Recommender:
        """Return one that is fitted on ``split``, once per class; tests must leave it as it is."""
        cls = type(self)
        if "_fitted" not in cls.__dict__:
            cls._fitted = self.fit_on(self.split)
        return cls._fitted

    def fit_on(self, split: Any) -> Recommender:
        """Return a new one that is fitted on another split."""
        recommender = self.make()
        recommender.fit(split)
        return recommender

    def lists(
        self, recommender: Recommender, k: int = N_ITEMS, *, exclude_seen: bool = True
    ) -> Recommendations:
        """Return its lists for the test users of ``split``."""
        return recommender.recommend(self.split.test.histories, k, exclude_seen=exclude_seen)

    def test_is_a_recommender(self) -> None:
        """It follows the protocol and has a name."""
        assert isinstance(self.fitted(), Recommender)
        assert self.fitted().name

    def test_lists_are_full_distinct_and_descending(self) -> None:
        """Each user gets k different items of the catalogue, best first, in the order of the question."""
        asked = self.split.test.histories
        for exclude_seen in (True, False):
            recs = self.lists(self.fitted(), 5, exclude_seen=exclude_seen)
            assert recs.system == self.fitted().name
            assert recs.user_ids == asked.user_ids
            assert recs.items.shape == recs.scores.shape == (len(asked), 5)
            assert ((recs.items >= 0) & (recs.items < N_ITEMS)).all()
            assert all(len(set(row)) == 5 for row in recs.items.tolist())
            assert (np.diff(recs.scores, axis=1) <= 0).all()

    def test_equal_scores_keep_catalogue_order(self) -> None:
        """What has the same score is listed in the order of the catalogue."""
        recs = self.lists(self.fitted(), exclude_seen=False)
        tied = recs.scores[:, 1:] == recs.scores[:, :-1]
        assert (np.diff(recs.items, axis=1)[tied] > 0).all()

    def test_seen_items_are_never_recommended(self) -> None:
        """With ``exclude_seen`` a list holds all other items and then -1; without it, all of them."""
        recs = self.lists(self.fitted())
        for history, items in zip(self.split.test.histories, recs.items.tolist(), strict=True):
            unseen = set(range(N_ITEMS)) - set(history.items.tolist())
            assert set(items[: len(unseen)]) == unseen
            assert items[len(unseen) :] == [-1] * (N_ITEMS - len(unseen))
        everything = self.lists(self.fitted(), exclude_seen=False)
        assert (np.sort(everything.items, axis=1) == np.arange(N_ITEMS)).all()

    def test_more_asked_for_than_the_catalogue_has(self) -> None:
        """The catalogue, and nothing else but -1."""
        recs = self.lists(self.fitted(), N_ITEMS + 7, exclude_seen=False)
        assert (np.sort(recs.items[:, :N_ITEMS], axis=1) == np.arange(N_ITEMS)).all()
        assert (recs.items[:, N_ITEMS:] == -1).all()

    def test_two_fits_give_identical_results(self) -> None:
        """Equal settings and data give equal lists and scores, whatever random numbers were drawn before."""
        state = np.random.get_state()
        np.random.seed(7)
        again = self.lists(self.fit_on(self.split))
        np.random.set_state(state)
        first = self.lists(self.fitted())
        assert (first.items == again.items).all()
        assert (first.scores == again.scores).all()

    def test_unknown_users_and_one_event_are_enough(self) -> None:
        """Users without training events get full lists."""
        recs = self.fitted().recommend(histories([4], [7], users=["new", "newer"]), 5)
        assert recs.user_ids == ("new", "newer")
        assert ((recs.items >= 0) & (recs.items != [[4], [7]])).all()

    def test_unused_items_can_be_asked_about(self) -> None:
        """A history of items without any training event gets a full list."""
        recs = self.fitted().recommend(histories([N_ITEMS - 1, N_ITEMS - 2], users=["new"]), 5)
        assert ((recs.items >= 0) & (recs.items < N_ITEMS - 2)).all()

    def test_repeated_items_in_a_history(self) -> None:
        """Repeats disturb neither the list nor what is left out of it."""
        recs = self.fitted().recommend(histories([1, 1, 2, 1, 2, 2], users=["new"]), N_ITEMS)
        assert sorted(recs.items[0].tolist()) == [-1, -1, *sorted(set(range(N_ITEMS)) - {1, 2})]

    def test_empty_histories(self) -> None:
        """A history without an event gets a full list, or an error that names the user."""
        asked, refusal = histories([3, 4], [], users=["somebody", "nobody"]), None
        try:
            recs = self.fitted().recommend(asked, 5)
        except LlmrecError as error:
            refusal = str(error)
        if self.answers_empty_histories:
            assert refusal is None, refusal
            assert (recs.items >= 0).all()
            assert len(set(recs.items[1].tolist())) == 5
        else:
            assert refusal is not None, "expected an error"
            assert "nobody" in refusal

    def test_a_list_does_not_depend_on_who_else_is_asked(self) -> None:
        """One question at a time has the same answers."""
        asked = histories([1], [2, 3, 4, 5, 6, 7, 8], [5, 1], [9, 8, 7, 6, 5, 4])
        together = self.fitted().recommend(asked, N_ITEMS)
        for u in range(len(asked)):
            alone = self.fitted().recommend(asked[u : u + 1], N_ITEMS)
            np.testing.assert_allclose(_by_item(alone), _by_item(together)[u : u + 1], rtol=0, atol=TOLERANCE)

    def test_fit_never_looks_at_the_test(self) -> None:
        """A split whose test cannot be read is as good."""
        blind = without_test(self.split)
        assert (self.lists(self.fit_on(blind)).items == self.lists(self.fitted()).items).all()

    def test_validation_events_are_no_training_events(self) -> None:
        """Other validation targets change nothing, unless fit chooses by them."""
        if self.reads_validation:
            return
        valid = self.split.valid
        others = Holdout(valid.histories, (valid.target_items + 1) % N_ITEMS, valid.target_timestamps)
        changed = Split(self.split.train, others, self.split.test, self.split.protocol)
        expected, got = self.lists(self.fitted()), self.lists(self.fit_on(changed))
        assert (got.items == expected.items).all(), (
            "set reads_validation if fit chooses settings or epochs by it"
        )
        assert (got.scores == expected.scores).all()

    def test_the_data_stay_as_they_are(self) -> None:
        """Neither fit nor recommend writes into what it is given."""
        given = copy.deepcopy(self.split)
        recommender = self.fit_on(given)
        recommender.recommend(given.test.histories, 5)
        for before, after in (
            (self.split.train, given.train),
            (self.split.valid.histories, given.valid.histories),
            (self.split.test.histories, given.test.histories),
        ):
            assert (before.items == after.items).all()
            assert (before.timestamps == after.timestamps).all()


class ScoringConformance(RecommenderConformance):
    """The same and more for a recommender that scores every item of the catalogue."""

    def make(self) -> ScoringRecommender:
        """Return a new recommender that is not fitted, always the same."""
        raise NotImplementedError

    def fitted(self) -> ScoringRecommender:
        """Return one that is fitted on ``split``, once per class; tests must leave it as it is."""
        recommender = super().fitted()
        assert isinstance(recommender, ScoringRecommender)
        return recommender

    def test_scores_are_finite_and_lists_sort_them(self) -> None:
        """There is a number for each user and item, and lists are a stable sort of them."""
        asked = self.split.test.histories
        scores = self.fitted().score(asked)
        assert scores.shape == (len(asked), N_ITEMS)
        assert np.isfinite(scores).all()
        recs = self.lists(self.fitted(), exclude_seen=False)
        for row, items in zip(scores.tolist(), recs.items.tolist(), strict=True):
            assert items == sorted(range(N_ITEMS), key=lambda i: (-row[i], i))

    def test_scores_are_left_as_they_are(self) -> None:
        """Leaving out seen items changes no score of the recommender's own."""
        asked = self.split.test.histories
        before = np.array(self.fitted().score(asked))
        self.lists(self.fitted())
        assert (self.fitted().score(asked) == before).all()

    def test_everything_tied_is_the_catalogue(self) -> None:
        """Where all scores are equal, the list is the catalogue without what was seen."""
        recommender = copy.copy(self.fitted())
        recommender.score = lambda histories: np.zeros((len(histories), N_ITEMS))  # type: ignore[method-assign]
        for history, items in zip(self.split.test.histories, self.lists(recommender).items, strict=True):
            unseen = [i for i in range(N_ITEMS) if i not in history.items]
            assert items[: len(unseen)].tolist() == unseen

    def test_the_users_scored_at_once_do_not_matter(self) -> None:
        """Users scored seven at a time get the same scores."""
        recommender = copy.copy(self.fitted())
        recommender.users_at_once = 7
        np.testing.assert_allclose(
            _by_item(self.lists(recommender)), _by_item(self.lists(self.fitted())), rtol=0, atol=TOLERANCE
        )


def _by_item(recs: Recommendations) -> NDArray[np.float64]:
    """Return the score of each item [U, N]; what is in no list is at -inf."""
    scores = np.full((len(recs), N_ITEMS), -np.inf)
    users, places = np.nonzero(recs.items >= 0)
    scores[users, recs.items[users, places]] = recs.scores[users, places]
    return scores
