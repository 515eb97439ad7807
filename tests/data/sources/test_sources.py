"""Digits, rendered digits and arrays; what each reads, against the original."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess
from jaxtl.data.sources import rendered_digits


def test_digits_are_scikit_learns():
    dataset = datasets.prepare(datasets.Digits())
    assert dataset.x.shape == (1797, 8, 8, 1)
    np.testing.assert_array_equal(dataset.x[0, 0, :, 0], [0, 0, 5, 13, 9, 1, 0, 0])
    np.testing.assert_array_equal(dataset.x[..., 0], load_digits().images)
    np.testing.assert_array_equal(
        np.bincount(dataset.y), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    assert dataset.preprocess.scale == 16
    assert (dataset.example_shape, dataset.outputs) == ((8, 8, 1), 10)
    assert {k: len(v) for k, v in dataset.rows.items()} == {
        "test": 359,
        "val": 144,
        "train": 1294,
    }


@pytest.fixture(scope="module")
def printed():
    return datasets.prepare(datasets.RenderedDigits(per_class=120))


def test_rendered_digits_look_like_the_uci_digits(printed):
    assert printed.x.shape == (1200, 8, 8, 1)
    assert printed.x.max() == 16
    np.testing.assert_array_equal(np.bincount(printed.y), 120)
    flat = printed.x.reshape(1200, -1)
    assert len(np.unique(flat, axis=0)) > 1190
    # The digit fills its box: the longer side touches both borders.
    rows, columns = printed.x.sum((2, 3)) > 0, printed.x.sum((1, 3)) > 0
    tall, wide = rows[:, 0] & rows[:, -1], columns[:, 0] & columns[:, -1]
    assert (tall | wide).mean() > 0.99
    ink, real = printed.x.mean(), load_digits().images.mean()
    assert 0.7 < ink / real < 1.4


def test_rendered_digits_are_deterministic_and_seeded(printed):
    again = datasets.RenderedDigits(per_class=120).read()
    np.testing.assert_array_equal(again.x, printed.x)
    other = datasets.RenderedDigits(per_class=120, seed=1).read()
    assert (other.x != printed.x).any()


def test_rendered_digits_tell_something_about_handwritten_ones(printed):
    """Linear and zero-shot: far above chance, far below what labels would give."""
    x, real = printed.x.reshape(1200, -1) / 16, load_digits()
    model = LogisticRegression(max_iter=300).fit(x, printed.y)
    assert 0.45 < model.score(real.data / 16, real.target) < 0.9


def test_every_font_has_ten_different_digits():
    same = np.eye(2)
    for font in rendered_digits.FONTS:
        maps = [
            rendered_digits.bitmap(rendered_digits.glyph(font, d, 1), same)
            for d in range(10)
        ]
        assert len({m.tobytes() for m in maps}) == 10
        assert all(0.05 < m.mean() < 0.9 for m in maps)


def test_block_counts_by_hand():
    bitmap = np.zeros((1, 32, 32), bool)
    bitmap[0, 0:4, 4:8] = True
    bitmap[0, 31, 28:31] = True
    counts = rendered_digits.block_counts(bitmap)
    assert counts[0, 0, 1] == 16
    assert counts[0, 7, 7] == 3
    assert counts.sum() == 19


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fonts": ["DejaVuSanz"]}, "did you mean 'DejaVuSans'"),
        ({"fonts": []}, "fonts is empty"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"scale": (1.2, 0.8)}, "scale must be .low, high."),
    ],
)
def test_rendered_options(options, message):
    with pytest.raises(UserError, match=message):
        datasets.RenderedDigits(**options)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_plain_npz_and_named_entries(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 6, 5), np.uint8), np.arange(40) % 4
    path = npz(tmp_path / "a.npz", x=x, y=y, features=x[:, 0] / 2.0, kind=y[::-1])
    dataset = datasets.prepare(datasets.Arrays(path))
    np.testing.assert_array_equal(dataset.x, x[..., None])
    assert dataset.preprocess.scale == 255
    other = datasets.prepare(datasets.Arrays(path, x="features", y="kind"))
    np.testing.assert_array_equal(other.x, x[:, 0] / 2.0)
    np.testing.assert_array_equal(other.y, y[::-1])
    assert other.preprocess.scale == 1


def test_files_follow_each_other_and_a_test_file_is_test(tmp_path):
    paths = [
        npz(tmp_path / f"{i}.npz", x=np.full((12, 2), i), y=np.arange(12) % 2)
        for i in range(3)
    ]
    arrays = datasets.Arrays(tuple(paths[:2]), test_path=paths[2], val=4)
    dataset = datasets.prepare(arrays)
    np.testing.assert_array_equal(dataset.x[:, 0], np.repeat([0, 1, 2], 12))
    np.testing.assert_array_equal(dataset.rows["test"], np.arange(24, 36))
    assert len(dataset.rows["val"]) == 4
    whole = datasets.prepare(datasets.Arrays(tuple(paths), test=6))
    assert len(whole.rows["test"]) == 6


def test_labels_from_another_file(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    noisy = np.arange(20) % 2
    path = npz(tmp_path / "x.npz", x_train=x, y_train=1 - noisy, x_test=x, y_test=noisy)
    labels = npz(tmp_path / "l.npz", worse=noisy)
    arrays = datasets.Arrays(path, labels_path=labels, y="worse")
    with pytest.raises(UserError, match="test x has 20 examples, but there is no y"):
        datasets.prepare(arrays)
    np.save(tmp_path / "l.npy", noisy)
    arrays = datasets.Arrays(path, labels_path=str(tmp_path / "l.npy"))
    dataset = datasets.prepare(arrays)
    train = np.concatenate([dataset.rows["train"], dataset.rows["val"]])
    np.testing.assert_array_equal(dataset.y[np.sort(train)], noisy)
    np.testing.assert_array_equal(dataset.y[dataset.rows["test"]], noisy)


def test_jpeg_blob(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), np.uint8)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    path = npz(
        tmp_path / "j.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        label=np.arange(12) % 2,
        class_names=np.asarray(["a", "b"]),
    )
    dataset = datasets.prepare(datasets.Arrays(path, val=2))
    np.testing.assert_array_equal(dataset.x, images)
    assert dataset.class_names == ("a", "b")


def test_strings_name_classes_and_memory_is_hashable():
    x, y = np.zeros((30, 2)), np.asarray(["b", "a", "c"] * 10)
    arrays = datasets.Arrays(x=x, y=y)
    assert datasets.prepare(arrays).class_names == ("a", "b", "c")
    assert hash(arrays) == hash(dataclasses.replace(arrays))
    assert arrays == dataclasses.replace(arrays)
    assert arrays != datasets.Arrays(x=x.copy(), y=y)
    assert "float64 array (30, 2)" in repr(arrays)


def test_scale_divides_in_the_preprocessing():
    x = np.full((20, 4, 4), 2000, np.uint16)
    dataset = datasets.prepare(datasets.Arrays(x=x, y=np.arange(20) % 2, scale=2000))
    assert dataset.dtype == np.uint16
    values = preprocess.apply(dataset.preprocess, dataset.x)
    np.testing.assert_array_equal(values, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: {"path": str(p / "mnits.npz")}, "did you mean 'mnist.npz'"),
        (lambda p: {"path": str(p / "mnist.npz"), "x": "z"}, "no entry 'z'"),
        (lambda p: {"path": str(p / "broken.npz")}, "not a readable"),
        (lambda p: {"path": str(p / "x.npy")}, "a .npy needs labels_path"),
        (lambda p: {}, "either a path or x= and y="),
        (lambda p: {"x": np.zeros(3)}, "both as arrays"),
        (lambda p: {"path": "a.npz", "scale": 0}, "scale must be positive"),
    ],
)
def test_arrays_that_cannot_be_read(tmp_path, make, message):
    npz(tmp_path / "mnist.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    with pytest.raises(UserError, match=message):
        datasets.prepare(datasets.Arrays(**make(tmp_path)))


def test_paths_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    npz(tmp_path / "here.npz", x=np.zeros((20, 2)), y=np.arange(20) % 2)
    monkeypatch.setenv("JAXTL_DATA_DIR", str(tmp_path))
    assert len(datasets.prepare(datasets.Arrays("here.npz")).y) == 20


def test_mnist_usps_cifar_and_office(data_dir):
    mnist = datasets.prepare(datasets.Arrays(str(data_dir / "digits/mnist.npz")))
    assert mnist.x.shape == (70000, 28, 28, 1)
    sizes = {k: len(v) for k, v in mnist.rows.items()}
    assert sizes == {"train": 54000, "val": 6000, "test": 10000}
    # The class counts of the original files.
    counts = np.bincount(mnist.y[mnist.rows["test"]])
    known = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(counts, known)
    usps = datasets.Arrays(str(data_dir / "digits/usps.npz"), scale=2000)
    usps = datasets.prepare(usps)
    assert (len(usps.y), usps.example_shape) == (9298, (16, 16, 1))
    counts = np.bincount(usps.y[usps.rows["test"]])
    known = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    np.testing.assert_array_equal(counts, known)
    values = preprocess.apply(usps.preprocess, usps.x[:100])
    assert 0 <= values.min() <= values.max() <= 1
    office = data_dir / "office_caltech/mobilenet_v1_0.25_feat256.npz"
    office = datasets.Arrays(str(office), x="x_dslr", y="y_dslr")
    assert datasets.prepare(office).class_names[:2] == ("backpack", "bike")


def test_jpeg_cifar(data_dir):
    path = data_dir / "cifar10/cifar10_jpeg_test10k.npz"
    cifar = datasets.prepare(datasets.Arrays(str(path)))
    assert cifar.x.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(cifar.y), 1000)
    assert cifar.class_names[:2] == ("airplane", "automobile")


def test_catalogue_lists_sources_with_what_they_need():
    rows = {row["name"]: row for row in datasets.available()}
    assert rows["Digits"]["kind"] == "bundled"
    assert rows["CSV"]["needed"] == ("path", "target")
    assert all(row["summary"].endswith(".") for row in rows.values())
    assert set(rows) <= set(dir(datasets))
