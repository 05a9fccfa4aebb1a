"""What of a location must be in no config and no message: passwords, keys and tokens."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

__all__ = ["fixed_password", "fixed_secrets", "is_secret", "without_password"]

_VARIABLE = r"\$\{\w+\}"
_NAMES = re.compile(
    r"^(authorization|proxy-authorization|cookie|pwd|.*(password|passwd|secret|token|api[-_]?key).*)$",
    re.IGNORECASE,
)
# As SQLAlchemy reads it: anything but @ can be in a password, slashes and question marks too.
_OF_DATABASE = re.compile(r"(://[^:/]*):([^@]*)@")
# Of an endpoint it is before the path, or there is none: https://host:8080/events?user=ann@example.com. Where no number or variable
# follows the colon it is no port, so a slash in a password, which is a mistake there, does not make it readable.
_OF_ENDPOINT = re.compile(rf"(://(?!\[)[^:/?#]*):(?!(?:\d*|{_VARIABLE})(?:[/?#]|$))((?:[^/?#]*|[^@]*))@")


def is_secret(name: str) -> bool:
    """Tell whether a header or parameter of this name holds a secret."""
    return _NAMES.search(name) is not None


def without_password(url: str) -> str:
    """Return a URL with dots in the place of its password."""
    return _password(url).sub(r"\1:...@", url)


def fixed_password(url: str) -> bool:
    """Tell whether a URL has a password that is no variable of the environment."""
    found = _password(url).search(url)
    return found is not None and bool(found[2]) and not re.fullmatch(_VARIABLE, found[2])


def fixed_secrets(url: str) -> list[str]:
    """Return the names of a URL's parameters with a secret that is no variable of the environment."""
    found = []
    for name, value in re.findall(r"[?&]([^=&]+)=([^&]*)", url):
        if name.lower() == "odbc_connect":  # parameters within one: DRIVER=...;UID=...;PWD=...
            inner = re.findall(r"([^=;]+)=([^;]*)", unquote_plus(value))
            found += [f"{name} with {key.strip()}" for key, text in inner if _is_fixed(key.strip(), text)]
        elif _is_fixed(name, value):
            found.append(name)
    return found


def _is_fixed(name: str, value: str) -> bool:
    return is_secret(name) and "${" not in value


def _password(url: str) -> re.Pattern[str]:
    return _OF_ENDPOINT if re.match("https?://", url) else _OF_DATABASE
