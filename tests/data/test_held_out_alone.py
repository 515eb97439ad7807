"""Data for evaluation only: held-out splits without a train split, from any source."""

import io
import tarfile

import numpy as np
import PIL.Image
import pytest
import scipy.sparse
from sklearn import datasets as sklearn_datasets

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import description, streams

X, Y = np.arange(24, dtype=np.float32).reshape(12, 2), np.arange(12) % 3
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad")


def png(value):
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (value,) * 3).save(file, "png")
    return file.getvalue()


def tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return data.Tokenizer(str(folder), max_length=8)


def text(folder):
    (folder / "t.tsv").write_text("good\tx\nbad\ty\n")
    return data.Text(test_path=str(folder / "t.tsv"), tokenizer=tokenizer(folder))


def conll(folder):
    (folder / "t.conll").write_text("good B-PER\nbad O\n\nbad O\n")
    return data.CoNLL(val_path=str(folder / "t.conll"), tokenizer=tokenizer(folder))


def svmlight(folder):
    sklearn_datasets.dump_svmlight_file(
        scipy.sparse.csr_array(X), Y, str(folder / "t.svm")
    )
    return data.SVMLight(test_path=str(folder / "t.svm"))


def arrays(folder):
    np.savez(folder / "t.npz", x=X, y=Y, class_names=["a", "b", "c"])
    return data.Arrays(test_path=str(folder / "t.npz"))


def own_arrays(folder):
    np.savez(folder / "t.npz", x_test=X, y_test=Y)
    return data.Arrays(str(folder / "t.npz"))


def webdataset(folder):
    with tarfile.open(folder / "t.tar", "w") as archive:
        for i in range(4):
            for name, content in ((f"{i}.png", png(i)), (f"{i}.cls", b"%d" % (i % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.WebDataset(test_path=str(folder / "t.tar"))


def torch_dataset(folder):
    return data.TorchDataset(test_dataset=list(zip(X, Y.tolist())))


def folders(folder):
    for name in ("test/a/1", "test/b/1", "dev/a/2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(png(1))
    return data.ImageFolder(str(folder))


def datasets_folder(folder):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"x": X[:, 0], "y": np.where(Y > 0, "p", "n")})
    for split in ("test", "other"):
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return data.HFDataset(str(folder), target="y")


def whole_table(folder):
    lines = "\n".join(f"{a},{b},{'pn'[int(y > 0)]}" for (a, b), y in zip(X, Y))
    (folder / "t.csv").write_text(f"a,b,y\n{lines}\n")
    return data.CSV(str(folder / "t.csv"), target="y", test=1.0)


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        (text, {"test": 2}),
        (conll, {"val": 2}),
        (svmlight, {"test": 12}),
        (arrays, {"test": 12}),
        (own_arrays, {"test": 12}),
        (webdataset, {"test": 4}),
        (torch_dataset, {"test": 12}),
        (folders, {"val": 1, "test": 2}),
        (datasets_folder, {"test": 12}),
        (whole_table, {"test": 12}),
    ],
)
def test_a_source_may_have_held_out_splits_alone(source, rows, tmp_path):
    dataset = data.prepare(source(tmp_path))
    sizes = {name: len(part) for name, part in dataset.rows.items()}
    assert sizes == {"train": 0, **rows}
    assert not dataset.has_training_rows
    assert "train 0" in description.lines_of(dataset)[0]
    x = streams.example_batch(dataset, dataset.preprocess, 3)
    assert all(len(part) == 3 for part in (x.values() if isinstance(x, dict) else [x]))


def test_the_names_of_classes_come_from_the_test_file(tmp_path):
    assert data.prepare(arrays(tmp_path)).class_names == ("a", "b", "c")


def test_the_only_split_of_a_folder_is_kept_if_it_is_named(tmp_path):
    source = datasets_folder(tmp_path)
    (tmp_path / "other-00000-of-00001.parquet").unlink()
    dataset = data.prepare(source)
    assert len(dataset.rows["train"]) > 0
    assert any("test_split='test' keeps it" in note for note in dataset.notes)
    dataset = data.prepare(data.HFDataset(str(tmp_path), target="y", test_split="test"))
    assert len(dataset.rows["test"]) == 12


@pytest.mark.parametrize("groups", [None, np.arange(12) // 4])
def test_all_rows_are_one_split(groups):
    for options, split in (({"test": 1.0}, "test"), ({"val": 1.0, "test": 0}, "val")):
        dataset = data.prepare(data.Arrays(x=X, y=Y, split_by=groups, **options))
        np.testing.assert_array_equal(dataset.rows[split], np.arange(12))
        assert len(dataset.rows["train"]) == 0


def test_a_table_is_not_fitted_on_held_out_rows(tmp_path):
    dataset = data.prepare(whole_table(tmp_path))
    assert (dataset.preprocess.mean, dataset.preprocess.std) == (None, None)
    assert any("no train rows: columns are scaled" in note for note in dataset.notes)


def test_a_tokenizer_is_not_trained_on_held_out_rows(tmp_path):
    text(tmp_path)
    source = data.Text(test_path=str(tmp_path / "t.tsv"))
    with pytest.raises(UserError, match="no train rows to train one on: name that of"):
        data.prepare(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (data.Text(), "names no data: give path=, the train split, or for evaluation"),
        (data.CoNLL(), "evaluation only val_path= or test_path="),
    ],
)
def test_a_source_of_nothing_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        data.prepare(source)


def test_arrays_in_memory_and_files_exclude_each_other():
    with pytest.raises(UserError, match=r"Arrays.test_path='t.npz' has no meaning"):
        data.Arrays(x=X, y=Y, test_path="t.npz")
    with pytest.raises(UserError, match="names no data: give dataset=, the train"):
        data.TorchDataset()


def test_labels_to_train_on_are_refused_without_train_rows():
    with pytest.raises(UserError, match="more than the train examples left"):
        data.prepare(data.Arrays(x=X, y=Y, test=1.0, labels_per_class=2))
    with pytest.raises(UserError, match=r"test=1\.0 takes all of them"):
        data.prepare(data.Arrays(x=X, y=Y, test=12))
