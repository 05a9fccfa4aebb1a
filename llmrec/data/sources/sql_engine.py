"""Engines of databases from their URLs: variables filled in, drivers that are missing named, passwords kept out of messages."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.data.sources.base import expand_variables, without_secrets
from llmrec.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["open_engine"]

_CONNECT_SECONDS = 30
# Drivers by the module that SQLAlchemy looks for, where the package has another name.
_PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
    "snowflake": "snowflake-sqlalchemy",
    "bigquery": "sqlalchemy-bigquery",
    "databricks": "databricks-sqlalchemy",
    "redshift": "sqlalchemy-redshift",
    "duckdb": "duckdb-engine",
    "clickhouse": "clickhouse-sqlalchemy",
    "clickhousedb": "clickhouse-connect",
}


def open_engine(location: str, setting: str) -> tuple[sa.Engine, str, tuple[str, ...]]:
    """Return an engine; nothing is connected yet.

    Returns
    -------
    engine
        One that keeps no connections.
    place
        The URL for messages.
    secrets
        What messages must not have.

    Raises
    ------
    DataError
        SQLAlchemy or the driver is not installed, or this is no URL of a database.
    """
    try:
        import sqlalchemy as sa
    except ImportError:
        raise DataError(
            f"{setting} is a database, and SQLAlchemy is not installed. Expected it: pip install 'llmrec[sql]'."
        ) from None
    try:
        url, secrets = _url(location, setting)
    except (sa.exc.ArgumentError, ValueError):
        raise DataError(
            f"{setting} is {without_secrets(location)}, which is no URL of a database. Expected one such as "
            "postgresql+psycopg://reader:${SHOP_PASSWORD}@host/shop or sqlite:///shop.db."
        ) from None
    place = url.set(query={}).render_as_string(hide_password=True)
    backend, path = url.get_backend_name(), url.database
    if backend == "sqlite" and path not in (None, "", ":memory:") and not Path(str(path)).is_file():
        # SQLite would make an empty one.
        raise DataError(
            f"{setting} is {place}, and there is no file {path!r}. Expected a database: sqlite:///shop.db is relative to the "
            "working directory, sqlite:////data/shop.db is not."
        )
    waits = backend in ("postgresql", "mysql", "mariadb") and "connect_timeout" not in url.query
    arguments = {"connect_timeout": _CONNECT_SECONDS} if waits else {}
    try:
        return sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=arguments), place, secrets
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        missing = (getattr(error, "name", None) or backend).partition(".")[0]
        raise DataError(
            f"{setting} is {place}, and the driver {url.drivername!r} is not installed. Expected it: pip install "
            f"'{_PACKAGES.get(missing, missing)}'."
        ) from None


def _url(location: str, setting: str) -> tuple[sa.URL, tuple[str, ...]]:
    """Return the URL with variables filled in, each as it stands: a password may have any characters."""
    import sqlalchemy as sa

    if re.fullmatch(r"\$\{\w+\}", location):
        url = sa.make_url(expand_variables(location, setting))
        return url, _spellings(url.password)
    secrets: tuple[str, ...] = ()

    def filled(text: str) -> str:
        nonlocal secrets
        value = expand_variables(text, setting)
        secrets += _spellings(value) if value != text else ()
        return value

    url = sa.make_url(location)
    query = {
        name: filled(value) if isinstance(value, str) else tuple(map(filled, value))
        for name, value in url.query.items()
    }
    url = url.set(
        username=None if url.username is None else filled(url.username),
        password=None if url.password is None else filled(str(url.password)),
        host=None if url.host is None else filled(url.host),
        database=None if url.database is None else filled(url.database),
        query=query,
    )
    return url, secrets


def _spellings(secret: object) -> tuple[str, ...]:
    return (str(secret), urllib.parse.quote_plus(str(secret))) if secret else ()
