"""Tables: what a cell says is what is learned from; nothing becomes another number.

The inputs are those that users of pandas, Keras and Kaggle's tables report: labels
with underscores, padding or exponents, identifiers beyond 2^53, Unix seconds, integers
beyond 32 bits, whole floats, headers among rows, several Unicode forms.
"""

import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.preprocessing import StandardScaler

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import cells, preprocess
from jaxtl.data.preparation import keep_classes
from jaxtl.export import bundle, predict, weights, write_bundle

DECOMPOSED = unicodedata.normalize("NFD", "café")


def table(folder, rows, header="a,y", name="t.csv"):
    """Writes a table and gives its path."""
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def by_label(folder, labels, **options):
    """The data set of a table with these labels, and the name of each row's class."""
    rows = [f"{i},{label}" for i, label in enumerate(labels)]
    read = data.CSV(table(folder, rows), target="y", **options).read()
    names = read.class_names
    return read, names and [names[label] for label in read.y]


# Labels


@pytest.mark.parametrize(
    "labels",
    [
        ["1_1", "11", "2_0", "20"],
        ["01", "1"],
        ["1e1", "10", "2e1", "20"],
        [str(2**53), str(2**53 + 1)],
        ["+1", "1"],
        ["１", "1"],  # a full-width digit, which float() reads
        ["1", "1.0"],
        ["0x1", "1"],
        ["-0", "0"],
    ],
)
def test_labels_that_differ_are_different_classes(tmp_path, labels):
    read, names = by_label(tmp_path, labels * 5)
    assert read.task == "classification"
    assert sorted(read.class_names) == sorted(labels)
    assert names == labels * 5


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(min_size=1, max_size=4).map(cells.normalized).filter(bool),
            st.integers(-(2**70), 2**70).map(str),
            st.sampled_from(["1", "01", "1.0", "1e0", "+1", "-0", "0", "1_0", "10"]),
        ),
        min_size=1,
    )
)
def test_every_distinct_text_is_one_class(labels):
    y, names = cells.classes(labels)
    assert len(names) == len(set(labels)) == len(set(names))
    assert len(set(zip(labels, y.tolist()))) == len(names)


@given(st.sets(st.integers(-(2**70), 2**70), min_size=1))
def test_integers_are_classes_in_the_order_of_their_values(values):
    _, names = cells.classes([str(value) for value in values])
    assert [int(name) for name in names] == sorted(values)


def test_the_order_of_text_labels_does_not_depend_on_the_hash_seed():
    code = (
        "from jaxtl.data import cells; print(cells.classes(['1', '01', '1.', 'b'])[1])"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert orders == {"('01', '1', '1.', 'b')\n"}


def test_classes_names_classes_not_places(tmp_path):
    read, _ = by_label(tmp_path, [1, 2, 3, 4] * 5)
    assert keep_classes(read, (1, 2)).class_names == ("1", "2")
    with pytest.raises(UserError, match="there is no class 0"):
        keep_classes(read, (0, 1))
    named, _ = by_label(tmp_path, ["cat", "dog", "emu"] * 5)
    assert keep_classes(named, (2, 0)).class_names == ("emu", "cat")


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.arange(1, 5), ("1", "2", "3", "4")),
        (np.array([0, 5]), ("0", "5")),
        (np.array([0.0, 1.0]), ("0", "1")),  # integers beside missing values in pandas
        (np.array([-1, 1]), ("-1", "1")),
        (np.array([False, True]), ("False", "True")),
        (np.array([3, 200], np.uint8), ("3", "200")),
        (np.array([2**53, 2**53 + 1]), (str(2**53), str(2**53 + 1))),
        (np.array(["b", "a"], object), ("a", "b")),
        (np.array(["café".encode(), b"a"]), ("a", "café")),
        (np.array(["1_1", "11", "2_0", "20"]), ("11", "1_1", "20", "2_0")),
        (np.array(["10", "9"]), ("9", "10")),
        (np.array([[1], [2]]), ("1", "2")),
    ],
)
def test_labels_of_arrays_are_the_classes_that_occur(y, names):
    y = np.concatenate([y] * 5)
    dataset = data.prepare(data.Arrays(x=np.zeros((len(y), 2), np.float32), y=y))
    assert (dataset.task, dataset.class_names) == ("classification", names)
    plain = [v.decode() if isinstance(v, bytes) else v for v in y.reshape(-1).tolist()]
    plain = [int(v) if isinstance(v, float) else v for v in plain]
    assert [names[label] for label in dataset.y_clean] == [*map(str, plain)]


