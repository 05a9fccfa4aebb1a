"""Evaluate one system: where each user's next item stands in that user's list.

Shapes: U users, B users of a block, K places of a list, N items of the catalogue, G genres, C cutoffs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Histories, Holdout
from llmrec.data.protocol import Protocol
from llmrec.data.recommendations import Recommendations
from llmrec.errors import DataError
from llmrec.eval import lists
from llmrec.eval.checks import Checks, owned_items
from llmrec.eval.metrics import RANK_METRICS, parse_metric, target_ranks

__all__ = ["Cost", "Evaluation", "evaluate", "train_counts"]

_BLOCK_BYTES = (
    1 << 24
)  # what a block of users may take per array: bounds the memory, and stays near the processor
_BLOCK_USERS = 1 << 12  # but no fewer users: each block goes over the whole catalogue once


@dataclass(frozen=True)
class Cost:
    """What a system took on the machine that ran it; ``None`` where it was not measured."""

    fit_seconds: float | None = None  # wall clock, all training and tuning
    recommend_seconds: float | None = None  # wall clock, for recommend_users users
    recommend_users: int | None = None  # how many users recommend_seconds covers
    peak_memory_bytes: int | None = None  # of the process, or of the device where there is one
    tokens_trained: int | None = None  # tokens that went forward and backward, epochs counted
    tokens_read: int | None = None  # prompt tokens while recommending
    tokens_generated: int | None = None  # tokens decoded while recommending, all beams
    device: str = ""  # in words, for example "2 CPU cores" or "1 x H100"

    @property
    def seconds_per_1000_users(self) -> float:
        """Seconds to recommend to 1,000 users; NaN where it was not measured."""
        if self.recommend_seconds is None or not self.recommend_users:
            return float("nan")
        return 1000.0 * self.recommend_seconds / self.recommend_users

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How one system did, user by user.

    ``means`` are over all U users, those of ``per_user`` over the users who have a value. Keys are ``metric@k``; what
    follows from ranks is not in ``per_user`` (:meth:`values` computes it). ``checks`` holds fractions of 1 (validity,
    duplicates, seen, filled); ``counts`` holds ``users``, ``in_list`` (targets found at any rank) and
    ``unreachable`` (targets that the protocol forbids to recommend because the user has seen them: misses
    for every system).
    """

    system: str
    user_ids: tuple[str, ...]  # [U]
    target_items: tuple[str, ...]  # [U] item ids
    target_ranks: NDArray[np.float64]  # [U] from 1; NaN where the target is not in the list
    k_max: int  # ranks are known to this depth, so metrics are defined up to it
    ks: tuple[int, ...]  # the cutoffs in means
    protocol: Protocol
    means: Mapping[str, float]
    counts: Mapping[str, int]
    checks: Mapping[str, float]
    cost: Cost = Cost()
    meta: Mapping[str, Any] = field(default_factory=dict)  # how the lists were made; JSON-ready
    per_user: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # metric of lists@k -> [U]

    def __len__(self) -> int:
        return len(self.user_ids)

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return a ranking metric, for example ``"ndcg@10"``, of every user [U].

        Raises
        ------
        ConfigError
            The metric is unknown.
        DataError
            The cutoff is beyond ``k_max``: there the metric is undefined.
        """
        function, k = parse_metric(metric)
        if k > self.k_max:
            raise DataError(
                f"{metric} is undefined for {self.system!r}: its lists end at rank {self.k_max}. Expected a "
                f"cutoff of at most {self.k_max}: recommend longer lists, or choose a smaller cutoff."
            )
        return function(self.target_ranks, k)

    def for_users(self, user_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows [n] of ``user_ids``; a user that was not evaluated raises :class:`DataError`."""
        if user_ids == self.user_ids:
            return np.arange(len(self))
        row_of = {user: row for row, user in enumerate(self.user_ids)}
        missing = [user for user in user_ids if user not in row_of]
        if missing:
            raise DataError(
                f"{self.system!r} was not evaluated on {len(missing):,} of {len(user_ids):,} users, for example "
                f"user {missing[0]!r}. Expected the same users for all systems: evaluate it again with the "
                "same test users."
            )
        return np.fromiter((row_of[user] for user in user_ids), dtype=np.int64, count=len(user_ids))

    def take(self, rows: NDArray[np.integer]) -> Evaluation:
        """Return the values of the users at ``rows`` in that order; ``means`` and what else is of all users stays."""
        return replace(
            self,
            user_ids=tuple(self.user_ids[row] for row in rows),
            target_items=tuple(self.target_items[row] for row in rows),
            target_ranks=self.target_ranks[rows],
            per_user={name: values[rows] for name, values in self.per_user.items()},
        )


