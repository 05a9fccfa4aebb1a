"""Variables of the environment that are filled into an endpoint's settings: kept out of messages, and named in what is stored."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import httpx2 as httpx

from llmrec.data.sources.base import expand_variables

__all__ = ["Variables"]

_SHORTEST = 4  # characters of a part of a URL that may be a secret; shorter ones are in every message


class Variables:
    """What has been filled in, so that it can be taken out again, however it is spelt where it comes back."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}  # by what stands for each: ${SHOP_TOKEN}

    def filled(self, text: str, setting: str) -> str:
        """Fill in variables."""
        return re.sub(r"\$\{\w+\}", lambda match: self._value(match.group(), setting), text)

    def filled_url(self, location: str, setting: str) -> httpx.URL:
        """Fill in variables of a URL, each as a part of it, but for one that it begins with: that may be all of it.

        Raises
        ------
        httpx.InvalidURL
            It is none then.
        """
        whole = re.match(r"\$\{\w+\}", location)
        begin = "" if whole is None else expand_variables(whole.group(), setting)
        rest = location if whole is None else location[whole.end() :]
        rest = re.sub(r"\$\{\w+\}", lambda match: quote(self._value(match.group(), setting), safe=""), rest)
        url = httpx.URL(begin + rest)
        if whole is not None:
            parts = {"password": url.password or url.username}
            for name in url.params:
                parts |= {f"{name}.{n}": value for n, value in enumerate(url.params.get_list(name))}
            known = set(self.values.values())
            for name, value in parts.items():
                if len(value) >= _SHORTEST and value not in known:
                    self.values[f"{whole.group()[:-1]}.{name}}}"] = value
        return url

    def masked(self, text: str) -> str:
        """Return a text without their values."""
        for _, pattern in self._patterns():
            text = re.sub(pattern, "...", text)
        return text

    def named(self, text: str) -> str:
        """Return a text with variables in the place of their values."""
        for name, pattern in self._patterns():
            text = re.sub(pattern, name.replace("\\", r"\\"), text)
        return text

    def refilled(self, text: str, *, quoted: bool) -> str:
        """Return what :meth:`named` was given, with the values of now; quoted where they are parts of a URL."""

        def value(match: re.Match[str]) -> str:
            found = self.values.get(match.group(), match.group())
            return quote(found, safe="") if quoted and found != match.group() else found

        return re.sub(r"\$\{[^}]+\}", value, text)

    def _value(self, name: str, setting: str) -> str:
        self.values[name] = expand_variables(name, setting)
        return self.values[name]

    def _patterns(self) -> list[tuple[str, str]]:
        """Return what finds each value; the longest first, because one may be a part of another."""
        values = sorted(self.values.items(), key=lambda item: -len(item[1]))
        return [(name, "".join(map(_spellings, value))) for name, value in values if value]


def _spellings(character: str) -> str:
    """Return a pattern for a character as URLs, JSON and Python's repr write it."""
    quoted = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
    forms = [re.escape(character), f"(?i:{quoted})"]
    if character == " ":
        forms.append(r"\+")
    if not character.isascii():
        escaped = json.dumps(character)[1:-1].replace("\\", r"\\*")
        forms.append(f"(?i:{escaped})")
    return rf"\\*(?:{'|'.join(forms)})"