def test_names_of_text_labels_are_matched_by_name():
    x, y = np.zeros((4, 2), np.float32), np.array(["b", "a", "b", "b"])
    read = data.Arrays(x=x, y=y, class_names=("b", "a")).read()
    assert [read.class_names[label] for label in read.y] == y.tolist()
    with pytest.raises(UserError, match="'b' is none of class_names"):
        data.Arrays(x=x, y=y, class_names=("a", "c")).read()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(["a", None, "b"], object), "all texts or all numbers"),
        (np.array(["a", "", "b"]), "1 labels are blank, the first in row 1"),
        (np.array([0, 1, -1]), "must not be negative"),
        (np.array(["a", "b", "c"]), None),
    ],
)
def test_labels_of_arrays_that_are_missing_are_refused(y, message):
    source = data.Arrays(x=np.zeros((3, 1)), y=y, val=0, test=0)
    if message is None:
        assert data.prepare(source).outputs == 3
    else:
        with pytest.raises(UserError, match=message):
            data.prepare(source)


def test_labels_of_files_in_two_forms_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 1)), y=np.array(["1", "2", "1"]))
    np.savez(tmp_path / "b.npz", x=np.zeros((3, 1)), y=np.array([1, 2, 1]))
    with pytest.raises(UserError, match="of some files are texts, of others numbers"):
        data.Arrays((str(tmp_path / "a.npz"), str(tmp_path / "b.npz"))).read()


def test_one_hot_rows_are_said():
    y = np.eye(3)[np.arange(30) % 3]
    read = data.Arrays(x=np.zeros((30, 1)), y=y).read()
    assert read.task == "multilabel"
    assert "exactly one 1" in read.notes[0]


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["0.0", "1.0"], "classification"),
        (["0.5", "1.0"], "regression"),
        (["1.5e-3", "2e-3"], "regression"),
        ([str(i) for i in range(40)], "regression"),
        ([f"{i:05d}" for i in range(40)], "classification"),  # codes of places
    ],
)
def test_the_task_follows_from_what_is_written(tmp_path, labels, task):
    assert by_label(tmp_path, labels * 2)[0].task == task


@pytest.mark.parametrize(
    "labels",
    [
        [*(f"{i / 7:.3f}" for i in range(40)), "12a"],
        [f'"{i},5"' for i in range(30)],
        [f'"{i},000"' for i in range(30)],
        [f'"{1500 + i},5"' for i in range(30)],
        # As spreadsheets write them: whole numbers without a comma.
        [f'"{i // 3},{i % 3}"' if i % 3 else str(i // 3) for i in range(60)],
        [f"{i} %" for i in range(30)],
        [f"${i}.50" for i in range(30)],
    ],
)
def test_quantities_that_are_no_numbers_are_not_made_classes(tmp_path, labels):
    with pytest.raises(UserError, match="labels are no numbers, such as '"):
        by_label(tmp_path, labels)
    assert by_label(tmp_path, labels, task="classification")[0].task
    with pytest.raises(UserError, match="labels are no numbers, such as '"):
        texts(tmp_path, "".join(f"a\t{label}\n" for label in labels).replace('"', ""))


def test_classes_that_are_one_number_are_said():
    [note] = cells.class_notes(["01", "1", "1e0", str(2**53), str(2**53 + 1)])
    assert note == "the classes '01', '1', '1e0' are one number, kept apart as texts"


def test_categories_that_differ_in_case_are_said(tmp_path):
    rows = [f"{('Oslo', 'oslo')[i % 2]},{'xy'[i % 2]}" for i in range(20)]
    [note] = data.CSV(table(tmp_path, rows), target="y").read().notes
    assert note == "the categories of 'a': 'Oslo', 'oslo' differ in case or blanks only"


def test_unicode_forms_of_a_name_are_one_class_and_said(tmp_path):
    read, names = by_label(tmp_path, ["café", DECOMPOSED, "tea"] * 4)
    assert read.class_names == ("café", "tea")
    assert names == ["café", "café", "tea"] * 4
    assert any("several Unicode forms" in note for note in read.notes)


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), ("new york", "new  york"), ("a", "\u200ba")]
)
def test_classes_that_are_easily_confused_are_said(tmp_path, names):
    rows = [f"{i},{names[i % 2]}" for i in range(20)]
    dataset = data.prepare(data.CSV(table(tmp_path, rows), target="y"))
    assert dataset.outputs == 2
    assert any("differ in case or blanks only" in note for note in dataset.notes)


