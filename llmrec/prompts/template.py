r"""Prompt templates: a preamble, the text before each event's identifier and the text after it.

The training document is the preamble and all events; the prompt for a prediction is the preamble, the past
events and the *before* part of the next one. So a prompt is always a prefix of a training document.

A part may hold fields in braces: ``{time}`` and the catalogue's attributes (``{title}``, ``{year}``, ...).
A stretch in square brackets is left out when any of its fields is empty: ``"[watched {time}\n]"``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmrec.errors import PromptError, nearest
from llmrec.yaml_text import read_yaml

__all__ = ["PromptTemplate", "load_template", "template_names"]

_FIELD = re.compile(r"\{([^{}\[\]]*)\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
_KEYS = ("name", "description", "preamble", "before", "after")


@dataclass(frozen=True)
class PromptTemplate:
    """The three parts of a prompt.

    Parameters
    ----------
    preamble
        Text at the start, without fields: what the model is looking at.
    before
        Text before an event's identifier. A ``{time}`` here tells the model *when the target happens*,
        which other recommenders do not know; put it into ``after`` for a comparison on equal terms.
    after
        Text after an event's identifier (which itself ends its line).
    """

    name: str
    preamble: str
    before: str
    after: str
    source: str = "in code"

    def __post_init__(self) -> None:
        for part in ("preamble", "before", "after"):
            text = getattr(self, part)
            rest = _FIELD.sub("", _OPTIONAL.sub(lambda m: m.group(1), text))
            if re.search(r"[\[\]{}]", rest):
                raise PromptError(
                    f"Prompt template {self.name!r} ({self.source}): the part {part!r} has a bracket or brace that "
                    f"does not close, or brackets inside brackets: {text!r}. Expected fields as {{name}} and "
                    "optional text as [text {name}], not nested."
                )
        if _FIELD.search(self.preamble):
            raise PromptError(
                f"Prompt template {self.name!r} ({self.source}): the preamble has a field: {self.preamble!r}. "
                "Expected fixed text; fields belong to the parts 'before' and 'after'."
            )

        leaking = sorted(set(_FIELD.findall(self.before)) - {"time"})
        if leaking:
            raise PromptError(
                f"Prompt template {self.name!r} ({self.source}): the part 'before' uses {{{leaking[0]}}}, which would "
                "give the answer away, since it stands before the identifier that the model has to predict. "
                "Expected no field but {time} there; move it to the part 'after'."
            )

    @property
    def reveals_target_time(self) -> bool:
        """Whether the prompt says when the item to be predicted is consumed."""
        return "time" in _FIELD.findall(self.before)

    def fields(self) -> set[str]:
        """Return the names of all fields."""
        return set(_FIELD.findall(self.before)) | set(_FIELD.findall(self.after))

    def check_fields(self, available: Iterable[str]) -> None:
        """Raise :class:`PromptError` when a field is neither ``time`` nor among ``available``."""
        known = {"time", *available}
        for field in sorted(self.fields() - known):
            raise PromptError(
                f"Prompt template {self.name!r} ({self.source}) uses the field {{{field}}}{nearest(field, known)}, "
                f"which this catalogue does not have. Expected one of {', '.join(sorted(known))}."
            )


def render(part: str, values: Mapping[str, str]) -> str:
    """Fill the fields of one part; bracketed stretches with an empty field disappear."""

    def fill(text: str) -> str:
        return _FIELD.sub(lambda m: values[m.group(1)], text)

    def optional(match: re.Match[str]) -> str:
        inner = match.group(1)
        return fill(inner) if all(values[f] for f in _FIELD.findall(inner)) else ""

    # Values must not be read as template text, so split first and fill each stretch once.
    out, end = [], 0
    for match in _OPTIONAL.finditer(part):
        out += [fill(part[end : match.start()]), optional(match)]
        end = match.end()
    return "".join([*out, fill(part[end:])])


def template_names() -> list[str]:
    """Return the names of the templates that come with llmrec."""
    return sorted(f.name.removesuffix(".yaml") for f in _shipped().iterdir() if f.name.endswith(".yaml"))


def load_template(name_or_path: str) -> PromptTemplate:
    """Load a template by the name of a shipped one, or from the path of a YAML file.

    Raises
    ------
    PromptError
        No such template, or the file does not have exactly the keys name, description, preamble, before, after.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise PromptError(
                f"There is no prompt template file {name_or_path!r}. Expected an existing YAML file, or the name of "
                f"one that comes with llmrec: {', '.join(template_names())}."
            )
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(
                f"The prompt template {name_or_path!r} is not UTF-8: {error}. Expected a text file in that encoding."
            ) from None
    else:
        if name_or_path not in template_names():
            raise PromptError(
                f"There is no prompt template {name_or_path!r}{nearest(name_or_path, template_names())}. Expected "
                f"one of {', '.join(template_names())}, or the path of a .yaml file."
            )
        text = _shipped().joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    try:
        content = read_yaml(text)
    except yaml.YAMLError as error:
        raise PromptError(f"The prompt template {name_or_path!r} is not valid YAML: {error}.") from None
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        got = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise PromptError(
            f"The prompt template {name_or_path!r} has the keys {got}. Expected exactly {', '.join(_KEYS)}."
        )
    not_text = [k for k in _KEYS if not isinstance(content[k], str)]
    if not_text:
        raise PromptError(
            f"The prompt template {name_or_path!r} has {not_text[0]}: {content[not_text[0]]!r}. Expected text; "
            'write "" for nothing.'
        )
    return PromptTemplate(
        content["name"], content["preamble"], content["before"], content["after"], source=name_or_path
    )


def _shipped() -> Path:
    # The only copies live in prompts/ at the root of the repository, where researchers edit them. A wheel carries
    # that folder inside the package (see pyproject.toml); an editable install reads it where it is.
    package = Path(__file__).parents[1]
    installed = package / "prompt_templates"
    return installed if installed.is_dir() else package.parent / "prompts"
