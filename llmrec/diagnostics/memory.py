"""Whether a *pretrained* language model knows the catalogue, or the data set itself, by heart.

A model that has read the data set may recall where it seems to recommend, and a comparison on it would say little about
data that it has not read. Three probes, each beside a control that is as predictable but for what is to be shown:

* **Titles, completed.** Given the first half of a title's tokens, would greedy decoding write the rest? This is memory in
  the sense of Carlini et al. ("Quantifying memorization across neural language models", ICLR 2023, arXiv 2202.07646;
  "Extracting training data from large language models", USENIX Security 2021, arXiv 2012.07805). Control: the same words
  in another order.
* **Titles, how probable**: the mean log-probability per token, beside the same words in another order.
* **Records of the data set's file.** Given an item's id in the form of the file, behind three of its lines as examples,
  would greedy decoding write the title; and how probable is it there? This follows Di Palma et al. ("Do LLMs memorize
  recommendation datasets? A preliminary study on MovieLens-1M", SIGIR 2025, arXiv 2505.10212). Control: the same title
  behind the id of another item, so that how well known a title is cancels out.

What they can show: titles above their control are known *as titles*, which any text about films may have taught; it is
no sign that the data set was read. Records above their control are: which id a film has is written in the data set's
files and nowhere else. (Where ids follow years or the alphabet, an id says a little about its title without any memory.)

What they cannot: nothing found is no proof of absence. Another prompt, sampling or a longer context may bring out what
greedy decoding does not, so shares are lower bounds; who rated what is not asked; and fine-tuning reads the
titles anyway. Shuffled words are less fluent too, not only less known, so the difference in log-probability bounds what is
known from above. A title is tokenised on its own, as in a prompt.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.data.catalog import Catalog
from llmrec.diagnostics.probes import (
    Answers,
    OnProgress,
    Probe,
    Question,
    ask,
    certain_of,
    likely,
    start_of_text,
)
from llmrec.errors import ConfigError, nearest

__all__ = ["RECORDS", "Record", "has_fields", "parse_record", "probe_records", "probe_titles"]

RECORDS = {"ml-100k": "{item_id}|{title} ({year})|", "ml-1m": "{item_id}::{title} ({year})::"}
"""How a line of a data set's own file of items begins, up to the end of the title."""

_LEAD = 'The title is "'  # any text that says nothing about the catalogue
_EXAMPLES = 3


@dataclass(frozen=True)
class Record:
    """A line of a file of items, in two parts with fields in braces."""

    key: str  # what is given, with the id
    value: str  # what is asked for, with the title

    def lines(self, catalog: Catalog) -> dict[int, tuple[str, str]]:
        """Return both parts for every item; without those that lack an attribute that the line has."""
        columns = {"item_id": catalog.item_ids, "title": catalog.titles, **catalog.attributes}
        used = _fields(self.key + self.value)
        found = {}
        for item in range(len(catalog)):
            values = {name: columns[name][item] for name in used}
            if all(values.values()):
                found[item] = (self.key.format(**values), self.value.format(**values))
        return found


def parse_record(text: str, catalog: Catalog) -> Record:
    """Read the form of a line, such as ``"{item_id}|{title} ({year})|"``.

    Raises
    ------
    ConfigError
        It has no item_id before a title, a brace that does not close, or a field that the catalogue lacks.
    """
    key, title, rest = text.partition("{title}")
    known = _known(catalog)
    try:
        fields = _fields(text)
    except ValueError as error:
        raise ConfigError(
            f"The record {text!r} cannot be read: {error}. Expected fields in braces, such as {{item_id}}|{{title}}."
        ) from None
    if unknown := [name for name in fields if name not in known]:
        raise ConfigError(
            f"The record {text!r} has the field {{{unknown[0]}}}{nearest(unknown[0], known)}, which this catalogue does not "
            f"have. Expected some of {', '.join(known)}."
        )
    if not title or "{item_id}" not in key:
        raise ConfigError(
            f"The record {text!r} has no {{item_id}} before a {{title}}. Expected both in this order, as in the lines of "
            "the data set's own file, for example '{item_id}|{title} ({year})|'."
        )
    return Record(key, title + rest)