def train_counts(train: Histories, n_items: int) -> NDArray[np.int64]:
    """Return how many training events each item has [N]."""
    return np.bincount(train.items, minlength=n_items)


def evaluate(
    recs: Recommendations,
    holdout: Holdout,
    counts: NDArray[np.integer],
    catalog: Catalog,
    protocol: Protocol,
    ks: Sequence[int] = (1, 5, 10, 20),
    cost: Cost | None = None,
    meta: Mapping[str, Any] | None = None,
    short_lists: bool = False,
    features: csr_array | NDArray[np.floating] | None = None,
) -> Evaluation:
    """Compare lists with what came next.

    Parameters
    ----------
    recs
        A list for each user of ``holdout`` and no other, in any order of users.
    holdout
        The test questions, or a sample of them (``holdout.select``).
    counts
        Training events of each item [N], from :func:`train_counts`; for popularity only.
    catalog
        The candidate set.
    protocol
        How the holdout was made; ``exclude_seen`` tells which items are no candidates.
    ks
        Cutoffs for the means, each at least 1.
    cost
        What the system took.
    meta
        How the lists were made, for example what ``read_meta`` gives.
    short_lists
        The lists are all that the system has to say, so that what is not in one was not found, however short it is. So are
        those of free generation; ``checks["filled"]`` tells how much is missing.
    features
        Non-negative features of each item [N, G], in which diversity and miscalibration are measured. Default: the genres
        of the catalogue (:func:`llmrec.eval.lists.genre_matrix`); without any, these two are not measured.

    Raises
    ------
    DataError
        The users differ, there are none, the features are of other items, or a list ends before ``max(ks)``
        although candidates are left and ``short_lists`` is off.

    Notes
    -----
    A list that is too short would turn "not looked for" into "not found", so it is refused; it may be
    short only if it holds every candidate that the user has.
    """
    recs = _same_users(recs, holdout)
    n = len(catalog)
    features = lists.genre_matrix(catalog) if features is None else _checked(features, n)
    histories, cutoffs = holdout.histories, sorted(set(ks))
    ranks = target_ranks(recs, holdout.target_items)
    candidates = np.full(len(recs), n, dtype=np.int64)  # [U]
    exposure = np.zeros((len(cutoffs), n), dtype=np.int64)  # [C, N]
    checks, repeated = Checks(), 0
    values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in lists.PER_USER}
    width = 0 if features is None else len(cutoffs) * features.shape[1]
    for part in _blocks(len(recs), max(recs.k, width)):
        items, targets = recs.items[part], holdout.target_items[part]
        bounds = histories.indptr[part.start : part.stop + 1]
        owned = owned_items(histories.items[bounds[0] : bounds[-1]], bounds, n)  # [B, N]
        repeated += _repeats(targets, owned)
        if protocol.exclude_seen:
            candidates[part] -= np.diff(owned.indptr)
        checks.add(items, owned, candidates[part])
        tops = lists.Tops.cut(items, cutoffs, n)
        exposure += tops.exposures()
        for name, found in lists.user_values(tops, counts, owned, features).items():
            values[name].append(found)
    k_max = max(recs.k, *ks) if short_lists else _depth(recs, candidates, max(ks))
    per_user = {
        f"{name}@{k}": found
        for name, parts in values.items()
        if parts
        for k, found in zip(cutoffs, np.concatenate(parts, axis=1), strict=True)
    }
    of_all = dict(zip(cutoffs, exposure, strict=True))
    means = {
        f"{name}@{k}": float(metric(ranks, k).mean()) for name, metric in RANK_METRICS.items() for k in ks
    }
    means |= {f"coverage@{k}": lists.catalogue_coverage(of_all[k]) for k in ks}
    means |= {f"gini@{k}": lists.gini(of_all[k]) for k in ks}
    means |= {name: _mean(found) for name, found in per_user.items()}
    return Evaluation(
        system=recs.system,
        user_ids=histories.user_ids,
        target_items=tuple(catalog.ids(holdout.target_items)),
        target_ranks=ranks,
        k_max=k_max,
        ks=tuple(ks),
        protocol=protocol,
        means=means,
        counts={
            "users": len(recs),
            "in_list": int(np.isfinite(ranks).sum()),
            "unreachable": repeated if protocol.exclude_seen else 0,
        },
        checks=checks.rates(),
        cost=cost or Cost(),
        meta=dict(meta or {}),
        per_user=per_user,
    )


