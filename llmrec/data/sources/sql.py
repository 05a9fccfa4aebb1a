"""A table of a database, or a query's answer, through SQLAlchemy.

Rows have an order: that of the cursor's column, where there is one, and then that of the columns read, so that only rows that are
equal in all of them could change places. Statements are built, never pasted: names are quoted by the database's dialect and
values are bound. Nothing is ever committed.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from llmrec import cache
from llmrec.data.sources.base import Batch, check_same, without_user
from llmrec.data.sources.sql_engine import open_engine
from llmrec.data.sources.values import column_of, digest_of, keyed
from llmrec.errors import DataError, nearest
from llmrec.settings.data import SourceSettings

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["SqlSource"]

_BATCH = 50_000  # rows held as Python objects at a time


class SqlSource:
    """One table or query."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.source = source
        self.setting = setting
        if len(source.location) != 1:
            raise DataError(
                f"{setting} has {len(source.location)} locations. Expected one URL: a query can join tables."
            )
        self.engine, self.place, self.secrets = open_engine(source.location[0], setting)
        self.location = without_user(source.location[0])
        self.name = f"{self.place} ({source.table if source.table is not None else 'query'})"

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        with self._connection() as connection:
            return self._names(connection)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows."""
        row = 1
        cursor = self.source.cursor
        with self._connection() as connection:
            self._check_names(connection, [*columns, *([] if cursor is None else [cursor])])
            for rows in self._rows(connection, columns):
                yield self._batch(rows, columns, row)
                row += len(rows)

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of an SQLite file at rest; of one that is being written to, and of servers, nothing is known."""
        path = self.engine.url.database
        if self.engine.dialect.name != "sqlite" or not path or not Path(path).is_file():
            return {}
        log = Path(f"{path}-wal")
        return {} if log.is_file() and log.stat().st_size else {path: cache.sha256(Path(path))}

    def new_batches(
        self, columns: Sequence[str], since: Mapping[str, Any] | None, key: bytes | None = None
    ) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield the rows from the last value of the cursor on, less those that were there before.

        The state holds the cursor's last value, how many rows have been read, and a digest of each row with that value: rows that
        come later with the same value are told from those by it.
        """
        cursor = self.source.cursor
        assert cursor is not None
        subject: dict[str, Any] = {
            "kind": "sql",
            "location": self.location,
            "place": without_user(self.place),
        }
        subject |= {"table": self.source.table, "query": self.source.query, "cursor": cursor}
        check_same(subject, since, self.setting)
        total = 0 if since is None else int(since["rows"])
        last = None if since is None else _unpack(since["last"])
        tied = Counter[str]()
        if since is not None:
            bare = None if since.get("keyed") else key
            tied = Counter({keyed(digest, bare): count for digest, count in since["tied"].items()})
        extra = [] if cursor in columns else [cursor]
        place = [*columns, *extra].index(cursor)
        with self._connection() as connection:
            self._check_names(connection, [*columns, cursor])
            self._check_growth(connection, cursor, last, total - tied.total())
            known = Counter(tied)
            for rows in self._rows(connection, [*columns, *extra], since=last):
                new = [
                    row
                    for row in rows
                    if _moment(row[place]) != last or not _was_read(digest_of(row, key), known)
                ]
                if new and (tail := _moment(new[-1][place])) != last:
                    self._check_left(known)
                    last, tied = tail, Counter()
                for row in reversed(new):
                    if _moment(row[place]) != last:
                        break
                    tied[digest_of(row, key)] += 1
                batch = self._batch([row[: len(columns)] for row in new], columns, total + 1)
                total += len(new)
                state = {
                    "last": self._pack(last),
                    "rows": total,
                    "tied": dict(tied),
                    "keyed": key is not None,
                }
                yield batch, {**subject, **state, "watermark": f"{cursor} {last}"}
            self._check_left(known)

    def _check_growth(self, connection: sa.Connection, cursor: str, last: Any, before: int) -> None:
        """Stop where rows cannot be found by the cursor, or where there are other rows before it than have been read."""
        import sqlalchemy as sa

        column: sa.ColumnClause[Any] = sa.column(cursor)

        def count(condition: sa.ColumnElement[bool]) -> int:
            statement = sa.select(sa.func.count()).select_from(self._from(connection)).where(condition)
            return int(connection.execute(statement).scalar_one())

        if empty := count(column.is_(None)):
            raise DataError(
                f"{self.name} has {empty:,} rows without a value in {cursor!r}. Expected one in every row, because new rows are "
                "found by it: set cursor to another column, or leave them out with a query."
            )
        if last is None:
            return
        now = count(column < _bound(last))
        if now > before or (now < before and not self.source.trimmed):
            raise DataError(
                f"{self.name} has {now:,} rows with {cursor!r} before {last}, and {before:,} had been read. Expected a table that "
                "only grows, with new rows at the end of the cursor. Where transactions end out of order, read settled rows only, "
                "with a query such as SELECT ... WHERE written < now() - interval '10 minutes'; where old rows are deleted, set "
                "trimmed. To read everything again, remove the folder data.store and update."
            )

    def _check_left(self, known: Counter[str]) -> None:
        if known and not self.source.trimmed:
            raise DataError(
                f"{self.name} has lost {known.total():,} of the rows that were read last, or they have changed. Expected a table "
                "that only grows. Set trimmed if old rows are deleted; to read everything again, remove the folder data.store and "
                "update."
            )
        known.clear()

    def _pack(self, value: Any) -> Any:
        """Return the cursor's value JSON-ready."""
        if type(value) in (int, str, float):
            return value
        if isinstance(value, (datetime, date)):
            return [type(value).__name__, value.isoformat()]
        if isinstance(value, (Decimal, uuid.UUID)):
            return [type(value).__name__, str(value)]
        raise DataError(
            f"The cursor {self.source.cursor!r} of {self.name} has a value of type {type(value).__name__}. Expected numbers, text, "
            "dates, times or UUIDs: set cursor to another column."
        )

    def _rows(
        self, connection: sa.Connection, columns: Sequence[str], since: Any = None
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield all rows in their order, as many at a time as are held as Python objects."""
        import sqlalchemy as sa

        cursor = self.source.cursor
        order = dict.fromkeys([*([] if cursor is None else [cursor]), *columns])
        statement: Any = sa.select(*map(sa.column, columns)).select_from(self._from(connection))
        if since is not None:
            assert cursor is not None
            statement = statement.where(sa.column(cursor) >= _bound(since))
        statement = statement.order_by(*map(sa.column, order))
        yield from connection.execute(statement).partitions(_BATCH)

    def _check_names(self, connection: sa.Connection, columns: Sequence[str]) -> None:
        there = self._names(connection)
        for name in columns:
            if name not in there:  # SQLite would take its name for its value
                raise DataError(
                    f"{self.name} has no column {name!r}{nearest(name, there)}; it has {', '.join(there)}. Expected it, because "
                    f"{f'{self.setting}.cursor' if name == self.source.cursor else 'data.columns'} names it."
                )

    def _names(self, connection: sa.Connection) -> list[str]:
        import sqlalchemy as sa

        statement = sa.select(sa.text("*")).select_from(self._from(connection)).where(sa.false())
        return list(map(str, connection.execute(statement).keys()))

    def _batch(self, rows: Sequence[Sequence[Any]], columns: Sequence[str], first: int) -> Batch:
        values = zip(*rows, strict=True) if rows else [()] * len(columns)
        frame = pl.DataFrame([column_of(n, v) for n, v in zip(columns, values, strict=True)])
        return Batch(frame, self.name, np.arange(first, first + len(rows)))

    def _from(self, connection: sa.Connection) -> sa.FromClause:
        """Return the table, which must be there, or the query as a subquery."""
        import sqlalchemy as sa

        if self.source.query is not None:
            # Colons of times and of PostgreSQL's casts are no parameters.
            query = self.source.query.strip().rstrip(";").replace(":", r"\:")
            return sa.text(query).columns().subquery("source")
        inspector = sa.inspect(connection)
        table = self.source.table
        schema, dot, rest = (table or "").partition(".")
        if table is not None and inspector.has_table(table):
            return sa.table(table)
        if dot and inspector.has_table(rest, schema=schema):
            return sa.table(rest, schema=schema)
        where = schema if dot and schema in inspector.get_schema_names() else None
        there = [*inspector.get_table_names(where), *inspector.get_view_names(where)]
        there = [f"{where}.{name}" if where is not None else name for name in there]
        listed = (
            f"{', '.join(there[:20])}{' ...' if len(there) > 20 else ''}" or "none that this user can see"
        )
        if table is None:
            raise DataError(
                f"{self.setting} is {self.place}, with neither table nor query. Expected one of them. Tables there: {listed}."
            )
        raise DataError(
            f"{self.setting}.table is {table!r}, and {self.place} has no such table{nearest(table, there)}. Expected the name of "
            f"one, with its schema where that is not the default. Tables there: {listed}."
        )

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """Yield a connection that streams; errors become one paragraph without the password."""
        import sqlalchemy as sa

        options: dict[str, Any] = {"yield_per": _BATCH}
        if self.engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        connected = False
        try:
            with self.engine.connect() as connection:
                connected = True
                yield connection.execution_options(**options)
        except (sa.exc.SQLAlchemyError, UnicodeDecodeError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            for secret in self.secrets:
                reason = reason.replace(secret, "...")
            expected = (
                "Expected rows to its end, and what was read of them is not used. Check the names of columns, whether this user may read "
                "(GRANT SELECT), and the query, if there is one."
                if connected
                else "Expected a connection: check host, port, name of the database and user in the URL, and the variable that has "
                "the password."
            )
            raise DataError(
                f"{self.setting}, {self.name}, cannot be read: {reason[:600]}. {expected}"
            ) from None


def _was_read(digest: str, known: Counter[str]) -> bool:
    """Tell whether a row is one of those that are known, and strike it off."""
    if digest not in known:
        return False
    known[digest] -= 1
    if not known[digest]:
        del known[digest]
    return True


def _moment(value: Any) -> Any:
    """Return a cursor's value so that it can be compared: Python finds no times equal in the hour that clocks go back."""
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def _bound(value: Any) -> Any:
    """Return a value to compare with, as a bound parameter; times keep whether they have a zone."""
    import sqlalchemy as sa

    if isinstance(value, datetime):
        return sa.literal(value, sa.DateTime(timezone=value.tzinfo is not None))
    return sa.literal(value)


def _unpack(value: Any) -> Any:
    """Return a cursor's value from what :meth:`SqlSource._pack` made of it."""
    if not isinstance(value, list):
        return value
    kind, text = value
    kinds: dict[str, Callable[[str], Any]] = {
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
        "Decimal": Decimal,
        "UUID": uuid.UUID,
    }
    return kinds[kind](text)
