"""The command line, for the tests of the pipeline."""

from __future__ import annotations

import sys

import pytest

from llmrec import cli


def llmrec(*arguments, code=0, capsys=None):
    """Run a command as the console script does and return what it printed to standard error."""
    before = sys.argv
    sys.argv = ["llmrec", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    printed = capsys.readouterr() if capsys else None
    assert (stop.value.code or 0) == code, printed
    return printed
