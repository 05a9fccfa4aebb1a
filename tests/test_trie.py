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
wide = st.lists(  # many children per node, token ids beyond 16 bits
    st.lists(st.integers(100_000, 100_600), max_size=2).map(lambda s: (*s, END)), min_size=1, max_size=200
)


def prefixes(seqs):
    return {s[:n] for s in seqs for n in range(len(s) + 1)}


def equal(a, b):
    return all((x == y).all() for x, y in zip(a.arrays().values(), b.arrays().values(), strict=True))


@given(sequences | wide)
def test_trie_is_the_prefix_tree_of_its_sequences(seqs):
    trie = CompiledTrie.from_sequences(seqs)
    assert trie.n_nodes == len(prefixes(seqs))
    assert trie.depth == max(map(len, seqs))
    assert trie.shares_leaves == (len(set(seqs)) < len(seqs))
    for prefix in prefixes(seqs):
        node = trie.walk(prefix)
        assert trie.levels[len(prefix)] <= node < trie.levels[len(prefix) + 1]
        below = [s for s in seqs if s[: len(prefix)] == prefix]
        tokens, offsets = trie.children(np.array([node]))
        assert tokens.tolist() == sorted({s[len(prefix)] for s in below if len(s) > len(prefix)})
        assert offsets.tolist() == [0, len(tokens)]
        assert sorted(trie.items(node)) == [i for i, s in enumerate(seqs) if s[: len(prefix)] == prefix]
        assert sorted(trie.items_at(np.array([node]))[0]) == [i for i, s in enumerate(seqs) if s == prefix]
        assert trie.is_leaf(np.array([node]))[0] == (prefix in seqs)
        if prefix:
            assert trie.parent(np.array([node]))[0] == trie.walk(prefix[:-1])
    assert [tuple(trie.sequence(i)) for i in range(len(seqs))] == list(seqs)


@given(sequences | wide, st.data())
def test_following_any_tokens_from_any_nodes_is_what_a_set_of_prefixes_says(seqs, data):
    trie, known = CompiledTrie.from_sequences(seqs), sorted(prefixes(seqs))
    asked = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=8))
    likely = sorted({t for s in seqs for t in s})
    anything = st.sampled_from(likely) | st.sampled_from([-1, 99_999, 100_601, 2**31 - 1, 2**32 + likely[0]])
    tokens = data.draw(st.lists(anything, min_size=len(asked), max_size=len(asked)))
    reached = trie.try_advance(np.array([trie.walk(p) for p in asked]), np.array(tokens))
    for prefix, token, node in zip(asked, tokens, reached, strict=True):
        assert node == (trie.walk((*prefix, token)) if (*prefix, token) in prefixes(seqs) else -1)


@given(sequences, st.data())
def test_a_view_is_the_trie_of_the_items_that_are_left(seqs, data):
    trie = CompiledTrie.from_sequences(seqs)
    gone = data.draw(st.lists(st.integers(0, len(seqs) - 1), max_size=len(seqs)))
    before = {name: array.copy() for name, array in trie.arrays().items()}
    view = trie.exclude(gone)
    left = [s for i, s in enumerate(seqs) if i not in gone]
    assert view.n_items == len(left)
    assert set(view.hidden.tolist()) == {trie.walk(p) for p in prefixes(seqs) - prefixes(left)} | (
        {0} if not left else set()
    )
    for prefix in prefixes(left):
        node = view.walk(prefix)
        assert view.children(np.array([node]))[0].tolist() == sorted(
            {s[len(prefix)] for s in left if s[: len(prefix)] == prefix and len(s) > len(prefix)}
        )
        assert sorted(view.items(node)) == [
            i for i, s in enumerate(seqs) if i not in gone and s[: len(prefix)] == prefix
        ]
        assert view.is_leaf(np.array([node]))[0] == (prefix in left)
    for prefix in (prefixes(seqs) - prefixes(left)) if left else ():
        with pytest.raises(TrieError, match="is not allowed at node"):
            view.walk(prefix)
    assert all((before[name] == array).all() for name, array in trie.arrays().items())


@given(sequences, sequences)
def test_inserting_gives_the_trie_of_all_sequences(old, new):
    trie = CompiledTrie.from_sequences(old)
    assert equal(trie.insert(new), CompiledTrie.from_sequences([*old, *new]))
    assert equal(trie, CompiledTrie.from_sequences(old))


