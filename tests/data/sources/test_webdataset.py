"""Tar shards: pictures equal PIL's, examples those of the archives' own listing."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import PIL.Image
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, tar_shards
from jaxtl.data.preparation import load_table

N = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)


def png(i):
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS[i]).save(file, "png")
    return file.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def shard(path, numbers, label="cls", text=lambda i: str(i % 3)):
    members = []
    for i in numbers:
        members += [(f"x/{i:03}.png", png(i)), (f"x/{i:03}.{label}", text(i).encode())]
    return write(path, members)


@pytest.mark.parametrize("memory_limit", [2**31, 1])
def test_several_shards_and_splits(tmp_path, memory_limit):
    for k in range(3):
        shard(tmp_path / f"a-{k:02}.tar", range(4 * k, 4 * k + 4))
    source = data.WebDataset(
        str(tmp_path / "a-{00..01}.tar"),
        test_path=str(tmp_path / "a-02*.tar"),
        class_names=("zebra", "ant", "bee"),
        memory_limit=memory_limit,
    )
    table = source.read()
    assert lazy_array.is_lazy(table.x) == (memory_limit == 1)
    copy = pickle.loads(pickle.dumps(table.x))
    for x in (table.x, copy):
        np.testing.assert_array_equal(x[np.arange(N)], PIXELS)
    np.testing.assert_array_equal(table.y, np.arange(N) % 3)
    assert table.class_names == ("zebra", "ant", "bee")
    assert table.splits["test"].tolist() == [8, 9, 10, 11]
    assert table.origins[5] == f"{tmp_path}/a-01.tar/x/005.png"
    first = load_table(source)[1]
    shard(tmp_path / "a-01.tar", range(4, 8), text=lambda i: "0")
    assert load_table(source)[1] != first


@pytest.mark.parametrize(
    ("label", "text", "expected"),
    [
        ("txt", lambda i: f"{'cat' if i % 2 else 'dog'}\n", ["dog", "cat"]),
        ("cls", lambda i: f"{10 * (i % 2)}", ["0", "10"]),
        ("json", lambda i: json.dumps({"label": f"c{i % 2}", "id": i}), ["c0", "c1"]),
    ],
)
def test_labels_are_texts_numbers_or_json(tmp_path, label, text, expected):
    table = data.WebDataset(shard(tmp_path / "a.tar", range(N), label, text)).read()
    assert [table.class_names[i] for i in table.y] == expected * (N // 2)


def test_numbers_and_several_labels(tmp_path):
    path = shard(tmp_path / "a.tar", range(N), "txt", lambda i: f"{i / 7}")
    table = data.WebDataset(path).read()
    assert table.task == "regression"
    np.testing.assert_allclose(table.y, np.arange(N) / 7)
    path = shard(
        tmp_path / "b.tar",
        range(N),
        "json",
        lambda i: json.dumps({"tags": [i % 2, 1, 0]}),
    )
    table = data.WebDataset(path, key="tags").read()
    np.testing.assert_array_equal(table.y, [[i % 2, 1, 0] for i in range(N)])


def test_members_beside_are_said_and_pictures_chosen(tmp_path):
    members = [
        ("__meta__", b"x"),
        ("a.left.png", png(0)),
        ("a.right.png", png(1)),
        ("a.cls", b"1"),
        ("b.left.png", png(2)),
        ("b.right.png", png(3)),
        ("b.cls", b"0"),
    ]
    path = write(tmp_path / "a.tar", members)
    table = data.WebDataset(path, image=".right.png").read()
    np.testing.assert_array_equal(table.x, PIXELS[[1, 3]])
    assert "members that are not read: .left.png (2)" in table.notes
    with pytest.raises(UserError, match=r"'a' in .* has 2 pictures"):
        data.WebDataset(path).read()
    with pytest.raises(UserError, match=r"has no member 'rigth\.png'"):
        data.WebDataset(path, image="rigth.png").read()


def test_what_is_wrong_is_named(tmp_path):
    def refused(match, members=None, path=None, **options):
        path = path or write(tmp_path / "w.tar", members)
        with pytest.raises(UserError, match=match):
            data.WebDataset(str(path), **options).read()

    picture = ("a.png", png(0))
    members = [picture, ("a.cls", b"1"), ("b.png", png(1))]
    refused("1 of 2 examples have no member cls", members)
    refused("no member cls or json or txt", [picture])
    refused("a.png twice", [picture, picture, ("a.cls", b"1")])
    refused("are not adjacent", [picture, ("b.png", png(1)), ("a.cls", b"1")])
    refused("a.json in .* is no JSON", [picture, ("a.json", b"{")])
    refused("has no such key", [picture, ("a.json", b'{"lable": 1}')])
    refused("not an image", [("a.png", b"abc"), ("a.cls", b"1")])
    refused("empty file", [("a.png", b""), ("a.cls", b"1")])
    whole = (tmp_path / "w.tar").read_bytes()
    path = shard(tmp_path / "t.tar", range(N))
    content = (tmp_path / "t.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[:700])
    refused("is cut off within|can't be read", path=tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "t.tar") as archive:
        first = archive.next()
    end = first.offset_data + first.size
    (tmp_path / "cut.tar").write_bytes(content[: end - 1])
    refused(f"is cut off within {first.name}", path=tmp_path / "cut.tar")
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    refused("that is not compressed", path=tmp_path / "a.tar.gz")
    refused("no file matches", path=tmp_path / "none-*.tar")
    refused("there is no", path=tmp_path / "none-{0..1}.tar")
    refused("is in two splits", path=path, test_path=path)


def test_shards_of_several_splits_are_not_read_as_one(tmp_path):
    shard(tmp_path / "train-0.tar", range(8))
    shard(tmp_path / "val-0.tar", range(8, N))
    for path in (tmp_path, tmp_path / "*.tar"):
        with pytest.raises(UserError, match=r"splits train and val, .* val_path="):
            data.WebDataset(str(path)).read()
    # Written one by one, they were meant.
    both = data.WebDataset(str(tmp_path / "{train,val}-0.tar")).read()
    assert len(both.y) == len(both.splits["train"]) == N


def test_braces_are_those_of_a_shell():
    expanded = [*tar_shards._braces("a-{08..11}-{x,y}.tar")]
    assert expanded == [f"a-{n:02}-{c}.tar" for n in range(8, 12) for c in "xy"]
