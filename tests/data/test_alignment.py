"""Labels and columns in a model's order: every row keeps its class and its cells."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data.alignment import align
from jaxtl.data.table_encoding import ColumnCode, TableEncoding
from jaxtl.data.trained_names import TrainedNames

NAMES = ("ant", "bee", "cat", "dog")


def dataset(y, names, task="classification", **options):
    x = np.arange(len(y), dtype=np.float32)[:, None]
    source = data.Arrays(x=x, y=np.asarray(y), task=task, test=1.0, **options)
    prepared = data.prepare(dataclasses.replace(source, class_names=None))
    field = "target_names" if task == "regression" else "class_names"
    return dataclasses.replace(prepared, **{field: tuple(names)})


@given(stored=st.permutations(NAMES), present=st.permutations(NAMES), count=st.just(3))
@settings(max_examples=30, deadline=None)
def test_every_row_keeps_its_class(stored, present, count):
    present = present[:count]
    raw = dataset(np.arange(12) % count, present)
    moved = align(raw, TrainedNames("m", tuple(stored), "classification"))
    assert moved.class_names == tuple(stored)
    before = [present[label] for label in raw.y]
    assert [moved.class_names[label] for label in moved.y] == before
    assert align(moved, TrainedNames("m", tuple(stored))) is moved


@given(st.permutations(range(3)))
@settings(max_examples=6, deadline=None)
def test_labels_and_targets_are_moved_as_columns(order):
    y = np.random.default_rng(0).integers(0, 2, (8, 3)).astype(np.float32)
    names = [NAMES[i] for i in order]
    for task, field in (("multilabel", "class_names"), ("regression", "target_names")):
        moved = align(dataset(y, names, task), TrainedNames("m", NAMES[:3], task))
        assert getattr(moved, field) == NAMES[:3]
        for i, name in enumerate(names):
            np.testing.assert_array_equal(moved.y[:, NAMES.index(name)], y[:, i])


def test_pieces_of_tagged_words_keep_their_tag():
    raw = dataset(np.zeros(2, int), ("0",))
    y = np.array([[0, -1, 1, -3], [1, -2, -1, -1]], np.int32)
    raw = dataclasses.replace(raw, task="tags", y=y, y_clean=y, class_names=("B", "O"))
    moved = align(raw, TrainedNames("m", ("O", "I", "B"), "entities"))
    np.testing.assert_array_equal(moved.y, [[2, -1, 0, -2], [0, -4, -1, -1]])
    assert moved.task == "entities"


@pytest.mark.parametrize(
    ("raw", "trained", "message"),
    [
        (((0, 1), ("ant", "cow")), (NAMES, None), "cow is not among them"),
        (((0, 1), ("0", "1")), (NAMES, None), "without names on both sides they"),
        (((0.5, 1), ("price",), "regression"), (NAMES, "classification"), "was traine"),
        (
            (np.eye(2), ("ant", "bee"), "multilabel"),
            (NAMES, "multilabel"),
            "no labels cat, dog, which m predicts",
        ),
    ],
)
def test_outputs_that_do_not_match_are_named(raw, trained, message):
    with pytest.raises(UserError, match=message):
        align(dataset(*raw), TrainedNames("m", *trained))


def table(tmp_path, text, **options):
    (tmp_path / "t.csv").write_text(text)
    source = data.CSV(str(tmp_path / "t.csv"), target="y", test=1.0, **options)
    return data.prepare(source)


ENCODING = TableEncoding(
    columns=(ColumnCode("size", ("1", "2", "3+")), ColumnCode("age", None)),
    missing="impute",
    unseen="bucket",
)
TRAINED = TrainedNames("m", ("n", "p"), "classification", ENCODING, (1,))


def test_cells_are_coded_as_in_training(tmp_path):
    """Numbers alone are categories of the model; "2" is one that no train row had."""
    text = "age,size,other,y\n5,1,x,p\n,2,x,n\n7,9,y,p\n"
    raw = table(tmp_path, text, missing="impute")
    moved = align(raw, TRAINED)
    expected = [[1, 0, 0, 5], [0, 0, 0, np.nan], [0, 0, 0, 7]]
    np.testing.assert_array_equal(moved.x, expected)
    assert moved.feature_names == ("size=1", "size=2", "size=3+", "age")
    assert "2 cells of a category that no train row had" in moved.notes[-1]
    assert any("does not read: other" in note for note in moved.notes)
    again = align(moved, TRAINED)
    np.testing.assert_array_equal(again.x, expected)
    assert again.notes == moved.notes


def test_numbers_beyond_float32_keep_their_category(tmp_path):
    sizes = np.array([16777217, 16777218, 16777219, 16777217])
    text = "size,y\n" + "".join(f"{s},{'pn'[i % 2]}\n" for i, s in enumerate(sizes))
    raw = table(tmp_path, text)
    assert raw.preprocess.offset is not None  # the cells are differences from it
    names = ("16777217", "16777218", "16777219")
    encoding = TableEncoding(columns=(ColumnCode("size", names),))
    moved = align(raw, TrainedNames("m", ("n", "p"), "classification", encoding))
    np.testing.assert_array_equal(moved.x, np.eye(3)[sizes - 16777217])


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("age,sise,y\n1,1,p\n2,2,n", {}, "no column 'size'; did you mean 'sise'"),
        ("age,size,y\nold,1,p\nnew,2,n", {}, "'new' in .*t.csv:3 is no number"),
        ("age,size,y\n1,1,p\n2,4,n", {"unseen": "refuse"}, "'4'.* is no category of m"),
        ("age,size,y\n,1,p\n2,2,n", {"missing": "refuse"}, "was trained without any"),
    ],
)
def test_cells_that_the_model_can_not_read_are_named(tmp_path, text, changes, message):
    encoding = dataclasses.replace(ENCODING, **changes)
    trained = dataclasses.replace(TRAINED, encoding=encoding, unseen=())
    with pytest.raises(UserError, match=message):
        align(table(tmp_path, text, missing="impute"), trained)


def test_targets_are_differences_from_the_models_offset():
    y = 1e7 + np.arange(4) / 8
    raw = dataset(y, ("t",), "regression")
    assert raw.preprocess.target_offset is not None
    trained = TrainedNames("m", ("u",), "regression", target_offset=(1e7 - 1,))
    moved = align(raw, trained)
    np.testing.assert_allclose(moved.y, 1 + np.arange(4) / 8, rtol=1e-6)
    assert moved.target_names == ("u",)
    assert moved.notes[-1] == "targets taken by place: t as u"


def test_offsets_go_with_their_targets():
    y = np.stack([1e7 + np.arange(4) / 8, 5e7 + np.arange(4) / 4], axis=1)
    raw = dataset(y, ("t", "u"), "regression")
    own = raw.preprocess.target_offset
    moved = align(raw, TrainedNames("m", ("u", "t"), target_offset=own[::-1]))
    np.testing.assert_array_equal(moved.y + moved.preprocess.target_offset, y[:, ::-1])
