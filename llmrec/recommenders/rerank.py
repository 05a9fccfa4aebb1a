"""Re-ranker: gradient-boosted trees put the best items of several recommenders in order.

Shapes: P parts, U users, N items of the catalogue, R candidates of all users together, G points of the grid of weights,
K folds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.errors import ConfigError, DataError
from llmrec.recommenders.boosting import Candidates, ndcg_of_candidates, staged, train
from llmrec.recommenders.comparable import Fusion, comparable, new_items
from llmrec.recommenders.hybrid import Hybrid
from llmrec.recommenders.llm_scores import LanguageModel
from llmrec.recommenders.mixes import Mix
from llmrec.recommenders.parts import Parts
from llmrec.recommenders.rerank_features import CandidateFeatures, candidates_of
from llmrec.recommenders.training_settings import OnEpoch

__all__ = ["Rerank"]

_STEP = 5  # trees between two looks at the validation users
_FEWEST = 10  # candidates: the lists that are optimised have ten items
_MOST = 10_000  # of a user in all: LightGBM ranks no more at once


class Rerank(Hybrid):
    """LambdaMART over the best candidates of several recommenders (Burges 2010; LightGBM, Ke et al. 2017).

    ``reranked: {kind: rerank, parts: {llm: {}, sasrec: {}, ease: {}}}`` is a whole configuration. Needs the package lightgbm:
    ``pip install 'llmrec[rerank]'``.

    A user's candidates are the best ``candidates`` items of every part. Their scores start from those of the plain fusion, a
    :class:`~llmrec.recommenders.hybrid.Hybrid` of the same parts, and trees add to them what they learn from the parts'
    scores, popularity, similarity with the newest events, and time (:class:`~llmrec.recommenders.rerank_features.CandidateFeatures`).
    So no trees are the plain fusion. All other items rank behind the candidates, in the order of the plain fusion.

    The trees are learned from the validation users' targets, which the parts have not learned from. How many there are is decided
    by cross-validation over these users: the number with the best NDCG@10 on users that neither the trees nor the weights of
    their fusion were fitted on. Where no number beats the plain fusion there are none.

    Parameters
    ----------
    parts, fusion, weights, steps, cold
        See :class:`~llmrec.recommenders.hybrid.Hybrid`.
    candidates
        Items per part, at least 10, and of all parts 10,000 at most. More find more targets and make more rows of what can only be noise.
    learning_rate
        Share of a tree's correction that is made.
    leaves
        Of a tree. Few keep a model small that learns from one target per user.
    min_rows
        Candidates in a leaf, at least.
    l2
        Penalty on the corrections.
    feature_share
        Share of the features that a tree may use.
    monotone
        Whether a better score by a part can only help an item.
    max_trees
        At most, a multiple of 5.
    folds
        Of the cross-validation.
    validation_users
        How many validation users all of this is learned from, a random sample; ``None``: all.
    catalog, seed, on_epoch, checkpoint, language_model
        Given by the run.
    name
        The name under which its recommendations are stored.

    Attributes
    ----------
    chosen_
        What a hybrid has, of the plain fusion; ``trees``; ``cross-validated ndcg@10`` and, on the same folds, ``cross-validated ndcg@10 of
        the plain fusion``; whether the re-ranker ``beats the plain fusion`` there; ``targets among candidates``, the share of
        users; ``importance``: each feature's share of the gain. The number of trees is the best of a few on those very folds, so
        that their value looks a little better than it is.
    """

    def __init__(
        self,
        *,
        parts: Parts,
        fusion: Fusion = "zscore",
        weights: Mapping[str, float] | None = None,
        steps: int | None = None,
        cold: Literal["chosen", "scored"] | float = "chosen",
        candidates: int = 100,
        learning_rate: float = 0.05,
        leaves: int = 8,
        min_rows: int = 100,
        l2: float = 10.0,
        feature_share: float = 0.5,
        monotone: bool = True,
        max_trees: int = 200,
        folds: int = 5,
        validation_users: int | None = None,
        catalog: Catalog | None = None,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
        checkpoint: Path | None = None,
        language_model: LanguageModel | None = None,
        name: str = "rerank",
    ) -> None:
        most = _MOST // max(len(parts), 1)
        expected = {
            "candidates": (
                candidates,
                _FEWEST <= candidates <= most,
                f"{_FEWEST} to {most:,} for each of {len(parts)} parts",
            ),
            "learning_rate": (learning_rate, 0 < learning_rate <= 1, "above 0, at most 1"),
            "leaves": (leaves, leaves >= 2, "at least 2"),
            "min_rows": (min_rows, min_rows >= 1, "at least 1"),
            "l2": (l2, l2 >= 0, "0 or more"),
            "feature_share": (feature_share, 0 < feature_share <= 1, "above 0, at most 1"),
            "max_trees": (max_trees, max_trees >= _STEP and max_trees % _STEP == 0, f"a multiple of {_STEP}"),
            "folds": (folds, folds >= 2, "at least 2"),
        }
        problems = [f"{n}={v} (expected {what})" for n, (v, good, what) in expected.items() if not good]
        if problems:
            raise ConfigError(f"{type(self).__name__} got " + "; ".join(problems) + ".")
        if importlib.util.find_spec("lightgbm") is None:
            raise ConfigError(
                "The kind rerank needs LightGBM. Expected it to be installed: pip install 'llmrec[rerank]'."
            )
        super().__init__(
            parts=parts,
            fusion=fusion,
            weights=weights,
            steps=steps,
            cold=cold,
            validation_users=validation_users,
            catalog=catalog,
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            language_model=language_model,
            name=name,
        )
        self.candidates, self.folds, self.max_trees = candidates, folds, max_trees
        self.monotone = monotone
        self._settings = {
            "learning_rate": learning_rate,
            "num_leaves": leaves,
            "min_data_in_leaf": min_rows,
            "lambda_l2": l2,
            "feature_fraction": feature_share,
        }

    def fit(self, split: Split) -> None:
        """Fit the parts, choose the weights of the plain fusion, and learn the trees."""
        users = self.sample(split.valid)
        if len(users) < self.folds:
            raise DataError(
                f"{self.name} got a split with {len(users)} validation users, and learns from them in {self.folds} folds. "
                "Expected more users, or fewer folds."
            )
        self.fit_parts(split)
        self._exclude_seen = split.protocol.exclude_seen
        self._features = CandidateFeatures(split, list(self.parts_))
        mixes = self._mixes(split)
        gains = self._validate(split, mixes)
        self._choose(mixes, gains)
        fold = np.random.default_rng(self.seed).permutation(len(users)) % self.folds  # [U]
        # Users of a fold have nothing to say about the weights from which their own candidates start.
        points = [int(gains[:, fold != k].mean(axis=1).argmax()) for k in range(self.folds)]
        given, starts = self._gather(users, [*(mixes[p] for p in points), self.mix_])
        curve = np.zeros((self.max_trees // _STEP + 1, len(users)))  # NDCG@10
        for k in range(self.folds):
            rows = given.of(fold != k)
            booster = self._train(given, rows, starts[k], self.max_trees)
            held_out = ~rows
            scores = np.zeros(len(rows))
            for t, found in enumerate(
                staged(booster, given.features[held_out], starts[k][held_out], self.max_trees, _STEP)
            ):
                scores[held_out] = found
                curve[t, fold == k] = ndcg_of_candidates(given, scores)[fold == k]
            curve[0, fold == k] = gains[points[k], fold == k]
        means = curve.mean(axis=1)
        best = int(means.argmax())
        self.trees_ = best * _STEP
        self._booster = None
        if best:
            self._booster = self._train(given, np.ones(len(given.users), bool), starts[-1], self.trees_)
        self.chosen_ |= {
            "trees": self.trees_,
            "cross-validated ndcg@10": float(means[best]),
            "cross-validated ndcg@10 of the plain fusion": float(means[0]),
            "beats the plain fusion": bool(best),
            "targets among candidates": float(given.is_target.sum() / len(users)),
            "importance": self._importance(),
        }

    @property
    def validated(self) -> float:
        """NDCG@10 on the validation users, each judged by trees that have not seen their fold."""
        return float(self.chosen_["cross-validated ndcg@10"])

    def _gather(self, users: Holdout, mixes: Sequence[Mix]) -> tuple[Candidates, list[NDArray[np.float64]]]:
        """Return all candidates, and where they start from under each of some mixes."""
        owners, features, is_target, first = list[Any](), list[Any](), list[Any](), 0
        starts = [list[Any]() for _ in mixes]
        for holdout in self.blocks(users):
            scores = self.part_scores(holdout.histories)
            user, item = self._candidates(scores, holdout.histories)
            features.append(self._features(scores, holdout.histories, user, item))
            is_target.append(item == holdout.target_items[user])
            owners.append(user + first)
            first += len(holdout)
            for start, mix in zip(starts, mixes, strict=True):
                start.append(self._fused(mix, scores, holdout.histories)[user, item])
        given = Candidates(
            np.concatenate(owners), np.concatenate(features), np.concatenate(is_target), len(users)
        )
        return given, [np.concatenate(start) for start in starts]

    def _candidates(
        self, scores: NDArray[np.float64], histories: Histories
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        n = min(self.candidates, scores.shape[2])
        return candidates_of(scores, histories, n, exclude_seen=self._exclude_seen)

    def _fused(self, mix: Mix, scores: NDArray[np.float64], histories: Histories) -> NDArray[np.float64]:
        """Return the plain fusion's scores in standard deviations [U, N], so that trees mean the same under every fusion."""
        fused = self.fuse(mix, scores, histories)
        return comparable(fused, new_items(histories, scores.shape[2]), "zscore")

    def _train(
        self, given: Candidates, rows: NDArray[np.bool_], start: NDArray[np.float64], trees: int
    ) -> Any:
        increasing = self._features.increasing
        return train(
            given,
            rows,
            start,
            trees,
            increasing=increasing if self.monotone else [0] * len(increasing),
            settings=self._settings,
            seed=self.seed,
        )

    def _importance(self) -> dict[str, float]:
        """Return each feature's share of the gain, the largest first."""
        if self._booster is None:
            return {}
        gain = self._booster.feature_importance("gain")
        order = np.argsort(-gain, kind="stable")
        return {self._features.names[f]: round(float(gain[f] / gain.sum()), 4) for f in order if gain[f] > 0}

    def score(self, histories: Histories) -> NDArray[np.float64]:
        """Return the scores of all items [U, N]: candidates above all others, which are in the order of the plain fusion."""
        scores = self.part_scores(histories)
        if self._booster is None:
            return self.fuse(self.mix_, scores, histories)
        fused = self._fused(self.mix_, scores, histories)
        user, item = self._candidates(scores, histories)
        if not len(user):  # these users have seen everything
            return fused
        found = fused.copy()
        found[user, item] = np.inf
        behind = np.where(np.isinf(found), -np.inf, found).max(axis=1)  # [U] the best of the others
        more = self._booster.predict(self._features(scores, histories, user, item), raw_score=True)
        moved = fused[user, item] + more
        lowest = np.full(len(histories), np.inf)
        np.minimum.at(lowest, user, moved)
        above = np.where(np.isfinite(behind), np.maximum(behind + 1 - lowest, 0.0), 0.0)
        found[user, item] = moved + above[user]
        return found
