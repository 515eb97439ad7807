"""Data sets of torch: values and labels are those that torch's own loader gives."""

import numpy as np
import PIL.Image
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array
from jaxtl.data.preparation import load_table

N = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 3, 6, 5), np.uint8)


class Items(list):
    """A data set that counts how often it is asked for an item."""

    calls = 0

    def __getitem__(self, row):
        self.calls += 1
        return super().__getitem__(row)


def test_tensors_are_those_of_torchs_loader():
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(PIXELS), torch.arange(N) % 3
    dataset = torch.utils.data.TensorDataset(x, y)
    train, test = (torch.utils.data.Subset(dataset, r) for r in (range(9), range(9, N)))
    dataset.classes = ["zebra", "ant", "bee"]
    table = data.TorchDataset(train, test_dataset=test).read()
    [(images, labels)] = torch.utils.data.DataLoader(dataset, batch_size=N)
    np.testing.assert_array_equal(table.x, images.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(table.y, labels.numpy())
    assert table.class_names == ("zebra", "ant", "bee")
    assert table.splits["test"].tolist() == [9, 10, 11]
    assert any("channels last" in note for note in table.notes)
    with pytest.raises(
        UserError, match=r"is a DataLoader; pass its data set, dataset="
    ):
        data.TorchDataset(torch.utils.data.DataLoader(dataset))


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((13, 6, 5), (6, 5, 13)),  # spectral bands
        ((4, 6, 5), (6, 5, 4)),
        ((64, 6, 5), (6, 5, 64)),  # the output of a layer
        ((6, 5, 3), (6, 5, 3)),
        ((6, 5, 4), (6, 5, 4)),
        ((3, 6, 4), (6, 4, 3)),
    ],
)
def test_the_channels_of_tensors_are_last_whatever_their_number(shape, read):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(N, *shape)).astype(np.float32)
    table = data.TorchDataset([(torch.tensor(x), i % 2) for i, x in enumerate(values)])
    expected = values if read == shape else values.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(table.read().x, expected)


def test_bytes_of_two_axes_are_gray_images():
    gray = PIXELS[:, 0]  # as the tensors of torchvision's MNIST
    dataset = data.prepare(data.TorchDataset([(x, i % 2) for i, x in enumerate(gray)]))
    arrays = data.prepare(data.Arrays(x=gray, y=np.arange(N) % 2))
    np.testing.assert_array_equal(dataset.x, arrays.x)
    assert dataset.preprocess == arrays.preprocess
    assert any("gray images" in note for note in dataset.notes)
    signals = [(x / np.float32(255), i % 2) for i, x in enumerate(gray)]
    assert data.TorchDataset(signals).read().x.shape == gray.shape


class Folder(list):
    """A data set whose labels are numbers of its own classes, as of an image folder."""

    def __init__(self, labels, classes):
        super().__init__((np.full(2, i, np.float32), y) for i, y in enumerate(labels))
        self.classes = classes


def test_classes_of_splits_that_contradict_each_other_are_refused():
    train = Folder([0, 1, 2], ["ant", "bee", "cow"])
    test = Folder([0, 1], ["ant", "cow"])  # no bee: 1 is a cow
    with pytest.raises(
        UserError,
        match=r"classes are ant, cow in test_dataset, but ant, bee, cow in dataset, so",
    ):
        data.TorchDataset(train, test_dataset=test).read()
    names = ("a", "b", "c")
    named = data.TorchDataset(train, test_dataset=test, class_names=names)
    assert named.read().class_names == names
    for part in (["ant"], ["ant", "bee", "cow", "dog"]):
        table = data.TorchDataset(train, val_dataset=Folder([0], part)).read()
        assert table.class_names == max(("ant", "bee", "cow"), tuple(part), key=len)


@pytest.mark.parametrize("memory_limit", [2**31, 1])
def test_pictures_dicts_and_reading_by_batch(memory_limit):
    last = PIXELS.transpose(0, 2, 3, 1)
    items = Items(
        {"image": PIL.Image.fromarray(x), "label": "ab"[i % 2]}
        for i, x in enumerate(last)
    )
    source = data.TorchDataset(items, memory_limit=memory_limit)
    table = source.read()
    assert items.calls == N
    assert lazy_array.is_lazy(table.x) == (memory_limit == 1)
    np.testing.assert_array_equal(table.x[np.arange(N)], last)
    assert [table.class_names[i] for i in table.y] == list("ab" * 6)
    first = load_table(source)[1]
    items[3] = {"image": PIL.Image.new("RGB", (5, 6)), "label": "a"}
    assert load_table(source)[1] != first  # a changed data set is read again


def test_several_inputs_and_vectors_train():
    rows = [
        {"input_ids": np.arange(4) + i, "attention_mask": np.ones(4), "labels": i % 2}
        for i in range(N)
    ]
    table = data.TorchDataset(rows).read()
    assert {k: v.shape for k, v in table.x.items()} == {
        "input_ids": (N, 4),
        "attention_mask": (N, 4),
    }
    assert table.x["input_ids"].dtype == np.int32
    targets = [(np.full(3, i, np.float32), i / 7) for i in range(N)]
    dataset = data.prepare(data.TorchDataset(targets, val=2, test=2))
    assert dataset.task == "regression"


def test_what_is_wrong_is_named():
    def read(*items):
        return data.TorchDataset(list(items)).read()

    with pytest.raises(
        UserError, match=r"dataset\[0\] is a ndarray; expected \(x, y\)"
    ):
        read(np.zeros(3))
    with pytest.raises(UserError, match=r"dataset\[0\] is a tuple of 3"):
        read((1, 2, 3))
    with pytest.raises(UserError, match=r"item 1 are x float32 .4,., those of item 0"):
        read((np.zeros(3, "f"), 0), (np.zeros(4, "f"), 1))
    with pytest.raises(UserError, match="has the keys a; expected one of labels"):
        read({"a": 1})
    with pytest.raises(UserError, match="is a picture of mode RGBA"):
        read((PIL.Image.new("RGBA", (2, 2)), 0))
    with pytest.raises(UserError, match="is str of <U3; expected numbers"):
        read(("abc", 0))
    with pytest.raises(UserError, match="got generator"):
        data.TorchDataset(i for i in range(3))
    with pytest.raises(UserError, match="has no items"):
        data.TorchDataset([])

    class Broken(Items):
        def __getitem__(self, row):
            raise KeyError("no such file")

    with pytest.raises(UserError, match=r"dataset\[0\] raised KeyError"):
        data.TorchDataset(Broken([1])).read()
