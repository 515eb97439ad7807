"""Tables that are not valid: each problem is reported in one sentence."""

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError


def bad_arrays():
    x, y = np.zeros((30, 2), np.float32), np.arange(30) % 3
    nan, fraction, infinite = x.copy(), y.astype(float), np.linspace(0, 1, 30)
    nan[7, 1] = np.nan
    nan[9] = np.inf
    fraction[4] = 0.5
    infinite[3] = np.inf
    negative = np.where(y == 1, -1, y)
    classes = {"task": "classification"}
    return [
        ({"x": x[:-1], "y": y}, "x has 29 examples, but y has 30"),
        ({"x": nan, "y": y}, "x has 3 NaN or infinite values, the first in row 7"),
        ({"x": x, "y": infinite}, "y has 1 NaN or infinite values, the first in row 3"),
        ({"x": x, "y": fraction, **classes}, "whole numbers; 1 rows .* row 4 with 0.5"),
        ({"x": x, "y": negative}, "must not be negative; 10 rows .* row 1 with -1"),
        ({"x": x, "y": y, "class_names": ("a", "b")}, "below 2, .* row 2 with 2"),
        ({"x": x, "y": y, "class_names": ("a", "b", "a")}, "'a' comes twice"),
        ({"x": np.zeros((1500, 1)), "y": np.arange(1500)}, "a number to predict"),
        ({"x": x, "y": y, "task": "clasification"}, "did you mean 'classification'"),
        ({"x": x, "y": np.eye(3)[y] * 2, "task": "multilabel"}, "must be 0 or 1"),
        ({"x": x[:0], "y": y[:0]}, "no examples"),
        ({"x": x.astype(str), "y": y}, "must be numbers"),
        ({"x": x, "y": y, "classes": ("0", "7")}, "there is no class '7'"),
        ({"x": x, "y": y, "size": 8}, "concern images"),
    ]


@pytest.mark.parametrize(("options", "message"), bad_arrays())
def test_bad_data_are_reported_in_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        data.prepare(data.Arrays(**options))
