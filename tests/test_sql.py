"""Databases: whole tables in one order, types kept, nothing pasted into SQL; SQLite and a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from postgres_server import PASSWORD, postgres  # noqa: F401  (a fixture)

import llmrec.data.sources.sql as sql_module
from llmrec.data.load import load_data, open_log
from llmrec.data.sources import open_source
from llmrec.data.update import update_store
from llmrec.errors import ConfigError, DataError
from llmrec.settings.data import Data, SourceSettings

psycopg = pytest.importorskip("psycopg")


def source(location, **settings):
    return open_source(SourceSettings.model_validate({"location": location, **settings}), "data.interactions")


def read(opened, columns=None):
    batches = list(opened.batches(columns or opened.columns()))
    rows = [row for batch in batches for row in batch.frame.iter_rows()]
    assert [n for batch in batches for n in batch.rows] == list(range(1, len(rows) + 1))
    return rows


@pytest.fixture
def shop(tmp_path):
    """Return a function that runs SQL on an SQLite file, and the file's URL."""
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)

    def run(sql, rows=None):
        with connection:
            connection.executemany(sql, rows) if rows is not None else connection.executescript(sql)

    yield run, f"sqlite:///{path}"
    connection.close()


@pytest.fixture
def server(postgres, monkeypatch):  # noqa: F811
    """Return a function that runs SQL in the real server's database, empty now, and the database's URL."""
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    host, port = postgres.split(":")
    login = {"host": host, "port": port, "user": "admin", "password": PASSWORD, "dbname": "postgres"}
    with psycopg.connect(**login, autocommit=True) as connection:

        def run(sql, rows=None):
            if rows is None:
                connection.execute(sql)
            else:
                with connection.cursor() as cursor:
                    cursor.executemany(sql, rows)

        run("drop schema if exists web cascade; drop schema public cascade")
        run("create schema public; grant usage on schema public to public")
        yield run, f"postgresql+psycopg://admin:${{SHOP_PASSWORD}}@{postgres}/postgres"


