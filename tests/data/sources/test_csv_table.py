"""CSV tables: features, targets, and tables that are not valid."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess

HEADER = "age,city,height,label"


def write_table(path, rows=60, header=HEADER):
    """Writes a table of two numbers, a category and a label."""
    rng = np.random.default_rng(0)
    cities = ["Oslo", "Rome", "Bern"]
    lines = [
        f"{rng.integers(20, 60)},{cities[i % 3]},{rng.normal(170, 9):.3f},{'yn'[i % 2]}"
        for i in range(rows)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def test_numbers_are_standardized_on_train_and_texts_are_one_hot(tmp_path):
    path = write_table(tmp_path / "a.csv")
    dataset = data.prepare(data.CSV(path, target="label"))
    assert dataset.class_names == ("n", "y")
    assert dataset.x.shape == (60, 5)
    np.testing.assert_array_equal(dataset.x[:3, 1:4], np.eye(3)[[1, 2, 0]])
    train = dataset.rows["train"]
    reference = StandardScaler().fit(dataset.x[train][:, [0, 4]].astype(np.float64))
    values = np.asarray(preprocess.apply(dataset.preprocess, dataset.x))
    np.testing.assert_allclose(
        values[:, [0, 4]], reference.transform(dataset.x[:, [0, 4]]), atol=2e-5
    )
    np.testing.assert_array_equal(values[:, 1:4], dataset.x[:, 1:4])


def test_standardization_does_not_depend_on_the_labels(tmp_path):
    path = write_table(tmp_path / "a.csv")
    pre = [
        data.prepare(data.CSV(path, target="label", labels=k)).preprocess
        for k in (None, 10)
    ]
    np.testing.assert_allclose(pre[0].mean, pre[1].mean, rtol=1e-12)
    np.testing.assert_allclose(pre[0].std, pre[1].std, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "task", "outputs"),
    [
        ({"target": "label"}, "classification", 2),
        ({"target": "height"}, "regression", 1),
        ({"target": "age"}, "regression", 1),
        ({"target": "age", "task": "classification"}, "classification", None),
        ({"target": ("age", "height")}, "regression", 2),
        ({"target": "city", "features": ["age"]}, "classification", 3),
    ],
)
def test_task_is_inferred_or_given(tmp_path, options, task, outputs):
    path = write_table(tmp_path / "a.csv")
    dataset = data.prepare(data.CSV(path, **options))
    assert dataset.task == task
    assert outputs in (None, dataset.outputs)


def test_tabs_separate_and_a_constant_column_becomes_zero(tmp_path):
    path = tmp_path / "a.tsv"
    rows = "".join(f"{i}\t5\t{i % 2}\n" for i in range(40))
    path.write_text("a\tb\ty\n" + rows)
    dataset = data.prepare(data.CSV(str(path), target="y"))
    assert dataset.class_names == ("0", "1")
    values = preprocess.apply(dataset.preprocess, dataset.x)
    np.testing.assert_array_equal(values[:, 1], 0)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, {"target": "lable"}, "no column 'lable'; did you mean 'label'"),
        (None, {"target": "label", "features": ["hight"]}, "did you mean 'height'"),
        (None, {"target": "label", "features": ["label"]}, "is the target"),
        (None, {"target": "city", "task": "regression"}, "holds texts"),
        (None, {"target": ("age", "city")}, "'city' is not"),
        (
            "a,y\n1,0\n,1\n",
            {"target": "y"},
            "'a' has 1 missing values, the first 2 rows",
        ),
        ("a,y\n1,0,3\n", {"target": "y"}, "row 2 .* has 3 cells"),
        ("a,a\n1,0\n", {"target": "a"}, "two columns called 'a'"),
        ("a,y\n", {"target": "y"}, "needs a header row and rows"),
        ("y\n1\n", {"target": "y"}, "no column beside the target"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, options, message):
    path = tmp_path / "a.csv"
    write_table(path)
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        data.prepare(data.CSV(str(path), **options))


def test_texts_that_all_differ_are_no_categories(tmp_path):
    path = tmp_path / "a.csv"
    rows = "".join(f"person {i},{i % 2}\n" for i in range(50))
    path.write_text("name,y\n" + rows)
    with pytest.raises(UserError, match="'name' has 50 different texts"):
        data.prepare(data.CSV(str(path), target="y"))


def indexed(names, *, unnamed=str):
    """Rows in the order of their classes, below a header of three names."""
    rows = [
        f"{unnamed(i)},{0.5 * (i % 7)},{'no' if i < 20 else 'yes'}" for i in range(40)
    ]
    return "\n".join([names, *rows]) + "\n"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        # What DataFrame.to_csv (pandas 3.1) and write.csv (R) write beside a frame.
        (indexed(",a,label"), ("a",)),
        (indexed('"","a","label"', unnamed=lambda i: f'"Mazda {i}"'), ("a",)),
        # The same, once more read and written by pandas.
        (indexed("Unnamed: 0,a,label"), ("a",)),
        # Columns without a name that can be no index are inputs.
        (indexed(",a,label", unnamed=lambda i: i % 4), ("", "a")),
        (indexed(",a,label", unnamed=lambda i: i + 0.5), ("", "a")),
        (indexed("id,a,label"), ("id", "a")),
        (
            "a,,label\n" + "".join(f"{i % 4},{i},{'ny'[i % 2]}\n" for i in range(40)),
            ("a", ""),
        ),
    ],
)
def test_the_index_that_a_file_was_written_with_is_no_input(tmp_path, text, read):
    (tmp_path / "a.csv").write_text(text)
    path = str(tmp_path / "a.csv")
    dataset = data.prepare(data.CSV(path, target="label"))
    assert dataset.feature_names == read
    said = [note for note in dataset.notes if "is taken for the index" in note]
    assert bool(said) == (len(read) == 1)
    if said and "Mazda" not in text:
        name = text.split(",")[0]
        named = data.CSV(path, target="label", features=(name, "a"))
        assert data.prepare(named).feature_names == (name, "a")


def test_a_column_of_commas_at_the_ends_of_lines_is_no_input(tmp_path):
    rows = "".join(f"{i % 7},{'ny'[i % 2]},\n" for i in range(20))
    (tmp_path / "a.csv").write_text(f"a,label,\n{rows}")
    dataset = data.prepare(data.CSV(str(tmp_path / "a.csv"), target="label"))
    assert dataset.feature_names == ("a",)
