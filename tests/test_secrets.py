"""Secrets: none in a config that is kept, none in a message, and what is no secret is left alone."""

from __future__ import annotations

import urllib.parse

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmrec.data.sources.base import without_secrets
from llmrec.settings.data import SourceSettings


def test_configs_with_passwords_are_refused():
    for location in (
        "postgresql://u:secret@host/x",
        "postgresql://me@tenant:secret@host/x",
        "postgresql://u:a/secret@host/x",
        "postgresql://u:a?secret#@host/x",
        "postgresql://host/x?password=secret",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BUID%3Du%3BPWD%3Dsecret",
        "mssql+pyodbc:///?odbc_connect=DRIVER={X};UID=${U};Password=secret",
        "https://host/e?api_key=1",
        "https://u:secret@host/e",
        "https://u:a@secret@host:8080/e",
        "https://u:a/secret@host/e",
    ):
        with pytest.raises(ValidationError, match="expected a variable of the environment") as error:
            SourceSettings.model_validate(location)
        assert "secret" not in str(error.value).split("[type=")[0].replace("a secret;", "")
        assert "secret" not in without_secrets(location)
    with pytest.raises(ValidationError, match="expected a variable of the environment"):
        SourceSettings.model_validate(
            {"location": "https://h/e", "paging": {"headers": {"Authorization": "Bearer x"}}}
        )


@pytest.mark.parametrize(
    "location",
    [
        "postgresql+psycopg://reader:${SHOP_PASSWORD}@host/shop",
        "postgresql+psycopg://reader@host:5432/shop",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BUID%3Du%3BPWD%3D${SHOP_PASSWORD}",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BTrusted_Connection%3Dyes",
        "sqlite:///a:b@c.db",
        "https://host:8080/events?user=ann@example.com",
        "https://host:${PORT}/events?user=ann@example.com",
        "https://host/events/a:b?user=ann@example.com",
        "https://host?at=10:30&user=ann@example.com",
        "https://[::1]:8080/events?user=ann@example.com",
        "https://reader:${SHOP_TOKEN}@host/events?key=${SHOP_TOKEN}",
        "hf://owner/name@revision",
        "logs/10:30@home.csv",
    ],
)
def test_locations_without_a_password_are_no_secrets(location):
    assert SourceSettings.model_validate(location).location == (location,)
    hidden = location.replace(":${SHOP_PASSWORD}@", ":...@").replace(":${SHOP_TOKEN}@", ":...@")
    assert without_secrets(location) == hidden.partition("?")[0]


@given(st.text("ab1:/?#[]$ ", min_size=1))
def test_what_sqlalchemy_takes_for_a_password_is_in_no_config_and_no_message(password):
    url = f"postgresql+psycopg://reader:{password}@host/shop"
    taken = sa.make_url(url)
    assert (taken.password, taken.host) == (urllib.parse.unquote(password), "host")
    with pytest.raises(ValidationError, match="has a password in it"):
        SourceSettings.model_validate(url)
    assert without_secrets(url) == "postgresql+psycopg://reader:...@host/shop"
