"""The catalogue's table into a catalogue: clean titles, one row per item."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from functools import partial
from html.entities import html5

import polars as pl

from llmrec.data.catalog import Catalog
from llmrec.data.cleaning.ledger import Ledger, Step
from llmrec.data.cleaning.redaction import redact, redact_all
from llmrec.data.cleaning.rows import as_ids, broken_rows
from llmrec.data.sources.base import Batch
from llmrec.errors import DataError
from llmrec.settings import Cleaning, Columns, Privacy

__all__ = ["clean_catalog", "without_entities", "without_markup"]

# Only what HTML has: "<3" and "<Insert name>" are parts of titles.
_TAGS = (
    "a|abbr|b|big|blockquote|br|center|cite|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|q|s|script|small|span|strong|"
    "style|sub|sup|table|tbody|td|th|tr|tt|u|ul"
)
_MARKUP = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
# With its semicolon: without one HTML takes the start of "&region" for a sign too.
_ENTITY = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z][a-z\d]*);", re.IGNORECASE | re.ASCII)
# Control, format and private characters, the joiners of emoji and of Indic scripts apart.
_CONTROL = r"[\p{Cc}\p{Co}\x{00AD}\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2064}\x{2066}-\x{2069}\x{FEFF}]"
_ELLIPSIS = "…"


def clean_catalog(
    batches: Iterable[Batch], columns: Columns, cleaning: Cleaning, privacy: Privacy, ledger: Ledger
) -> tuple[Catalog, pl.DataFrame]:
    """Read all batches and clean them.

    Returns
    -------
    catalog
        The items in the order of the table.
    item_of
        For each id of the table (item_id) its place in the catalogue (index: UInt32), null where it was left out; ids of merged
        items share one.

    Raises
    ------
    DataError
        The table is empty, or it has what the settings call an error.
    """
    attributes = [a for a in columns.attributes if a not in privacy.drop_attributes]
    kinds = privacy.redact
    frame = _read(batches, columns, attributes, cleaning, kinds, ledger)
    no_id = frame["item_id"].is_null()
    frame = _leave_out(frame, no_id, "items without an id", "cleaning.missing", kinds, ledger)
    again = ~frame["item_id"].is_first_distinct()
    if again.any() and cleaning.duplicate_items == "error":
        twice = frame["item_id"].filter(again)[0]
        raise DataError(
            f"The catalogue lists item {twice!r} more than once ({len(frame):,} rows, {len(frame) - int(again.sum()):,} different "
            "ids). Expected one row per item: remove the duplicates, choose the right id column, or set "
            "data.cleaning.duplicate_items to drop."
        )
    setting = f"cleaning.duplicate_items: {cleaning.duplicate_items}"
    frame = _leave_out(frame, again, "further rows of an item", setting, kinds, ledger)
    every = frame.select("item_id")
    frame = _clean_texts(frame, ["title", *map(_own, attributes)], cleaning, privacy, ledger)
    frame = _titled(frame, cleaning, ledger)
    frame, kept = _merged(frame, cleaning, ledger)
    item_of = every.join(kept, on="item_id", how="left", maintain_order="left")
    values = {a: tuple(frame[_own(a)].to_list()) for a in attributes}
    return Catalog(tuple(frame["item_id"].to_list()), tuple(frame["title"].to_list()), values), item_of


def _own(attribute: str) -> str:
    """Return the name of an attribute's column, which is none of those beside it."""
    return f"attribute:{attribute}"


def _read(
    batches: Iterable[Batch],
    columns: Columns,
    attributes: list[str],
    cleaning: Cleaning,
    kinds: Iterable[str],
    ledger: Ledger,
) -> pl.DataFrame:
    parts, broken = [], 0
    for batch in batches:
        broken += len(batch.broken)
        ledger.reject("items", "broken rows", broken_rows(batch, kinds))
        parts.append(
            pl.DataFrame(
                {
                    "item_id": as_ids(batch.frame[columns.item_id], cleaning.missing),
                    "title": _text(batch.frame[columns.title]),
                    **{_own(a): _text(batch.frame[a]) for a in attributes},
                    "row": batch.rows,
                }
            ).with_columns(origin=pl.lit(batch.origin))
        )
    frame = pl.concat(parts) if parts else pl.DataFrame()
    if frame.is_empty():
        raise DataError("The catalogue is empty. Expected at least one row per item.")
    ledger.add(Step("broken rows", "", "items", broken, left=len(frame), faulty=True))
    return frame


def _text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List) and not column.dtype.inner.is_nested():  # genres and the like
        column = column.cast(pl.List(pl.String)).list.join(", ")
    return as_ids(column, ()).fill_null("")


def _leave_out(
    frame: pl.DataFrame, wrong: pl.Series, step: str, setting: str, kinds: Iterable[str], ledger: Ledger
) -> pl.DataFrame:
    rows = frame.filter(wrong).select("origin", "row", "item_id", value="title")
    # The file of rejects is kept too, and titles may not have been cleaned yet.
    ledger.reject("items", step, rows.with_columns(redact_all(rows["value"], kinds)))
    frame = frame.filter(~wrong)
    ledger.add(Step(step, setting, "items", int(wrong.sum()), left=len(frame), faulty=True))
    if frame.is_empty():
        raise DataError(
            f"No item is left after the step {step!r}. Expected some: check data.columns and data.cleaning."
        )
    return frame


