"""Lists of labels are multilabel, equal to scikit-learn's MultiLabelBinarizer."""

import json

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from jaxtl import data
from jaxtl.core.errors import UserError

pytest.importorskip("tokenizers")

LABELS = [["war", "love"], [], ["love"], ["sea", "sea", "war"], ["love", "sea"]] * 4
YEARS = [[10, 9], [], [9], [10, 9, 200], [200]] * 4
N = len(LABELS)


def rows(labels=LABELS):
    return [
        {"text": f"good {i}", "labels": row, "a": i / 2, "file": f"{i % 2}.png"}
        for i, row in enumerate(labels)
    ]


def write(path, labels=LABELS):
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows(labels)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(labels)))
    else:
        path.write_text(json.dumps(rows(labels)))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    for i in range(2):
        PIL.Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def text(folder, path, **fields):
    options = {"text": "text", "label": "labels", "tokenizer": f"{folder}/vocab.txt"}
    return data.Text(path, **options | fields)


def sources(folder, labels):
    """Every source that reads columns with types."""
    path = folder / "a.json"
    options = {"target": "labels"}
    parquet, lines = write(folder / "a.parquet", labels), write(path, labels)
    yield data.JSON(lines, features="a", **options)
    yield data.Parquet(parquet, features="a", **options)
    yield data.ImageList(lines, image="file", **options)
    yield data.ImageList(parquet, image="file", **options)
    yield text(folder, lines)
    yield text(folder, parquet)
    columns = {"a": np.arange(N), "labels": labels}
    yield data.Frame(columns, **options)
    yield data.Frame(pytest.importorskip("pandas").DataFrame(columns), **options)
    yield data.Frame(pytest.importorskip("polars").DataFrame(columns), **options)
    datasets = pytest.importorskip("datasets")
    yield data.HFDataset(datasets.Dataset.from_dict(columns), **options)
    texts = datasets.Dataset.from_list(rows(labels))
    tokenizer = f"{folder}/vocab.txt"
    yield data.HFDataset(texts, text="text", tokenizer=tokenizer, **options)


@pytest.mark.parametrize("labels", [LABELS, YEARS])
def test_lists_are_the_binarized_labels(folder, labels):
    reference = MultiLabelBinarizer()
    expected = reference.fit_transform(labels)
    for source in sources(folder, labels):
        table = source.read()
        assert table.task == "multilabel", source
        assert table.class_names == tuple(map(str, reference.classes_)), source
        np.testing.assert_array_equal(table.y, expected, err_msg=str(source))
    assert data.prepare(source).outputs == 3


def test_declared_classes_keep_their_order(folder):
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["sea", "never", "war", "love"])
    features = datasets.Features(
        {"a": datasets.Value("int64"), "labels": datasets.Sequence(kind)}
    )
    columns = {"a": range(N), "labels": LABELS}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    dataset.to_parquet(folder / "declared.parquet")
    # Earlier versions of datasets declare a list as [type].
    entry = {"_type": "ClassLabel", "names": kind.names}
    declared = json.dumps({"info": {"features": {"labels": [entry]}}})
    numbers = [[kind.str2int(name) for name in row] for row in LABELS]
    table = pa.table({"a": range(N), "labels": numbers})
    table = table.replace_schema_metadata({"huggingface": declared})
    pa.parquet.write_table(table, folder / "early.parquet")
    expected = MultiLabelBinarizer(classes=kind.names).fit_transform(LABELS)
    for source in (
        data.HFDataset(dataset, target="labels"),
        data.Parquet(str(folder / "declared.parquet"), target="labels"),
        data.Parquet(str(folder / "early.parquet"), target="labels"),
    ):
        table = source.read()
        assert table.class_names == ("sea", "never", "war", "love")
        np.testing.assert_array_equal(table.y, expected)


def test_the_train_rows_decide_the_labels(folder):
    train, val = write(folder / "a.jsonl"), write(folder / "b.jsonl", [["love"], []])
    table = text(folder, train, val_path=val).read()
    assert table.class_names == ("love", "sea", "war")
    assert table.y[-2:].tolist() == [[1, 0, 0], [0, 0, 0]]
    strange = write(folder / "c.jsonl", [["love", "woe"], ["woe"]])
    message = r"1 labels are in no train row: 'woe' \(.*c.jsonl:1\); a model has no"
    with pytest.raises(UserError, match=message):
        text(folder, train, test_path=strange).read()
    datasets = pytest.importorskip("datasets")
    parts = {
        "train": datasets.Dataset.from_list(rows()),
        "test": datasets.Dataset.from_list(rows([["woe"]])),
    }
    message = r"in no train row: 'woe' \(HFDataset, test\[0\]\)"
    with pytest.raises(UserError, match=message):
        data.HFDataset(
            datasets.DatasetDict(parts), target="labels", features="a"
        ).read()


@pytest.mark.parametrize(
    ("labels", "fields", "says"),
    [
        ([["a"], None], {}, "has 1 rows without a value, the first in row 1"),
        ([["a"], [""]], {}, "has an empty label in row 1"),
        ([["a"], [1]], {}, "lists of integer and text"),
        ([[0.5], [1.5]], {}, "lists of number"),
        ([["a"], "a"], {}, "holds list and text"),
        ([[["a"]], []], {}, "lists of list"),
        ([[], []], {}, "the lists of all train rows are empty"),
        ([["a"], []], {"task": "classification"}, "are the task 'multilabel'"),
        ([["a"], []], {"label": ("labels", "a")}, "'labels' holds lists of labels; na"),
        ([["a"], []], {"text": "labels"}, "holds no texts"),
    ],
)
def test_lists_that_are_no_labels_are_refused(folder, labels, fields, says):
    path = write(folder / "a.json", labels)
    with pytest.raises(UserError, match=says):
        text(folder, path, **fields).read()
    if "label" not in fields and "text" not in fields:
        says = says.replace("rows without a value", "missing values")
        with pytest.raises(UserError, match=says):
            data.JSON(path, target="labels", features="a", **fields).read()


def test_lists_are_labels_alone(folder):
    path = write(folder / "a.json")
    for fields in ({"split_by": "labels"}, {"features": ("labels",)}):
        with pytest.raises(UserError, match="column 'labels' holds lists, which are"):
            data.JSON(path, **{"target": "a", "features": "file", **fields}).read()
    one = write(folder / "b.json", [["a"], ["b"]])
    assert any("exactly one label" in note for note in text(folder, one).read().notes)
