"""What a field expects is said in words, with an example that the field takes."""

import dataclasses
import typing
import warnings

import pytest

import jaxtl as tl
from jaxtl.core import config, field_types
from jaxtl.core.errors import UserError

PACKAGES = (tl.data, tl.models, tl.optim, tl.peft, tl.losses, tl.regularizers, tl.semi)


def _fields():
    classes = {tl.Experiment, tl.Variant}
    for package in PACKAGES:
        names = getattr(package, "__all__", dir(package))
        classes |= {v for v in (getattr(package, n) for n in names) if _is_class(v)}
    for cls in sorted(classes, key=lambda c: c.__qualname__):
        for field in dataclasses.fields(cls):
            if field.init and field.name not in ("parent", "name"):
                yield cls, field, field_types.hints(cls)[field.name]


def _is_class(value):
    return isinstance(value, type) and dataclasses.is_dataclass(value)


# One field of each name and annotation.
FIELDS = {(field.name, str(kind)): (cls, field, kind) for cls, field, kind in _fields()}


def test_every_example_is_taken_by_the_field_that_it_is_shown_for():
    seen = set()
    for cls, field, kind in FIELDS.values():
        message = str(field_types.refusal("x", object(), kind))
        assert not set(message.lower().split()) & {"input", "pydantic", "type"}, message
        for part in message.partition(", such as ")[2].split(" or x="):
            text = part.removeprefix("x=").removesuffix(".")
            if not text:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = config.parse(text, kind, "x", {"tl": tl})
            assert field_types.admits(kind, value), (cls, field.name, text)
            seen.add(type(value))
    assert {int, float, bool, str, tuple, dict, tl.optim.AdamW} <= seen


def test_every_default_has_the_type_that_its_field_declares():
    for cls, field, kind in FIELDS.values():
        if field.default is not dataclasses.MISSING:
            assert field_types.admits(kind, field.default), (cls, field.name)


@pytest.mark.parametrize(
    ("kind", "value", "fits"),
    [
        (int, 3, True),
        (int, 3.0, False),
        (int, True, False),
        (int, None, False),
        (int | None, None, True),
        (float, 3, True),
        (float, "0.1", False),
        (tuple[str, ...], "abc", False),
        (tuple[str, ...] | str, "abc", True),
        (tuple[int, ...], (1, "a"), False),
        (tuple[int, int] | int, (1, 2), True),
        (typing.Literal["a", "b"], "c", False),
        (typing.Any, None, True),
        (tl.optim.AdamW, 3, False),
        (tuple[tl.optim.AdamW, ...], (3,), False),
        (tl.optim.AdamW, object(), True),  # not plain: its own class looks at it
    ],
)
def test_plain_values_must_have_a_declared_type(kind, value, fits):
    assert field_types.admits(kind, value) == fits


def test_a_file_is_held_to_the_types_as_a_command_line_is():
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4, "8")), data=tl.data.Digits(), steps=1
    )
    with pytest.raises(UserError) as caught:
        tl.setup(exp)
    assert str(caught.value) == (
        "model.widths=(4, '8'): expected whole numbers in brackets, such as "
        "model.widths=(10,)."
    )
