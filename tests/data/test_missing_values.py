"""Holes and unseen categories of tables, against scikit-learn on the same rows."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess, table_encoding
from jaxtl.export import bundle, predict, write_bundle

HOLES = ("", "NA", "nan", "?", "null")


def write(path, rows=60, holes=0.2):
    """Writes a table of two numbers and a category with holes; returns its cells."""
    rng = np.random.default_rng(1)
    cells = np.array(
        [
            [f"{rng.normal(1e9, 30):.0f}", f"{rng.normal():.3f}", "rgb"[i % 3]]
            for i in range(rows)
        ],
        object,
    )
    is_hole = rng.random(cells.shape) < holes
    cells[is_hole] = rng.choice(HOLES, is_hole.sum())
    lines = [f"{','.join(row)},{'yn'[i % 2]}" for i, row in enumerate(cells)]
    path.write_text("time,a,color,label\n" + "\n".join(lines) + "\n")
    cells[is_hole] = None
    return cells


def reference(cells, train):
    """Features in float64, as scikit-learn computes them when fitted on `train`."""
    numbers = np.array(
        [[np.nan if c is None else float(c) for c in r[:2]] for r in cells]
    )
    colors = np.array([[np.nan if r[2] is None else r[2]] for r in cells], object)
    median = SimpleImputer(strategy="median").fit(numbers[train])
    mode = SimpleImputer(strategy="most_frequent", add_indicator=True).fit(
        colors[train]
    )
    marked = SimpleImputer(strategy="median", add_indicator=True).fit(numbers[train])
    scaler = StandardScaler().fit(median.transform(numbers[train]))
    filled = mode.transform(colors)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    one_hot.fit(filled[train][:, :1])
    return np.concatenate(
        [
            scaler.transform(median.transform(numbers)),
            one_hot.transform(filled[:, :1]),
            marked.transform(numbers)[:, 2:],
            filled[:, 1:].astype(float),
        ],
        axis=1,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_holes_are_filled_as_scikit_learn_fills_them(tmp_path, seed):
    cells = write(tmp_path / "a.csv")
    source = data.CSV(str(tmp_path / "a.csv"), target="label", missing="impute")
    dataset = data.prepare(source, seed=seed)
    values = np.asarray(preprocess.apply(dataset.preprocess, dataset.x))
    expected = reference(cells, dataset.rows["train"])
    np.testing.assert_allclose(values, expected, atol=2e-4)
    restored = preprocess.restore(dataset.preprocess, values)
    again = preprocess.normalize(dataset.preprocess, restored)
    np.testing.assert_allclose(again, values, atol=1e-5)
    assert any(
        "filled with 'r'" in note or "most frequent" in note for note in dataset.notes
    )


def test_holes_are_refused_unless_they_are_imputed(tmp_path):
    write(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r'in line .* or pass missing="impute"'):
        data.prepare(data.CSV(str(tmp_path / "a.csv"), target="label"))
    with pytest.raises(UserError, match="labels are never imputed"):
        data.prepare(data.CSV(str(tmp_path / "a.csv"), target="a", missing="impute"))
    with pytest.raises(UserError, match="missing must be 'refuse' or 'impute'; got 'i"):
        data.CSV(str(tmp_path / "a.csv"), target="label", missing="imput")
    (tmp_path / "b.csv").write_text("a,b,y\n" + "-9,,0\n1,,1\n-9,,0\n2,,1\n" * 5)
    path = str(tmp_path / "b.csv")
    with pytest.raises(UserError, match="'b' has no value in any row"):
        data.prepare(data.CSV(path, target="y", missing="impute"))
    source = data.CSV(
        path, target="y", features="a", missing="impute", missing_values=("-9",)
    )
    dataset = data.prepare(source)
    assert np.isnan(dataset.x).sum() == 10
    assert dataset.preprocess.indicators == (0,)


def test_a_number_that_holds_no_value_is_one_in_any_notation(tmp_path):
    # As of pandas' na_values: DataFrame.to_csv writes -999.0 beside fractions.
    rows = [
        f"{'-999.0' if i % 4 == 0 else f'{i % 9}.5'},{'yn'[i % 2]}" for i in range(40)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["a,label", *rows]) + "\n")
    options = {"missing": "impute", "missing_values": ("-999",)}
    source = data.CSV(str(tmp_path / "a.csv"), target="label", **options)
    dataset = data.prepare(source)
    np.testing.assert_array_equal(np.isnan(dataset.x[:, 0]), np.arange(40) % 4 == 0)
    encoder = table_encoding.Encoder(dataset.encoding, dataset.preprocess)
    assert np.isnan(encoder.row(["-999.0"], "line 2")).all()
    assert encoder.row(["-99.0"], "line 3") == [-99.0]
    # The code of a place is no number.
    rows = [f"{('00', '01', '0')[i % 3]},{'yn'[i % 2]}" for i in range(30)]
    (tmp_path / "b.csv").write_text("\n".join(["a,label", *rows]) + "\n")
    options["missing_values"] = ("0",)
    table = data.CSV(str(tmp_path / "b.csv"), target="label", **options).read()
    np.testing.assert_array_equal(np.isnan(table.x[:, 0]), np.arange(30) % 3 == 2)


def test_numbers_of_typed_files_are_the_categories_of_text_files(tmp_path):
    rows = [f"{('1', '2', '3+')[i % 3]},{'yn'[i % 2]}" for i in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["a,label", *rows]) + "\n")
    dataset = data.prepare(data.CSV(str(tmp_path / "a.csv"), target="label"))
    encoder = table_encoding.Encoder(dataset.encoding, dataset.preprocess)
    for cell, code in (("1.0", [1, 0, 0]), ("2", [0, 1, 0]), ("3", [0, 0, 0])):
        assert encoder.row([cell], "row 0") == code
    assert list(encoder.unseen) == ["a"]


@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(0, 0.6))
@settings(max_examples=15, deadline=None)
def test_fills_are_medians_and_modes_of_the_train_rows(seed, width, holes):
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(30, width)), 1)
    x[rng.random(x.shape) < holes] = np.nan
    x[0] = 1.0  # each column has a value in a train row
    color = rng.integers(0, 3, 30)
    one_hot = np.eye(3)[color]
    one_hot[rng.random(30) < holes] = np.nan
    one_hot[0] = [0, 1, 0]
    color = np.where(np.isnan(one_hot[:, 0]), np.nan, one_hot.argmax(1))[:, None]
    codes = [table_encoding.ColumnCode(f"c{i}", None) for i in range(width)]
    codes.append(table_encoding.ColumnCode("color", ("b", "g", "r")))
    rows = {"train": np.arange(20), "val": np.arange(20, 25), "test": np.arange(25, 30)}
    fit = table_encoding.fit(
        table_encoding.TableEncoding(
            columns=tuple(codes), missing="impute", unseen="bucket"
        ),
        np.concatenate([x, one_hot], 1),
        rows,
        data.Table(x=x, y=x[:, 0]).origins,
        data.Preprocess(),
    )
    median = SimpleImputer(strategy="median", add_indicator=True).fit(x[:20])
    mode = SimpleImputer(strategy="most_frequent").fit(color[:20])
    filled = preprocess.apply(fit.preprocess, np.concatenate([x, one_hot], 1))
    expected = median.transform(x)
    np.testing.assert_allclose(filled[:, :width], expected[:, :width], atol=1e-6)
    seen = OneHotEncoder(categories=[[0, 1, 2]], sparse_output=False)
    codes = seen.fit_transform(mode.transform(color))
    codes[:, [i for i in range(3) if i not in color[:20]]] = 0
    np.testing.assert_array_equal(filled[:, width : width + 3], codes)
    marks = filled[:, width + 3 : width + 3 + expected.shape[1] - width]
    np.testing.assert_array_equal(marks, expected[:, width:])


def table_with_a_rare_category(path):
    """Writes 40 rows, of which only the last, the test split, is of "violet"."""
    rows = [f"{i},{'rg'[i % 2]},{'xy'[i % 3 == 0]}" for i in range(39)]
    path.write_text("\n".join(["a,color,y", *rows, "39,violet,y"]) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitCSV(data.CSV):
    """A table whose last two rows are its test split."""

    def read(self):
        rows = np.arange(40)
        splits = {"train": rows[:30], "val": rows[30:38], "test": rows[38:]}
        return dataclasses.replace(super().read(), splits=splits)


def test_categories_that_no_train_row_has_are_zeros_everywhere(tmp_path):
    path = tmp_path / "a.csv"
    table_with_a_rare_category(path)
    with pytest.raises(UserError, match=r"'violet' of 1 test rows, the first in .*:41"):
        data.prepare(SplitCSV(str(path), target="y", unseen="refuse"))
    source = SplitCSV(str(path), target="y", missing="impute")
    dataset = data.prepare(source)
    assert any("'violet' of 1 test rows" in note for note in dataset.notes)
    values = np.asarray(preprocess.apply(dataset.preprocess, dataset.x))
    transform = ColumnTransformer(
        [
            (
                "a",
                make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
                [0],
            ),
            ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [1]),
        ]
    )
    cells = np.array(
        [line.split(",")[:2] for line in path.read_text().split()[1:]], object
    )
    expected = transform.fit(cells[:30]).transform(cells).astype(float)
    np.testing.assert_allclose(values[:, :3], expected, atol=1e-5)
    np.testing.assert_array_equal(values[:, 3], 0)


def test_evaluation_and_exports_fill_as_training_did(tmp_path, capsys):
    cells = write(tmp_path / "a.csv")
    exp = tl.Experiment(
        model=tl.models.MLP(widths=(4,)),
        data=data.CSV(str(tmp_path / "a.csv"), target="label", missing="impute"),
        steps=2,
        batch=8,
    )
    run = tl.setup(exp, tmp_path / "run")
    tl.train(run, progress=False)
    trained = tl.load_model(tmp_path / "run")
    assert trained.preprocess == run.preprocess
    (tmp_path / "a.csv").rename(tmp_path / "gone.csv")  # an export needs no data
    folder = write_bundle.export(tmp_path / "run", tmp_path / "out")
    lines = (tmp_path / "gone.csv").read_text().splitlines()
    new = tmp_path / "new.csv"
    new.write_text("\n".join([*lines, "999999999,1.5,pink,y"]) + "\n")
    rows = predict.predict(folder, new)
    assert "1 cells of a category that no train row had" in capsys.readouterr().err
    extended = np.concatenate([cells, [["999999999", "1.5", "pink"]]])
    x = reference(extended, run.datasets["target"].rows["train"])
    logits = trained.network.apply(trained.params, trained.stats, x.astype(np.float32))
    chosen = np.asarray(logits.logits).argmax(1)
    names = bundle.load(folder).class_names
    assert [row["label"] for row in rows] == [names[i] for i in chosen]
    typed = [  # the same cells with types
        {"time": r[0] and int(r[0]), "a": r[1] and float(r[1]), "color": r[2]}
        for r in extended.tolist()
    ]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, typed)))
    same = predict.predict(folder, tmp_path / "new.jsonl")
    assert [r["probability"] for r in same] == [r["probability"] for r in rows]
    assert same[3]["origin"].endswith("new.jsonl:4")
    more = tl.Experiment(  # another order of columns: what fills them moves along
        model=exp.model,
        init=tl.pretrained.FromRun(str(tmp_path / "run")),
        data=data.CSV(
            str(tmp_path / "gone.csv"),
            target="label",
            features=("color", "a", "time"),
            missing="impute",
        ),
        steps=0,
        batch=8,
    )
    moved = tl.setup(more)
    x = preprocess.apply(moved.preprocess, moved.datasets["target"].x)
    moved_logits = moved.parts.model.network.apply(
        moved.parts.model.params, moved.state.stats, x
    ).logits
    np.testing.assert_allclose(moved_logits, logits.logits[:-1], atol=1e-4)
