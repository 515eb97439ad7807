"""Image folders, tables and TFDS, each from files written here."""

import dataclasses
import io
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.preprocessing import StandardScaler

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, preprocess


def write(root, name, value=0, size=(6, 5), mode="RGB"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), value).save(path)


def folder(root, classes=("cat", "dog"), count=10, **options):
    for i, name in enumerate(classes):
        for j in range(count):
            write(root, f"{name}/{j:02d}.png", (10 * i, j, 0), **options)


def test_a_folder_is_a_class(tmp_path):
    folder(tmp_path, ("dog", "cat", "a/b"))
    write(tmp_path, "cat/.hidden.png")
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    assert dataset.class_names == ("a/b", "cat", "dog")
    assert dataset.x.shape == (30, 6, 5, 3)
    assert dataset.dtype == np.uint8
    # Red tells the class, green the file: decoded in the order of the names.
    np.testing.assert_array_equal(
        dataset.x[:, 0, 0, 0], np.asarray([20, 10, 0])[dataset.y]
    )
    np.testing.assert_array_equal(dataset.x[:10, 0, 0, 1], np.arange(10))


def test_split_folders_are_splits(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "validation", count=3)
    folder(tmp_path / "test", count=4)
    dataset = datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    sizes = {k: len(v) for k, v in dataset.rows.items()}
    assert sizes == {"train": 20, "val": 6, "test": 8}
    assert dataset.class_names == ("cat", "dog")


def test_large_folders_stay_on_disk_and_give_the_same(tmp_path):
    folder(tmp_path)
    whole = datasets.prepare(datasets.ImageFolder(str(tmp_path), size=4))
    on_disk = datasets.prepare(
        datasets.ImageFolder(str(tmp_path), size=4, memory_limit=10)
    )
    assert lazy_array.is_lazy(on_disk.x)
    assert not lazy_array.is_lazy(whole.x)
    np.testing.assert_array_equal(on_disk.x[:], whole.x)
    assert on_disk.fingerprint == whole.fingerprint
    assert on_disk.nbytes == whole.nbytes
    few = datasets.ImageFolder(str(tmp_path), classes=("dog",), memory_limit=10, size=4)
    np.testing.assert_array_equal(datasets.prepare(few).x[:], whole.x[whole.y == 1])


def test_grey_and_mixed_images(tmp_path):
    folder(tmp_path / "mixed")
    write(tmp_path / "mixed", "cat/grey.png", 7, mode="L")
    assert (
        datasets.prepare(datasets.ImageFolder(str(tmp_path / "mixed"))).x.shape[3] == 3
    )
    for i in range(10):
        write(tmp_path / "bits", f"a/{i}.png", 1, mode="1")
    bits = datasets.prepare(datasets.ImageFolder(str(tmp_path / "bits")))
    assert bits.x.shape[3] == 1
    np.testing.assert_array_equal(bits.x, 255)


def test_sizes_that_differ_need_one(tmp_path):
    folder(tmp_path)
    write(tmp_path, "dog/odd.png", size=(9, 9))
    with pytest.raises(UserError, match=r"dog/odd.png has \(9, 9\): give size="):
        datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    dataset = datasets.prepare(datasets.ImageFolder(str(tmp_path), size=(8, 7)))
    assert dataset.x.shape == (21, 8, 7, 3)


def test_unreadable_files_are_all_named_or_skipped(tmp_path, capsys):
    folder(tmp_path)
    (tmp_path / "cat/empty.png").write_bytes(b"")
    (tmp_path / "dog/text.png").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    (tmp_path / "dog/cut.png").write_bytes(file.getvalue()[:70])
    with pytest.raises(UserError) as error:
        datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    assert "2 of 23 image files" in str(error.value)
    assert "cat/empty.png: empty file" in str(error.value)
    assert "dog/text.png: not an image" in str(error.value)
    (tmp_path / "cat/empty.png").unlink()
    (tmp_path / "dog/text.png").unlink()
    with pytest.raises(UserError, match=r"1 of 21 image files[^$]*dog/cut.png: "):
        datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    skipping = datasets.ImageFolder(str(tmp_path), unreadable="skip")
    assert len(datasets.prepare(skipping).y) == 20
    assert "dog/cut.png" in capsys.readouterr().out


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there are no images"):
        datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    write(tmp_path, "loose.png")
    with pytest.raises(UserError, match=r"'loose.png' lie in"):
        datasets.prepare(datasets.ImageFolder(str(tmp_path)))
    with pytest.raises(UserError, match=r"ImageFolder.path: there is no"):
        datasets.prepare(datasets.ImageFolder(str(tmp_path / "none")))
    with pytest.raises(UserError, match="unreadable must be"):
        datasets.ImageFolder("x", unreadable="ignore")


HEADER = "age,city,height,label"


def table(path, rows=60, header=HEADER):
    rng = np.random.default_rng(0)
    cities = ["Oslo", "Rome", "Bern"]
    lines = [
        f"{rng.integers(20, 60)},{cities[i % 3]},{rng.normal(170, 9):.3f},{'yn'[i % 2]}"
        for i in range(rows)
    ]
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def test_numbers_are_standardised_on_train_and_texts_are_one_hot(tmp_path):
    path = table(tmp_path / "a.csv")
    dataset = datasets.prepare(datasets.CSV(path, target="label"))
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