# Texts with labels


def texts(folder, content, **options):
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n")
    (folder / "t.tsv").write_text(content, encoding="utf-8")
    tokenizer = str(folder / "vocab.txt")
    return data.Text(str(folder / "t.tsv"), tokenizer=tokenizer, **options).read()


@pytest.mark.parametrize(
    ("first", "options", "rows"),
    [
        ("sentence\tlabel\n", {}, 10),  # GLUE's header
        ("text\tpolarity\n", {}, 10),  # no number above numbers
        ("sentence\t1\n", {}, 11),
        ("sentence\t1\n", {"header": True}, 10),
        ("sentence\tlabel\n", {"header": False}, 11),
    ],
)
def test_a_header_above_numbered_columns_is_no_example(tmp_path, first, options, rows):
    read = texts(tmp_path, first + "a\t0\nb\t1\n" * 5, **options)
    assert len(read.y) == rows
    assert (len(read.class_names) == 3) == (options.get("header") is False)


def test_a_first_label_that_comes_once_is_said(tmp_path):
    read = texts(tmp_path, "a\todd\n" + "a\tx\nb\ty\n" * 5)
    assert len(read.y) == 11
    assert "give header=True" in read.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\t0\nb\t\n", "1 rows of .* have no label, the first in line 2"),
        ("a\t0\nb\tb\t1\n", "line 2 of .* has 3 columns; expected 2"),
    ],
)
def test_rows_of_texts_that_are_torn_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        texts(tmp_path, content)


def test_labels_of_texts_are_read_as_written(tmp_path):
    assert texts(tmp_path, "a\t0.0\nb\t1.0\n" * 3).class_names == ("0", "1")
    assert texts(tmp_path, "a\t01\nb\t1\n" * 3).class_names == ("01", "1")
    assert texts(tmp_path, "a\t10\nb\t9\n" * 3).class_names == ("9", "10")
    assert texts(tmp_path, "a\t0.5\nb\t1.0\n" * 3).task == "regression"
    read = texts(tmp_path, f"a\tcafé\nb\t{DECOMPOSED}\n" * 3)
    assert read.class_names == ("café",)


def test_repeated_columns_of_texts_are_refused(tmp_path):
    with pytest.raises(UserError, match="two columns 'label'"):
        texts(tmp_path, "text\tlabel\tlabel\na\t0\t1\n", text="text", label="label")


# Features


def standardized(dataset):
    return np.asarray(preprocess.apply(dataset.preprocess, dataset.x))


UNIX = 1_700_000_000 + np.arange(60)


@pytest.mark.parametrize(
    "values",
    [
        UNIX,
        UNIX * 1000,
        2**40 + np.arange(60),
        3_000_000_000 + np.arange(60) * 10_000_000,
        1e9 + np.linspace(0, 1, 60),
        1e-15 * np.arange(1, 61),
        np.linspace(-1, 1, 60),
    ],
)
def test_features_are_standardized_in_64_bits(tmp_path, values):
    rows = [f"{v!r},{'xy'[i % 2]}" for i, v in enumerate(values.tolist())]
    dataset = data.prepare(data.CSV(table(tmp_path, rows), target="y"))
    train = dataset.rows["train"]
    exact = (values - values[0]).astype(np.float64)[:, None]
    expected = (
        StandardScaler().fit(exact[train] / exact.std()).transform(exact / exact.std())
    )
    np.testing.assert_allclose(standardized(dataset), expected, atol=2e-5)
    assert dataset.x.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
def test_arrays_keep_what_32_bits_would_lose(dtype):
    x = np.stack([UNIX, np.arange(60)], 1).astype(dtype)
    dataset = data.prepare(data.Arrays(x=x, y=np.arange(60) % 2))
    values = standardized(dataset)
    assert len(np.unique(values[:, 0])) == 60
    np.testing.assert_array_equal(values[:, 1], np.arange(60))
    assert any("columns 0 of x are standardized" in note for note in dataset.notes)


