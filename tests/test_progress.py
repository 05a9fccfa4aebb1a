"""The lines that tell how far something is where the output is no terminal."""

from __future__ import annotations

import pytest

from llmrec import progress


@pytest.mark.parametrize("first", [0, 100])
def test_the_time_left_counts_from_where_a_training_was_taken_up(monkeypatch, capsys, first):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.bar("Steps") as show:
        for done in range(first, first + 5):
            now += 20.0
            show(done, first + 10)
    lines = capsys.readouterr().out.splitlines()
    begun = max(first, 1)  # nothing is known of the speed at the first step that is seen
    expected = [
        f"  Steps: {done:,} of {first + 10:,}, about {progress.clock(20 * (first + 10 - done))} left"
        for done in range(begun + 1, first + 5)
    ]
    assert lines == expected
