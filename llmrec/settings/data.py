"""Where the data comes from, how it is read, and how it is cleaned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from llmrec.settings.secrets import fixed_password, fixed_secrets, is_secret, without_password
from llmrec.settings.section import Section, TimeZone

__all__ = ["Cleaning", "Columns", "Data", "Paging", "Privacy", "SourceSettings"]


class Columns(Section):
    """Names of the columns in the user's own tables."""

    user_id: str = "user_id"
    """Who; read as text."""
    item_id: str = "item_id"
    """What; read as text. Must be in both tables."""
    timestamp: str = "timestamp"
    """When; see cleaning.timestamp_format."""
    event: str | None = None
    """What kind of event: view, click, buy ...; null where the log has one kind."""
    rating: str | None = None
    """How much it was liked, a number; null where nobody was asked."""
    title: str = "title"
    """What the language model reads and writes; in the items table."""
    attributes: tuple[str, ...] = ()
    """Further columns of the items table, for prompts ({year}) and for telling equal titles apart."""

    @field_validator("attributes")
    @classmethod
    def _free_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in ("item_id", "title", "time"):
                raise ValueError(
                    f"an attribute cannot be called {name}, which prompts and files have a meaning for; expected another name: rename the column"
                )
        return value


class Paging(Section):
    """How an HTTP endpoint hands out events, page by page, as JSON."""

    records: str = "data"
    """Dotted path of the list of events in an answer; "" where the answer is the list."""
    next: str = "next_cursor"
    """Dotted path of the cursor of the next page, or of its URL; absent, null or empty on the last page. A Link header with
    rel="next" serves as well."""
    parameter: str = "cursor"
    """Query parameter that takes the cursor."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """Further query parameters, for example {limit: "1000"}."""
    headers: dict[str, str] = Field(default_factory=dict)
    """For example {Authorization: "Bearer ${SHOP_TOKEN}"}; variables of the environment are filled in when it is read. They
    are sent to the endpoint's own host only, wherever it redirects to."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds that a page may take, to its last byte, before it is asked for again."""
    retries: int = Field(default=5, ge=0)
    """Attempts after a failed one, with growing pauses, before reading stops with an error."""
    max_page_mb: float = Field(default=64.0, gt=0)
    """Largest page, in MB of JSON; in memory it takes about ten times as much. A larger one is an error: ask for fewer events
    a page."""

    @field_validator("headers", "parameters")
    @classmethod
    def _no_secrets(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if is_secret(name) and "${" not in value:
                raise ValueError(
                    f"{name} is a secret; expected a variable of the environment in its place, such as ${{SHOP_TOKEN}}, because "
                    "the config is kept with the results"
                )
        return values


class SourceSettings(Section):
    """One table: files, a database's answer, or an endpoint's events. A path alone will do: ``interactions: log.csv``."""

    location: tuple[str, ...]
    """Paths, patterns (logs/2024-*.csv.gz) or a URL: postgresql+psycopg://reader:${SHOP_PASSWORD}@host/shop, sqlite:///shop.db,
    https://host/events, hf://owner/name, or ${SHOP_URL} as a whole. Several are read in the order of their names, whatever
    order they are given in. Passwords are variables of the environment, because configs are kept."""
    format: Literal[
        "auto", "csv", "tsv", "jsonl", "parquet", "recbole", "datasets", "sql", "http", "store"
    ] = "auto"
    """auto: by the ending (.csv, .tsv, .jsonl, .parquet, .inter, .item, .user; .gz and .zst after it), the URL or what is in the
    folder. datasets: of the Hugging Face hub, or a folder of save_to_disk. store: a folder that 'llmrec data update' keeps."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """csv, tsv: what separates fields; null for the format's own."""
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    """csv, tsv: what encloses fields that contain separators; null where nothing does."""
    encoding: str = "utf-8"
    """csv, tsv, jsonl: of the text, for example latin-1. A byte order mark is skipped."""
    table: str | None = None
    """sql: name of the table, schema.name where it has one."""
    query: str | None = None
    """sql: a SELECT, instead of a table. It becomes a subquery, so an ORDER BY of its own decides nothing: see cursor."""
    cursor: str | None = None
    """sql: column that only grows (an event's number, or the time it was written). Rows are read in its order, then in that of
    the other columns, so that reading twice gives one order; and 'llmrec data update' reads the rows from the last value on.
    null: the order of the columns alone, in which ties of a user's times are in the order of item ids; for updates the
    timestamp."""
    trimmed: bool = False
    """'llmrec data update': whether old rows or files may be deleted at the source, while the store keeps them. false: that is
    an error, as is every other change but growth. true: rows that come late in the place of deleted ones go unnoticed."""
    split: str = "train"
    """datasets: which split."""
    subset: str | None = None
    """datasets: which configuration (of the hub)."""
    paging: Paging = Paging()

    @property
    def label(self) -> str:
        """A short name for reports: the table's, or the first file's without its endings."""
        if self.table is not None:
            return self.table
        place = self.location[0].partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        return place.partition(".")[0] or place

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        """Accept a path, or several, in the place of the mapping."""
        if isinstance(value, (str, Path)):
            return {"location": (str(value),)}
        if isinstance(value, (list, tuple)):
            return {"location": tuple(map(str, value))}
        if isinstance(value, dict) and isinstance(value.get("location"), (str, Path)):
            return {**value, "location": (str(value["location"]),)}
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> SourceSettings:
        problems = []
        if not self.location:
            problems.append("location is empty; expected a path, a pattern or a URL")
        problems += [
            f"location has a password in it ({without_password(place)}); expected a variable of the environment in "
            "its place, such as ${SHOP_PASSWORD}, because the config is kept with the results"
            for place in self.location
            if fixed_password(place)
        ]
        problems += [
            f"location has the parameter {name}, a secret; expected a variable of the environment as its value, such as "
            "${SHOP_TOKEN}, because the config is kept with the results"
            for place in self.location
            for name in fixed_secrets(place)
        ]
        if self.table is not None and self.query is not None:
            problems.append("table and query are both set; expected one of them")
        if self.separator is not None and self.separator == self.quote:
            problems.append(f"separator and quote are both {self.quote}; expected different ones")
        problems += [
            f"{name} is a line end; expected another character"
            for name in ("separator", "quote")
            if getattr(self, name) in ("\r", "\n")
        ]
        try:
            b" ".decode(self.encoding)
        except UnicodeError:
            pass  # UTF-16 has no character of one byte
        except (LookupError, ValueError):
            problems.append(
                f"there is no encoding {self.encoding!r}; expected one that Python knows, for example latin-1"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self


class Cleaning(Section):
    """What is done about rows that are wrong or not wanted. Everything is counted, and what is left out is kept in a file."""

    max_rejected: float = Field(default=0.05, ge=0, le=1)
    """Largest share of the log's rows, and of the items, that may be unusable (missing, unparsable, unknown) before reading
    stops with an error: beyond it a wrong column or format is likelier than bad rows. Rows left out by choice do not
    count."""
    missing: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan", "None", "N/A", "\\N")
    """Texts that mean that an id or a timestamp is not there."""
    timestamp_format: str = "auto"
    """auto: numbers of seconds, milli-, micro- or nanoseconds since 1970 (which, the first rows decide), or ISO 8601 dates
    with or without time. s, ms, us, ns, iso: that. Else a pattern such as %d/%m/%Y %H:%M."""
    timezone: TimeZone = "UTC"
    """IANA name: of ISO dates and patterns that do not say, and of earliest and latest. Numbers are UTC by definition."""
    earliest: str | None = None
    """ISO date or moment, of timezone unless it says its own; events before it are left out. A log that writes 0 for 'unknown' needs it: they would all be in 1970."""
    latest: str = "now"
    """ISO date, which is the last day, or moment, of timezone unless it says its own; later events are left out. now: they are
    impossible, and count as faults."""
    events: tuple[str, ...] | None = None
    """Kinds of event that are kept; null for all. Needs columns.event."""
    min_rating: float | None = None
    """Events with a lower rating, or none, are left out. Needs columns.rating."""
    unknown_items: Literal["drop", "error"] = "drop"
    """Events with an item that the catalogue does not have."""
    duplicates: Literal["keep", "drop"] = "drop"
    """Rows in which user, item, time and kind of event are those of a row before: loggers that send twice."""
    repeats: Literal["keep", "consecutive", "all"] = "keep"
    """Events of a user with an item seen before. consecutive: left out where the event just before it was the same item.
    all: only the first of each item is kept. The order of ties is the source's."""
    max_per_hour: int | None = Field(default=None, ge=1)
    """Users with more events than this within any 3,600 seconds are left out: bots, or logs written at once."""
    max_per_user: int | None = Field(default=None, ge=1)
    """Users with more events than this are left out."""
    max_repetition: float | None = Field(default=None, gt=0, le=1)
    """Users of 20 events or more of which a larger share is of one item are left out: scripts and broken clients."""
    min_user_events: int = Field(default=1, ge=1)
    """Users with fewer events are left out ..."""
    min_item_events: int = Field(default=1, ge=1)
    """... and items with fewer, repeatedly, until neither is left (k-core)."""
    unescape: bool = True
    """Turn HTML entities of titles and attributes (&amp;) into characters."""
    strip_markup: bool = True
    """Remove HTML tags and control characters from titles and attributes, and make runs of blanks one space."""
    max_title: int | None = Field(default=None, ge=8)
    """Longer titles are cut at a word to this many characters, with an ellipsis. Tokens cost; null keeps them whole."""
    empty_titles: Literal["drop", "error", "id"] = "drop"
    """Items without a title, and items whose row lacks an id: left out, with their events; or an error; or id: called by
    their id."""
    duplicate_titles: Literal["keep", "merge"] = "keep"
    """Items of equal titles. keep: items of their own, which identifiers tell apart. merge: one item, the first, which gets
    all events."""
    duplicate_items: Literal["drop", "error"] = "drop"
    """Further rows of an id that the items table has had already."""
    unused_items: Literal["keep", "drop"] = "keep"
    """Items without an event in the cleaned log: candidates like any other, or left out, as is usual after a k-core."""

    @field_validator("earliest", "latest")
    @classmethod
    def _is_date(cls, value: str | None) -> str | None:
        from datetime import datetime

        if value in (None, "now"):
            return value
        try:
            datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(f"{value!r} is no date; expected one such as 2024-01-31") from None
        return value

    @field_validator("timestamp_format")
    @classmethod
    def _is_format(cls, value: str) -> str:
        if value not in ("auto", "s", "ms", "us", "ns", "iso") and "%" not in value:
            raise ValueError(
                f"{value!r} is no format; expected auto, s, ms, us, ns, iso or a pattern such as %d/%m/%Y"
            )
        if "%Z" in value:
            raise ValueError(
                f"{value!r} has names of zones (%Z), of which one can mean several; expected %z for +01:00, or the name written out in the "
                "pattern and cleaning.timezone"
            )
        return value


class Privacy(Section):
    """What of the users' and other people's identity goes no further than this."""

    hash_users: bool = False
    """Replace user ids by keyed hashes (BLAKE2b, 128 bits) while they are read: nothing that is written has the ids."""
    salt: str = "${LLMREC_SALT}"
    """The key, a variable of the environment: whoever has it and an id can find the user. Another one gives other ids. The config is
    kept with the results, so a key that is written here is refused, as is an empty one."""
    redact: tuple[Literal["email", "phone"], ...] = ()
    """What is replaced by [email] and [phone] in titles and attributes, and in the texts of items and broken rows left out."""
    drop_attributes: tuple[str, ...] = ()
    """Attributes, such as names of sellers, that are not read although columns.attributes has them."""

    @field_validator("salt")
    @classmethod
    def _is_no_key(cls, value: str) -> str:
        if not re.search(r"\$\{\w+\}", value):
            raise ValueError(
                "this would be the key itself, and the config is kept with the results; expected a variable of the environment that "
                "holds it, such as ${LLMREC_SALT}"
            )
        return value


class Data(Section):
    """Where the interactions and the catalogue come from: a data set by name, or two tables."""

    dataset: str | None = None
    """Name of a data set, for example ml-100k; 'llmrec data sets' lists them."""
    interactions: SourceSettings | None = None
    """Log with one row per event."""
    items: SourceSettings | None = None
    """Catalogue with one row per item."""
    columns: Columns = Columns()
    cleaning: Cleaning = Cleaning()
    privacy: Privacy = Privacy()
    store: Path | None = None
    """Folder in which 'llmrec data update' keeps a copy of the log, to which it adds new events; runs then read that. It holds
    the columns that are named in columns; user ids are hashed if privacy.hash_users is on."""

    @property
    def label(self) -> str:
        """A short name for reports."""
        if self.dataset is not None or self.interactions is None:
            return self.dataset or ""
        return self.interactions.label

    @model_validator(mode="after")
    def _makes_sense(self) -> Data:
        problems = []
        named, tables = self.dataset is not None, self.interactions is not None and self.items is not None
        if named == tables or (named and (self.interactions or self.items)):
            problems.append("expected either 'dataset' (a name) or both 'interactions' and 'items' (tables)")
        if named and self.store is not None:
            problems.append("store is set and dataset too; expected it with tables of your own")
        if named and self.columns != Columns():
            problems.append(
                "columns is set and dataset too, whose columns are known; expected it with tables of your own"
            )
        if self.cleaning.events is not None and self.columns.event is None:
            problems.append("cleaning.events is set; expected columns.event, the column that says the kind")
        if self.cleaning.min_rating is not None and self.columns.rating is None and not named:
            problems.append("cleaning.min_rating is set; expected columns.rating, the column that has it")
        if problems:
            raise ValueError("\n".join(problems))
        return self
