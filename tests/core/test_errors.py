"""Messages are sentences: no punctuation comes twice, whoever is quoted in them."""

import ast
import itertools
import pathlib

import punctuation
import pytest

import jaxtl as tl
from jaxtl.core.errors import UserError, punctuated

PACKAGE = pathlib.Path(tl.__file__).parent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no field 'x'; did you mean 'y'?.", "no field 'x'; did you mean 'y'?"),
        ("a.npz can't be read: no such file..", "a.npz can't be read: no such file."),
        ("is refused.: see the log", "is refused: see the log"),
        ("the classes are: .", "the classes are."),
        ("3 rows , the first", "3 rows, the first"),
        ("the first of x, y, ….", "the first of x, y, …"),
        ("shapes (1, 2)..", "shapes (1, 2)."),
        ("this isn't it.. that's it", "this isn't it. that's it"),
    ],
)
def test_double_punctuation_becomes_single(text, expected):
    assert punctuated(text) == expected
    assert str(UserError(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "SEEDS='0..4': expected 0..4, or ../runs, or the folder ..",
        "delimiter=' ,' and \"a..\" and `b?.` are quoted",
        "wait ... or wait...",
        "x, y, … and 1.5, e.g., 0.5",
        'the file "a". It is here.',
    ],
)
def test_values_and_ellipses_stay_as_they_are(text):
    assert punctuated(text) == text
    assert not punctuation.doubles(text)


def _messages():
    """(place, text) of every message that the package's source spells out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("UserError", "RunLocked", "DataChanged", "UnknownPath"):
                for text in itertools.islice(_texts(node.args[0]), 16):
                    yield f"{path.name}:{node.lineno}", text


def _texts(node):
    """The texts that an expression may give; "x" stands for what it fills in."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            for texts in itertools.product(*([*_texts(part)] for part in parts)):
                yield "".join(texts)
        case ast.FormattedValue(value=value):
            yield from _texts(value)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            for a, b in itertools.product([*_texts(left)], [*_texts(right)]):
                yield a + b
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body)
            yield from _texts(orelse)
        case ast.Call(func=ast.Name(id="nearest")):
            yield from ("", "; did you mean 'x'?")
        case ast.Call(func=ast.Name(id="first_line" | "describe_error")):
            yield "it failed"
        case _:
            yield "x"


def test_no_message_of_the_source_doubles_its_punctuation():
    messages = list(_messages())
    assert len(messages) > 800
    for place, text in messages:
        assert not punctuation.doubles(str(UserError(text))), (place, text)
        quoting = UserError(text.replace("it failed", "it failed."))
        assert not punctuation.doubles(str(quoting)), (place, text)