def test_integers_beyond_31_bits_keep_their_value():
    x = np.array([[3_000_000_000], [-3_000_000_000], [7]] * 10)
    dataset = data.prepare(data.Arrays(x=x, y=np.arange(30) % 2))
    np.testing.assert_array_equal(standardized(dataset), x.astype(np.float32))


def test_integers_on_disk_do_not_wrap(tmp_path):
    y = np.arange(30) % 2
    np.save(tmp_path / "y.npy", y)
    for values in (np.arange(30) * 1000, 3_000_000_000 + np.arange(30)):
        np.save(tmp_path / "x.npy", values[:, None])
        names = {"labels_path": str(tmp_path / "y.npy"), "memory_limit": 8}
        source = data.Arrays(str(tmp_path / "x.npy"), **names)
        if values[0] == 0:
            dataset = data.prepare(source)
            np.testing.assert_array_equal(dataset.x[:][:, 0], values)
            assert dataset.dtype == np.float32
        else:
            with pytest.raises(UserError, match="beyond the 24 bits of float32"):
                data.prepare(source)


def test_complex_numbers_are_refused():
    with pytest.raises(UserError, match="must be numbers; got dtype complex128"):
        data.Arrays(x=np.zeros((4, 2), complex), y=np.arange(4) % 2).read()


def test_mean_and_std_that_are_given_apply_to_the_values_of_the_data():
    pre = preprocess.Preprocess(mean=(1.7e9,), std=(10.0,))
    dataset = data.prepare(
        data.Arrays(x=UNIX[:, None], y=np.arange(60) % 2, preprocess=pre)
    )
    np.testing.assert_allclose(
        standardized(dataset)[:, 0], np.arange(60) / 10, atol=1e-6
    )
    restored = preprocess.restore(dataset.preprocess, standardized(dataset))
    np.testing.assert_allclose(
        preprocess.normalize(dataset.preprocess, restored)[:, 0],
        np.arange(60) / 10,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="mean is None, but features"):
        preprocess.stored_like(preprocess.Preprocess(), dataset.preprocess)


@pytest.mark.parametrize("scale", [1e300, 1e-44])
def test_numbers_beyond_32_bits_are_refused(scale):
    x = np.arange(30)[:, None] * scale
    with pytest.raises(UserError, match=r"column 0 has values from .* multiply it"):
        data.prepare(data.Arrays(x=x, y=np.arange(30) % 2))


def test_targets_keep_their_differences(tmp_path):
    rows = [f"{i},{1_000_000_000 + i}" for i in range(40)]
    dataset = data.prepare(data.CSV(table(tmp_path, rows), target="y"))
    [offset] = dataset.preprocess.target_offset
    np.testing.assert_array_equal(
        dataset.y.astype(np.float64) + offset, 1_000_000_000 + np.arange(40)
    )
    assert any("differences from 1000000020" in note for note in dataset.notes)
    other = preprocess.Preprocess()
    with pytest.raises(UserError, match="predicts differences from 0, the targets"):
        preprocess.check_targets(other, dataset.preprocess)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=20, max_size=30, unique=True),
    st.integers(-(2**62), 2**62),
)
def test_a_shift_of_integers_changes_nothing(values, shift):
    y = np.arange(len(values)) % 2
    datasets = [
        data.prepare(data.Arrays(x=np.array(values)[:, None] + s, y=y))
        for s in (0, shift)
    ]
    plain, shifted = (
        np.asarray(preprocess.apply(d.preprocess, d.x)).astype(np.float64)
        for d in datasets
    )
    relative = (plain - plain.mean()) / plain.std()
    relative_shifted = (shifted - shifted.mean()) / shifted.std()
    np.testing.assert_allclose(relative_shifted, relative, atol=5e-4)


# Cells


