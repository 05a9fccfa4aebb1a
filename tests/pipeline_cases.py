"""The command line, for the tests of the pipeline."""

from __future__ import annotations

import re
import sys

import pytest

from llmrec import cli

ALIGNED = {
    "prompt": {"template": "films", "time": "none"},
    "identifiers": {"scheme": "token"},
    "finetune": {
        "epochs": 2,
        "batch_tokens": 400,
        "learning_rate": 1e-2,
        "new_tokens": {"start": "collaborative"},
        "validation": {"every": 1, "users": 8},
    },
}


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


def foretold(path, capsys):
    """Return what a dry run says of each system."""
    printed = llmrec("run", path, "--dry-run", capsys=capsys).out
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:4]] for line in printed.splitlines()]
    said, name = {}, ""
    for row in rows:
        if len(row) == 3:
            name = row[0].removeprefix("recommend ") or name  # a long cell goes on in the next line
            said[name] = f"{said[name]} {row[1]}" if name in said else row[1]
    return said
