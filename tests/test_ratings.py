"""Errors of predicted ratings, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmrec.errors import DataError
from llmrec.eval.ratings import rating_errors

GIVEN = [4, 3, 5, 1]
PREDICTED = [3.5, 3.4, 3, 0.4]  # errors -1/2, 2/5, -2, -3/5; rounded 4, 3, 3, 0


def test_means_are_the_hand_worked_ones() -> None:
    means = rating_errors(PREDICTED, GIVEN).means()
    mse = (1 / 4 + 4 / 25 + 4 + 9 / 25) / 4
    assert means == pytest.approx(
        {"mse": mse, "rmse": math.sqrt(mse), "mae": (1 / 2 + 2 / 5 + 2 + 3 / 5) / 4, "accuracy": 2 / 4}
    )


def test_users_have_their_own_values_and_nobody_gets_a_zero_for_nothing() -> None:
    by_user = rating_errors(PREDICTED, GIVEN).by_user(np.array([0, 0, 2, 2]), 3)
    assert by_user["mae"] == pytest.approx([9 / 20, math.nan, 13 / 10], nan_ok=True)
    assert by_user["rmse"][2] == pytest.approx(math.sqrt((4 + 9 / 25) / 2))
    assert by_user["accuracy"] == pytest.approx([1, math.nan, 0], nan_ok=True)
    assert all(math.isnan(value) for value in rating_errors([], []).means().values())


def test_half_stars_are_rounded_to_half_stars() -> None:
    assert rating_errors([3.3, 3.3, 3.75], [3.5, 3, 4], step=0.5).exact.tolist() == [True, False, True]


def test_missing_predictions_are_not_left_out() -> None:
    with pytest.raises(
        DataError, match="1 of 2 events have no finite prediction or rating, the first at place 1"
    ):
        rating_errors([1.0, math.nan], [1, 2])
    with pytest.raises(DataError, match="one prediction per rating"):
        rating_errors([1.0], [1, 2])
