"""Metrics of what is recommended, whether right or not: how wide, how popular, how diverse, how fitting.

Coverage and the Gini index are of all lists together and follow from :meth:`Tops.exposures`. The others have
a value for each user; the number of a system is their mean over the users who have one.

``genres`` [N, G] are non-negative features of the items, in general 0 and 1 as :func:`genre_matrix` makes them;
an item without any has a row of zeros. A place of a list that holds no item of the catalogue counts for nothing.

Shapes: U users, K places of a list, N items of the catalogue, G genres, C cutoffs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from llmrec.data.catalog import Catalog

__all__ = [
    "LIST_METRICS",
    "PER_USER",
    "Tops",
    "catalogue_coverage",
    "diversity",
    "genre_matrix",
    "gini",
    "mean_popularity",
    "miscalibration",
    "novelty",
    "user_values",
]

PER_USER = ("popularity", "novelty", "diversity", "miscalibration")
LIST_METRICS = ("coverage", "gini", *PER_USER)
GENRES = "genres"  # the catalogue's attribute that genre_matrix reads
ALPHA = 0.01  # Steck's share of the history's genres that is mixed into the list's

Floats = NDArray[np.float32]
_N = TypeVar("_N", bound=np.generic)
Items = NDArray[np.int32]
_DENSE_WIDTH = 64  # up to here dense rows are added up faster than sparse ones, and the table stays small
_NO_GENRE = ("", "(no genres listed)")  # the latter is how MovieLens says that a film has none


def genre_matrix(catalog: Catalog) -> csr_array | None:
    """Return which genres each item has, as 0 and 1 [N, G]; ``None`` where the catalogue has no ``genres``.

    The attribute ``genres`` is text such as ``"Comedy|Drama"`` or ``"Comedy, Drama"``: if any item's has a ``|``,
    that separates genres, otherwise a comma does. Columns are in alphabetical order.
    """
    texts = catalog.attributes.get(GENRES)
    if texts is None:
        return None
    separator = "|" if any("|" in text for text in texts) else ","
    # Each text is split once, however many items have it; a set, in case that it names a genre twice.
    split = {text: {g.strip() for g in text.split(separator)}.difference(_NO_GENRE) for text in set(texts)}
    names = sorted(set().union(*split.values()))
    if not names:
        return None
    place = {g: column for column, g in enumerate(names)}
    columns_of = {text: [place[g] for g in sorted(own)] for text, own in split.items()}
    columns = np.array([column for text in texts for column in columns_of[text]], dtype=np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(columns_of[text]) for text in texts])]).astype(np.int32)
    return csr_array((np.ones(len(columns), np.float32), columns, indptr), shape=(len(texts), len(names)))


@dataclass(frozen=True, eq=False)
class Tops:
    """Lists cut at C cutoffs, as sparse matrices: a part holds the places between two cutoffs [U, N].

    What is summed over the parts so far is a sum over the first ``k`` places, for every ``k`` in one pass.
    """

    ks: tuple[int, ...]
    parts: tuple[csr_array, ...]  # of the cutoffs in ascending order

    @classmethod
    def cut(cls, items: Items, ks: Sequence[int], n_items: int) -> Tops:
        """Cut lists [U, K] of catalogue indices; what is outside 0 to N-1 is left out."""
        parts = []
        edges = sorted(ks)
        for start, stop in zip([0, *edges], edges, strict=False):
            block = items[:, start:stop]
            inside = (block >= 0) & (block < n_items)
            indptr = np.concatenate([[0], np.cumsum(inside.sum(axis=1))]).astype(np.int32)
            held = block.ravel() if inside.all() else block[inside]
            parts.append(
                csr_array((np.ones(len(held), np.float32), held, indptr), shape=(len(items), n_items))
            )
        return cls(tuple(ks), tuple(parts))

    def exposures(self) -> NDArray[np.int64]:
        """Return how many of all users' first ``k`` places hold each item [C, N]; those of different users add up."""
        counts = [np.bincount(part.indices, minlength=part.shape[1]) for part in self.parts]
        return self._in_order(np.cumsum(counts, axis=0))

    def sums(self, table: csr_array | NDArray[np.floating]) -> Floats:
        """Return the sum of the rows of ``table`` [N, G] of the first ``k`` items [C, U, G]."""
        table = _if_narrow_dense(table)
        found = np.empty((len(self.parts), self.parts[0].shape[0], table.shape[1]), dtype=np.float32)
        for c, part in enumerate(self.parts):
            found[c] = _dense(part @ table)
            if c:
                found[c] += found[c - 1]
        return self._in_order(found)

    def _in_order(self, found: NDArray[_N]) -> NDArray[_N]:
        """Return rows of ascending cutoffs in the order of ``ks``."""
        return found if list(self.ks) == sorted(self.ks) else found[np.argsort(np.argsort(self.ks))]


def catalogue_coverage(exposure: NDArray[np.integer]) -> float:
    """Return the share of the N items that are recommended at all, from their exposure [N].

    NaN for an empty catalogue. Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy", RecSys 2010.
    """
    return float((exposure > 0).mean()) if len(exposure) else np.nan


def gini(exposure: NDArray[np.integer]) -> float:
    """Return the Gini index of how often each of the N items is recommended, from their exposure [N].

    0: all equally often; close to 1: a few items take all places. Items never recommended count. NaN if
    nothing is recommended. With exposures sorted upwards, ``sum((2 i - N - 1) x_i) / (N sum(x))``; Fleder
    and Hosanagar, "Blockbuster culture's next rise or fall", Management Science 2009.
    """
    ordered = np.sort(exposure)
    n, total = len(ordered), ordered.sum()
    if total == 0:
        return np.nan
    return float(np.dot(2.0 * np.arange(1, n + 1) - n - 1, ordered) / (n * total))


