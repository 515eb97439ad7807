"""JSON, Parquet, Arrow and frames: one table in any of them is the same data set."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.export import predict, write_bundle

N = 60
RNG = np.random.default_rng(0)
AGE = RNG.integers(20, 60, N).tolist()
INCOME = [
    None if i % 7 == 0 else round(float(v), 3) for i, v in enumerate(RNG.normal(size=N))
]
CITY = [None if i % 11 == 0 else ("Oslo", "Rome", "Bern")[i % 3] for i in range(N)]
MEMBER = (RNG.random(N) < 0.5).tolist()
LABEL = ["ny"[i % 2] for i in range(N)]
TABLE = {"age": AGE, "income": INCOME, "city": CITY, "member": MEMBER, "label": LABEL}
ROWS = [dict(zip(TABLE, row)) for row in zip(*TABLE.values())]


def arrow():
    import pyarrow

    return pyarrow.table(TABLE)


def write_parquet(path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow(), path)


def write_feather(path):
    import pyarrow.feather

    pyarrow.feather.write_feather(arrow(), path)


def write_csv(path):
    lines = [
        ",".join("" if v is None else str(v) for v in row.values()) for row in ROWS
    ]
    path.write_text("\n".join([",".join(TABLE), *lines]) + "\n")


WRITERS = {
    "a.csv": (data.CSV, write_csv),
    "a.jsonl": (
        data.JSON,
        lambda p: p.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    ),
    "a.json": (data.JSON, lambda p: p.write_text(json.dumps(ROWS))),
    "a.parquet": (data.Parquet, write_parquet),
    "a.feather": (data.Parquet, write_feather),
}


def in_memory(kind):
    if kind == "dict":
        return TABLE
    if kind == "arrays":
        return {name: np.asarray(v, object) for name, v in TABLE.items()}
    if kind == "arrow":
        return arrow()
    if kind == "pandas category":
        frame = pytest.importorskip("pandas").DataFrame(TABLE)
        return frame.assign(city=frame.city.astype("category"))
    return pytest.importorskip(kind).DataFrame(TABLE)


def source(kind, folder):
    options = {"target": "label", "missing": "impute"}
    if kind not in WRITERS:
        return data.Frame(in_memory(kind), **options)
    reader, write = WRITERS[kind]
    write(folder / kind)
    return reader(str(folder / kind), **options)


FRAMES = ("dict", "arrays", "arrow", "pandas", "pandas category", "polars")


@pytest.mark.parametrize("kind", [*WRITERS, *FRAMES])
def test_a_table_is_the_same_in_every_form(tmp_path, kind):
    dataset = data.prepare(source(kind, tmp_path))
    one_hot = OneHotEncoder(sparse_output=False).fit([[v] for v in CITY if v])
    city = [one_hot.transform([[v]])[0] if v else [np.nan] * 3 for v in CITY]
    expected = np.column_stack(
        [
            AGE,
            [np.nan if v is None else v for v in INCOME],
            city,
            OneHotEncoder(sparse_output=False).fit_transform(np.c_[MEMBER]),
        ]
    )
    np.testing.assert_array_equal(dataset.x, expected.astype(np.float32))
    assert dataset.feature_names[2:] == (
        *("city=Bern", "city=Oslo", "city=Rome"),
        *("member=False", "member=True"),
    )
    assert [dataset.class_names[i] for i in dataset.y] == LABEL
    write_csv(tmp_path / "same.csv")
    same = data.CSV(str(tmp_path / "same.csv"), target="label", missing="impute")
    assert data.prepare(same).fingerprint == dataset.fingerprint
    place = "a.jsonl:4" if kind == "a.jsonl" else "[3]"
    assert kind == "a.csv" or dataset.origins[3].endswith(place)


def test_types_of_files_decide(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"zip": f"0{i % 3}", "big": 2**53 + i, "y": i % 2} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = data.JSON(str(path), target="y", features="zip").read()
    assert read.feature_names == ("zip=00", "zip=01", "zip=02")
    with pytest.raises(UserError, match="one number in 64 bits"):
        data.JSON(str(path), target="y").read()
    quantity = data.JSON(str(path), target="big", features="zip").read()
    assert quantity.task == "regression"
    frame = {"n": np.arange(40, dtype=np.int8), "y": np.arange(40) % 3 == 0}
    read = data.Frame(frame, target="y").read()
    assert (read.task, read.class_names) == ("classification", ("False", "True"))
    assert data.Frame(frame, target="n", features="y").read().task == "regression"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"a": 1, "y": 0}\n{"a": ', r"line 2 of .* is no JSON .* character 7"),
        ('{"a": 1, "y": 0}\n[1]', r"line 2 of .* is an array; each row must be an obj"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        (
            '[{"a": [1], "y": 0}]',
            r"column 'a' holds lists, which are read as the labels",
        ),
        (
            '[{"a": [0.5], "y": 0}]',
            r"the key 'a' of .* holds lists of number; lists are",
        ),
        ('{"a": 1, "y": 0}\n{"a": "x", "y": 1}', "holds integer and text"),
        ('{"a": 1, "y": 0}\n{"y": 1}', "has 1 missing values, .* in line 2"),
        ("[]", "has no rows"),
        ('{"a": 1e999, "y": 0}', "1 infinite values, the first in line 1"),
        ('{"a": 1, "y": 0, "á": 1, "a\u0301": 2}', "differ in blanks or Unicode form"),
    ],
)
def test_json_that_is_no_table_is_named(tmp_path, rows, message):
    (tmp_path / "a.json").write_text(rows)
    with pytest.raises(UserError, match=message):
        data.JSON(str(tmp_path / "a.json"), target="y").read()


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1, "z": [1], "y": 0}, {"a": 2, "y": 1}]')
    read = data.JSON(str(tmp_path / "a.json"), target="y", features="a").read()
    assert read.x.tolist() == [[1], [2]]


def test_parquet_that_is_no_table_is_named(tmp_path):
    import datetime

    import pyarrow.parquet

    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"a.parquet can't be read: "):
        data.Parquet(str(tmp_path / "a.parquet"), target="y").read()
    table = pyarrow.table(
        {"when": [datetime.date(2024, 1, i + 1) for i in range(4)], "y": [0, 1, 0, 1]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"'when' is of the type date32"):
        data.Parquet(str(tmp_path / "b.parquet"), target="y").read()
    with pytest.raises(UserError, match=r"differ in length: {'a': 2, 'y': 3}"):
        data.Frame({"a": [1, 2], "y": [0, 1, 1]}, target="y").read()
    with pytest.raises(UserError, match="got ndarray"):
        data.Frame(np.zeros((3, 2)), target="y")


def test_the_index_of_a_frame_that_parquet_stores_is_no_input(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    # The name that DataFrame.to_parquet gives to an index of shuffled rows.
    table = pa.table({"a": AGE, "label": LABEL, "__index_level_0__": [*range(N)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    dataset = data.prepare(data.Parquet(str(tmp_path / "a.parquet"), target="label"))
    assert dataset.feature_names == ("a",)
    assert any("'__index_level_0__' is taken for the index" in n for n in dataset.notes)


def test_holes_in_lists_and_below_masks_are_missing():
    masked = np.ma.masked_array([0.5, 9e36, 2.5, 1.5] * 5, mask=[0, 1, 0, 0] * 5)
    columns = {
        "m": masked,
        "c": ["red", float("nan"), "blue", None] * 5,
        "b": [True, float("nan"), False, True] * 5,
        "y": [0, 1] * 10,
    }
    options = {"target": "y", "missing": "impute", "missing_values": ("",)}
    table = data.Frame(columns, **options).read()
    assert table.feature_names == ("m", "c=blue", "c=red", "b=False", "b=True")
    holes = np.isnan(table.x)
    np.testing.assert_array_equal(holes[:, 0], masked.mask)
    np.testing.assert_array_equal(holes[:, 1], [False, True, False, True] * 5)
    np.testing.assert_array_equal(holes[:, 3], [False, True, False, False] * 5)
    first = data.prepare(data.Frame(columns, **options)).fingerprint
    masked[0] = np.ma.masked  # the value below it stays
    assert data.prepare(data.Frame(columns, **options)).fingerprint != first
    with pytest.raises(UserError, match="holds integer and text"):
        data.Frame({**columns, "c": ["red", 1] * 10}, **options).read()


@pytest.mark.parametrize(
    ("names", "are_refused"),
    [
        (("train-00000-of-00001", "test-00000-of-00001"), True),
        (("train/0", "Valid/0"), True),
        (("train_0", "train_1"), False),
        (("part-0", "testimonies"), False),
    ],
)
def test_a_folder_of_several_splits_is_not_read_as_one(tmp_path, names, are_refused):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(pa.table({"a": AGE, "label": LABEL}), path)
    source = data.Parquet(str(tmp_path), target="label")
    if are_refused:
        with pytest.raises(UserError, match=r"files of the splits .* by HFDataset"):
            source.read()
    else:
        assert len(source.read().y) == 2 * N


@pytest.mark.parametrize("kind", ["arrow", "parquet", "pandas", "polars"])
def test_ordered_categories_are_classes_in_their_order(tmp_path, kind):
    texts, order = ["high", "low", "mid", "low"] * 10, ["low", "mid", "high"]
    if kind == "pandas":
        pd = pytest.importorskip("pandas")
        grades = pd.Categorical(texts, categories=order, ordered=True)
        frame = pd.DataFrame({"a": range(40), "grade": grades})
    elif kind == "polars":
        pl = pytest.importorskip("polars")
        grades = pl.Series(texts, dtype=pl.Enum(order))
        frame = pl.DataFrame({"a": range(40), "grade": grades})
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        index = pa.array([order.index(text) for text in texts])
        grades = pa.DictionaryArray.from_arrays(index, order, ordered=True)
        frame = pa.table({"a": range(40), "grade": grades})
        parquet.write_table(frame, tmp_path / "a.parquet", row_group_size=7)
    source = data.Frame(frame, target="grade")
    if kind == "parquet":
        source = data.Parquet(str(tmp_path / "a.parquet"), target="grade")
    table = source.read()
    assert table.class_names == tuple(order)
    assert [table.class_names[i] for i in table.y] == texts


def test_a_frame_that_changes_is_read_again():
    frame = {"a": np.arange(40.0), "y": np.arange(40) % 2}
    first = data.prepare(data.Frame(frame, target="y"))
    frame["a"][0] = 7
    assert data.prepare(data.Frame(frame, target="y")).fingerprint != first.fingerprint


@pytest.mark.slow  # one JSON file in test_missing_values stays
def test_an_export_predicts_typed_tables(tmp_path):
    exp = tl.Experiment(
        model=tl.models.MLP(widths=()),
        data=source("a.parquet", tmp_path),
        steps=1,
        batch=8,
        test=False,
    )
    tl.train(tl.setup(exp, tmp_path / "run"), progress=False)
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    rows = {}
    for name, (_, write) in WRITERS.items():
        write(tmp_path / name)
        rows[name] = predict.predict(folder, tmp_path / name)
    expected = [row["probability"] for row in rows.pop("a.csv")]
    for of_file in rows.values():
        np.testing.assert_allclose([r["probability"] for r in of_file], expected)
    assert rows["a.jsonl"][2]["origin"].endswith("a.jsonl:3")
    assert dataclasses.replace(exp, steps=2).data == exp.data