def test_a_table_is_read_whole_in_batches_and_twice_in_the_same_order(shop, monkeypatch):
    run, url = shop
    monkeypatch.setattr(sql_module, "_BATCH", 7)
    rows = [(f"u{n % 5}", f"i{n % 11}", n // 3, n) for n in range(100)]
    run("create table events (user text, item text, at integer, number integer)")
    run("insert into events values (?, ?, ?, ?)", rows[::-1])
    columns = ["user", "item", "at"]
    opened = source(url, table="events")
    assert opened.columns() == ["user", "item", "at", "number"]
    assert max(len(batch.frame) for batch in opened.batches(columns)) == 7
    assert read(opened, columns) == sorted(row[:3] for row in rows)
    assert read(source(url, table="events", cursor="number"), columns) == [row[:3] for row in rows]
    # The order in which rows lie in the file decides nothing.
    run("create table other as select * from events order by number % 13")
    assert read(source(url, table="other"), columns) == read(opened, columns)


def test_types_are_kept_by_postgresql(server):
    run, url = server
    run(
        "create table events (id bigint, code text, price numeric(10,2), whole numeric, score double precision, ok boolean, "
        "at timestamptz, local timestamp, day date, key uuid, doc json, raw bytea, nothing text)"
    )
    key = uuid.uuid4()
    run(
        "insert into events values (9007199254740993, '007', 17.50, 17, 0.1, true, '2024-03-31 03:30:00+02', "
        "'2024-03-31 03:30:00', '2024-03-31', %s, '{\"a\": [1]}', '\\x00ff', null)",
        [(key,)],
    )
    opened = source(url, table="events")
    columns = [c for c in opened.columns() if c != "doc"]
    (batch,) = opened.batches(columns)
    assert batch.frame.row(0, named=True) == {
        "id": 9007199254740993,
        "code": "007",
        "price": "17.5",
        "whole": 17,
        "score": 0.1,
        "ok": True,
        "at": datetime(2024, 3, 31, 1, 30, tzinfo=UTC),
        "local": datetime(2024, 3, 31, 3, 30),
        "day": datetime(2024, 3, 31).date(),
        "key": str(key),
        "raw": "00ff",
        "nothing": None,
    }
    query = source(url, query="select id, doc::text as doc from events")
    assert read(query) == [(9007199254740993, '{"a": [1]}')]


def test_sqlite_values_that_are_not_what_the_column_says_are_read_as_they_are(shop):
    run, url = shop
    run("create table t (at datetime, id integer)")
    run(
        "insert into t values (?, ?)",
        [("yesterday", 1), (17, "x"), (None, None), ("2024-01-31T10:00:00Z", 2)],
    )
    assert set(read(source(url, table="t"))) == {
        ("yesterday", "1"), ("17", "x"), (None, None), ("2024-01-31T10:00:00Z", "2"),
    }  # fmt: skip


NASTY = 'a"; drop table events; --'


@pytest.mark.parametrize("kind", ["shop", "server"])
def test_names_are_quoted(kind, request):
    run, url = request.getfixturevalue(kind)
    quoted = NASTY.replace('"', '""')
    run(f'create table "{quoted}" ("{quoted}" text, "select" text, "UPPER.dot" text)')
    run(f"insert into \"{quoted}\" values ('1', '2', '3')")
    run("create table events (a text)")
    opened = source(url, table=NASTY, cursor=NASTY)
    assert read(opened) == [("1", "2", "3")]
    assert [b.frame.height for b, _ in opened.new_batches(["select", "UPPER.dot"], None)] == [1]
    with pytest.raises(DataError, match="has no such table"):
        source(url, table="events where 1=1; drop table events").columns()
    with pytest.raises(DataError, match="has no column"):
        list(source(url, table="events").batches([NASTY]))
    with pytest.raises(DataError, match=r"did you mean 'a'.*data.interactions.cursor"):
        list(source(url, table="events", cursor="aa").batches(["a"]))
    assert read(source(url, table="events")) == []


def test_a_schema_and_a_name_with_a_dot(server):
    run, url = server
    run("create schema web; create table web.events (a text); insert into web.events values ('web')")
    run('create table "web.events2" (a text); insert into "web.events2" values (\'dot\')')
    run("create view seen as select a || '!' as a from web.events")
    assert read(source(url, table="web.events")) == [("web",)]
    assert read(source(url, table="web.events2")) == [("dot",)]
    assert read(source(url, table="seen")) == [("web!",)]
    with pytest.raises(DataError, match=r"did you mean 'web\.events'"):
        source(url, table="web.event").columns()


@pytest.mark.parametrize("kind", ["shop", "server"])
def test_a_query_is_read_whatever_characters_it_has(kind, request):
    run, url = request.getfixturevalue(kind)
    run("create table events (a text, n integer)")
    run("insert into events values ('10:30', 1), ('50%', 2), ('a\\b', 3), ('50', 4)")
    query = "select a, n from events where a like '50%' or a = '10:30' or a like '%:30' -- all: of 100% \n"
    assert read(source(url, query=query + ";")) == [("10:30", 1), ("50", 4), ("50%", 2)]
    assert read(source(url, query="select n from events where a = 'a\\b'")) == [(3,)]
    assert read(source(url, query="with x as (select n from events) select n from x order by n desc")) == [
        (1,), (2,), (3,), (4,),
    ]  # fmt: skip
    if kind == "server":
        assert read(source(url, query="select '7'::int + n as n from events where n = 1")) == [(8,)]


def test_nothing_is_ever_written(server):
    run, url = server
    run("create table events (a text); insert into events values ('1')")
    run("create function wipe() returns text language sql as $$ delete from events returning 'gone'::text $$")
    with pytest.raises(DataError, match="read-only"):
        read(source(url, query="select wipe() as a"), ["a"])
    assert read(source(url, table="events")) == [("1",)]


def test_a_log_in_a_database_is_the_log_in_a_file(server, tmp_path):
    run, url = server
    start = datetime(2024, 5, 1, tzinfo=UTC)
    rows = [(f"u{n % 7}", n % 13, start + timedelta(minutes=n)) for n in range(200)]
    run("create table log (who text, what integer, at timestamptz)")
    run("insert into log values (%s, %s, %s)", rows)
    run("create table items (id integer, title text)")
    run("insert into items values (%s, %s)", [(n, f"Item {n}") for n in range(13)])
    pl.DataFrame(rows, schema=["who", "what", "at"], orient="row").write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"id": range(13), "title": [f"Item {n}" for n in range(13)]}).write_parquet(
        tmp_path / "items.parquet"
    )
    columns = {"user_id": "who", "item_id": "what", "timestamp": "at"}
    columns["item_id"] = "what"
    files = Data.model_validate(
        {
            "interactions": str(tmp_path / "log.parquet"),
            "items": {"location": url, "query": "select id as what, title from items"},
            "columns": columns,
        }
    )
    tables = files.model_copy(update={"interactions": SourceSettings(location=(url,), table="log")})
    pl.read_parquet(tmp_path / "items.parquet").rename({"id": "what"}).write_parquet(
        tmp_path / "items.parquet"
    )
    files = files.model_copy(update={"items": SourceSettings(location=(str(tmp_path / "items.parquet"),))})
    one, other = load_data(files), load_data(tables)
    assert one.interactions.frame.sort("user_id", "timestamp").equals(
        other.interactions.frame.sort("user_id", "timestamp")
    )
    assert sorted(one.catalog.titles) == sorted(other.catalog.titles)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"location": "postgresql+psycopg://admin:${WRONG}@HOST/postgres"}, "password authentication failed"),
        ({"location": "postgresql+psycopg://admin:${SHOP_PASSWORD}@127.0.0.1:1/postgres"}, "efused"),
        (
            {"location": "postgresql+psycopg://admin:${SHOP_PASSWORD}@HOST/nowhere"},
            'database "nowhere" does not exist',
        ),
        ({"table": "event"}, r"did you mean 'events'"),
        ({"table": None}, "with neither table nor query.*events"),
        (
            {"table": "hidden", "location": "postgresql+psycopg://guest:${WRONG}@HOST/postgres"},
            "permission denied",
        ),
        ({"table": None, "query": "select nothing from"}, "syntax error"),
    ],
)
def test_errors_are_one_paragraph_without_the_password(server, postgres, monkeypatch, change, said):  # noqa: F811
    run, url = server
    monkeypatch.setenv("WRONG", "s3cret/wrong")
    run("create table events (a text); create table hidden (a text)")
    run("drop role if exists guest; create role guest login password 's3cret/wrong'")
    settings = {"location": url, "table": "events"} | change
    settings["location"] = settings["location"].replace("HOST", postgres)
    with pytest.raises(DataError, match=said) as caught:
        read(source(**settings))
    text = str(caught.value)
    assert "\n" not in text
    assert "Expected" in text
    assert PASSWORD not in text
    assert "s3cret" not in text


