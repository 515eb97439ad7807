"""Image folders: classes, splits, sizes, and files that can't be read."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import jaxtl as tl
from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array, preprocess
from jaxtl.training import inputs


def write_image(root, name, value=0, size=(6, 5), mode="RGB"):
    """Writes an image of one color."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), value).save(path)


def write_folder(root, classes=("cat", "dog"), count=10, **options):
    """Writes images whose red is the class and whose green is the file's number."""
    for i, name in enumerate(classes):
        for j in range(count):
            write_image(root, f"{name}/{j:02d}.png", (10 * i, j, 0), **options)


def test_a_folder_is_a_class(tmp_path):
    write_folder(tmp_path, ("dog", "cat", "a/b"))
    write_image(tmp_path, "cat/.hidden.png")
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = data.prepare(data.ImageFolder(str(tmp_path)))
    assert dataset.class_names == ("a/b", "cat", "dog")
    assert dataset.x.shape == (30, 6, 5, 3)
    assert dataset.dtype == np.uint8
    # Decoded in the order of the names.
    np.testing.assert_array_equal(
        dataset.x[:, 0, 0, 0], np.asarray([20, 10, 0])[dataset.y]
    )
    np.testing.assert_array_equal(dataset.x[:10, 0, 0, 1], np.arange(10))


def test_split_folders_are_splits(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "validation", count=3)
    write_folder(tmp_path / "test", count=4)
    dataset = data.prepare(data.ImageFolder(str(tmp_path)))
    sizes = {k: len(v) for k, v in dataset.rows.items()}
    assert sizes == {"train": 20, "val": 6, "test": 8}
    assert dataset.class_names == ("cat", "dog")


def test_large_folders_stay_on_disk_and_give_the_same_images(tmp_path):
    write_folder(tmp_path)
    in_memory = data.prepare(data.ImageFolder(str(tmp_path), size=4))
    on_disk = data.prepare(data.ImageFolder(str(tmp_path), size=4, memory_limit=10))
    assert lazy_array.is_lazy(on_disk.x)
    assert not lazy_array.is_lazy(in_memory.x)
    np.testing.assert_array_equal(on_disk.x[:], in_memory.x)
    assert on_disk.fingerprint == in_memory.fingerprint
    assert on_disk.nbytes == in_memory.nbytes
    few = data.ImageFolder(str(tmp_path), classes=("dog",), memory_limit=10, size=4)
    np.testing.assert_array_equal(data.prepare(few).x[:], in_memory.x[in_memory.y == 1])


def test_gray_and_mixed_images_get_one_and_three_channels(tmp_path):
    write_folder(tmp_path / "mixed")
    write_image(tmp_path / "mixed", "cat/gray.png", 7, mode="L")
    assert data.prepare(data.ImageFolder(str(tmp_path / "mixed"))).x.shape[3] == 3
    for i in range(10):
        write_image(tmp_path / "bits", f"a/{i}.png", 1, mode="1")
    bits = data.prepare(data.ImageFolder(str(tmp_path / "bits")))
    assert bits.x.shape[3] == 1
    np.testing.assert_array_equal(bits.x, 255)


def test_images_of_several_sizes_become_a_square_that_is_said(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 90, 80, 3)).astype(np.uint8)
    for i in range(24):  # 80 pixels are the shorter side, and of two files 40
        write_image(tmp_path, f"{'cd'[i % 2]}/{i:02d}.png")
        picture = Image.fromarray(noise[i, :40] if i < 2 else noise[i])
        picture.save(tmp_path / f"{'cd'[i % 2]}/{i:02d}.png")
    dataset = data.prepare(data.ImageFolder(str(tmp_path)))
    assert dataset.x.shape == (24, 64, 64, 3)
    [note] = dataset.notes
    assert "of 2 sizes, 22 of 24 of them 90×80, are brought to 64×64" in note
    resized = Image.fromarray(noise[2]).resize((64, 72), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(dataset.x[1], np.asarray(resized)[4:68])
    pre = dataset.preprocess
    assert (pre.size, pre.shortest) == ((64, 64), 64)
    np.testing.assert_array_equal(
        preprocess.load_image(tmp_path / "c/02.png", pre), dataset.x[1]
    )
    # What is stored with a run names the same data.
    stored = data.ImageFolder(str(tmp_path), size=pre.size, shortest=pre.shortest)
    assert data.prepare(stored).fingerprint == dataset.fingerprint
    dataset = data.prepare(data.ImageFolder(str(tmp_path), size=(8, 7)))
    assert dataset.x.shape == (24, 8, 7, 3)


def test_the_size_of_a_run_or_a_model_is_that_of_images_without_one(tmp_path):
    write_folder(tmp_path / "images")
    write_image(tmp_path / "images", "dog/odd.png", size=(9, 9))
    folder = data.ImageFolder(str(tmp_path / "images"))
    sized = dataclasses.replace(folder, size=(12, 10), shortest=12)
    mlp = tl.models.MLP(widths=())
    exp = tl.Experiment(model=mlp, data=sized, steps=1, batch=4, test=False)
    tl.train(tl.setup(exp, tmp_path / "run"), progress=False)
    init = tl.pretrained.FromRun(str(tmp_path / "run"))
    tuned = tl.Experiment(model=mlp, init=init, data=folder, steps=1, batch=4)
    [target] = inputs.sources(tuned).values()
    assert (target.size, target.shortest) == ((12, 10), 12)
    untrained = dataclasses.replace(init, path=str(tmp_path / "later"))
    tuned = dataclasses.replace(tuned, init=untrained)
    assert inputs.sources(tuned)["target"] == folder
    vit = tl.models.ViT(size=16, patch=8, width=8, layers=1, heads=2)
    scratch = tl.Experiment(model=vit, data=folder, steps=1, batch=4)
    assert inputs.sources(scratch)["target"].size == (16, 16)
    named = tl.Experiment(model=vit, data=sized, steps=1, batch=4)
    assert inputs.sources(named)["target"] == sized


def test_unreadable_files_are_all_named_or_skipped(tmp_path, capsys):
    write_folder(tmp_path)
    (tmp_path / "cat/empty.png").write_bytes(b"")
    (tmp_path / "dog/text.png").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    (tmp_path / "dog/cut.png").write_bytes(file.getvalue()[:70])
    with pytest.raises(UserError) as error:
        data.prepare(data.ImageFolder(str(tmp_path)))
    assert "2 of 23 image files" in str(error.value)
    assert "cat/empty.png: empty file" in str(error.value)
    assert "dog/text.png: not an image" in str(error.value)
    (tmp_path / "cat/empty.png").unlink()
    (tmp_path / "dog/text.png").unlink()
    with pytest.raises(UserError, match=r"1 of 21 image files[^$]*dog/cut.png: "):
        data.prepare(data.ImageFolder(str(tmp_path)))
    skipping = data.ImageFolder(str(tmp_path), unreadable="skip")
    assert len(data.prepare(skipping).y) == 20
    assert "dog/cut.png" in capsys.readouterr().out


def test_folders_that_hold_no_classes_are_named(tmp_path):
    with pytest.raises(UserError, match="there are no images"):
        data.prepare(data.ImageFolder(str(tmp_path)))
    write_image(tmp_path, "loose.png")
    with pytest.raises(UserError, match=r"'loose.png' lie in"):
        data.prepare(data.ImageFolder(str(tmp_path)))
    with pytest.raises(UserError, match=r"ImageFolder.path: there is no"):
        data.prepare(data.ImageFolder(str(tmp_path / "none")))
    with pytest.raises(UserError, match="unreadable must be"):
        data.ImageFolder("x", unreadable="ignore")
