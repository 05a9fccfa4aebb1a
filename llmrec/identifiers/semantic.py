"""The semantic scheme: an item's identifier is a path of cluster codes, from coarse to fine.

Residual k-means (Rajput et al. 2023, "Recommender Systems with Generative Retrieval", arXiv 2305.05065, with k-means in
the place of the RQ-VAE): the first code is the nearest of C centres, the second the nearest centre of what the first one
leaves over, and so on. Every code of every level is a new token. Similar items share codes, so what is learned about
one serves the others, and a new item gets its codes from its vector without any training.

Where two items get the same codes, the one nearer to its centres keeps them and the other moves to the nearest last code
that is free: all identifiers have L tokens, and none is ever shared.

Shapes: N items, D features, L levels, C codes of a level.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from llmrec.errors import IdentifierError
from llmrec.identifiers.base import ItemIdentifiers, first_new_token, known_token_problems
from llmrec.settings import Identifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.identifiers.schemes import Material

__all__ = ["SemanticScheme", "distinct_codes", "quantise", "train_codebooks"]

_FEATURES = 64  # principal components of the title vectors that are kept


class SemanticScheme:
    """``<a 17><b 3><c 250>``: one letter per level. ``changed`` has the items that moved, with their own codes."""

    def problems(self, settings: Identifiers, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return why this tokenizer cannot take the new tokens."""
        return known_token_problems("semantic", "<a 0>", tokenizer)

    def build(self, material: Material) -> ItemIdentifiers:
        """Cluster all items."""
        settings = material.settings
        projection = _fit_projection(material)
        vectors = _project(material, projection)
        # Were there a centre for every item, no two would share a code.
        codes = min(settings.codes, max(2, len(vectors) // 2))
        books = train_codebooks(vectors, settings.levels, codes, material.seed)
        return _identifiers(vectors, books, projection, material, known=None)

    def extend(self, known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
        """Give new items the codes of the centres that are there.

        Raises
        ------
        IdentifierError
            The codes are of item vectors too, which a new item has none of before a training, and others after it.
        """
        if material.settings.vectors != "title":
            raise IdentifierError(
                f"Semantic identifiers with vectors: {material.settings.vectors} need training to add an item. Expected vectors: title, or "
                "identifiers made anew."
            )
        projection = {k: v for k, v in known.state.items() if k not in ("codebooks", "codes")}
        vectors = _project(material, projection)
        return _identifiers(vectors, known.state["codebooks"], projection, material, known)


def train_codebooks(vectors: NDArray[np.floating], levels: int, codes: int, seed: int) -> NDArray[np.float32]:
    """Return the centres of residual k-means [L, C, D]."""
    rng = np.random.default_rng(seed)
    rest = np.asarray(vectors, dtype=np.float32)
    books = []
    for _ in range(levels):
        # k-means++ on what is left of distinct items; an empty cluster keeps its centre and is simply not used.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            centres, _ = kmeans2(rest, codes, iter=25, minit="++", missing="warn", rng=rng)
        books.append(centres)
        rest = rest - centres[vq(rest, centres)[0]]
    return np.stack(books).astype(np.float32)


def quantise(vectors: NDArray[np.floating], books: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the code of each item on each level [N, L]."""
    rest = np.asarray(vectors, dtype=np.float32)
    codes = []
    for centres in books:
        nearest, _ = vq(rest, centres)
        codes.append(nearest)
        rest = rest - centres[nearest]
    return np.stack(codes, axis=1).astype(np.int64)


def distinct_codes(
    vectors: NDArray[np.float32], books: NDArray[np.float32], taken: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return codes that no two items share [N, L], and what they would have been [N, L].

    Parameters
    ----------
    taken
        Codes of the first items, which stay as they are.

    Raises
    ------
    IdentifierError
        There is no free code left near an item.
    """
    own = quantise(vectors, books)
    codes = own.copy()
    fixed = 0 if taken is None else len(taken)
    if taken is not None:
        codes[:fixed] = taken
    owner = {tuple(path) for path in codes[:fixed].tolist()}
    centre = sum(book[own[:, level]] for level, book in enumerate(books))
    distance = np.square(vectors - centre).sum(axis=1)
    for item in fixed + np.argsort(distance[fixed:], kind="stable"):
        path = tuple(own[item].tolist())
        if path in owner:
            free = (p for p in _nearby(vectors[item], books, path) if p not in owner)
            path = next(free, path)
        if path in owner:
            raise IdentifierError(
                f"All {books.shape[1] ** min(len(books), 2):,} codes near item number {item} are taken. Expected a free "
                "one: raise identifiers.codes or identifiers.levels."
            )
        owner.add(path)
        codes[item] = path
    return codes, own


def _nearby(
    vector: NDArray[np.float32], books: NDArray[np.float32], path: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Yield paths that differ in the last code, nearest first; then in the last two."""
    depth = min(2, len(books))
    rest = vector - sum(
        (books[level][code] for level, code in enumerate(path[:-depth])), np.zeros_like(vector)
    )

    def by_distance(level: int, rest: NDArray[np.float32]) -> list[int]:
        order: list[int] = np.argsort(np.square(books[level] - rest).sum(axis=1), kind="stable").tolist()
        return order

    if depth == 1:
        yield from ((code,) for code in by_distance(0, rest))
        return
    for code in by_distance(len(books) - 2, rest):
        after = rest - books[-2][code]
        yield from ((*path[:-2], code, last) for last in by_distance(len(books) - 1, after))


def _identifiers(
    vectors: NDArray[np.float32],
    books: NDArray[np.float32],
    projection: dict[str, NDArray[np.float32]],
    material: Material,
    known: ItemIdentifiers | None,
) -> ItemIdentifiers:
    codes, own = distinct_codes(vectors, books, None if known is None else known.state["codes"])
    levels, per_level = books.shape[:2]
    names = [f"<{ascii_lowercase[level]} {code}>" for level, code in product(range(levels), range(per_level))]
    tokens = codes + np.arange(levels) * per_level
    moved = np.flatnonzero((codes != own).any(axis=1))
    first = first_new_token(material.tokenizer)

    def text(path: NDArray[np.int64]) -> str:
        return "".join(names[t] for t in path)

    return ItemIdentifiers(
        scheme="semantic",
        texts=tuple(map(text, tokens)),
        token_ids=tuple(map(tuple, (tokens + first).tolist())),
        changed={int(i): text(own[i] + np.arange(levels) * per_level) for i in moved},
        new_tokens=tuple(names),
        state={"codebooks": books, "codes": codes, **projection},
    )


def _fit_projection(material: Material) -> dict[str, NDArray[np.float32]]:
    """Return how title vectors become features: mean [D], principal axes [D, F], scaled to unit length on average.

    Raw states of a language model share a few huge directions, in which all titles look alike.
    """
    if material.settings.vectors == "collaborative":
        return {}
    titles = material.title_vectors().astype(np.float64)
    mean = titles.mean(axis=0)
    _, _, axes = np.linalg.svd(titles - mean, full_matrices=False)
    axes = axes[:_FEATURES].T
    # The sign of a singular vector is arbitrary; the largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    size = np.sqrt(np.square((titles - mean) @ axes).sum(axis=1).mean())
    return {"mean": mean.astype(np.float32), "axes": (axes / max(size, 1e-12)).astype(np.float32)}


def _project(material: Material, projection: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the features that are clustered [N, F]."""
    parts = []
    if material.settings.vectors in ("title", "both"):
        parts.append((material.title_vectors() - projection["mean"]) @ projection["axes"])
    if material.settings.vectors in ("collaborative", "both"):
        vectors = material.collaborative_vectors()
        parts.append(vectors / np.sqrt(np.square(vectors).sum(axis=1).mean()))
    return np.concatenate(parts, axis=1).astype(np.float32)