def _checked(features: csr_array | NDArray[np.floating], n_items: int) -> csr_array | NDArray[np.floating]:
    if features.shape[0] != n_items:
        raise DataError(
            f"The features describe {features.shape[0]:,} items, and the catalogue has {n_items:,}. Expected one row per "
            "item, in the catalogue's order."
        )
    if not features.min() >= 0:
        raise DataError(
            "The features have negative or missing numbers. Expected weights of 0 and more, such as 1 for each genre of an "
            "item: diversity and miscalibration are about what items share."
        )
    return csr_array(features) if issparse(features) else features


def _blocks(users: int, width: int) -> Iterator[slice]:
    """Yield the rows of blocks of users, of whom each takes ``width`` numbers of four bytes."""
    size = max(_BLOCK_USERS, _BLOCK_BYTES // (4 * max(width, 1)))
    for start in range(0, users, size):
        yield slice(start, min(start + size, users))


def _mean(values: NDArray[np.float32]) -> float:
    """Return the mean over the users who have a value; NaN if nobody has."""
    defined = values[~np.isnan(values)]
    return float(defined.mean(dtype=np.float64)) if len(defined) else np.nan


def _same_users(recs: Recommendations, holdout: Holdout) -> Recommendations:
    asked = holdout.histories.user_ids
    if not asked:
        raise DataError(
            f"There are no test users to evaluate {recs.system!r} on. Expected at least one: lower the "
            "minimum history length, or enlarge the sample of users."
        )
    if asked == recs.user_ids:
        return recs
    extra = set(recs.user_ids).difference(asked)
    if extra:
        raise DataError(
            f"{recs.system!r} has lists for {len(extra):,} users that are not evaluated, for example user "
            f"{min(extra)!r}. Expected lists for exactly the {len(asked):,} test users: pick them with "
            "recs.for_users(holdout.histories.user_ids)."
        )
    # Scores are not looked at, and a copy of them in another order would be twice the size of the items.
    return replace(recs, scores=recs.scores[:, :0]).for_users(asked)


def _repeats(targets: NDArray[np.int32], owned: csr_array) -> int:
    """Return how many targets [B] the user has seen before."""
    user = np.repeat(np.arange(len(targets)), np.diff(owned.indptr))
    return int((owned.indices == targets[user]).sum())


def _depth(recs: Recommendations, candidates: NDArray[np.int64], needed: int) -> int:
    """Return the rank down to which every list is known; a depth below ``needed`` raises."""
    lengths = (recs.items != -1).sum(axis=1)  # [U]
    open_lists = lengths < candidates
    if not open_lists.any():
        return max(recs.k, needed)
    depth = int(lengths[open_lists].min())
    if depth < needed:
        short = open_lists & (lengths < needed)
        user = recs.user_ids[int(np.argmax(short))]
        raise DataError(
            f"{recs.system!r} recommends too few items to {int(short.sum()):,} of {len(recs):,} users: user "
            f"{user!r} gets {int(lengths[np.argmax(short)])}, and {needed} are needed for the largest cutoff. "
            f"Expected at least {needed} items unless the user has fewer candidates: recommend longer lists "
            "(a wider beam), or evaluate with smaller cutoffs."
        )
    return depth