def probe_titles(
    model: Any,
    tokenizer: Any,
    titles: Sequence[str],
    seed: int,
    *,
    most: int = 300,
    on_progress: OnProgress | None = None,
) -> list[Probe]:
    """Ask for titles, and for the same words in another order.

    Parameters
    ----------
    model, tokenizer
        A pretrained causal language model of transformers.
    titles
        Of the whole catalogue. Those of one word have no other order and are left out.
    most
        Titles asked for, a seeded random sample; each takes two short forward passes.

    Returns
    -------
    Two probes; none where no title has two words.
    """
    rng = np.random.default_rng(seed)
    lead = [*start_of_text(tokenizer), *_tokens(tokenizer, _LEAD)]
    able = [title for title in titles if len(set(title.split())) > 1]
    asked = rng.permutation(np.array(able, dtype=object))[:most].tolist()
    if not asked:
        return []
    true = [_tokens(tokenizer, title) for title in asked]
    control = [_tokens(tokenizer, _mixed(title, rng)) for title in asked]
    sides = [[Question(lead, t, hint=len(t) // 2) for t in side] for side in (true, control)]
    told, mixed = _ask_both(model, sides, on_progress)
    return [
        certain_of("second half of a title, written from the first", told, mixed, seed),
        likely("a title, its probability", told, mixed, seed),
    ]


def probe_records(
    model: Any,
    tokenizer: Any,
    catalog: Catalog,
    record: Record,
    seed: int,
    *,
    most: int = 300,
    on_progress: OnProgress | None = None,
) -> list[Probe]:
    """Ask for titles behind their id in the form of the data set's file, and behind another item's id.

    Parameters
    ----------
    most
        Items asked for, a seeded random sample of those behind the examples; each takes two forward passes.

    Returns
    -------
    Two probes; none where fewer than two items can be asked for.
    """
    lines = record.lines(catalog)
    examples, rest = list(lines)[:_EXAMPLES], list(lines)[_EXAMPLES:]
    asked = np.random.default_rng(seed).permutation(rest)[:most].tolist()
    if len(asked) < 2:
        return []
    text = "".join("".join(lines[item]) + "\n" for item in examples)
    start = start_of_text(tokenizer)

    def question(place: int, item: int) -> Question:
        given = [*start, *_tokens(tokenizer, text + lines[place][0])]
        return Question(given, _tokens(tokenizer, lines[item][1]))

    # In random order the next item is a random other one.
    others = [*asked[1:], asked[0]]
    sides = [
        [question(item, item) for item in asked],
        [question(other, item) for other, item in zip(others, asked, strict=True)],
    ]
    own, swapped = _ask_both(model, sides, on_progress)
    return [
        certain_of("title in the data set's file, written from the item's id", own, swapped, seed),
        likely("title in the data set's file, its probability behind the id", own, swapped, seed),
    ]


def _fields(text: str) -> list[str]:
    """Return the names in braces; a brace that does not close, or says how a value is to look, raises ValueError."""
    found = [field[1:] for field in string.Formatter().parse(text) if field[1] is not None]
    if any(form or conversion for _, form, conversion in found):
        raise ValueError("a field has a ':' or '!' in it")
    return [str(name) for name, _, _ in found]


def _known(catalog: Catalog) -> list[str]:
    return ["item_id", "title", *catalog.attributes]


def has_fields(text: str, catalog: Catalog) -> bool:
    """Return whether a catalogue has all that a line names."""
    return set(_fields(text)) <= set(_known(catalog))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _mixed(title: str, rng: np.random.Generator) -> str:
    """Return the words of a title in another order; it must have two different ones."""
    words = title.split()
    while (mixed := rng.permutation(words).tolist()) == words:
        pass
    return " ".join(mixed)


def _ask_both(
    model: Any, sides: Sequence[list[Question]], on_progress: OnProgress | None
) -> tuple[Answers, Answers]:
    """Ask the true questions and their controls, as many."""

    def half(part: int) -> OnProgress | None:
        if on_progress is None:
            return None
        return lambda done, of: on_progress(part * of + done, 2 * of)

    return ask(model, sides[0], half(0)), ask(model, sides[1], half(1))
