"""Where the data comes from."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from llmrec.settings.section import Section

__all__ = ["Data"]


class Columns(Section):
    """Names of the columns in the user's own files."""

    user_id: str = "user_id"
    """Who; read as text."""
    item_id: str = "item_id"
    """What; read as text. Must be in both files."""
    timestamp: str = "timestamp"
    """When: whole or decimal seconds since 1970 (UTC)."""
    title: str = "title"
    """What the language model reads and writes; in the items file."""
    attributes: tuple[str, ...] = ()
    """Further columns of the items file, for prompts ({year}) and for telling equal titles apart."""


class Data(Section):
    """Where the interactions and the catalogue come from: a data set by name, or two files."""

    dataset: str | None = None
    """Name of a built-in data set, for example ml-100k."""
    interactions: Path | None = None
    """Log with one row per event: .csv, .tsv or .parquet."""
    items: Path | None = None
    """Catalogue with one row per item: .csv, .tsv or .parquet."""
    columns: Columns = Columns()

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        named, files = self.dataset is not None, self.interactions is not None and self.items is not None
        if named == files or (named and (self.interactions or self.items)):
            raise ValueError("expected either 'dataset' (a name) or both 'interactions' and 'items' (files)")
        return self
