"""Time as numbers: gaps, sessions, the calendar, and what they say about a user and candidate items at a moment of asking.

Nothing is finer than the log: in a log of days there are no hours, sessions break between days at the earliest, and days are
those of the log whatever the time zone. What is undefined, such as the gap before a first event, is NaN.

Shapes: U users, E events of all of them together, C candidates of each user, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmrec.data.histories import Histories, Holdout
from llmrec.data.split import Split
from llmrec.data.trends import SECONDS_PER_DAY, ItemTimes
from llmrec.errors import ConfigError, DataError

__all__ = [
    "calendar",
    "candidate_time_features",
    "gaps",
    "local_zone",
    "moments_of",
    "recency",
    "sessions",
    "since_first",
]

_HOUR = 3600
_INACTIVITY = 1800  # half an hour, what web analytics have taken since Catledge & Pitkow 1995 (25.5 minutes)


def gaps(histories: Histories) -> NDArray[np.float64]:
    """Return the seconds since the user's event before [E]; NaN for a user's first."""
    found = np.full(len(histories.items), np.nan)
    found[1:] = np.diff(histories.timestamps)
    found[_firsts(histories)] = np.nan
    return found


def since_first(histories: Histories) -> NDArray[np.int64]:
    """Return the seconds since the user's first event [E]."""
    begin = histories.timestamps[_firsts(histories)]
    since: NDArray[np.int64] = histories.timestamps - np.repeat(
        begin, histories.lengths[histories.lengths > 0]
    )
    return since


