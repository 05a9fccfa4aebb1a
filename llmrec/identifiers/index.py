"""The index scheme: an item's identifier is a number, written in digits that the tokenizer knows.

Numbers mean nothing to a language model, but items whose numbers begin alike share tokens. So the order in which items
are numbered decides what the model can generalise over (Hua et al. 2023, "How to Index Item IDs for Recommendation
Foundation Models", arXiv 2305.06569; Xu et al. 2024, "OpenP5", arXiv 2306.11134).

Shapes: N items, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmrec.data.histories import Histories
from llmrec.errors import IdentifierError
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.identifiers.title import end_problems, terminated
from llmrec.settings import Identifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.identifiers.schemes import Material

__all__ = ["IndexScheme", "by_appearance", "by_similarity"]


class IndexScheme:
    """Numbers of equal width from 0; new items get the numbers that follow, while the width lasts."""

    def problems(self, settings: Identifiers, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return why this tokenizer cannot end a number."""
        return end_problems(settings.end, tokenizer)

    def build(self, material: Material) -> ItemIdentifiers:
        """Give all items a number."""
        n = len(material.catalog)
        if material.settings.numbering == "sequential":
            order = by_appearance(material.histories, n)
        else:
            order = by_similarity(material.collaborative_vectors())
        number = np.empty(n, dtype=np.int64)
        number[order] = np.arange(n)
        # One digit of room where the catalogue fills more than half of its width.
        width = len(str(2 * n - 1))
        texts = [f"{i:0{width}d}" for i in number]
        return terminated("index", texts, material.tokenizer, material.settings.end)

    def extend(self, known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
        """Give new items the next free numbers."""
        width, n = len(known.texts[0]), len(material.catalog)
        if n > 10**width:
            raise IdentifierError(
                f"{n:,} items do not fit into numbers of {width} digits. Expected at most {10**width:,}: build the "
                "identifiers anew and train again."
            )
        new = [f"{i:0{width}d}" for i in range(len(known), n)]
        return terminated("index", [*known.texts, *new], material.tokenizer, material.settings.end)


def by_appearance(histories: Histories, n_items: int) -> NDArray[np.int64]:
    """Return the items in the order in which they first appear, user after user; then those that never do [N].

    Items that are consumed together for the first time get neighbouring numbers (OpenP5's sequential indexing).
    """
    items, first = np.unique(histories.items, return_index=True)
    seen = items[np.argsort(first, kind="stable")].astype(np.int64)
    return np.concatenate([seen, np.setdiff1d(np.arange(n_items), seen)])


def by_similarity(vectors: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the items in an order in which similar ones are near each other [N].

    Items are halved at the median of their first principal component, and each half again: the leaves of this balanced
    tree, from left to right, each half turned so that its like end meets its neighbour.
    """
    vectors = np.asarray(vectors, dtype=np.float64)

    def halve(items: NDArray[np.int64], towards: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        if len(items) <= 2:
            return [items]
        part = vectors[items] - vectors[items].mean(axis=0)
        axis = np.linalg.eigh(part.T @ part)[1][:, -1]
        # An axis has no direction of its own: it points away from what stands to the left.
        if axis @ towards < 0:
            axis = -axis
        ranked = items[np.argsort(part @ axis, kind="stable")]
        half = len(items) // 2
        return [*halve(ranked[:half], axis), *halve(ranked[half:], axis)]

    first = np.zeros(vectors.shape[1])
    first[0] = (
        1.0  # any fixed direction: the order must not depend on the sign an eigenvector happens to have
    )
    return np.concatenate(halve(np.arange(len(vectors)), first))
