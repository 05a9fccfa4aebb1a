"""Texts that Markdown and LaTeX show as they are: titles, prompts and names may hold any character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["LINE", "fenced", "latex_text", "markdown_text"]

LINE = "\x00"  # a line break in a code block, whose blank lines must survive the tidying of the others

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u2212": "$-$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u2026": r"\ldots{}",
    "\u00d7": r"$\times$",
    "\u00b7": r"$\cdot$",
}


def markdown_text(text: object) -> str:
    """Return text that Markdown shows as it is, also within a table."""
    flat = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"(?<!\w)@", "@\u2060", flat)  # a word joiner, so that GitHub notifies nobody


def fenced(text: str, language: str = "") -> str:
    """Return text as a code block whose fence is longer than any run of backticks in it."""
    runs: Sequence[str] = re.findall(r"`+", text)
    fence = "`" * max(3, 1 + max(map(len, runs), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}".replace("\n", LINE)


def latex_text(text: object) -> str:
    """Return text that LaTeX typesets as it is, with the fonts of every installation (T1).

    Letters that these lack are written as their code, ``U+4E03``: an engine for them would be another document.
    """
    flat = " ".join(str(text).split())
    # Two hyphens would become a dash.
    parts = (("{}" if a == b == "-" else "") + _latex_character(b) for a, b in pairwise(" " + flat))
    return "".join(parts)


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if " " <= character <= "\x7e" or "\u00c0" <= character <= "\u00ff":
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"