@pytest.mark.parametrize(
    ("cells_of_column", "message"),
    [
        (["1", "nan", "3"], "1 missing values, the first 2 rows below .*'nan'"),
        (["1", "inf", "3"], "1 missing values"),
        (["1", "<NA>", "3"], "1 missing values"),
        ([str(2**53), str(2**53 + 1), "0"], "one number in 64 bits"),
        ([f'"{i},000"' for i in range(25)], "'0,000' is no number"),
        ([f"2024-01-{i:02d}" for i in range(1, 26)], "'2024-01-01' is no number"),
        (['"a', "b", "c"], "unexpected end of data"),
    ],
)
def test_cells_that_are_no_numbers_are_refused(tmp_path, cells_of_column, message):
    rows = [f"{cell},{'xy'[i % 2]}" for i, cell in enumerate(cells_of_column)]
    with pytest.raises(UserError, match=message):
        data.CSV(table(tmp_path, rows), target="y").read()


@pytest.mark.parametrize(
    ("cells_of_column", "note"),
    [
        (["5", "5", "5"], "'a' is constant"),
        (["01", "2", "3"], "read as numbers, '01' as 1"),
        (["1", "x", "3"], "1 of 3 cells are no numbers, such as 'x' .line 3"),
        (['"3,5"', '"1,5"', '"1,0"'], "decimal point"),
        (['"1,000"', '"2,000"', '"3,500"'], "decimal point"),
        (['"1500,5"', '"1500,5"', '"20,5"'], "decimal point"),
        (["5%", "5%", "7%"], "without separators and units"),
    ],
)
def test_what_is_decided_about_a_column_is_said(tmp_path, cells_of_column, note):
    rows = [f"{cell},{i},{'xy'[i % 2]}" for i, cell in enumerate(cells_of_column)]
    read = data.CSV(table(tmp_path, rows, "a,b,y"), target="y").read()
    [said] = read.notes
    assert re.search(note, said)


def test_booleans_are_categories_and_labels(tmp_path):
    rows = [f"{i % 3 == 0},{i % 2 == 0},{i % 5 == 0}" for i in range(30)]
    path = table(tmp_path, rows, "a,p,q")
    assert data.CSV(path, target="p", features=("a",)).read().class_names == (
        "False",
        "True",
    )
    read = data.CSV(path, target=("p", "q"), features="a", task="multilabel").read()
    np.testing.assert_array_equal(read.y, [[i % 2 == 0, i % 5 == 0] for i in range(30)])


def test_a_byte_order_mark_and_blanks_are_no_part_of_a_name(tmp_path):
    (tmp_path / "b.csv").write_bytes("\ufeff a , y \n 1 , x \n\n 2 , z \n".encode())
    read = data.CSV(str(tmp_path / "b.csv"), target="y").read()
    assert read.class_names == ("x", "z")
    np.testing.assert_array_equal(read.x, [[1], [2]])


def test_an_export_predicts_in_the_units_of_the_table(tmp_path):
    rows = [f"{1_700_000_000 + i},{DECOMPOSED}{i % 2},{10**9 + i}" for i in range(40)]
    path = table(tmp_path, rows, "time,drink,y")
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,), activation="tanh"),
        data=data.CSV(path, target="y", val=0.2),
        steps=2,
        batch=8,
    )
    run = tl.setup(exp, tmp_path / "run")
    tl.train(run, progress=False)
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    new = ["café1,1700000031", "café0,1.70000000e9"]
    new = table(tmp_path, new, "drink,time", "new.csv")
    outputs = [row["output"] for row in predict.predict(folder, new)]
    # The same in float64, from seconds after the first.
    train = run.datasets["target"].rows["train"].astype(np.float64)
    x = np.array([[(31 - train.mean()) / train.std(), 0, 1], [0, 1, 0]])
    x[1, 0] = -train.mean() / train.std()
    w = {
        name: v.astype(np.float64)
        for name, v in load_file(folder / bundle.WEIGHTS).items()
    }
    h = np.tanh(x @ w["params/layer1/dense/kernel"] + w["params/layer1/dense/bias"])
    y = h @ w["params/head/dense/kernel"] + w["params/head/dense/bias"]
    [offset] = run.preprocess.target_offset
    np.testing.assert_allclose(np.array(outputs) - offset, y[:, 0], atol=1e-4)
    with pytest.raises(UserError, match="too coarse for features about"):
        bundle.load(folder)(np.zeros((1, 3), np.float32))
    with pytest.raises(UserError, match="predicts differences from 1000000020"):
        weights.write_weights(tmp_path / "run", tmp_path / "w.safetensors")
    # The same file read again is the same model: errors have the targets' units.
    trained = tl.load_model(tmp_path / "run")
    assert trained.preprocess == run.preprocess