def mean_popularity(tops: Tops, train_counts: NDArray[np.integer]) -> Floats:
    """Return the mean number of training events of the items among the first ``k`` [C, U]; NaN without items."""
    return _mean(tops, train_counts)


def novelty(tops: Tops, train_counts: NDArray[np.integer]) -> Floats:
    """Return the mean self-information, in bits, of the items among the first ``k`` [C, U]; NaN without items.

    An item's is ``-log2 p``, with ``p`` its share of all training events: how surprising it is that an event is
    with this item. An item without training events counts as if it had one; its own value would be infinite.
    NaN if nothing at all is known about popularity. Zhou et al., "Solving the apparent diversity-accuracy
    dilemma", PNAS 2010; Vargas and Castells, RecSys 2011.

    Where ``p`` is the share of *users* who have the item (Zhou's surprisal, the mean inverse user frequency of
    RecTools), the value is smaller by ``log2(training events / training users)``, for every list alike.
    """
    total = train_counts.sum()
    if total == 0:
        return _mean(tops, np.full(len(train_counts), np.nan))
    return _mean(tops, np.log2(total / np.maximum(train_counts, 1)))


def diversity(tops: Tops, genres: csr_array | NDArray[np.floating]) -> Floats:
    """Return how much the items among the first ``k`` differ in genre [C, U]: 0 all alike, 1 nothing shared.

    The mean of ``1 - cosine`` over all pairs of items with genres; NaN with fewer than two of them. Ziegler et
    al., "Improving recommendation lists through topic diversification", WWW 2005.
    """
    lengths = np.sqrt((genres * genres).sum(axis=1))  # [N]
    unit = _rows_divided(genres, lengths)
    together = tops.sums(unit)  # [C, U, G]
    n = tops.sums((lengths > 0).astype(np.float32)[:, None])[..., 0]  # [C, U]
    # The square of a sum of n unit vectors is n and twice the sum of the cosines of all pairs.
    cosines = (np.einsum("cug,cug->cu", together, together) - n) / 2
    pairs = n * (n - 1) / 2
    mean: Floats = 1 - cosines / np.where(pairs > 0, pairs, np.float32(np.nan))
    return np.clip(mean, 0, 1)  # rounding of float32 can leave the range


def miscalibration(tops: Tops, owned: csr_array, genres: csr_array | NDArray[np.floating]) -> Floats:
    """Return how far the genres of the first ``k`` are from those of the history, in nats [C, U]; 0 is equal.

    An item spreads a weight of 1 evenly over its genres. ``p`` is the mean over the events of the history,
    ``q`` over the list, and the value is the Kullback-Leibler divergence ``KL(p || (1 - alpha) q + alpha p)``
    with alpha = 0.01, which keeps it finite (at most ln 100). NaN where the history or the list has no
    item with genres. Steck, "Calibrated recommendations", RecSys 2018, with equal weights of events and places.

    Parameters
    ----------
    owned
        How many events each user has with each item [U, N].
    """
    share = _rows_divided(genres, np.asarray(genres.sum(axis=1)))  # [N, G]
    p = _distribution(_dense(owned @ _if_narrow_dense(share)))  # [U, G]
    q = _distribution(tops.sums(share))  # [C, U, G]
    q *= 1 - ALPHA
    q += ALPHA * p
    # Where p is 0 the term is 0; the tiny number keeps its logarithm finite.
    tiny = np.finfo(np.float32).tiny
    cross = np.einsum("ug,cug->cu", p, np.log(np.maximum(q, tiny, out=q), out=q))
    own = np.einsum("ug,ug->u", p, np.log(np.maximum(p, tiny)))
    divergence: Floats = np.maximum(own - cross, 0)  # rounding of float32 can give less than 0
    return divergence


def user_values(
    tops: Tops,
    train_counts: NDArray[np.integer],
    owned: csr_array,
    genres: csr_array | NDArray[np.floating] | None,
) -> dict[str, Floats]:
    """Return the metrics of :data:`PER_USER` that can be computed, each [C, U]; two of them need genres."""
    found = {"popularity": mean_popularity(tops, train_counts), "novelty": novelty(tops, train_counts)}
    if genres is not None:
        found |= {"diversity": diversity(tops, genres), "miscalibration": miscalibration(tops, owned, genres)}
    return found


def _mean(tops: Tops, values: NDArray[np.number]) -> Floats:
    """Return the mean of the items' ``values`` [N] over the first ``k`` [C, U]."""
    table = np.stack([values, np.ones(len(values))], axis=1).astype(np.float32)
    total, n = np.moveaxis(tops.sums(table), -1, 0)
    mean: Floats = total / np.where(n > 0, n, np.float32(np.nan))
    return mean


def _rows_divided(
    table: csr_array | NDArray[np.floating], by: NDArray[np.floating]
) -> csr_array | NDArray[np.floating]:
    """Return the rows divided by one number each; rows of zeros stay."""
    factor = (1 / np.where(by > 0, by, 1)).astype(np.float32)[:, None]
    return csr_array(table.multiply(factor)) if isinstance(table, csr_array) else table * factor


def _distribution(weights: Floats) -> Floats:
    """Divide weights by their sum over genres, in place; NaN where there are none."""
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total > 0, total, np.float32(np.nan))
    return weights


def _if_narrow_dense(table: csr_array | NDArray[np.floating]) -> csr_array | NDArray[np.floating]:
    return _dense(table) if table.shape[1] <= _DENSE_WIDTH else table


def _dense(product: csr_array | NDArray[np.floating]) -> NDArray[np.floating]:
    return product.toarray() if isinstance(product, csr_array) else product
