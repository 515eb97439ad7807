"""Arrays from files and from memory; the catalog of sources."""

import dataclasses
import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from jaxtl import data
from jaxtl.core import serialization
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_entries_of_a_npz_are_read_by_name(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (40, 6, 5), np.uint8), np.arange(40) % 4
    path = write_npz(tmp_path / "a.npz", x=x, y=y, features=x[:, 0] / 2.0, kind=y[::-1])
    dataset = data.prepare(data.Arrays(path))
    np.testing.assert_array_equal(dataset.x, x[..., None])
    assert dataset.preprocess.scale == 255
    named = data.prepare(data.Arrays(path, x="features", y="kind"))
    np.testing.assert_array_equal(named.x, x[:, 0] / 2.0)
    np.testing.assert_array_equal(named.y, y[::-1])
    assert named.preprocess.scale == 1


def test_files_are_concatenated_and_a_test_file_is_the_test_split(tmp_path):
    paths = [
        write_npz(tmp_path / f"{i}.npz", x=np.full((12, 2), i), y=np.arange(12) % 2)
        for i in range(3)
    ]
    arrays = data.Arrays(tuple(paths[:2]), test_path=paths[2], val=4)
    dataset = data.prepare(arrays)
    np.testing.assert_array_equal(dataset.x[:, 0], np.repeat([0, 1, 2], 12))
    np.testing.assert_array_equal(dataset.rows["test"], np.arange(24, 36))
    assert len(dataset.rows["val"]) == 4
    drawn = data.prepare(data.Arrays(tuple(paths), test=6))
    assert len(drawn.rows["test"]) == 6


def test_labels_of_train_rows_come_from_another_file(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    noisy = np.arange(20) % 2
    path = write_npz(
        tmp_path / "x.npz", x_train=x, y_train=1 - noisy, x_test=x, y_test=noisy
    )
    labels = write_npz(tmp_path / "l.npz", worse=noisy)
    arrays = data.Arrays(path, labels_path=labels, y="worse")
    with pytest.raises(UserError, match="test x has 20 examples, but there is no y"):
        data.prepare(arrays)
    np.save(tmp_path / "l.npy", noisy)
    arrays = data.Arrays(path, labels_path=str(tmp_path / "l.npy"))
    dataset = data.prepare(arrays)
    train = np.concatenate([dataset.rows["train"], dataset.rows["val"]])
    np.testing.assert_array_equal(dataset.y[np.sort(train)], noisy)
    np.testing.assert_array_equal(dataset.y[dataset.rows["test"]], noisy)


def test_concatenated_jpegs_are_decoded(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), np.uint8)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    path = write_npz(
        tmp_path / "j.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        label=np.arange(12) % 2,
        class_names=np.asarray(["a", "b"]),
    )
    dataset = data.prepare(data.Arrays(path, val=2))
    np.testing.assert_array_equal(dataset.x, images)
    assert dataset.class_names == ("a", "b")


def test_strings_name_classes_and_arrays_in_memory_are_hashable():
    x, y = np.zeros((30, 2)), np.asarray(["b", "a", "c"] * 10)
    arrays = data.Arrays(x=x, y=y)
    assert data.prepare(arrays).class_names == ("a", "b", "c")
    assert hash(arrays) == hash(dataclasses.replace(arrays))
    assert arrays == dataclasses.replace(arrays)
    assert arrays != data.Arrays(x=x.copy(), y=y)
    assert "float64 array (30, 2)" in repr(arrays)


def test_scale_divides_in_the_preprocessing():
    x = np.full((20, 4, 4), 2000, np.uint16)
    dataset = data.prepare(data.Arrays(x=x, y=np.arange(20) % 2, scale=2000))
    assert dataset.dtype == np.uint16
    values = preprocess.apply(dataset.preprocess, dataset.x)
    np.testing.assert_array_equal(values, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda p: {"path": str(p / "mnits.npz")}, "did you mean 'mnist.npz'"),
        (lambda p: {"path": str(p / "mnist.npz"), "x": "z"}, "no entry 'z'"),
        (lambda p: {"path": str(p / "broken.npz")}, "can't be read as a .npz file"),
        (lambda p: {"path": str(p / "x.npy")}, "a .npy needs labels_path"),
        (lambda p: {}, "a path or x= and y= as arrays; test_path="),
        (lambda p: {"x": np.zeros(3)}, "both as arrays"),
        (lambda p: {"path": "a.npz", "scale": 0}, "scale must be positive"),
    ],
)
def test_arrays_that_cannot_be_read_are_named(tmp_path, options, message):
    write_npz(tmp_path / "mnist.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    with pytest.raises(UserError, match=message):
        data.prepare(data.Arrays(**options(tmp_path)))


def test_paths_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    write_npz(tmp_path / "here.npz", x=np.zeros((20, 2)), y=np.arange(20) % 2)
    monkeypatch.setenv("JAXTL_DATA_DIR", str(tmp_path))
    assert len(data.prepare(data.Arrays("here.npz")).y) == 20


def test_mnist_usps_and_office_have_their_published_sizes(data_dir):
    mnist = data.prepare(data.Arrays(str(data_dir / "digits/mnist.npz")))
    assert mnist.x.shape == (70000, 28, 28, 1)
    sizes = {k: len(v) for k, v in mnist.rows.items()}
    assert sizes == {"train": 54000, "val": 6000, "test": 10000}
    # The class counts of the original files.
    counts = np.bincount(mnist.y[mnist.rows["test"]])
    published = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(counts, published)
    usps = data.Arrays(str(data_dir / "digits/usps.npz"), scale=2000)
    usps = data.prepare(usps)
    assert (len(usps.y), usps.example_shape) == (9298, (16, 16, 1))
    counts = np.bincount(usps.y[usps.rows["test"]])
    published = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    np.testing.assert_array_equal(counts, published)
    values = preprocess.apply(usps.preprocess, usps.x[:100])
    assert 0 <= values.min() <= values.max() <= 1
    office = data_dir / "office_caltech/mobilenet_v1_0.25_feat256.npz"
    office = data.Arrays(str(office), x="x_dslr", y="y_dslr")
    assert data.prepare(office).class_names[:2] == ("backpack", "bike")


def test_cifar_is_read_from_jpegs(data_dir):
    path = data_dir / "cifar10/cifar10_jpeg_test10k.npz"
    cifar = data.prepare(data.Arrays(str(path)))
    assert cifar.x.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(cifar.y), 1000)
    assert cifar.class_names[:2] == ("airplane", "automobile")


def test_the_digest_of_an_array_in_memory_is_the_same_in_every_process():
    y = np.array(["cat", "dog"], object)
    source = data.Arrays(x=np.zeros((2, 1)), y=y)
    expected = hashlib.sha256(b"['cat', 'dog']").hexdigest()
    assert source.y.content_digest().endswith(expected)
    stored = serialization.to_json(source)["y"]["array"]
    assert stored["sha256"] == expected[:16]
