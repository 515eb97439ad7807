"""The line that says what was read of a data set, and those of what was decided."""

import tempfile

import numpy as np

from jaxtl import data
from jaxtl.data import description, duplicates


def lines(source):
    return description.lines_of(data.prepare(source))


def _distinct(*shape):
    """Examples of uint8 of which no two are equal."""
    values = np.zeros(shape, np.uint8)
    values.reshape(len(values), -1)[:, 0] = np.arange(len(values))
    return values


def _split(y_train, y_val, y_test, x=None):
    """What is said of a data set with splits of its own."""
    labels = {"train": y_train, "val": y_val, "test": y_test}
    starts = np.cumsum([0, *map(len, labels.values())])
    x = _distinct(starts[-1], 3) if x is None else x
    parts = dict(zip(labels, np.split(x, starts[1:-1])))
    file = {f"x_{split}": part for split, part in parts.items()}
    file |= {f"y_{split}": np.asarray(y) for split, y in labels.items()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/d.npz", **file)
        return lines(data.Arrays(f"{folder}/d.npz"))[1:]


def test_a_class_that_a_split_lacks_is_said_with_the_counts_of_the_others():
    assert _split([0, 1] * 20, [0, 1, 2, 2], [0, 1, 2]) == [
        "no labelled train example has the class '2' (val 2, test 1)"
    ]
    assert _split([0, 1, 2] * 10, [0, 1], [0, 1, 2]) == [
        "no val example has the class '2' (train 10)"
    ]
    assert _split([0, 1, 2] * 10, [0, 1, 2], [2]) == [
        "no test example has the class '0' (train 10), '1' (train 10)"
    ]
    assert _split([0, 1] * 9, [0, 1], [0, 1]) == []


def test_examples_that_train_shares_with_other_splits_are_counted():
    x = _distinct(10, 3)
    x[6], x[8], x[9] = x[0], x[1], x[1]  # of val: rows 6, 7; of test: rows 8, 9
    assert _split([0, 1] * 3, [0, 1], [0, 1], x) == [
        "in train as well, by their inputs: 1 of 2 val examples, 2 of 2 test examples"
    ]
    x[:] = x[0]
    x[9, 2] = 7
    assert duplicates.count_shared(
        {"a": x, "b": x.astype(float)},
        {"unlabelled": np.arange(5), "val": np.arange(5, 9), "test": np.array([9])},
    ) == {"val": 4}


def test_outputs_that_do_not_vary_are_said():
    x, ones = _distinct(60, 3), np.ones(60, int)
    assert lines(data.Arrays(x=x, y=ones * 3))[1:] == [
        "the label 3 is the one class, by this name",
        "all 43 labelled train examples have the class '3': there is nothing to tell "
        "apart",
    ]
    assert lines(data.Arrays(x=x, y=np.where(x[:, 0] % 2, 5, 0)))[1:] == [
        "the labels 0 and 5 are 2 classes by these names"
    ]
    matrix = np.stack([x[:, 0] % 2, 0 * ones, ones, ones], 1)
    assert lines(data.Arrays(x=x, y=matrix))[1:] == [
        "no labelled train example has the label '1'",
        "all 43 labelled train examples have the label '2', '3'",
    ]
    line = lines(data.Arrays(x=x, y=np.stack([x[:, 0] / 7, ones], 1)))[1]
    assert line.startswith("target 1 is the same in all 43 labelled train examples")


def test_splits_of_a_file_that_are_not_read_are_said(tmp_path):
    x, y = _distinct(40, 3), np.arange(40) % 2
    np.savez(tmp_path / "d.npz", x=x, y=y, x_test=x, y_test=y)
    assert lines(data.Arrays(str(tmp_path / "d.npz")))[1:] == [
        "d.npz: 'x_test', 'y_test' not read, as there is 'x'; a file's own splits are "
        "x_train, x_val and x_test"
    ]


def test_a_table_is_one_line(tmp_path):
    path = tmp_path / "people.csv"
    rows = [f"{20 + i},{'Oslo' if i % 3 else 'Rome'},{'yn'[i % 2]}" for i in range(40)]
    path.write_text("\n".join(["age,city,label", *rows]) + "\n")
    [line] = lines(data.CSV(str(path), target="label"))
    assert line == (
        "CSV people.csv: 40 examples, classification, 2 classes: n 20, y 20; "
        "2 columns: age, city (2 categories); train 29, val 3, test 8"
    )
    line, note, _ = lines(data.CSV(str(path), target="age", features=("label",)))
    assert "regression, age from 20 to 59; 1 column: label (2 categories);" in line
    assert note == "columns that are not used: city"


def test_targets_with_an_offset_have_their_own_range():
    y = 10**9 + np.arange(40.0)
    line, note = lines(data.Arrays(x=_distinct(40, 2) + 0.5, y=y))
    assert "regression, target 0 from 1000000000 to 1000000039;" in line
    assert "an example is 2 float64" in line
    assert "differences from" in note


def test_many_classes_are_counted_and_unseen_ones_are_said():
    x, y = _distinct(60, 4, 4, 1), np.arange(60) % 20
    line, *_ = lines(data.Arrays(x=x, y=y))
    assert "20 classes: 0 3, 1 3" in line
    assert "… 8 more; an example is 4×4×1 uint8;" in line
    names = tuple("abc")
    _, note = lines(data.Arrays(x=x, y=y % 2, class_names=names))
    assert note == "no labelled train example has the class 'c'"


def test_labels_of_multilabel_are_counted():
    y = np.stack([np.arange(40) % 2, np.arange(40) % 4 == 0], 1).astype(int)
    [line] = lines(data.Arrays(x=_distinct(40, 3), y=y, labels=10))
    assert "multilabel, 2 classes: 0 20, 1 10;" in line
    assert line.endswith("train 10, unlabelled 19, val 3, test 8")


def test_a_single_class_is_said():
    x, names = _distinct(60, 4, 4, 1), tuple("ab")
    data_set = data.Arrays(x=x, y=np.ones(60, int), class_names=names)
    _, single, unseen = lines(data_set)
    assert "all 43 labelled train examples have the class 'b'" in single
    assert unseen == "no labelled train example has the class 'a'"


def test_a_column_with_an_equals_sign_is_no_category():
    table = {"a=b": [1.0, 2.0, 3.5] * 4, "c": ["u", "v"] * 6, "y": ["n", "p"] * 6}
    [line, *_] = lines(data.Frame(table, target="y", val=0, test=0))
    assert "2 columns: a=b, c (2 categories)" in line
