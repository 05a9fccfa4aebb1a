"""Draw a few test users at random and put what each system recommends to them side by side.

Shapes: U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.data.catalog import Catalog
from llmrec.data.histories import Holdout
from llmrec.data.recommendations import Recommendations
from llmrec.eval.context import ExampleEvent, ExampleItem, UserExample
from llmrec.eval.metrics import target_ranks
from llmrec.eval.words import date

__all__ = ["pick_users", "user_examples"]


def pick_users(n_users: int, n: int, seed: int) -> NDArray[np.int64]:
    """Return ``min(n, n_users)`` different rows, drawn at random and sorted.

    Nothing but the seed decides, so hits and misses appear as often as they do.
    """
    return np.sort(np.random.default_rng(seed).choice(n_users, size=min(n, n_users), replace=False))


def user_examples(
    holdout: Holdout,
    recs: Sequence[Recommendations],
    catalog: Catalog,
    rows: NDArray[np.integer],
    *,
    prompts: Mapping[str, str] | None = None,
    details: str | None = None,
    time_resolution: int = 86400,
    n_history: int = 8,
    n_items: int = 5,
) -> tuple[UserExample, ...]:
    """Return what a report shows of some users.

    Parameters
    ----------
    holdout
        The U test users that were evaluated.
    recs
        Lists of each system; users that are not in ``rows`` are ignored.
    catalog
        Gives the titles.
    rows
        Rows of ``holdout``, from :func:`pick_users`.
    prompts
        Texts by user id.
    details
        Name of a catalogue attribute to print behind a title, for example ``"year"``.
    time_resolution
        Of the timestamps, in seconds; a day or more prints no time of day.
    n_history, n_items
        How many of the last events and of the first recommendations to show.

    Raises
    ------
    DataError
        A system has no list for one of the users.
    """
    extra = catalog.attributes[details] if details else ("",) * len(catalog)
    chosen = holdout.select(np.asarray(rows))
    lists = [r.for_users(chosen.histories.user_ids) for r in recs]
    ranks = {r.system: target_ranks(r, chosen.target_items) for r in lists}
    examples = []
    for row, history in enumerate(chosen.histories):
        target, when = int(chosen.target_items[row]), int(chosen.target_timestamps[row])
        examples.append(
            UserExample(
                user_id=history.user_id,
                history=tuple(
                    ExampleEvent(catalog.titles[i], date(t, time_resolution), extra[i])
                    for i, t in zip(history.items[-n_history:], history.timestamps[-n_history:], strict=True)
                ),
                history_length=len(history),
                target=ExampleEvent(catalog.titles[target], date(when, time_resolution), extra[target]),
                lists={
                    r.system: tuple(
                        ExampleItem(catalog.titles[i], extra[i]) for i in r.items[row, :n_items] if i >= 0
                    )
                    for r in lists
                },
                ranks={name: None if np.isnan(r[row]) else int(r[row]) for name, r in ranks.items()},
                list_lengths={r.system: int((r.items[row] >= 0).sum()) for r in lists},
                prompt=(prompts or {}).get(history.user_id, ""),
            )
        )
    return tuple(examples)
