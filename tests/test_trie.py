from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.decoding.trie import CompiledTrie
from llmrec.errors import TrieError

END = 0
sequences = st.lists(
    st.lists(st.integers(1, 3), max_size=4).map(lambda s: (*s, END)), min_size=1, max_size=12
)  # ending tokens: sequences may repeat, so items share a leaf


def prefixes(seqs):
    return {s[:n] for s in seqs for n in range(len(s) + 1)}


@given(sequences)
def test_trie_is_the_prefix_tree_of_its_sequences(seqs):
    trie = CompiledTrie.from_sequences(seqs)
    assert trie.n_nodes == len(prefixes(seqs))
    for prefix in prefixes(seqs):
        node = trie.walk(prefix)
        below = [s for s in seqs if s[: len(prefix)] == prefix]
        tokens, offsets = trie.children(np.array([node]))
        assert tokens.tolist() == sorted({s[len(prefix)] for s in below if len(s) > len(prefix)})
        assert offsets.tolist() == [0, len(tokens)]
        assert sorted(trie.items(node)) == [i for i, s in enumerate(seqs) if s[: len(prefix)] == prefix]
        assert trie.is_leaf(np.array([node]))[0] == (prefix in seqs)
        if prefix:
            assert trie.parent(np.array([node]))[0] == trie.walk(prefix[:-1])


@given(sequences, st.data())
def test_hidden_nodes_are_those_with_only_hidden_items_below(seqs, data):
    trie = CompiledTrie.from_sequences(seqs)
    hidden = data.draw(st.lists(st.integers(0, len(seqs) - 1), max_size=len(seqs)))
    expected = {
        trie.walk(p)
        for p in prefixes(seqs)
        if all(i in hidden for i, s in enumerate(seqs) if s[: len(p)] == p)
    }
    assert set(trie.hidden_nodes(np.array(hidden, dtype=np.int64)).tolist()) == expected


@given(sequences)
def test_padded_table_and_ragged_lists_give_the_same_trie(seqs):
    table = np.full((len(seqs), max(map(len, seqs))), -1)
    for row, s in enumerate(seqs):
        table[row, : len(s)] = s
    a, b = CompiledTrie.from_sequences(seqs), CompiledTrie.from_sequences(table)
    for name in ("indptr", "token", "first", "stop", "order", "leaf"):
        assert (getattr(a, name) == getattr(b, name)).all()


def test_alien_and_aliens_part_at_the_end_token():
    trie = CompiledTrie.from_sequences([(5, END), (5, 6, END)])
    assert trie.children(np.array([trie.walk([5])]))[0].tolist() == [END, 6]
    with pytest.raises(TrieError, match="is the beginning of another one"):
        CompiledTrie.from_sequences([(5,), (5, 6)])


def test_a_token_that_is_not_allowed_raises():
    trie = CompiledTrie.from_sequences([(5, END), (6, END)])
    with pytest.raises(TrieError, match=r"Token 7 is not allowed at node 0; expected one of \[5, 6\]"):
        trie.advance(np.array([0, 0]), np.array([5, 7]))


@pytest.mark.parametrize("bad", [[], [()], [(1, -2)], np.array([[1, -1, 2]])])
def test_sequences_that_make_no_trie_are_refused(bad):
    with pytest.raises(TrieError):
        CompiledTrie.from_sequences(bad)
