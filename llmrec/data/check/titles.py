"""What the language model will read: lengths of titles, and titles that are no good."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from llmrec.data.catalog import Catalog
from llmrec.data.check.spread import Histogram, Spread
from llmrec.data.cleaning.titles import without_entities, without_markup

__all__ = ["LONG", "Flaw", "Titles", "check_titles"]

LONG = 200  # characters, some 50 tokens: a history of 20 such titles is a prompt of 1,000

# UTF-8 that was read as latin-1 or Windows-1252, and the sign for a byte that could not be read.
_GARBLED = "\ufffd|[\u00c2\u00c3\u00e2][\u0080-\u00bf\u20ac\u2122\u0153\u201c\u201d]"


@dataclass(frozen=True)
class Flaw:
    """Titles with one thing wrong."""

    titles: int
    example: str  # the first of them, at most 100 characters; empty where there is none


@dataclass(frozen=True)
class Titles:
    """Titles as they are after cleaning; lengths are in characters."""

    lengths: Spread
    by_length: Histogram
    shared: int  # items whose title another item has too
    most_shared: str  # the title that most items have; empty where none is shared
    most_shared_items: int
    entities: Flaw  # that cleaning.unescape would change
    markup: Flaw  # that cleaning.strip_markup would change: tags, control characters, runs of blanks
    garbled: Flaw  # read with a wrong encoding
    like_ids: Flaw  # the item's id, or digits only
    long: Flaw  # more than 200 characters; the longest is the example


def check_titles(catalog: Catalog) -> Titles:
    """Measure a catalogue's titles."""
    titles = pl.Series(catalog.titles, dtype=pl.String)
    ids = pl.Series(catalog.item_ids, dtype=pl.String)
    lengths = titles.str.len_chars().cast(pl.Int64)
    several = titles.filter(titles.is_duplicated()).value_counts(sort=True, name="n")
    # Of titles that equally many items have the first in the order of text, so that the answer is always the same.
    most = several.filter(pl.col("n") == pl.col("n").max()).sort(titles.name)
    long = lengths > LONG
    longest = titles[int(lengths.arg_max() or 0)]
    return Titles(
        lengths=Spread.of(lengths.to_numpy()),
        by_length=Histogram.even(lengths.to_numpy()),
        shared=int(several["n"].sum()),
        most_shared=most[titles.name][0] if len(most) else "",
        most_shared_items=int(most["n"][0]) if len(most) else 0,
        entities=_flaw(titles, without_entities(titles) != titles),
        markup=_flaw(titles, without_markup(titles) != titles),
        garbled=_flaw(titles, titles.str.contains(_GARBLED)),
        like_ids=_flaw(titles, (titles == ids) | titles.str.contains(r"^\d+$")),
        long=Flaw(int(long.sum()), longest[:100] if long.any() else ""),
    )


def _flaw(titles: pl.Series, wrong: pl.Series) -> Flaw:
    found = titles.filter(wrong)
    return Flaw(len(found), found[0][:100] if len(found) else "")
