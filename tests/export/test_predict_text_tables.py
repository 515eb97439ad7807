"""Texts of tables for predictions, and predictions as files."""

import csv
import json
import types

import numpy as np
import pytest

from jaxtl.cli import prediction_files
from jaxtl.core.errors import UserError
from jaxtl.export import predict
from jaxtl.export.predict_text_tables import read_text_table

ROWS = (("a, b", "yes"), ('"quoted"', "no"))


def predictor(columns, pairs=False):
    metadata = {} if columns is None else {"text_columns": columns}
    return types.SimpleNamespace(metadata=metadata, takes_pairs=pairs, name="model")


@pytest.fixture
def folder(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("stars", "Review"), *(r[::-1] for r in ROWS)])
    lines = [f"{text}\t{label}" for text, label in ROWS]
    (tmp_path / "plain.tsv").write_text("\n".join(lines))
    (tmp_path / "named.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    records = [{"Review": text, "stars": label} for text, label in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "a.json").write_text(json.dumps(records))
    return tmp_path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_texts_are_those_of_the_columns_of_training(folder, name):
    texts, rows = read_text_table(predictor(["Review"]), folder / name)
    assert list(texts) == [text for text, _ in ROWS]
    assert len(rows) == 2
    both, _ = read_text_table(predictor(["Review", "stars"], True), folder / name)
    assert both == list(ROWS)
    with pytest.raises(UserError, match="no column 'reviews' of texts; did you mean"):
        read_text_table(predictor(["reviews"]), folder / name)
    with pytest.raises(UserError, match="no column 'text' of texts"):
        read_text_table(predictor(None), folder / name)
    with pytest.raises(UserError, match=r"from the column 4|at least 5 are expected"):
        read_text_table(predictor([4]), folder / name)


def test_columns_by_number_read_a_header_where_there_is_one(folder, capsys):
    for name, first in (("plain.tsv", 1), ("named.tsv", 2)):
        texts, rows = read_text_table(predictor([0]), folder / name)
        assert texts == [text for text, _ in ROWS]
        assert rows[0].endswith(f"{name}:{first}")
    assert "named.tsv: the first line is read as a header" in capsys.readouterr().err


def test_each_class_has_its_probability_on_request():
    model = types.SimpleNamespace(
        task="classification", class_names=("a", "b"), thresholds=(0.6,)
    )
    values = np.array([0.45, 0.55])
    plain = predict._prediction(model, values, False)
    assert plain == {"label": "a", "probability": 0.45}  # 0.55 is below the threshold
    assert predict._prediction(model, values, True) == {
        **plain,
        "p(a)": 0.45,
        "p(b)": 0.55,
    }


def test_files_hold_every_digit_and_every_column(tmp_path):
    rows = [
        {"file": "a, b.png", "label": "é", "p(é)": 1 / 3},
        {"file": "c.png", "label": 'x"y', "p(x)": 0.25},
    ]
    for suffix in prediction_files.SUFFIXES:
        path = tmp_path / f"out{suffix}"
        prediction_files.check(path)
        prediction_files.write(rows, path)
        text = path.read_text("utf-8")
        if suffix == ".json":
            assert json.loads(text) == rows
        elif suffix == ".jsonl":
            assert list(map(json.loads, text.splitlines())) == rows
        else:
            delimiter = "," if suffix == ".csv" else "\t"
            read = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
            assert [row["file"] for row in read] == ["a, b.png", "c.png"]
            assert float(read[0]["p(é)"]) == 1 / 3
            assert read[1]["p(é)"] == ""
    with pytest.raises(UserError, match=r"expected a name ending in \.csv"):
        prediction_files.check(tmp_path / "out.xlsx")
