"""Print the prompt of one user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from llmrec.config_file import load_config
from llmrec.data.histories import History
from llmrec.errors import DataError, nearest
from llmrec.pipeline.identifiers_stage import identifiers_at_hand
from llmrec.pipeline.parts import language_parts, load_data, make_split
from llmrec.progress import console, say

__all__ = ["show_prompt"]


def show_prompt(config_path: Path, overrides: Sequence[str], user: str) -> None:
    """Print what the model is asked about a user, and what it learns from the user's newest training window.

    Raises
    ------
    DataError
        There is no such user, or the split asks nothing about the user.
    """
    config = load_config(config_path, overrides)
    data = load_data(config)
    interactions, catalog = data.interactions, data.catalog
    split = make_split(config, interactions, catalog)
    users = split.test.histories.user_ids
    if user not in users:
        assert split.log is not None
        known = split.log.events.user_ids
        if user in known:
            raise DataError(
                f"User {user!r} has {split.log.events.lengths[known.index(user)]} events, and nothing is asked about the user "
                f"in the test of this split ({split.protocol.split}). Expected one of its {len(users):,} test users, for "
                f"example {users[0]!r}."
            )
        raise DataError(
            f"There is no user {user!r} in the log of {len(known):,} users{nearest(user, known)}. Expected an id from "
            f"its user column, for example {known[0]!r}."
        )
    row = users.index(user)
    parts = language_parts(config, split, catalog, identifiers_at_hand(config, split, catalog))
    tokenizer, verbalizer = parts.tokenizer, parts.verbalizer
    history = split.test.histories[row]
    prompt = verbalizer.prompt(history)

    say(f"Prompt of user {user} for the test target: {len(prompt):,} tokens, the newest "
        f"{min(len(history), verbalizer.max_events)} of {len(history)} events")  # fmt: skip
    console.rule(style="dim")
    written = Text(tokenizer.decode(prompt))
    console.print(written, end=_line_end(written))
    console.rule(style="dim")
    target = int(split.test.target_items[row])
    text, length = parts.identifiers.texts[target], len(parts.identifiers.token_ids[target])
    title = "" if text == catalog.titles[target] else f" ({catalog.titles[target]})"
    say(f"To be generated: {text!r}{title}, {length} token{'s' if length > 1 else ''}")

    if user not in split.train.user_ids:
        say("\nNo training window: no event of this user is for training.")
        return
    train = split.train[split.train.user_ids.index(user)]
    window = slice(-verbalizer.max_events - 1, None)
    shown = History(user, train.items[window], train.timestamps[window])
    document = verbalizer.document(shown, now=int(shown.timestamps[-2:][0]))
    n_targets = int((document.stops - document.starts)[1:].sum())
    say(f"\nNewest training window: {len(document.token_ids):,} tokens, of which {n_targets:,} in "
        f"{len(document.starts) - 1} targets (in green; the first event is context)")  # fmt: skip
    console.rule(style="dim")
    marked, at = Text(), 0
    for start, stop in zip(document.starts[1:], document.stops[1:], strict=True):
        marked.append(tokenizer.decode(document.token_ids[at:start]))
        marked.append(tokenizer.decode(document.token_ids[start:stop]), style="green")
        at = int(stop)
    marked.append(tokenizer.decode(document.token_ids[at:]))
    console.print(marked, end=_line_end(marked))
    console.rule(style="dim")
    spans = ", ".join(f"{a}-{b}" for a, b in zip(document.starts[1:], document.stops[1:], strict=True))
    say(f"Targets are at token positions {spans}")
    lengths = np.array([len(ids) for ids in parts.identifiers.token_ids])
    say(f"An identifier takes {lengths.mean():.1f} tokens on average and {lengths.max()} at most")


def _line_end(text: Text) -> str:
    """Return what is missing for the next thing to stand on a line of its own."""
    return "" if text.plain.endswith("\n") else "\n"