def _clean_texts(
    frame: pl.DataFrame, names: list[str], cleaning: Cleaning, privacy: Privacy, ledger: Ledger
) -> pl.DataFrame:
    steps: list[tuple[str, str, Callable[[pl.Series], pl.Series], list[str]]] = []
    if cleaning.unescape:
        steps.append(("HTML entities", "cleaning.unescape: true", without_entities, names))
    if cleaning.strip_markup:
        steps.append(("markup and blanks", "cleaning.strip_markup: true", without_markup, names))
    for kind in privacy.redact:
        steps.append((f"redaction of {kind}", "privacy.redact", partial(redact, kind=kind), names))
    if (most := cleaning.max_title) is not None:
        steps.append(
            (
                "titles too long",
                f"cleaning.max_title: {most}",
                partial(_shorten, most=most),
                ["title"],
            )
        )
    for step, setting, change, among in steps:
        new = {name: change(frame[name]) for name in among}
        touched = pl.repeat(False, len(frame), dtype=pl.Boolean, eager=True)
        for name, column in new.items():
            touched |= column != frame[name]
        frame = frame.with_columns(**new)
        ledger.add(Step(step, setting, "items", changed=int(touched.sum()), left=len(frame)))
    return frame


def without_entities(column: pl.Series) -> pl.Series:
    """Return texts with characters in the place of HTML entities."""

    def plain(text: str) -> str:
        for _ in range(3):  # &amp;amp; was escaped twice
            text, before = _ENTITY.sub(_character, text), text
            if text == before:
                break
        return text

    return _where(column, column.str.contains("&", literal=True), plain)


def _character(entity: re.Match[str]) -> str:
    """Return what an entity stands for; one that HTML does not have stays, since html.unescape would take a part of it."""
    text = entity[0]
    return html.unescape(text) if text[1] == "#" or text[1:] in html5 else text


def without_markup(column: pl.Series) -> pl.Series:
    """Return texts without HTML tags and control characters, and with single blanks."""
    column = _where(column, column.str.contains("<", literal=True), lambda text: _MARKUP.sub(" ", text))
    column = column.str.replace_all(_CONTROL, " ")
    return column.str.replace_all(r"\s+", " ").str.strip_chars()


def _where(column: pl.Series, chosen: pl.Series, change: Callable[[str], str]) -> pl.Series:
    if not chosen.any():
        return column
    changed = iter([change(text) for text in column.filter(chosen).to_list()])
    return pl.Series(
        column.name,
        [
            next(changed) if touched else text
            for text, touched in zip(column.to_list(), chosen.to_list(), strict=True)
        ],
        dtype=pl.String,
    )


def _shorten(column: pl.Series, most: int) -> pl.Series:
    def cut(text: str) -> str:
        head = text[: most - 1]
        # At a blank, unless that would lose more than half.
        at = head.rfind(" ") if not text[most - 1].isspace() else len(head)
        return head[: at if at >= most // 2 else len(head)].rstrip() + _ELLIPSIS

    return _where(column, column.str.len_chars() > most, cut)


def _titled(frame: pl.DataFrame, cleaning: Cleaning, ledger: Ledger) -> pl.DataFrame:
    empty = frame["title"].str.strip_chars() == ""
    setting = f"cleaning.empty_titles: {cleaning.empty_titles}"
    if cleaning.empty_titles == "id":
        named = frame.with_columns(
            pl.when(empty).then(pl.col("item_id")).otherwise(pl.col("title")).alias("title")
        )
        ledger.add(Step("empty titles", setting, "items", changed=int(empty.sum()), left=len(frame)))
        return named
    if empty.any() and cleaning.empty_titles == "error":
        raise DataError(
            f"{int(empty.sum()):,} items have an empty title, for example item {frame['item_id'].filter(empty)[0]!r}. Expected "
            "text in every title, because the title is what the language model reads and writes. Fill the titles in, or set "
            "data.cleaning.empty_titles to drop or id."
        )
    return _leave_out(frame, empty, "empty titles", setting, (), ledger)


def _merged(frame: pl.DataFrame, cleaning: Cleaning, ledger: Ledger) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make one item of those that share a title, if that is asked for; say where every id went."""
    first = frame["title"].is_first_distinct()
    if cleaning.duplicate_titles == "keep":
        shared = int(frame["title"].is_duplicated().sum())
        note = f"{shared:,} items share their title with another" if shared else ""
        ledger.add(
            Step("equal titles", "cleaning.duplicate_titles: keep", "items", left=len(frame), note=note)
        )
        return frame, pl.DataFrame({"item_id": frame["item_id"]}).with_row_index("index")
    kept = frame.filter(first)
    places = pl.DataFrame({"title": kept["title"]}).with_row_index("index")
    item_of = frame.select("item_id", "title").join(places, on="title", how="left", maintain_order="left")
    ledger.reject(
        "items",
        "equal titles",
        frame.filter(~first).select("origin", "row", "item_id", value="title"),
    )
    ledger.add(
        Step(
            "equal titles",
            "cleaning.duplicate_titles: merge",
            "items",
            removed=len(frame) - len(kept),
            left=len(kept),
            note="their events count for the first item of the title",
        )
    )
    return kept, item_of.select("item_id", "index")
