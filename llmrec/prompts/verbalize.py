"""Histories into token ids: training documents whose every event is a target, and prompts.

Each part is tokenised on its own and the ids are concatenated. A tokenizer applied to the whole text would
merge across the borders of parts; then a prompt would not be a prefix of the document, and one item would have
several spellings, of which the trie knows only one.

Shapes: T tokens of a document, L events.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import History
from llmrec.errors import PromptError
from llmrec.prompts.template import PromptTemplate, render
from llmrec.prompts.time import TimeWords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

__all__ = ["Document", "Verbalizer"]

K = TypeVar("K")
V = TypeVar("V")

_MOST_KEPT = 2**17  # events, some 60 MB of them


@dataclass(frozen=True, eq=False)
class Document:
    """A verbalised history and where its identifiers lie."""

    token_ids: NDArray[np.int64]  # [T]
    items: NDArray[np.int32]  # [L]
    starts: NDArray[np.int64]  # [L] first token of each event's identifier
    stops: NDArray[np.int64]  # [L] one past its last token (which is the end token)


class Verbalizer:
    """Writes histories with one template, one tokenizer and one set of identifiers.

    Parameters
    ----------
    template, tokenizer, catalog
        What to write, in which alphabet, about which items.
    identifiers
        Token ids of each item's identifier, including its end token [N].
    time
        One of :data:`llmrec.settings.TIME_STYLES`, or several joined by ``+``.
    resolution, min_gap, timezone, hemisphere
        See :class:`llmrec.prompts.time.TimeWords`.
    max_events
        Longest history that a prompt shows: the newest events. Older ones are not in the prompt.
    context_length
        Longest sequence the model can read, in tokens.

    Raises
    ------
    ConfigError
        The log is too coarse for the style of time.
    """

    def __init__(
        self,
        template: PromptTemplate,
        tokenizer: PreTrainedTokenizerBase,
        catalog: Catalog,
        identifiers: Sequence[Sequence[int]],
        *,
        time: str = "gap",
        resolution: int = 1,
        min_gap: int = 3600,
        timezone: str = "UTC",
        hemisphere: str = "north",
        max_events: int = 20,
        context_length: int | None = None,
    ) -> None:
        attributes = {"title": catalog.titles, **catalog.attributes}
        template.check_fields(attributes)
        self.template = template
        self.max_events = max_events
        self.context_length = context_length
        self._identifiers = [np.asarray(i, dtype=np.int64) for i in identifiers]
        self._longest = max(map(len, self._identifiers), default=0)
        self._times = TimeWords(time, resolution, min_gap, timezone, hemisphere)
        self._attributes = {name: attributes[name] for name in template.fields() - {"time"}}
        self._tokenizer = tokenizer
        self._encoded: dict[str, NDArray[np.int64]] = {}
        self._events: dict[tuple[int, str], tuple[NDArray[np.int64], int, int]] = {}
        # Llama's tokenizer starts every text with a BOS token and the model expects it; GPT-2's and SmolLM2's
        # do not. Tokenising an empty text tells which kind this one is.
        bos = list(tokenizer("", add_special_tokens=True)["input_ids"])
        self._head = np.concatenate([np.asarray(bos, dtype=np.int64), self._encode(template.preamble)])

    def document(self, history: History, now: int | None = None) -> Document:
        """Verbalise a whole history; no windowing is applied.

        Parameters
        ----------
        now
            What ages are relative to, in seconds since 1970: the newest event before the first target; the newest of all if left
            out.

        Raises
        ------
        PromptError
            The document is longer than the model's context.
        """
        document = self._written(history, now)
        if self.context_length is not None and len(document.token_ids) > self.context_length:
            raise PromptError(
                f"The document of user {history.user_id!r} takes {len(document.token_ids):,} tokens; the model reads at most "
                f"{self.context_length:,}. {self._shorter}"
            )
        return document

    def _written(self, history: History, now: int | None = None) -> Document:
        words = self._times(history.timestamps, now)
        events = [self._event(item, when) for item, when in zip(history.items.tolist(), words, strict=True)]
        pieces = [self._head, *(tokens for tokens, _, _ in events)]
        begins = np.cumsum(list(map(len, pieces)))[:-1]  # of each event
        starts = begins + np.array([before for _, before, _ in events], dtype=np.int64)
        lengths = np.array([identifier for _, _, identifier in events], dtype=np.int64)
        return Document(np.concatenate(pieces), history.items, starts, starts + lengths)

    def prompt(self, history: History) -> NDArray[np.int64]:
        """Return the token ids after which the next item's identifier is to be generated.

        The newest ``max_events`` events are shown. ``history.next_timestamp`` is used only if the template reveals the
        target's time.

        Raises
        ------
        PromptError
            The history is empty, or the prompt with the longest identifier exceeds the model's context.
        """
        if not len(history):
            raise PromptError(
                f"User {history.user_id!r} has no events, so there is no history to write a prompt from. Expected "
                "at least one event; use a popularity recommender for users without a history."
            )
        window = History(
            history.user_id, history.items[-self.max_events :], history.timestamps[-self.max_events :]
        )
        pieces = [self._written(window).token_ids]
        if self.template.before:
            when = ""
            if self.template.reveals_target_time:
                if history.next_timestamp is None:
                    raise PromptError(
                        f"The template {self.template.name!r} states the target's time, which the history of user "
                        f"{history.user_id!r} does not tell. Expected next_timestamp, or {{time}} in the part 'after'."
                    )
                now = int(window.timestamps[-1])
                when = self._times(np.append(window.timestamps, history.next_timestamp), now)[-1]
            pieces.append(self._encode(render(self.template.before, {"time": when})))
        tokens = np.concatenate(pieces)
        if self.context_length is not None and len(tokens) + self._longest > self.context_length:
            raise PromptError(
                f"The prompt of user {history.user_id!r} takes {len(tokens):,} tokens and the longest identifier "
                f"{self._longest:,}; the model reads at most {self.context_length:,}. {self._shorter}"
            )
        return tokens

    @property
    def _shorter(self) -> str:
        return (
            f"Expected less: lower prompt.max_events (now {self.max_events}), choose a shorter template, or a model with a longer "
            "context. Nothing was cut off."
        )

    @cached_property
    def end_token_id(self) -> int | None:
        """The token that ends every identifier and occurs nowhere else in one; ``None`` if there is none."""
        last = {int(identifier[-1]) for identifier in self._identifiers}
        if len(last) > 1 or any((i[:-1] == i[-1]).any() for i in self._identifiers):
            return None
        return last.pop()

    def read(self, identifiers: Sequence[Sequence[int]]) -> list[int | None]:
        """Return the item that each token sequence writes, whatever tokens it uses for it; ``None`` for no item."""
        return [self._item_of_text.get(text) for text in self._texts(identifiers)]

    @cached_property
    def _item_of_text(self) -> dict[str, int]:
        return {text: item for item, text in enumerate(self._texts(self._identifiers))}

    def _texts(self, sequences: Sequence[Sequence[int] | NDArray[np.int64]]) -> list[str]:
        # Spaces are not cleaned up: a text is to be the item's to the letter.
        decode = self._tokenizer.decode
        return [str(decode(list(map(int, s)), clean_up_tokenization_spaces=False)) for s in sequences]

    def _event(self, item: int, when: str) -> tuple[NDArray[np.int64], int, int]:
        """Return the tokens of an event, how many stand before its identifier, and how many the identifier has."""
        if (found := self._events.get((item, when))) is not None:
            return found
        values = {name: column[item] for name, column in self._attributes.items()} | {"time": when}
        before = self._encode(render(self.template.before, {"time": when}) if self.template.before else "")
        identifier = self._identifiers[item]
        pieces = [before, identifier, self._encode(render(self.template.after, values))]
        return _kept(self._events, (item, when), (np.concatenate(pieces), len(before), len(identifier)))

    def _encode(self, text: str) -> NDArray[np.int64]:
        if (found := self._encoded.get(text)) is not None:
            return found
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return _kept(self._encoded, text, np.asarray(ids, dtype=np.int64))


def _kept(cache: dict[K, V], key: K, value: V) -> V:
    """Keep a value and return it. A full cache starts again: where dates are told, nearly every event is written but once."""
    if len(cache) >= _MOST_KEPT:
        cache.clear()
    cache[key] = value
    return value
