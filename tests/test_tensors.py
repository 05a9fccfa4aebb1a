"""How texts are put into batches, against all ways there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmrec.tensors import batches_by_length

LENGTHS = st.lists(st.integers(0, 60), max_size=9)


def cost(lengths, batches, per_batch):
    return sum(per_batch + len(rows) * max(lengths[r] for r in rows) for rows in batches)


@given(LENGTHS, st.integers(1, 12), st.integers(0, 100))
def test_batches_are_whole_sorted_and_no_larger_than_allowed(lengths, size, per_batch):
    texts = [[0] * n for n in lengths]
    for batches in (batches_by_length(texts, size), batches_by_length(texts, size, per_batch=per_batch)):
        found = list(batches)
        assert all(0 < len(rows) <= size for rows in found)
        rows = [int(r) for batch in found for r in batch]
        assert sorted(rows) == list(range(len(texts)))
        assert [lengths[r] for r in rows] == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(0, 100))
def test_cuts_cost_the_least_of_all_there_are(lengths, per_batch):
    ordered = sorted(lengths, reverse=True)
    found = list(batches_by_length([[0] * n for n in lengths], 9, per_batch=per_batch))
    ways = (
        np.split(np.arange(len(ordered)), cuts)
        for n in range(len(ordered))
        for cuts in combinations(range(1, len(ordered)), n)
    )
    least = min((cost(ordered, way, per_batch) for way in ways), default=0)
    assert cost(lengths, found, per_batch) == least