@given(sequences, st.randoms())
def test_padded_table_ragged_lists_and_items_in_any_order_give_the_same_trie(seqs, random):
    table = np.full((len(seqs), max(map(len, seqs))), -1)
    for row, s in enumerate(seqs):
        table[row, : len(s)] = s
    trie = CompiledTrie.from_sequences(seqs)
    assert equal(trie, CompiledTrie.from_sequences(table))
    items = random.sample(range(len(seqs)), len(seqs))
    assert equal(trie, CompiledTrie.from_sequences([seqs[i] for i in items], items))


def test_alien_and_aliens_part_at_the_end_token():
    trie = CompiledTrie.from_sequences([(5, END), (5, 6, END)])
    assert trie.children(np.array([trie.walk([5])]))[0].tolist() == [END, 6]
    with pytest.raises(TrieError, match="is the beginning of another one"):
        CompiledTrie.from_sequences([(5,), (5, 6)])
    with pytest.raises(TrieError, match="is the beginning of another one"):
        CompiledTrie.from_sequences([(5, 6)]).insert([(5,)])


def test_what_is_not_allowed_raises():
    trie = CompiledTrie.from_sequences([(5, END), (6, END)])
    with pytest.raises(TrieError, match=r"Token 7 is not allowed at node 0; expected one of \[5, 6\]"):
        trie.advance(np.array([0, 0]), np.array([5, 7]))
    with pytest.raises(TrieError, match=r"Token 5 is not allowed at node 0; expected one of \[6\]"):
        trie.exclude([0]).advance(np.array([0]), np.array([5]))
    with pytest.raises(TrieError, match="where an identifier has ended"):
        trie.walk([5, END, END])
    for node in (-1, trie.n_nodes):
        with pytest.raises(TrieError, match=f"Node {node} does not exist"):
            trie.children(np.array([node]))
        with pytest.raises(TrieError, match=f"Node {node} does not exist"):
            trie.advance(np.array([node]), np.array([5]))
        with pytest.raises(TrieError, match=f"Node {node} does not exist"):
            trie.items(node)
    with pytest.raises(TrieError, match="Item 2 is not in the trie"):
        trie.exclude([2])


@pytest.mark.parametrize(
    "bad",
    [[], [()], [(1, -2)], [(1, -1)], [(1.5,)], np.array([[1, -1, 2]]), np.array([1, 2]), np.array([[2**31]])],
)
def test_sequences_that_make_no_trie_are_refused(bad):
    with pytest.raises(TrieError):
        CompiledTrie.from_sequences(bad)
    with pytest.raises(TrieError):
        CompiledTrie.from_sequences([(3,)]).insert(bad)


def test_items_must_be_numbered():
    with pytest.raises(TrieError, match="numbers 0 to 1"):
        CompiledTrie.from_sequences([(1,), (2,)], items=[1, 2])


MADE_FOR = {"catalogue": "abc", "tokenizer": "def"}


@pytest.fixture
def saved(tmp_path):
    trie = CompiledTrie.from_sequences([(5, END), (70_000, 6, END), (5, 6, END)])
    trie.save(tmp_path / "trie.safetensors", MADE_FOR)
    return trie, tmp_path / "trie.safetensors"


def test_a_saved_trie_comes_back_and_is_mapped(saved):
    trie, path = saved
    loaded = CompiledTrie.load(path, MADE_FOR)
    assert equal(trie, loaded)
    assert loaded.fingerprint == trie.fingerprint
    for array in loaded.arrays().values():
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert loaded.exclude([1]).walk([5, 6, END]) == trie.walk([5, 6, END])
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize(
    "other", [{**MADE_FOR, "tokenizer": "x"}, {"catalogue": "abc"}, {**MADE_FOR, "more": "y"}]
)
def test_a_trie_of_another_catalogue_or_tokenizer_is_refused(saved, other):
    with pytest.raises(TrieError, match=r"was made for another (tokenizer|more)"):
        CompiledTrie.load(saved[1], other)


def test_damaged_files_are_refused(saved, tmp_path):
    content = saved[1].read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    damaged = {"cut": content[:-4], "empty": b"", "text": b"not a trie at all", "flipped": bytes(flipped)}
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TrieError, match=r"[Mm]ake it anew|Make the trie anew|cannot be read"):
            CompiledTrie.load(tmp_path / name, MADE_FOR)
    with pytest.raises(TrieError, match="cannot be read"):
        CompiledTrie.load(tmp_path / "absent", MADE_FOR)


@given(sequences | wide)
def test_a_node_is_decided_where_one_identifier_is_left(seqs):
    trie = CompiledTrie.from_sequences(seqs)
    table = trie.sequences()
    for node in range(trie.n_nodes):
        below = {tuple(table[item]) for item in trie.items(node)}
        assert trie.decided[node] == (len(below) == 1)