def test_a_connection_that_breaks_is_an_error_and_no_end(server, postgres, monkeypatch):  # noqa: F811
    run, url = server
    monkeypatch.setattr(sql_module, "_BATCH", 10)
    run("create table events as select generate_series(1, 100000) as a, repeat('x', 1000) as b")
    batches = source(url, table="events").batches(["a", "b"])
    next(batches)
    run(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
    )
    with pytest.raises(DataError, match="cannot be read"):
        list(batches)


def test_drivers_files_and_urls_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"pip install 'mysqlclient'"):
        source("mysql://reader@host/shop", table="a")
    with pytest.raises(DataError, match=r"pip install 'duckdb-engine'"):
        source("duckdb:///shop", table="a")
    missing = tmp_path / "no.db"
    with pytest.raises(DataError, match="there is no file"):
        source(f"sqlite:///{missing}", table="a")
    assert not missing.exists()
    with pytest.raises(DataError, match="no URL of a database"):
        source("postgresql://host:port/x", table="a")
    with pytest.raises(ConfigError, match="NOT_SET"):
        source("postgresql+psycopg://u:${NOT_SET}@host/x", table="a")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(DataError, match=r"pip install 'llmrec\[sql\]'"):
        source("sqlite:///a.db", table="a")


def test_a_whole_url_can_be_a_variable(shop, monkeypatch):
    run, url = shop
    run("create table t (a text); insert into t values ('1')")
    monkeypatch.setenv("SHOP_URL", url)
    assert read(source("${SHOP_URL}", table="t")) == [("1",)]


def test_an_sqlite_file_is_noticed_when_it_changes(shop):
    run, url = shop
    run("create table t (a text)")
    before = source(url, table="t").digests()
    assert source(url, table="t").digests() == before
    run("insert into t values ('1')")
    assert source(url, table="t").digests() != before


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (
            "timestamptz",
            "timestamptz '2024-10-27 00:30:00.123456+00' + n * interval '10 minutes'",
        ),  # over Berlin's two o'clock twice
        ("timestamp", "timestamp '2024-10-27 00:30:00.123456' + n * interval '10 minutes'"),
        ("date", "date '2024-02-28' + n"),
        ("bigint", "9007199254740993 + n"),
        ("numeric(20,3)", "n / 1000.0"),
        ("double precision", "n / 10.0"),
        ("text", "'k' || lpad(n::text, 9, '0')"),
        ("uuid", "('01890000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid"),
    ],
)
def test_new_rows_are_found_by_cursors_of_any_type(server, tmp_path, kind, value):
    run, url = server
    run(f"create table events (user_id text, item_id text, timestamp integer, mark {kind})")
    data = Data.model_validate(
        {
            "interactions": {"location": url, "table": "events", "cursor": "mark"},
            "items": "items.csv",
            "store": str(tmp_path / "store"),
        }
    )
    total = 0
    for first, last in ((0, 2), (2, 2), (2, 9), (9, 9), (9, 20)):
        for _ in range(2):  # the first of them ties with the last of the rows before
            run(
                f"insert into events select 'u' || n, 'i', n, {value} from generate_series({first}, {last}) n"
            )
        total += 2 * (last - first + 1)
        done = update_store(data)
        assert done.total == total
    assert update_store(data).added == 0
    log = open_log(data)
    columns = ["user_id", "item_id", "timestamp"]
    rows = [row for batch in log.batches(columns) for row in batch.frame.iter_rows()]
    assert Counter(rows) == Counter(read(source(url, table="events"), columns))


def test_flags_are_no_cursor(server, tmp_path):
    run, url = server
    run("create table events (user_id text, item_id text, timestamp boolean)")
    run("insert into events values ('u', 'i', true)")
    data = Data.model_validate(
        {
            "interactions": {"location": url, "table": "events"},
            "items": "items.csv",
            "store": str(tmp_path / "store"),
        }
    )
    with pytest.raises(DataError, match=r"The cursor 'timestamp' of .* type bool"):
        update_store(data)