def recency(histories: Histories, moments: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the seconds from each event to its user's moment of asking [E]; moments are [U]."""
    ago: NDArray[np.int64] = np.repeat(moments, histories.lengths) - histories.timestamps
    return ago


def sessions(
    histories: Histories, inactivity: int, *, resolution: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each event's session and its position in it, both from 1 [E].

    Parameters
    ----------
    inactivity
        Seconds; an event so long or longer after the one before it begins a session.
    resolution
        Of the log, in seconds.

    Raises
    ------
    ConfigError
        The inactivity is shorter than a second or than the log can tell.
    """
    if inactivity < max(1, resolution):
        raise ConfigError(
            f"A session is to end after {inactivity} seconds of inactivity, and the times of this log are whole multiples of "
            f"{resolution} seconds. Expected at least that many seconds."
        )
    gap = gaps(histories)
    begins = ~(gap < inactivity)  # also where there is none before
    session = np.cumsum(begins) - 1  # [E] among those of all users
    position = np.arange(len(gap)) - np.flatnonzero(begins)[session] + 1
    own_first = np.repeat(session[_firsts(histories)], histories.lengths[histories.lengths > 0])
    return session - own_first + 1, position


def local_zone(timezone: str, resolution: int) -> ZoneInfo:
    """Return the zone in which times are told; UTC for a log of days, whose midnights would fall on the day before elsewhere."""
    try:
        return ZoneInfo("UTC" if resolution >= SECONDS_PER_DAY else timezone)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"There is no time zone {timezone!r}. Expected an IANA name such as Europe/Berlin."
        ) from None


def calendar(
    timestamps: NDArray[np.integer], *, resolution: int, timezone: str = "UTC", country: str | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return what the calendar and the clock of a place say about moments [E].

    Parameters
    ----------
    timestamps
        Seconds since 1970, UTC.
    resolution
        Of the log, in seconds; decides which columns there are.
    timezone
        IANA name of the users' zone. Ignored for logs of days.
    country
        ISO 3166 code, with a subdivision where it matters (DE, DE-BY, US-CA), for public holidays and for which days are
        the weekend; none leaves ``holiday`` out and takes Saturday and Sunday. Needs the package ``holidays``.

    Returns
    -------
    The columns by name: ``hour`` (0 to 23; only where the log knows hours), ``weekday`` (0 is Monday), ``weekend`` (0 or
    1), ``month`` (1 to 12), ``season`` (0: December to February, 1: March to May, 2: June to August, 3: September to
    November, winter to autumn in the north) and ``holiday`` (0 or 1; NaN in years that the package has no holidays of).

    Raises
    ------
    ConfigError
        There is no such time zone or country, or the package is not installed.
    """
    zone = local_zone(timezone, resolution)
    utc = pl.from_epoch(pl.Series(np.asarray(timestamps, dtype=np.int64)), "s")
    local = utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone.key).dt
    month, weekday = local.month().to_numpy(), local.weekday().to_numpy() - 1
    found = {} if resolution > _HOUR else {"hour": local.hour().to_numpy()}
    rest, holiday = {5, 6}, {}
    if country is not None:
        days = _public_holidays(country, np.unique(local.year().to_numpy()).tolist())
        rest = days.weekend
        on = np.isin(local.date().to_numpy(), np.array(list(days), dtype="datetime64[D]"))
        known = (local.year() >= days.start_year) & (local.year() <= days.end_year)
        holiday = {"holiday": np.where(known.to_numpy(), on, np.nan)}
    found |= {
        "weekday": weekday,
        "weekend": np.isin(weekday, list(rest)),
        "month": month,
        "season": month % 12 // 3,
    }
    return {name: column.astype(np.float64) for name, column in (found | holiday).items()}


def moments_of(holdout: Holdout, *, target_time: bool = False) -> NDArray[np.int64]:
    """Return when each question is asked [U], in seconds since 1970.

    Parameters
    ----------
    target_time
        False: at the time of the user's newest known event, which every system knows. True: at the target's time, which
        SASRec and the other systems do not know; for comparisons among systems that all do.

    Raises
    ------
    DataError
        A history is empty, so that there is no newest event.
    """
    if target_time:
        return holdout.target_timestamps
    histories = holdout.histories
    if (histories.lengths == 0).any():
        user = histories.user_ids[int(np.argmin(histories.lengths))]
        raise DataError(
            f"User {user!r} has no events, so there is no newest one to take the time of. Expected at least one event of each "
            "user, or moments of your own."
        )
    return histories.newest_timestamps


def candidate_time_features(
    split: Split,
    histories: Histories,
    moments: NDArray[np.integer],
    items: NDArray[np.integer],
    *,
    timezone: str = "UTC",
    country: str | None = None,
    inactivity: int | None = None,
    windows: Sequence[float] = (7, 30, 90),
    item_times: ItemTimes | None = None,
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Describe users and candidates at the moments of asking.

    Of other users only training events count, and of these only those before the moment.

    Parameters
    ----------
    split
        Where the training events and the resolution of the log come from.
    histories
        What is known of each user at the moment.
    moments
        Seconds since 1970 [U], see :func:`moments_of`.
    items
        Candidates, catalogue indices [U, C]; -1 for none, whose item features are NaN.
    timezone, country
        See :func:`calendar`.
    inactivity
        Seconds after which a session ends; half an hour, or the log's resolution where that is coarser, if left out.
    windows
        Of trends, in days, ascending; none shorter than the log's resolution.
    item_times
        ``ItemTimes(split.train, split.n_items)``, made from the split if left out. Where this function is called for many blocks
        of users, make it once.

    Returns
    -------
    The names of the features, and the features [U, C, F]. First those of the user, equal for all candidates:

    ``user_idle_days``
        Days from the user's newest event to the moment: 0 where that is the moment.
    ``user_gap_days``
        Days between the user's newest two events.
    ``user_age_days``
        Days since the user's first event.
    ``user_sessions``
        Sessions so far, one that would begin at the moment included.
    ``user_session_events``
        Events of the session so far; 0 where one would begin at the moment.
    ``hour`` ... ``holiday``
        Of the moment, see :func:`calendar`; no ``hour`` in a log of days, ``holiday`` only with a country.

    Then those of the item, see :meth:`~llmrec.data.trends.ItemTimes.features`. Users without events have NaN in the first
    three and 0 events.

    Raises
    ------
    DataError
        Shapes do not fit together, or a history has an event after its moment.
    ConfigError
        The time zone, the country, the inactivity or a window cannot be used with this log.
    """
    n_users, resolution = len(histories), split.protocol.time_resolution
    moments = np.asarray(moments, dtype=np.int64)
    if moments.shape != (n_users,) or items.ndim != 2 or len(items) != n_users:
        raise DataError(
            f"Got {n_users} histories, moments of shape {moments.shape} and candidates of shape {items.shape}. Expected "
            f"({n_users},) and ({n_users}, candidates)."
        )
    late = recency(histories, moments) < 0
    if late.any():
        user = histories.user_ids[int(histories.indptr.searchsorted(np.argmax(late), side="right")) - 1]
        raise DataError(
            f"The history of user {user!r} has an event after its moment of asking. Expected what is known at the moment only."
        )
    inactivity = max(_INACTIVITY, resolution) if inactivity is None else inactivity
    finest = resolution / SECONDS_PER_DAY
    if min(windows, default=finest) < finest:
        raise ConfigError(
            f"The shortest trend window is {min(windows)} days, and the times of this log are whole multiples of "
            f"{resolution} seconds. Expected windows of at least {finest:g} days."
        )
    users = _user_features(histories, moments, inactivity, resolution)
    users |= calendar(moments, resolution=resolution, timezone=timezone, country=country)
    item_times = ItemTimes(split.train, split.n_items) if item_times is None else item_times
    asked = np.repeat(moments, items.shape[1])
    item_names, of_items = item_times.features(items.ravel(), asked, windows)
    names = (*users, *item_names)
    found = np.empty((*items.shape, len(names)), dtype=np.float32)
    found[:, :, : len(users)] = np.column_stack(list(users.values()))[:, None]
    found[:, :, len(users) :] = of_items.reshape(*items.shape, -1)
    return names, found


def _user_features(
    histories: Histories, moments: NDArray[np.integer], inactivity: int, resolution: int
) -> dict[str, NDArray[np.float64]]:
    there = histories.lengths > 0
    newest = histories.indptr[1:][there] - 1  # places of the newest events
    number, position = sessions(histories, inactivity, resolution=resolution)

    def of_newest(values: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
        found = np.full(len(histories), np.nan)
        found[there] = values[newest]
        return found

    idle = of_newest(recency(histories, moments))
    goes_on = idle < inactivity  # False too where there is no event
    return {
        "user_idle_days": idle / SECONDS_PER_DAY,
        "user_gap_days": of_newest(gaps(histories)) / SECONDS_PER_DAY,
        "user_age_days": (idle + of_newest(since_first(histories))) / SECONDS_PER_DAY,
        "user_sessions": np.nan_to_num(of_newest(number)) + ~goes_on,
        "user_session_events": np.where(goes_on, of_newest(position), 0.0),
    }


def _firsts(histories: Histories) -> NDArray[np.int64]:
    """Return the places of the users' first events."""
    return histories.indptr[:-1][histories.lengths > 0]


def _public_holidays(country: str, years: list[int]) -> Any:
    try:
        import holidays
    except ModuleNotFoundError:
        raise ConfigError(
            f"The holidays of {country} need the package holidays. Expected it to be installed: pip install 'llmrec[holidays]'."
        ) from None
    code, _, subdivision = country.partition("-")
    try:
        return holidays.country_holidays(code, subdiv=subdivision or None, years=years)
    except NotImplementedError as error:
        raise ConfigError(
            f"There are no holidays of {country!r}: {error}. Expected an ISO 3166 code such as DE, DE-BY or US-CA."
        ) from None
