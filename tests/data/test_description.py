"""The line that says what was read of a data set, and those of what was decided."""

import numpy as np

from jaxtl import data
from jaxtl.data import description


def lines(source):
    return description.lines_of(data.prepare(source))


def test_a_table_is_one_line(tmp_path):
    path = tmp_path / "people.csv"
    rows = [f"{20 + i},{'Oslo' if i % 3 else 'Rome'},{'yn'[i % 2]}" for i in range(40)]
    path.write_text("\n".join(["age,city,label", *rows]) + "\n")
    [line] = lines(data.CSV(str(path), target="label"))
    assert line == (
        "CSV people.csv: 40 examples, classification, 2 classes: n 20, y 20; "
        "2 columns: age, city (2 categories); train 29, val 3, test 8"
    )
    line, note = lines(data.CSV(str(path), target="age", features=("label",)))
    assert "regression, age from 20 to 59; 1 column: label (2 categories);" in line
    assert note == "columns that are not used: city"


def test_targets_with_an_offset_have_their_own_range():
    y = 10**9 + np.arange(40.0)
    line, note = lines(data.Arrays(x=np.zeros((40, 2)), y=y))
    assert "regression, target 0 from 1000000000 to 1000000039;" in line
    assert "an example is 2 float64" in line
    assert "differences from" in note


def test_many_classes_are_counted_and_unseen_ones_are_said():
    x, y = np.zeros((60, 4, 4, 1), np.uint8), np.arange(60) % 20
    line, *_ = lines(data.Arrays(x=x, y=y))
    assert "20 classes: 0 3, 1 3" in line
    assert "… 8 more; an example is 4×4×1 uint8;" in line
    names = tuple("abc")
    _, note = lines(data.Arrays(x=x, y=y % 2, class_names=names))
    assert note == "no labelled train example has the class 'c'"


def test_labels_of_multilabel_are_counted():
    y = np.stack([np.arange(40) % 2, np.arange(40) % 4 == 0], 1).astype(int)
    [line] = lines(data.Arrays(x=np.zeros((40, 3)), y=y, labels=10))
    assert "multilabel, 2 classes: 0 20, 1 10;" in line
    assert line.endswith("train 10, unlabelled 19, val 3, test 8")


def test_a_single_class_is_said():
    x, names = np.zeros((60, 4, 4, 1), np.uint8), tuple("ab")
    data_set = data.Arrays(x=x, y=np.ones(60, int), class_names=names)
    _, single, unseen = lines(data_set)
    assert "all 43 labelled train examples have the class 'b'" in single
    assert unseen == "no labelled train example has the class 'a'"
