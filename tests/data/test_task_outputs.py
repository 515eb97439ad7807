"""Labels of several tasks: their columns, names and holes, from all sources."""

import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl.data import description, task_outputs
from jaxtl.data.sources import multi_mnist

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
KINDS = np.where(np.arange(40) % 4, np.arange(40) % 3, -1)
SIZES = np.where(np.arange(40) < 10, np.nan, RNG.normal(size=40))
TAGS = RNG.integers(0, 2, (40, 2))


def _arrays(**changes):
    y = {"kind": KINDS, "size": SIZES, "tags": TAGS}
    return tl.data.Arrays(**{"x": X, "y": y, **changes})


def test_tasks_are_read_back_from_the_names_of_outputs():
    names = (
        *task_outputs.output_names("digit", "classification", ("a", "b=c", "d.e")),
        *task_outputs.output_names("age", "regression", ("years",)),
        *task_outputs.output_names("box", "regression", ("w", "h")),
        *task_outputs.output_names("tags", "multilabel", ("x", "y:z")),
    )
    tasks = task_outputs.tasks_of(names)
    assert [(n, t.kind, t.names) for n, t in tasks.items()] == [
        ("digit", "classification", ("a", "b=c", "d.e")),
        ("age", "regression", ("age",)),
        ("box", "regression", ("w", "h")),
        ("tags", "multilabel", ("x", "y:z")),
    ]
    outputs = [i for t in tasks.values() for i in range(8)[t.outputs]]
    columns = [i for t in tasks.values() for i in range(6)[t.columns]]
    assert outputs == list(range(8))
    assert columns == list(range(6))


def test_arrays_of_several_kinds_keep_holes_as_nan():
    dataset = tl.data.prepare(_arrays())
    expected = np.where(KINDS < 0, np.nan, KINDS)
    np.testing.assert_array_equal(dataset.y[:, 0], expected.astype(np.float32))
    np.testing.assert_array_equal(dataset.y[:, 1], SIZES.astype(np.float32))
    np.testing.assert_array_equal(dataset.y[:, 2:], TAGS)
    assert dataset.task == "multitask"
    assert dataset.class_names == (
        *("kind=0", "kind=1", "kind=2", "size", "tags:0", "tags:1"),
    )
    text = "\n".join(description.lines_of(dataset))
    assert "size (regression, 1 targets, 30 labelled)" in text
    assert "kind: 10 of 40 rows have no label" in text


def test_a_table_has_tasks_of_one_or_several_columns():
    species = np.array(["cat", "dog", ""], object)[np.arange(40) % 3]
    table = {"u": X[:, 0], "species": species, "w": SIZES, "h": 2 * SIZES}
    target = {"species": "species", "box": ("w", "h")}
    dataset = tl.data.prepare(tl.data.Frame(table, target=target))
    assert dataset.class_names == ("species=cat", "species=dog", "box.w", "box.h")
    np.testing.assert_array_equal(np.isnan(dataset.y[:, 0]), species == "")
    np.testing.assert_array_equal(dataset.y[:, 2], (2 * SIZES).astype(np.float32))
    assert dataset.feature_names == ("u",)


def test_data_sets_become_tasks_with_examples_of_their_own():
    parts = {
        "a": tl.data.Arrays(x=X, y=KINDS % 3),
        "b": tl.data.Arrays(x=X[:20] + 1, y=SIZES[10:30]),
    }
    dataset = tl.data.prepare(tl.data.Tasks(parts))
    np.testing.assert_array_equal(dataset.x, np.concatenate([X, X[:20] + 1]))
    np.testing.assert_array_equal(np.isnan(dataset.y[:, 0]), np.arange(60) >= 40)
    np.testing.assert_array_equal(dataset.y[40:, 1], SIZES[10:30].astype(np.float32))


