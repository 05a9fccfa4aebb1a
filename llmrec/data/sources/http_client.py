"""One page of an endpoint: asked for until it is there whole, or an error that says why it is not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2 as httpx

from llmrec.data.sources.base import without_secrets
from llmrec.data.sources.variables import Variables
from llmrec.errors import DataError
from llmrec.settings.data import Paging

__all__ = ["Client"]

_FIRST_PAUSE = 0.5  # seconds; doubled after each attempt
_LONGEST_PAUSE = 60.0
_LONGEST_WAIT = 600.0  # that an endpoint may ask for
_REDIRECTS = 5
_SHOWN = 2_000  # bytes of which messages show some
_sleep = time.sleep


class _Again(Exception):  # noqa: N818  (never leaves this module)
    """An attempt failed in a way that the next may not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds, where the endpoint says


class Client:
    """Asks one endpoint for pages.

    Parameters
    ----------
    location
        Its URL, with variables of the environment.
    setting
        Name of the setting that has it, for messages.
    """

    def __init__(self, location: str, paging: Paging, setting: str) -> None:
        self.paging = paging
        self.setting = setting
        self.variables = Variables()
        try:
            url = self.variables.filled_url(location, setting)
        except httpx.InvalidURL as error:
            raise DataError(
                f"{setting} is {without_secrets(location)}, which is no URL: {error}. Expected one such as https://host/events."
            ) from None
        self.url = url.copy_with(username=None, password=None)
        self.name = without_secrets(str(self.url))
        filled = self.variables.filled
        parameters = {k: filled(v, f"{setting}.paging.parameters") for k, v in paging.parameters.items()}
        self.first = self.url.copy_merge_params(parameters)
        self.headers = {k: filled(v, f"{setting}.paging.headers") for k, v in paging.headers.items()}
        if url.userinfo:
            self.headers.setdefault("Authorization", _basic(url.username, url.password))
        self._http: httpx.Client | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the connection between pages."""
        with httpx.Client(timeout=self.paging.timeout, headers={"Accept": "application/json"}) as client:
            self._http = client
            yield

    def masked(self, text: str) -> str:
        """Return a text for messages: without the values of variables, which endpoints repeat in what they answer."""
        return self.variables.masked(text)

    def to_store(self, cursor: str | None) -> str | None:
        """Return a cursor for a file, with variables in the place of their values."""
        return None if cursor is None else self.variables.named(cursor)

    def from_store(self, cursor: str | None) -> str | None:
        """Return a cursor of a file with the values that variables have now."""
        if cursor is None:
            return None
        url = self.variables.refilled(cursor, quoted=True)
        return url if self._is_url(url) else self.variables.refilled(cursor, quoted=False)

    def get(self, cursor: str | None) -> tuple[Any, str | None]:
        """Return the JSON of a page, and the URL of the next one where a Link header has it.

        Parameters
        ----------
        cursor
            A cursor, a URL, or ``None`` for the first page.

        Raises
        ------
        DataError
            It cannot be had whole, after all attempts.
        """
        try:
            url = self._url(cursor)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise self._failure(
                self.url,
                f"the next page is {cursor!r}: {error}",
                "Expected a cursor or a URL there: see paging.next.",
            ) from None
        pause = _FIRST_PAUSE
        for attempt in range(self.paging.retries + 1):
            try:
                content, link = self._fetch(url)
                break
            except _Again as again:
                if attempt == self.paging.retries:
                    tries = f"{again}, after {attempt + 1} attempts"
                    raise self._failure(
                        url, tries, "Expected a whole page: try again later, or raise paging.retries."
                    ) from None
                _sleep(min(pause, _LONGEST_PAUSE) if again.wait is None else again.wait)
                pause *= 2
        try:
            return json.loads(content), link
        except (ValueError, RecursionError) as error:
            begin = self.masked(content[:_SHOWN].decode("utf-8", "replace"))[:100]  # not half of a secret
            raise self._failure(
                url,
                f"the answer is no JSON ({error}); it begins {begin!r}",
                "Expected a page of events as JSON.",
            ) from None

    def _fetch(self, url: httpx.URL) -> tuple[bytes, str | None]:
        """Return the body of one answer, whole."""
        assert self._http is not None
        until = time.monotonic() + self.paging.timeout
        limit = int(self.paging.max_page_mb * 1e6)
        for _ in range(_REDIRECTS + 1):
            headers = self.headers if self._is_ours(url) else {}
            try:
                with self._http.stream("GET", url, headers=headers) as answer:
                    if answer.is_redirect and "location" in answer.headers:
                        url = url.join(answer.headers["location"])
                        continue
                    self._check_status(url, answer)
                    content = bytearray()
                    for chunk in answer.iter_bytes():
                        content += chunk
                        if len(content) > limit:
                            raise self._failure(
                                url,
                                f"a page has more than {self.paging.max_page_mb:g} MB",
                                "Ask for fewer events a page in paging.parameters, or raise paging.max_page_mb.",
                            )
                        if time.monotonic() > until:
                            raise _Again(f"the page was not whole within {self.paging.timeout:g} s")
                    link = answer.links.get("next", {}).get("url")
                    return bytes(content), None if link is None else str(url.join(link))
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise self._failure(url, str(error), "Expected an http or https URL.") from None
            except httpx.TimeoutException:
                raise _Again(f"no answer within {self.paging.timeout:g} s") from None
            except (httpx.TransportError, httpx.DecodingError) as error:
                raise _Again(str(error) or type(error).__name__) from None
        raise self._failure(url, f"more than {_REDIRECTS} redirects", "Expected the URL that they lead to.")

    def _check_status(self, url: httpx.URL, answer: httpx.Response) -> None:
        code = answer.status_code
        if code == 200:
            return
        words = f"status {code} {answer.reason_phrase}".rstrip()
        if code == 429 or code >= 500:
            wait = _seconds(answer.headers.get("retry-after"))
            if wait is not None and wait > _LONGEST_WAIT:
                raise self._failure(url, f"{words}, to be asked again after {wait:,.0f} s", "Run again then.")
            raise _Again(words, wait)
        body = next(answer.iter_bytes(_SHOWN), b"").decode("utf-8", "replace")
        said = " ".join(self.masked(body)[:200].split())
        raise self._failure(
            url,
            f"{words}{f': {said}' if said else ''}",
            "Expected access: check paging.headers and the variables in them."
            if code in (401, 403, 407)
            else "Expected a page of events: check the URL and paging.parameters.",
        )

    def _is_ours(self, url: httpx.URL) -> bool:
        """Tell whether headers may be sent there: to the endpoint's own host, and never less safely than to itself."""
        same = (url.scheme, url.port) == (self.url.scheme, self.url.port)
        safer = self.url.scheme == "http" and url.scheme == "https" and url.port is None
        return url.host == self.url.host and (same or safer)

    def _url(self, cursor: str | None) -> httpx.URL:
        if cursor is None:
            return self.first
        if self._is_url(cursor):
            return self.url.join(cursor)
        return self.first.copy_set_param(self.paging.parameter, cursor)

    def _is_url(self, cursor: str) -> bool:
        return cursor.startswith(("https://", "http://", f"{self.url.path}?"))

    def _failure(self, url: httpx.URL, reason: str, advice: str) -> DataError:
        message = self.masked(f"{self.setting}: {without_secrets(str(url))} cannot be read: {reason}.")
        return DataError(f"{message} {advice} What was read before it is not used as a whole.")


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _seconds(retry_after: str | None) -> float | None:
    """Return how long a Retry-After header (seconds, or a date) asks to wait; ``None`` where it says nothing."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(
        0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    )
