"""The catalogue: the items that can be recommended, their titles, and a strict id <-> index map."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import DataError, nearest

__all__ = ["Catalog"]


@dataclass(frozen=True, eq=False)
class Catalog:
    """N items in a fixed order; an item's position is its *index* everywhere in the library.

    Parameters
    ----------
    item_ids
        Unique ids [N].
    titles
        Non-empty titles [N]; two items may share one (identifier schemes resolve that).
    attributes
        Further text per item by name, for example ``{"year": [...], "genres": [...]}``; ``""`` where
        an item has none.

    Raises
    ------
    DataError
        Lengths differ, an id occurs twice, or a title is empty.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        index = {item: i for i, item in enumerate(self.item_ids)}
        if len(index) != len(self.item_ids):
            twice = Counter(self.item_ids).most_common(1)[0][0]
            raise DataError(
                f"The catalogue lists item {twice!r} more than once "
                f"({len(self.item_ids):,} rows, {len(index):,} different ids). "
                "Expected one row per item: remove the duplicates or choose the right id column."
            )
        for name, values in {"titles": self.titles, **self.attributes}.items():
            if len(values) != len(self.item_ids):
                raise DataError(
                    f"The catalogue has {len(self.item_ids):,} ids but {len(values):,} values of {name!r}. "
                    "Expected one per item."
                )
        empty = [i for i, t in zip(self.item_ids, self.titles, strict=True) if not t.strip()]
        if empty:
            raise DataError(
                f"{len(empty):,} items have an empty title, for example item {empty[0]!r}. Expected text in "
                "every title, because the title is what the language model reads and writes. Fill the "
                "titles in, or remove these items from the catalogue and their events from the log."
            )
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids and titles in their order: what an item's index means."""
        digest = hashlib.sha256()
        for text in (*self.item_ids, *self.titles):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def index(self, item_id: str) -> int:
        """Return the index of ``item_id``; an unknown id raises :class:`DataError`."""
        try:
            return self._index[item_id]
        except KeyError:
            raise DataError(
                f"Item {item_id!r} is not in the catalogue of {len(self):,} items"
                f"{nearest(item_id, self.item_ids)}. Expected an id from its id column."
            ) from None

    def indices(self, item_ids: Iterable[str]) -> NDArray[np.int32]:
        """Return the indices [n] of many ids; the first unknown one raises :class:`DataError`."""
        return np.fromiter((self.index(i) for i in item_ids), dtype=np.int32)

    def ids(self, indices: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Return the ids of catalogue indices."""
        return [self.item_ids[int(i)] for i in indices]
