"""Events of an HTTP endpoint, page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from llmrec.data.sources.base import Batch, BrokenRow, check_same, without_user
from llmrec.data.sources.http_client import Client
from llmrec.data.sources.values import (
    HALF_CHARACTER,
    column_of,
    digest_of,
    has_half_character,
    keyed,
    text_of,
)
from llmrec.errors import DataError, nearest
from llmrec.settings.data import SourceSettings

__all__ = ["HttpSource"]


@dataclass(frozen=True)
class _Page:
    cursor: str | None  # what it was asked for with: a cursor or a URL; None for the first
    records: list[Any]


class HttpSource:
    """An endpoint that hands out JSON, oldest events first, with a cursor for what comes next."""

    def __init__(self, source: SourceSettings, setting: str) -> None:
        self.paging = source.paging
        self.setting = setting
        if len(source.location) != 1:
            raise DataError(
                f"{setting} has {len(source.location)} locations. Expected one URL: cursors belong to one endpoint."
            )
        self.client = Client(source.location[0], source.paging, setting)
        self.name = self.client.name
        self.location = without_user(source.location[0])

    def columns(self) -> list[str]:
        """Return the fields of the first page's records; those of nested objects with dots: user.id."""
        with self.client.open():
            records = next(self._pages(None)).records
        return list(dict.fromkeys(name for r in records if isinstance(r, dict) for name in _fields(r)))

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all records."""
        for batch, _ in self.new_batches(columns, None):
            yield batch

    def digests(self) -> Mapping[str, str]:
        """Return nothing: what is at the other end is known only by reading it."""
        return {}

    def new_batches(
        self, columns: Sequence[str], since: Mapping[str, Any] | None, key: bytes | None = None
    ) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Yield the records after those that have been read.

        The state is the cursor of the last page, how many records it had, and their digest: the page is asked for again, since it
        may have become longer.
        """
        about: dict[str, Any] = {"kind": "http", "location": self.location, "endpoint": self.name}
        about |= {"parameters": dict(self.paging.parameters)}
        check_same(about, since, self.setting)
        cursor, had, total = (None, 0, 0) if since is None else (since["cursor"], since["had"], since["rows"])
        cursor = self.client.from_store(cursor)
        before = None if since is None else keyed(since["digest"], None if since.get("keyed") else key)
        with self.client.open():
            for number, page in enumerate(self._pages(cursor)):
                skipped = had if number == 0 else 0
                if skipped and digest_of(page.records[:skipped], key) != before:
                    raise self._error(
                        f"The page of {self.name} that was read last has changed: it had {skipped:,} records and has "
                        f"{len(page.records):,}, which do not begin with the same. Expected an endpoint that only grows, oldest "
                        "events first. To read everything again, remove the folder data.store and update."
                    )
                batch = self._batch(page.records[skipped:], columns, total + 1)
                total += len(page.records) - skipped
                read = self.client.to_store(page.cursor)  # a URL of the next page may have a key in it
                state = {"cursor": read, "had": len(page.records), "digest": digest_of(page.records, key)}
                state["keyed"] = key is not None
                where = "the first page" if read is None else read.partition("?")[0]
                yield batch, {**about, **state, "rows": total, "watermark": f"event {total:,}, on {where}"}

    def _pages(self, cursor: str | None) -> Iterator[_Page]:
        seen: set[str | None] = set()
        while True:
            seen.add(cursor)
            answer, link = self.client.get(cursor)
            records = self._records(answer)
            yield _Page(cursor, records)
            following = self._next(answer, link)
            if following is None or (following == cursor and not records):
                return
            if following in seen:
                raise self._error(
                    f"{self.name} answers with the cursor {following!r} of a page that was read already, so its pages have no end. "
                    f"Expected a new one: paging.next is {self.paging.next!r} and is sent as {self.paging.parameter!r}, "
                    "which must be the parameter that the endpoint reads."
                )
            cursor = following

    def _records(self, answer: Any) -> list[Any]:
        path = self.paging.records
        found = _at(answer, path) if path else answer
        if isinstance(found, list):
            return found
        names = list(_fields(answer)) if isinstance(answer, dict) else []
        there = f"an object with {', '.join(names[:20])}" if names else f"a {type(answer).__name__}"
        raise self._error(
            f"{self.name} answers with {there}, and paging.records is {path!r}{nearest(path, names)}, "
            f"where there is {'nothing' if found is None else f'a {type(found).__name__}'}. Expected a list of events: set "
            'paging.records to its dotted path, or "" where the answer is the list.'
        )

    def _next(self, answer: Any, link: str | None) -> str | None:
        """Return the cursor or URL of the next page, ``None`` on the last."""
        found = _at(answer, self.paging.next)
        if found not in (None, "", False):
            if isinstance(found, (str, int)) and found is not True:
                return str(found)
            raise self._error(
                f"{self.name} has {found!r} as paging.next, {self.paging.next!r}. Expected a text or a number: the dotted path of the "
                "next cursor or URL."
            )
        if link is not None:
            return link
        fields = _fields(answer) if isinstance(answer, dict) else {}
        more = {n: v for n, v in fields.items() if re.search(r"next|more", n.rpartition(".")[2], re.I)}
        # A wrong name would make the first page pass for all there is.
        if said := [
            f"{name}: {value!r}" for name, value in more.items() if value not in (None, "", False, 0, [])
        ]:
            raise self._error(
                f"{self.name} has no {self.paging.next!r}, which is paging.next, but says {', '.join(said)}. Expected the cursor of the "
                "next page: set paging.next to its dotted path."
            )
        return None

    def _error(self, message: str) -> DataError:
        return DataError(self.client.masked(message).encode("utf-8", "replace").decode())

    def _batch(self, records: Sequence[Any], columns: Sequence[str], first: int) -> Batch:
        rows, values, broken = [], [], []
        for number, record in enumerate(records, first):
            if isinstance(record, dict):
                row = [_at(record, name) for name in columns]
                reason = HALF_CHARACTER if any(map(has_half_character, row)) else ""
                rows += [] if reason else [number]
                values += [] if reason else [row]
            else:
                reason = f"a {type(record).__name__}, expected an object"
            if reason:
                shown = text_of(record).encode("utf-8", "replace").decode()[:200]
                broken.append(BrokenRow(number, shown, reason))
        frame = pl.DataFrame([column_of(name, [row[c] for row in values]) for c, name in enumerate(columns)])
        return Batch(frame, self.name, np.array(rows, dtype=np.int64), tuple(broken))


def _at(value: Any, path: str) -> Any:
    """Return what is at a dotted path; a name with a dot in it comes first. ``None`` where nothing is."""
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    name, dot, rest = path.partition(".")
    return _at(value.get(name), rest) if dot else None


def _fields(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields of an object and of those within it, by dotted names; lists are values."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
