"""Unknown and misplaced arguments are told with those that exist."""

import re

import pytest

import jaxtl as tl
from jaxtl.core.call_errors import describe_call_error


def _told(call) -> str:
    with pytest.raises(TypeError) as raised:
        call()
    return describe_call_error(raised.value)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: tl.models.MLP(width=(8,)),
            r"MLP has no argument 'width'; did you mean 'widths'\?"
            r" \(its arguments: (?!.*\b(parent|name)\b).*widths.*\)$",
        ),
        (
            lambda: tl.losses.CrossEntropy(wieght=1.0),
            r"CrossEntropy has no argument 'wieght'; did you mean 'weight'\?",
        ),
        (
            lambda: tl.optim.Cosine(1e-3, 0.1),
            r"Cosine takes no argument by position \(its arguments: peak,",
        ),
        (
            lambda: tl.data.Arrays("a.npz", "b.npz"),
            r"Arrays takes only path by position \(its arguments: path,",
        ),
    ],
)
def test_the_arguments_that_exist_are_told(call, told):
    text = _told(call)
    assert re.match(told, text), text


def test_errors_of_other_code_stay_as_they_are():
    def mlp(width):
        return width

    assert _told(lambda: mlp(widths=1)) == ""
    assert _told(lambda: dict(None)) == ""
    assert describe_call_error(ValueError("MLP() got an unexpected")) == ""
