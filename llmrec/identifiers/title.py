"""The title scheme: an item's identifier is its title, tokenised on its own, and an end token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from llmrec.data.catalog import Catalog
from llmrec.errors import IdentifierError, nearest
from llmrec.identifiers.base import ItemIdentifiers
from llmrec.settings import Identifiers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmrec.identifiers.schemes import Material

__all__ = ["TitleScheme", "distinct_titles", "end_problems", "terminated", "title_identifiers"]


class TitleScheme:
    """Titles; a new item's title is written like any other."""

    def problems(self, settings: Identifiers, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Return why this tokenizer cannot end a title."""
        return end_problems(settings.end, tokenizer)

    def build(self, material: Material) -> ItemIdentifiers:
        """Return titles as identifiers."""
        settings = material.settings
        return title_identifiers(
            material.catalog, material.tokenizer, end=settings.end, distinguish_by=settings.distinguish_by
        )

    def extend(self, known: ItemIdentifiers, material: Material) -> ItemIdentifiers:
        """Return titles for new items too; one that is taken gets a number."""

        def key(text: str) -> Hashable:
            return tuple(_ids(text, material.tokenizer))

        texts, changed = list(known.texts), dict(known.changed)
        taken: set[Hashable] = {tokens[:-1] for tokens in known.token_ids}
        for title in _collapsed(material.catalog)[len(known) :]:
            text = title if key(title) not in taken else next(_free_numbers(title, taken, key))
            if text != title:
                changed[len(texts)] = title
            texts.append(text)
            taken.add(key(text))
        return terminated("title", texts, material.tokenizer, material.settings.end, changed)


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
        ``end`` is not a single token, or an attribute is asked for that the catalogue lacks.
    """
    titles = _collapsed(catalog)
    encoded = dict(zip(titles, tokenizer(titles, add_special_tokens=False)["input_ids"], strict=True))

    def key(text: str) -> Hashable:
        # Titles are the same if their tokens are: many tokenizers join letters and their accents, for example.
        return tuple(encoded[text] if text in encoded else _ids(text, tokenizer))

    if tuple(distinguish_by) != Identifiers.model_fields["distinguish_by"].default:
        for name in distinguish_by:
            if name not in catalog.attributes:
                raise IdentifierError(
                    f"identifiers.distinguish_by names {name!r}{nearest(name, catalog.attributes)}, which this catalogue does not "
                    f"have. Expected some of {', '.join(catalog.attributes) or 'none: there are none'}."
                )
    texts, changed = distinct_titles(catalog, distinguish_by, key)
    return terminated("title", texts, tokenizer, end, changed)


def terminated(
    scheme: str,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    end: str,
    changed: Mapping[int, str] | None = None,
) -> ItemIdentifiers:
    """Return texts in the tokenizer's own words as identifiers, each ended by ``end``.

    Raises
    ------
    IdentifierError
        ``end`` is not a single token.
    """
    problems = end_problems(end, tokenizer)
    if problems:
        raise IdentifierError(problems[0])
    (end_id,) = _end_ids(end, tokenizer)
    # add_special_tokens=False: a BOS inside the document would cut the identifier off from its history.
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ItemIdentifiers(
        scheme=scheme,
        texts=tuple(texts),
        token_ids=tuple((*ids, end_id) for ids in encoded),
        end_token_id=end_id,
        changed=changed or {},
    )


def end_problems(end: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what is wrong with the text that is to end identifiers."""
    length = len(_end_ids(end, tokenizer))
    if length == 1:
        return []
    return [
        f"identifiers.end is {end!r}, which this tokenizer writes with {length} tokens. Expected text of exactly one "
        r'token, for example "\n" or ";".'
    ]


def _end_ids(end: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of ``end`` behind other text: Llama's tokenizer puts a space before whatever comes first."""
    alone = _ids(end, tokenizer)
    before, both = _ids("0", tokenizer), _ids("0" + end, tokenizer)
    return both[len(before) :] if len(alone) > 1 and both[: len(before)] == before else alone


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def distinct_titles(
    catalog: Catalog, distinguish_by: Sequence[str], key: Callable[[str], Hashable] = str
) -> tuple[list[str], dict[int, str]]:
    """Return one distinct text per item, and the original title of each item whose text was changed.

    White space is collapsed first. Items that share a title get `` (value)`` of the first attribute of
    ``distinguish_by`` that tells all of them apart, else `` (2)``, `` (3)``, ... in catalogue order.

    Parameters
    ----------
    key
        Two texts are the same if their keys are.
    """
    titles = _collapsed(catalog)
    texts = list(titles)
    groups = defaultdict(list)
    for item, title in enumerate(titles):
        groups[key(title)].append(item)
    taken = set(groups)
    changed: dict[int, str] = {}
    for own, members in groups.items():
        if len(members) == 1:
            continue
        for suffixes in (*_attribute_suffixes(catalog, members, distinguish_by), _numbers(members)):
            new = [titles[item] + suffix for item, suffix in zip(members, suffixes, strict=True)]
            # "Sabrina (1954)" may be the plain title of a third item.
            keys = [key(text) for text in new]
            if len(set(keys)) == len(keys) and not any(k != own and k in taken for k in keys):
                break
        else:
            new = [titles[members[0]]]
            for item in members[1:]:
                new.append(next(_free_numbers(titles[item], taken | {key(t) for t in new}, key)))
        for item, text in zip(members, new, strict=True):
            if text != titles[item]:
                changed[item] = titles[item]
            texts[item] = text
            taken.add(key(text))
    return texts, changed


def _collapsed(catalog: Catalog) -> list[str]:
    return [" ".join(title.split()) for title in catalog.titles]


def _attribute_suffixes(catalog: Catalog, members: list[int], names: Sequence[str]) -> list[list[str]]:
    columns = [catalog.attributes[name] for name in names if name in catalog.attributes]
    values = [[column[item].strip() for item in members] for column in columns]
    return [[f" ({v})" for v in vs] for vs in values if all(vs) and len(set(vs)) == len(vs)]


def _numbers(members: list[int]) -> list[str]:
    return ["", *(f" ({n})" for n in range(2, len(members) + 1))]


def _free_numbers(title: str, taken: Collection[Hashable], key: Callable[[str], Hashable]) -> Iterator[str]:
    return (text for n in count(2) if key(text := f"{title} ({n})") not in taken)
