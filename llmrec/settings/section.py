"""What all sections of a config have in common."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict

__all__ = ["Section", "TimeZone"]


class Section(BaseModel):
    """Settings that belong together: no unknown names, not changed once read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"there is no time zone {name!r}; expected an IANA name such as Europe/Berlin"
        ) from None
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]
"""The IANA name of a time zone, such as Europe/Berlin."""