def test_standardisation_does_not_depend_on_the_labels(tmp_path):
    path = table(tmp_path / "a.csv")
    pre = [
        datasets.prepare(datasets.CSV(path, target="label", labels=k)).preprocess
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
    path = table(tmp_path / "a.csv")
    dataset = datasets.prepare(datasets.CSV(path, **options))
    assert dataset.task == task
    assert outputs in (None, dataset.outputs)


def test_tabs_and_a_constant_column(tmp_path):
    path = tmp_path / "a.tsv"
    rows = "".join(f"{i}\t5\t{i % 2}\n" for i in range(40))
    path.write_text("a\tb\ty\n" + rows)
    dataset = datasets.prepare(datasets.CSV(str(path), target="y"))
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
def test_bad_tables(tmp_path, text, options, message):
    path = tmp_path / "a.csv"
    table(path)
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        datasets.prepare(datasets.CSV(str(path), **options))


def test_texts_that_are_no_categories(tmp_path):
    path = tmp_path / "a.csv"
    rows = "".join(f"person {i},{i % 2}\n" for i in range(50))
    path.write_text("name,y\n" + rows)
    with pytest.raises(UserError, match="'name' has 50 different texts"):
        datasets.prepare(datasets.CSV(str(path), target="y"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A prepared array_record data set with a builder of our own."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")

    class TinyShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["square", "disc"]),
                "weight": tfds.features.Scalar(np.float32),
                "text": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(20),
                "test": self._generate_examples(6),
            }

        def _generate_examples(self, count):
            for i in range(count):
                file = io.BytesIO()
                image = np.full((4 + i % 2, 5, 3), i, np.uint8)
                Image.fromarray(image).save(file, "PNG")
                file.seek(0)
                example = {"image": file, "label": i % 2, "weight": i / 2}
                yield i, {**example, "text": "square " * (i % 2) + "disc é"}

    builder = TinyShapes(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def test_own_builder_is_read_without_tensorflow(shapes):
    dataset = datasets.prepare(datasets.TFDS(shapes, size=4))
    assert dataset.x.shape == (26, 4, 4, 3)
    assert dataset.class_names == ("square", "disc")
    assert len(dataset.rows["test"]) == 6
    # Each image has one colour, its number, whose parity is the label.
    np.testing.assert_array_equal(dataset.x[:, 0, 0, 0] % 2, dataset.y)
    np.testing.assert_array_equal(np.sort(dataset.x[:20, 0, 0, 0]), np.arange(20))
    assert "tensorflow" not in sys.modules


def test_lazy_tfds_gives_the_same(shapes):
    whole = datasets.prepare(datasets.TFDS(shapes, size=4))
    on_disk = datasets.prepare(datasets.TFDS(shapes, size=4, memory_limit=10))
    assert lazy_array.is_lazy(on_disk.x)
    np.testing.assert_array_equal(on_disk.x[:], whole.x)
    np.testing.assert_array_equal(on_disk.y, whole.y)
    assert on_disk.fingerprint == whole.fingerprint


def test_tfds_texts_are_tokenized(shapes, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "square", "disc"]))
    words = datasets.Tokenizer(str(vocab), max_length=8, buckets=(8,))
    data = datasets.TFDS(shapes, x="text", tokenizer=words)
    dataset = datasets.prepare(data)
    assert dataset.class_names == ("square", "disc")
    assert [len(dataset.rows[s]) for s in ("test", "train")] == [6, 18]
    for row, label in zip(dataset.x["input_ids"], dataset.y):
        square = [4] * int(label)
        assert row.tolist() == ([2, *square, 5, 1, 3] + 8 * [0])[:8]
    both = datasets.prepare(dataclasses.replace(data, pair="text"))
    assert set(both.x["token_type_ids"][0].tolist()) == {0, 1}
    for options, message in (
        ({"tokenizer": None}, "give tokenizer= if it is text"),
        ({"x": "weight"}, "the feature 'weight' holds no text"),
        ({"pair": "txet"}, "did you mean 'text'"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.prepare(dataclasses.replace(data, **options))


def test_slices_channels_and_regression(shapes):
    data = datasets.TFDS(shapes, size=4, channels=1, y="weight", train="train[:10]")
    dataset = datasets.prepare(data)
    assert dataset.x.shape == (16, 4, 4, 1)
    assert dataset.task == "regression"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no fixed shape, .*: give size="),
        ({"size": 4, "x": "imgae"}, "did you mean 'image'"),
        ({"size": 4, "y": "labels"}, "did you mean 'label'"),
        ({"size": 4, "train": "trian"}, "'trian' is no split .* has train, test"),
    ],
)
def test_bad_tfds_options(shapes, options, message):
    with pytest.raises(UserError, match=message):
        datasets.prepare(datasets.TFDS(shapes, **options))


def test_unprepared_data_say_how_to_prepare_them(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"jaxtl\[tfds-prepare\].*tfds build mnist"):
        datasets.prepare(datasets.TFDS("mnist", data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="'mnits'; did you mean 'mnist'"):
        datasets.prepare(datasets.TFDS("mnits", data_dir=str(tmp_path)))


def test_packaged_builder_through_mock_data(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=30):
        dataset = datasets.prepare(datasets.TFDS("mnist", data_dir=str(tmp_path)))
    assert dataset.x.shape == (30, 28, 28, 1)
    assert dataset.class_names == tuple("0123456789")