def test_overlaid_digits_are_those_of_the_published_program():
    left, right = RNG.integers(0, 250, (2, 3, 28, 28)).astype(np.uint8)
    for a, b, ours in zip(left, right, multi_mnist.overlaid(left, right)):
        # isl-org/MultiObjectiveOptimization, multi_mnist_loader.py; scipy.misc.imresize
        # scaled to 255 and called PIL.
        image = np.zeros((36, 36))
        image[0:28, 0:28] = a
        image[6:34, 6:34] = b
        image[6:28, 6:28] = np.maximum(a[6:28, 6:28], b[0:22, 0:22])
        scaled = (image * (255 / image.max()) + 0.5).astype(np.uint8)
        theirs = Image.fromarray(scaled).resize((28, 28), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_multi_mnist_pairs_digits_within_a_split(tmp_path):
    x, y = RNG.integers(0, 255, (12, 28, 28)).astype(np.uint8), np.arange(12) % 10
    arrays = {"x_train": x[:8], "y_train": y[:8], "x_test": x[8:], "y_test": y[8:]}
    np.savez(tmp_path / "mnist.npz", **arrays)
    dataset = tl.data.prepare(tl.data.MultiMNIST(str(tmp_path / "mnist.npz"), val=0))
    np.testing.assert_array_equal(dataset.y[:, 0], y)
    assert set(dataset.y[8:, 1]) <= set(y[8:])
    assert dataset.outputs == 20
    for image, left, right in zip(dataset.x, *dataset.y.T.astype(int)):
        candidates = multi_mnist.overlaid(x[y == left], x[y == left])
        assert candidates.shape[1:] == image.shape[:2]
        pairs = [
            multi_mnist.overlaid(a[None], b[None])[0]
            for a in x[y == left]
            for b in x[y == right]
        ]
        assert any((pair == image[..., 0]).all() for pair in pairs)


_HOLES = {"a": KINDS, "b": np.full(40, np.nan)}
_ONE = tl.data.Arrays(x=X, y=KINDS % 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: _arrays(y=_HOLES), r"y\['b'\]: the task has no label"),
        (lambda: _arrays(y={"a": KINDS}), "two or more; got a"),
        (lambda: _arrays(y={"a=b": KINDS, "c": SIZES}), "'a=b' can't be the name"),
        (lambda: _arrays(y={"a": KINDS[:9], "c": SIZES}), "differ in their examples"),
        (lambda: _arrays(task={"kinds": "regression"}), "did you mean 'kind'"),
        (lambda: _arrays(task="regression"), "expected a mapping"),
        (
            lambda: _arrays(y={"a": np.where(TAGS[:, 0], 1, -1), "c": SIZES}),
            "write 0 and 1",
        ),
        (
            lambda: _arrays(y={"a": np.arange(40) + 1.7e9, "c": SIZES}),
            "subtract an offset",
        ),
        (
            lambda: _arrays(y={"a": np.arange(40) % 3 - 2.0, "c": SIZES}),
            "labels must not be negative; 27 rows",
        ),
        (
            lambda: _arrays(class_names={"kind": ("x", "y")}),
            "labels of 'kind' must be whole numbers from 0 to 1; 10 rows are not",
        ),
        (
            lambda: _arrays(y={"a": 2 * TAGS, "c": SIZES}, task={"a": "multilabel"}),
            "labels of 'a' must be 0 or 1",
        ),
        (lambda: _arrays(labels_per_class=2), "needs classes"),
        (lambda: tl.data.Tasks({"a": _ONE}), "two or more"),
        (lambda: tl.data.Tasks({"a": _ONE, "b": tl.data.Digits()}), "examples of"),
        (
            lambda: tl.data.Tasks({"a": _ONE, "b": tl.data.Digits(val=0.3)}),
            r"Tasks\(val=\)",
        ),
        (
            lambda: tl.data.Frame({"u": X[:, 0], "w": KINDS}, target={"w": "w"}),
            "two or more",
        ),
        (
            lambda: tl.data.Frame(
                {"u": X[:, 0], "w": SIZES, "h": X[:, 1], "k": KINDS},
                target={"box": ("w", "h"), "k": "k"},
            ),
            "lacks others",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(data, message):
    with pytest.raises(tl.UserError, match=message):
        tl.data.prepare(data())


def test_train_rows_without_a_label_of_a_task_are_refused():
    few = np.where(np.arange(40) == 0, 1.0, np.nan)
    y = {"a": KINDS, "b": few}
    data = tl.data.Arrays(x=X, y=y, test=0.975, val=0, split_seed=0)
    with pytest.raises(tl.UserError, match="no train row has a label of the task 'b'"):
        tl.data.prepare(data)
