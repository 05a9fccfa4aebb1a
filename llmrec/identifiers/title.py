"""The title scheme: an item's identifier is its title, tokenised on its own, and an end token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrec.data.catalog import Catalog
from llmrec.errors import IdentifierError
from llmrec.identifiers.base import ItemIdentifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["distinct_titles", "title_identifiers"]


def title_identifiers(
    catalog: Catalog,
    tokenizer: PreTrainedTokenizerBase,
    *,
    end: str = "\n",
    distinguish_by: Sequence[str] = ("year",),
) -> ItemIdentifiers:
    r"""Use titles as identifiers.

    Parameters
    ----------
    end
        Text that ends an identifier; must be a single token. A line break suits a list of titles.
    distinguish_by
        Attributes to tell items of the same title apart by, see :func:`distinct_titles`.

    Raises
    ------
    IdentifierError
        ``end`` is not a single token.
    """
    end_ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    if len(end_ids) != 1:
        raise IdentifierError(
            f"identifiers.end is {end!r}, which this tokenizer writes with {len(end_ids)} tokens. Expected text of "
            r'exactly one token, for example "\n".'
        )
    texts, changed = distinct_titles(catalog, distinguish_by)
    # add_special_tokens=False: a BOS inside the document would cut the identifier off from its history.
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ItemIdentifiers(
        scheme="title",
        texts=tuple(texts),
        token_ids=tuple((*ids, end_ids[0]) for ids in encoded),
        end_token_id=end_ids[0],
        changed=changed,
    )


def distinct_titles(catalog: Catalog, distinguish_by: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    """Return one distinct text per item, and the original title of each item whose text was changed.

    White space is collapsed first. Items that share a title get `` (value)`` of the first attribute of
    ``distinguish_by`` that tells all of them apart, else `` (2)``, `` (3)``, ... in catalogue order.
    """
    titles = [" ".join(title.split()) for title in catalog.titles]
    texts = list(titles)
    groups = defaultdict(list)
    for item, title in enumerate(titles):
        groups[title].append(item)
    taken = set(groups)
    changed: dict[int, str] = {}
    for title, members in groups.items():
        if len(members) == 1:
            continue
        for suffixes in (*_attribute_suffixes(catalog, members, distinguish_by), _numbers(members)):
            new = [title + suffix for suffix in suffixes]
            # "Sabrina (1954)" may be the plain title of a third item.
            if not any(text != title and text in taken for text in new):
                break
        else:
            new = _free_numbers(title, members, taken)
        for item, text in zip(members, new, strict=True):
            if text != title:
                changed[item] = title
            texts[item] = text
            taken.add(text)
    return texts, changed


def _attribute_suffixes(catalog: Catalog, members: list[int], names: Sequence[str]) -> list[list[str]]:
    columns = [catalog.attributes[name] for name in names if name in catalog.attributes]
    values = [[column[item].strip() for item in members] for column in columns]
    return [[f" ({v})" for v in vs] for vs in values if all(vs) and len(set(vs)) == len(vs)]


def _numbers(members: list[int]) -> list[str]:
    return ["", *(f" ({n})" for n in range(2, len(members) + 1))]


def _free_numbers(title: str, members: list[int], taken: set[str]) -> list[str]:
    new, number = [title], 2
    while len(new) < len(members):
        text = f"{title} ({number})"
        if text not in taken:
            new.append(text)
        number += 1
    return new
