"""YAML that is read as it is meant, and written so that it is read back as it was."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config_file import load_config
from llmrec.errors import ConfigError
from llmrec.yaml_text import read_yaml, write_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ae-+.:_ 01239#{}\n", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.1", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-1E5", -1e5),
        ("1.5e3", 1500.0),
        (".5e1", 5.0),
        ("1e3x", "1e3x"),
        ("'1e3'", "1e3"),
        ("1990-01-01", "1990-01-01"),
        ("{a: {b: 1}, c: {b: 1}}", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_what_people_write_is_what_they_mean(text, value):
    assert read_yaml(text) == value


@given(PLAIN)
def test_what_is_written_is_read_as_it_was(value):
    assert read_yaml(write_yaml(value)) == value


def test_a_key_that_is_there_twice_is_an_error_with_its_line(tmp_path):
    with pytest.raises(yaml.YAMLError, match="'b' is there a second time"):
        read_yaml("a:\n  b: 1\n  b: 2")
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nsystems:\n  sasrec: {dim: 8}\n  sasrec: {dim: 16}\n")
    with pytest.raises(ConfigError, match=r"(?s)'sasrec' is there a second time.*line 4"):
        load_config(path)


def test_a_run_that_is_named_like_a_number_keeps_its_name(config):
    from llmrec.config_file import dump_config

    loaded = load_config(config(), ["name='1e3'", "data.cleaning.earliest=1970-01-02"])
    again = read_yaml(dump_config(loaded))
    assert (again["name"], again["data"]["cleaning"]["earliest"]) == ("1e3", "1970-01-02")
