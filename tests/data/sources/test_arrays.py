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


def test_class_names_of_several_files_are_the_same(tmp_path):
    x, y = np.zeros((4, 2)), np.arange(4) % 2
    files = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    write_npz(tmp_path / "a.npz", x=x, y=y, class_names=["cat", "dog"])
    write_npz(tmp_path / "b.npz", x=x, y=y, class_names=["dog", "cat"])
    for options in ({"path": files}, {"path": files[0], "test_path": files[1]}):
        with pytest.raises(
            UserError, match=r"class_names are cat, dog in .*a\.npz, but"
        ):
            data.Arrays(**options).read()
        table = data.Arrays(**options, class_names=("no", "yes")).read()
        assert table.class_names == ("no", "yes")


def test_entries_of_a_file_that_are_not_read_are_told(tmp_path):
    x, y = np.zeros((4, 2)), np.arange(4) % 2
    path = tmp_path / "a.npz"
    write_npz(path, x_train=x, y_train=y, x_valid=x, y_valid=y, mean=x[0])
    (note,) = data.Arrays(str(path)).read().notes
    assert note.startswith("a.npz: 'x_valid', 'y_valid', 'mean' not read;")
    assert "x_train, x_val and x_test" in note
    write_npz(path, x=x, y=y, weight=np.ones(4), x_test=x)
    (note,) = data.Arrays(str(path), sample_weight="weight").read().notes
    assert note.startswith("a.npz: 'x_test' not read, as there is 'x';")
    # A file of which the entries are named has others on purpose.
    write_npz(path, x_amazon=x, y_amazon=y, x_dslr=x, y_dslr=y)
    assert data.Arrays(str(path), x="x_amazon", y="y_amazon").read().notes == ()


@pytest.mark.parametrize(
    "names", [{"sample_weight": "w"}, {"split_by": "g"}, {"x": "features"}, {"y": "z"}]
)
def test_names_of_entries_for_a_file_without_entries_are_refused(tmp_path, names):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    np.save(tmp_path / "y.npy", np.arange(4) % 2)
    paths = dict(path=str(tmp_path / "x.npy"), labels_path=str(tmp_path / "y.npy"))
    (field,) = names
    with pytest.raises(
        UserError, match=f"Arrays.{field}='.*' names an entry of a .npz"
    ):
        data.Arrays(**paths, **names).read()


def test_weights_of_jpegs_are_read(tmp_path):
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(encoded, "JPEG")
    jpeg = np.frombuffer(encoded.getvalue() * 2, np.uint8)
    path = tmp_path / "jpegs.npz"
    offsets = np.arange(3) * (len(jpeg) // 2)
    write_npz(path, jpeg=jpeg, offsets=offsets, label=[0, 1], w=[1.0, 3.0], extra=[1])
    table = data.Arrays(str(path), sample_weight="w").read()
    np.testing.assert_array_equal(table.weights, [1.0, 3.0])
    (note,) = table.notes
    assert note.startswith("jpegs.npz: 'extra' not read")


def test_pixels_beyond_a_byte_that_are_not_divided_are_told():
    x = np.full((4, 3, 3, 1), 2000, np.uint16)
    (note,) = data.Arrays(x=x, y=np.arange(4) % 2).read().notes
    assert note.startswith("pixels are uint16 from 2000 to 2000 and are not divided")
    assert data.Arrays(x=x, y=np.arange(4) % 2, scale=2000).read().notes == ()


def test_what_lies_below_a_mask_is_no_value():
    x = np.ma.masked_array(np.ones((6, 2)), mask=np.zeros((6, 2), bool))
    assert data.Arrays(x=x, y=np.arange(6) % 2).read().x.shape == (6, 2)
    x[1, 0] = np.ma.masked
    with pytest.raises(UserError, match=r"Arrays.x has 1 masked values, .*\.filled"):
        data.Arrays(x=x, y=np.arange(6) % 2)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_labels_below_zero_are_refused_whatever_their_type(dtype):
    x, y = np.zeros((9, 2)), np.array([-1, 0, 1] * 3, dtype)
    with pytest.raises(
        UserError, match=r'labels must not be negative; 3 rows are, .*"regression"'
    ):
        data.prepare(data.Arrays(x=x, y=y, val=0, test=0))
    options = {"val": 0, "test": 0}
    texts = data.prepare(data.Arrays(x=x, y=y.astype(str), **options))
    assert texts.class_names == ("-1", "0", "1")
    numbers = data.prepare(data.Arrays(x=x, y=y, task="regression", **options))
    np.testing.assert_array_equal(numbers.y, y)


def test_bytes_that_hold_few_levels_are_told():
    x, y = np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4), np.arange(20) % 2
    [note] = data.Arrays(x=x % 2, y=y).read().notes
    assert "uint8 from 0 to 1 and are divided by 255; scale=1 makes" in note
    assert data.Arrays(x=x % 2, y=y, scale=1).read().notes == ()
    assert data.Arrays(x=x, y=y).read().notes == ()


def test_images_of_two_types_have_no_common_scale(tmp_path):
    x, y = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4), np.arange(8) % 2
    files = {"x_train": x, "y_train": y, "x_test": x / 255, "y_test": y}
    write_npz(tmp_path / "a.npz", **files)
    with pytest.raises(UserError, match=r"uint8 from 0 to 127, float64 from 0 to 0.49"):
        data.Arrays(str(tmp_path / "a.npz")).read()
    files["x_test"] = x.astype(np.uint8)
    write_npz(tmp_path / "a.npz", **files)
    assert data.Arrays(str(tmp_path / "a.npz")).read().x.dtype == np.uint8
