"""A log read batch by batch into small numbers: 22 to 34 bytes an event, whatever ids and files it has.

Shapes: E events, U users, I items of the log.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.cleaning.bounds import earliest_moment, latest_moment
from llmrec.data.cleaning.ledger import Ledger, Step
from llmrec.data.cleaning.pseudonyms import hash_ids, hash_key
from llmrec.data.cleaning.redaction import redact_all
from llmrec.data.cleaning.timestamps import TimestampParser
from llmrec.data.sources.base import Batch
from llmrec.errors import DataError
from llmrec.settings import Cleaning, Columns, Privacy

__all__ = ["EncodedLog", "as_ids", "broken_rows", "encode_log", "single_values"]

_FILES = 65_535
_PARTS = 16  # of a pool: 160,000 users are 10,000 in each


@dataclass(frozen=True, eq=False)
class EncodedLog:
    """Events with ids as places in sorted lists."""

    frame: (
        pl.DataFrame
    )  # [E] user, item: UInt32; timestamp: Int64; origin: UInt16; row: UInt32; maybe event, rating
    users: pl.Series  # [U] ids in the order of their text
    items: pl.Series  # [I] the same
    origins: pl.Series  # what 'origin' counts

    def texts(self, chosen: NDArray[np.bool_] | pl.Series) -> pl.DataFrame:
        """Return some events with their ids as text, as the file of rejects has them."""
        rows = self.frame.filter(chosen)
        return pl.DataFrame(
            {
                "origin": self.origins.gather(rows["origin"]),
                "row": rows["row"],
                "user_id": self.users.gather(rows["user"]),
                "item_id": self.items.gather(rows["item"]),
            }
        )

    def replace(self, frame: pl.DataFrame) -> EncodedLog:
        """Return the log with other events."""
        return EncodedLog(frame, self.users, self.items, self.origins)


def encode_log(
    batches: Iterable[Batch], columns: Columns, cleaning: Cleaning, privacy: Privacy, ledger: Ledger
) -> EncodedLog:
    """Read all batches; rows without usable ids or time, or of a kind, rating or time not wanted, are left out.

    Raises
    ------
    DataError
        The log has no rows at all, or none is left.
    """
    encoder = _Encoder(columns, cleaning, privacy, ledger)
    for batch in batches:
        encoder.add(batch)
    return encoder.finish()


def broken_rows(batch: Batch, kinds: Iterable[str], *, hidden: bool = False) -> pl.DataFrame:
    """Return the broken rows of a batch as the file of rejects has them.

    Parameters
    ----------
    kinds
        What is redacted in their text.
    hidden
        Leaves the text out.
    """
    texts = [b.reason if hidden else f"{b.reason}: {b.text}" for b in batch.broken]
    return pl.DataFrame(
        {
            "row": pl.Series([b.row for b in batch.broken], dtype=pl.Int64),
            "value": redact_all(pl.Series(texts, dtype=pl.String), kinds),
        }
    ).with_columns(origin=pl.lit(batch.origin))


def single_values(column: pl.Series) -> pl.Series:
    """Return a column of texts, numbers or times; bytes, which some writers make of texts, become texts.

    Raises
    ------
    DataError
        It has lists or the like, or bytes that are no text.
    """
    if column.dtype == pl.Binary:
        try:
            return column.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise DataError(
                f"The column {column.name!r} has bytes that are no text in UTF-8. Expected ids as text or numbers: convert them, for "
                "example to hexadecimal digits."
            ) from None
    if column.dtype.is_nested() or column.dtype.is_object() or column.dtype == pl.Duration:
        raise DataError(
            f"The column {column.name!r} has values of the type {column.dtype}. Expected a text, a number or a time in each row: name "
            "another column in data.columns, or convert this one."
        )
    return column


def as_ids(column: pl.Series, missing: Iterable[str]) -> pl.Series:
    """Return ids as text; null where one is missing.

    Raises
    ------
    DataError
        The column is one of lists or the like.
    """
    column = single_values(column)
    if column.dtype.is_decimal():  # databases have whole numbers as 17.00
        text = column.cast(pl.String).str.replace(r"\.0+$", "")
        return text.set(text.is_in(list(missing)).fill_null(False), None)
    if column.dtype.is_float():
        # pandas makes floats of whole numbers when one is missing: 17.0 is item 17.
        whole = column.cast(pl.Int64, strict=False).cast(pl.String)
        column = column.set(column.is_nan(), None)
        text = column.cast(pl.String).zip_with(column.floor() != column, whole)
    else:
        text = column.cast(pl.String, strict=False)
    return text.set(text.str.strip_chars().is_in(list(missing)).fill_null(False), None)


class _Encoder:
    def __init__(self, columns: Columns, cleaning: Cleaning, privacy: Privacy, ledger: Ledger) -> None:
        self.columns = columns
        self.cleaning = cleaning
        self.ledger = ledger
        self.salt = hash_key(privacy)
        self.redact = privacy.redact
        self.times = TimestampParser(cleaning.timestamp_format, cleaning.timezone)
        first, zone = cleaning.earliest, cleaning.timezone
        self.earliest = None if first is None else earliest_moment(first, zone)
        self.latest = latest_moment(cleaning.latest, zone)
        self.too_late = "in the future" if cleaning.latest == "now" else "too late"
        self.users, self.items, self.kinds = _Pool(), _Pool(), _Pool()
        self.parts: list[pl.DataFrame] = []
        self.origins: dict[str, int] = {}
        self.removed: Counter[str] = Counter()
        self.read = 0

    def add(self, batch: Batch) -> None:
        """Encode a batch."""
        names, cleaning = self.columns, self.cleaning
        frame = pl.DataFrame([single_values(column) for column in batch.frame])
        self.read += len(frame) + len(batch.broken)
        origin = self._origin(batch)
        users, items = (as_ids(frame[name], cleaning.missing) for name in (names.user_id, names.item_id))
        if self.salt is not None:
            users = hash_ids(users, self.salt)
        texts = pl.DataFrame(
            {"row": batch.rows, "user_id": users, "item_id": items, "time": frame[names.timestamp]}
        ).with_columns(origin=pl.lit(batch.origin))
        times = self.times.parse(frame[names.timestamp])
        keep = pl.repeat(True, len(frame), dtype=pl.Boolean, eager=True)

        def leave_out(step: str, wrong: pl.Series, value: pl.Series | None = None) -> None:
            nonlocal keep
            wrong = wrong.fill_null(False) & keep
            if wrong.any():
                self.removed[step] += int(wrong.sum())
                what = texts.with_columns(value=frame[names.timestamp] if value is None else value)
                self.ledger.reject("interactions", step, what.filter(wrong))
                keep &= ~wrong

        leave_out("missing user ids", users.is_null())
        leave_out("missing item ids", items.is_null())
        leave_out("unreadable times", times.is_null())
        if self.earliest is not None:
            leave_out("too early", times < self.earliest.beside(times))
        leave_out(self.too_late, times > self.latest.beside(times))
        encoded = {
            **_numbers(user=(self.users, users), item=(self.items, items)),
            "timestamp": times,
            "origin": pl.repeat(origin, len(frame), dtype=pl.UInt16, eager=True),
            "row": pl.Series(batch.rows).cast(pl.UInt32),
        }
        if names.event is not None:
            kind = as_ids(frame[names.event], cleaning.missing)
            if cleaning.events is not None:
                leave_out("other kinds of event", ~kind.is_in(list(cleaning.events)).fill_null(False), kind)
            encoded |= _numbers(event=(self.kinds, kind))
        if names.rating is not None:
            rating = frame[names.rating]
            if rating.dtype in (pl.Categorical, pl.Enum):
                rating = rating.cast(pl.String)
            rating = rating.cast(pl.Float64, strict=False)
            rating = rating.set(~rating.is_finite(), None)
            if cleaning.min_rating is not None:
                low = (rating < cleaning.min_rating).fill_null(True)
                leave_out("low or missing ratings", low, frame[names.rating])
            encoded["rating"] = rating
        part = pl.DataFrame(encoded)
        self.parts.append(part if keep.all() else part.filter(keep))

    def _origin(self, batch: Batch) -> int:
        if batch.broken:
            self.removed["broken rows"] += len(batch.broken)
            hidden = self.salt is not None  # the text may have the user's id
            self.ledger.reject("interactions", "broken rows", broken_rows(batch, self.redact, hidden=hidden))
        number = self.origins.setdefault(batch.origin, len(self.origins))
        if number > _FILES:
            raise DataError(f"The log is in more than {_FILES:,} files or pages. Expected fewer: join them.")
        return number

    def finish(self) -> EncodedLog:
        """Note what was done, and return the log."""
        if not self.read:
            raise DataError("The log is empty. Expected at least one row per event.")
        cleaning, left = self.cleaning, self.read
        read = "dates" if self.times.dated and self.times.form == "auto" else self.times.form
        form = f"read as {_FORMS.get(read, read)}"
        steps: list[tuple[str, str, bool, str]] = [
            ("broken rows", "", True, ""),
            ("missing user ids", "cleaning.missing", True, ""),
            ("missing item ids", "cleaning.missing", True, ""),
            ("unreadable times", f"cleaning.timestamp_format: {cleaning.timestamp_format}", True, form),
            (self.too_late, f"cleaning.latest: {cleaning.latest}", cleaning.latest == "now", ""),
        ]
        if cleaning.earliest is not None:
            steps.insert(4, ("too early", f"cleaning.earliest: {cleaning.earliest}", False, ""))
        if cleaning.events is not None:
            steps.append(("other kinds of event", f"cleaning.events: {list(cleaning.events)}", False, ""))
        if cleaning.min_rating is not None and self.columns.rating is not None:
            steps.append(
                ("low or missing ratings", f"cleaning.min_rating: {cleaning.min_rating:g}", False, "")
            )
        for step, setting, faulty, note in steps:
            left -= self.removed[step]
            self.ledger.add(
                Step(step, setting, "interactions", self.removed[step], left=left, faulty=faulty, note=note)
            )
        if not left:
            most, count = self.removed.most_common(1)[0]
            raise DataError(
                f"No event is left of {self.read:,} rows; {count:,} were left out for {most}. Expected some: check the names "
                "of the columns (data.columns) and the steps of data.cleaning."
            )
        frame = pl.concat(self.parts)
        self.parts.clear()
        users, user_rank = self.users.sorted()
        items, item_rank = self.items.sorted()
        frame = frame.with_columns(
            user_rank.gather(frame["user"]).alias("user"), item_rank.gather(frame["item"]).alias("item")
        )
        if "event" in frame.columns:
            kinds, kind_rank = self.kinds.sorted()
            event = kind_rank.gather(frame["event"]).cat.to(pl.Enum(kinds))
            frame = frame.with_columns(event.alias("event"))
        frame = frame.rechunk()  # rows are picked from one piece five times as fast as from many
        return EncodedLog(frame, users, items, pl.Series(list(self.origins), dtype=pl.String))


_FORMS = {
    "auto": "nothing, because there is none",
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
    "iso": "ISO 8601 dates",
    "dates": "the dates that the column has",
}


class _Pool:
    """Texts that have been seen, each with a number. One of its own: numbers of a shared one depend on what else was read.

    It is in parts by the texts' hashes, and a batch goes through them one by one: a part's table stays in a core's cache, where
    that of all texts of a large log does not, and a lookup takes three times as long (docs/data.md).
    """

    def __init__(self) -> None:
        self.kinds = [pl.Categorical(pl.Categories.random()) for _ in range(_PARTS)]
        # polars forgets the texts with the last column that has them.
        self.alive = [pl.Series([], dtype=kind) for kind in self.kinds]

    def numbers(self, texts: pl.Series) -> pl.Series:
        """Return the number of each text, null where there is none."""
        part = (texts.hash() % _PARTS).cast(pl.UInt8).to_numpy()
        order = np.argsort(part, kind="stable")  # of bytes: a radix sort
        grouped = texts.gather(order)
        stops = np.bincount(part, minlength=_PARTS).cumsum()
        numbers = np.empty(len(texts), dtype=np.uint32)
        for which, (start, stop) in enumerate(itertools.pairwise([0, *stops.tolist()])):
            places = grouped[start:stop].cast(self.kinds[which]).to_physical().fill_null(0)
            numbers[order[start:stop]] = places.to_numpy() * _PARTS + which
        found = pl.Series(numbers)
        return found.set(texts.is_null(), None) if texts.null_count() else found

    def sorted(self) -> tuple[pl.Series, pl.Series]:
        """Return all texts in order, and for each number its place among them.

        Numbers depend on which batch, and which thread, met a text first; places do not.
        """
        texts = [kind.categories.to_series() for kind in self.kinds]
        every = pl.concat(texts)
        number = np.concatenate([np.arange(len(t)) * _PARTS + which for which, t in enumerate(texts)])
        order = every.arg_sort().to_numpy()
        rank = np.zeros(max(map(len, texts)) * _PARTS, dtype=np.uint32)
        rank[number[order]] = np.arange(len(every), dtype=np.uint32)
        return every.gather(order), pl.Series(rank)


def _numbers(**columns: tuple[_Pool, pl.Series]) -> dict[str, pl.Series]:
    """Return the numbers of texts in their pools, null where there is none; columns on a thread each."""
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda column: column[0].numbers(column[1]), columns.values())
        return dict(zip(columns, found, strict=True))
