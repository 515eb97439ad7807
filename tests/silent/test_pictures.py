"""Pictures are read as they are meant to be seen, folders as what they are named.

The inputs are those that users of torchvision and Keras report: phones that store a
turn in EXIF, icons with hidden colors under transparent pixels, scientific TIFFs, links
to shared folders, `Train/` beside `dev/`, names typed on a Mac. The references are
Pillow's own operations and numpy.
"""

import io
import os
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import image_files, images, preprocess
from jaxtl.data.sources import folder_layout

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def stored(image, name="a.png", **options):
    """A file in memory, as a path may name one."""
    file = io.BytesIO()
    image.save(
        file, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name[-3:]), **options
    )
    file.seek(0)
    return file


def oriented(value, name):
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}
    return stored(Image.fromarray(RGB), name, exif=exif, **options)


# np.rot90 and flips by hand, as the EXIF standard defines the eight values.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("value", UPRIGHT)
def test_pictures_are_turned_upright(name, value):
    file = oriented(value, name)
    as_stored = np.asarray(Image.open(file).convert("RGB"))
    if name.endswith("tif"):  # Pillow turns a TIFF as it loads it, and says so
        as_stored = RGB
    expected = UPRIGHT[value](as_stored)
    np.testing.assert_array_equal(images.decode(file), expected)
    header = image_files.header(file)
    assert header.size == expected.shape[:2]
    assert any("EXIF" in text for text in header.remarks) == (value != 1)


def test_training_and_predictions_turn_a_picture_alike(tmp_path):
    for i in range(6):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(oriented(6, "a.jpg").getvalue())
    for options in ({}, {"memory_limit": 1}):
        dataset = data.prepare(data.ImageFolder(str(tmp_path), val=0, **options))
        assert dataset.example_shape == (4, 6, 3)
        file = preprocess.load_image(path, dataset.preprocess)
        np.testing.assert_array_equal(dataset.x[np.array([0])][0], file)
    assert dataset.notes == ("6 pictures are turned upright by the EXIF orientation",)


ALPHA = np.array([[0, 255, 128], [1, 254, 77]], np.uint8)


def on_white(color, alpha):
    share = alpha.astype(np.float64)[..., None] / 255
    return share * color + (1 - share) * 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_hidden_colors_stay_hidden(mode):
    rng = np.random.default_rng(1)
    color = rng.integers(0, 256, (2, 3, 1 if mode == "LA" else 3), np.uint8)
    if mode == "P":  # a palette with a transparency of each color
        image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
        image.putpalette(color.reshape(-1).tolist())
        file = stored(image, transparency=ALPHA.reshape(-1).tobytes())
    else:
        pixels = np.concatenate([color, ALPHA[..., None]], -1)
        file = stored(Image.fromarray(pixels, mode))
    decoded = images.decode(file)
    assert decoded.shape[2] == (1 if mode == "LA" else 3)
    np.testing.assert_allclose(decoded, on_white(color, ALPHA), atol=1)
    assert image_files.header(file).remarks == ("transparent, composited on white",)


def test_a_transparent_color_of_a_picture_without_alpha_is_white():
    file = stored(Image.fromarray(RGB), transparency=tuple(RGB[0, 0].tolist()))
    assert images.decode(file)[0, 0].tolist() == [255] * 3
    np.testing.assert_array_equal(images.decode(file)[1:], RGB[1:])
    deep = Image.fromarray(np.array([[0, 40_000]], np.uint16))
    file = stored(deep, transparency=0)
    assert images.decode(file)[..., 0].tolist() == [[255, 40_000 >> 8]]


@pytest.mark.parametrize(
    "pixels",
    [
        np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),
        np.linspace(0, 255, 12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=np.int32).reshape(3, 4) * 20,
        np.array([[0, 70_000]], np.int32),
    ],
)
def test_pictures_whose_white_is_unknown_are_refused(tmp_path, pixels):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "x.tif")
    with pytest.raises(UserError, match=r"nobody knows which one is white.*Arrays"):
        images.decode(tmp_path / "a" / "x.tif")
    with pytest.raises(UserError, match="2 of 2 image files can't be read"):
        data.ImageFolder(str(tmp_path)).read()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_16_bits_keep_their_upper_8(name):
    pixels = np.array([[0, 256 * 100], [256 * 200, 65535]], np.uint16)
    decoded = images.decode(stored(Image.fromarray(pixels), name))
    np.testing.assert_array_equal(decoded[..., 0], pixels >> 8)
    with pytest.raises(UserError, match="values up to 200, which all are black"):
        images.decode(stored(Image.fromarray(np.full((2, 2), 200, np.uint16)), name))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_are_pillows(mode):
    image = Image.fromarray(RGB).convert(mode)
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    file = stored(image, name)
    reference = Image.open(file)
    gray = reference.mode in ("1", "L")
    expected = np.asarray(reference.convert("L" if gray else "RGB"))
    np.testing.assert_array_equal(np.squeeze(images.decode(file)), expected)
    assert ("in CMYK, read as RGB" in image_files.header(file).remarks) == (
        mode == "CMYK"
    )


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_the_first_of_several_frames_is_read_and_said(name):
    frames = [Image.new("L", (4, 3), value) for value in (200, 10)]
    file = stored(frames[0], name, save_all=True, append_images=frames[1:])
    assert set(np.unique(images.decode(file))) == {200}
    assert image_files.header(file).remarks == ("of several frames, the first read",)


def test_color_profiles_are_said():
    file = stored(Image.fromarray(RGB), icc_profile=b"Display P3")
    assert "color profile" in image_files.header(file).remarks[0]
    assert image_files.header(stored(Image.fromarray(RGB), icc_profile=b"sRGB")) == (
        (6, 4),
        False,
        (),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from(range(1, 9)), st.data())
def test_an_upright_picture_is_pillows(height, width, value, drawn):
    pixels = np.frombuffer(
        drawn.draw(st.binary(min_size=3 * height * width, max_size=3 * height * width)),
        np.uint8,
    ).reshape(height, width, 3)
    exif = Image.Exif()
    exif[0x0112] = value
    file = stored(Image.fromarray(pixels), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    np.testing.assert_array_equal(images.decode(file), expected)
    assert image_files.header(file).size == expected.shape[:2]


# Folders


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), len(names)).save(path, "PNG")


def read(root):
    return data.ImageFolder(str(root)).read()


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "shared", *(f"dog/{i}.png" for i in range(3)), "test/cat/9.png")
    put(tmp_path / "all", "train/cat/1.png", "train/cat/2.PNG")
    os.symlink(tmp_path / "shared/dog", tmp_path / "all/train/dog")
    os.symlink(tmp_path / "shared/test", tmp_path / "all/test")
    table = read(tmp_path / "all")
    assert table.class_names == ("cat", "dog")
    assert len(table.splits["train"]) == 5
    assert len(table.splits["test"]) == 1


def test_links_upwards_and_nowhere_and_empty_folders_are_said(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "emu").mkdir()
    os.symlink(tmp_path, tmp_path / "cat" / "again")
    os.symlink(tmp_path / "nothing", tmp_path / "dog" / "2.png")
    table = read(tmp_path)
    assert len(table.y) == 2
    assert sorted(table.notes) == [
        "1 folders hold no image: emu",
        "cat/again is left out: it links to a folder above it",
        "dog/2.png is left out: it links to nothing",
    ]


def test_what_systems_add_is_no_class(tmp_path):
    put(
        tmp_path,
        "cat/1.png",
        "dog/1.png",
        "__MACOSX/cat/1.png",
        "@eaDir/thumb.png",
        "cat/@eaDir/1.png/thumb.png",
        "cat/._1.png",
    )
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert read(tmp_path).class_names == ("cat", "dog")
    assert len(read(tmp_path).y) == 2


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "dev", "testing"), ("train", "val", "test")),
        (("training", "Validation"), ("train", "val")),
        (("TRAIN", "valid", "Test"), ("train", "val", "test")),
    ],
)
def test_folders_of_splits_have_several_names(tmp_path, folders, splits):
    put(tmp_path, *(f"{f}/{c}/1.png" for f in folders for c in ("cat", "dog")))
    table = read(tmp_path)
    assert table.class_names == ("cat", "dog")
    assert sorted(table.splits) == sorted(splits)
    assert f"{folders[0]} as train" in table.notes[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1", "test/a/1", "extra/a/1"), "extra are none; is it validation"),
        (("train/a/1", "eval/a/1"), "eval are none; is it validation or test"),
        (("train/a/1", "dev/a/1", "val/a/1"), "dev and val are both read as the split"),
        (("set/train/a/1", "set/test/a/1"), "set holds folders of splits, test, train"),
        (("train/1", "test/a/1"), "'train/1.png' lies in a split but in no class"),
    ],
)
def test_folders_that_are_half_splits_are_refused(tmp_path, names, message):
    put(tmp_path, *(f"{name}.png" for name in names))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, "train/1.png", "bus/1.png")
    assert read(tmp_path).class_names == ("bus", "train")


def test_unicode_forms_of_a_folder_are_one_class():
    names = ["café/1.png", unicodedata.normalize("NFD", "café") + "/2.png", "x/1.png"]
    layout = folder_layout.layout("", names)
    assert layout.classes == ["café", "café", "x"]
    assert "several Unicode forms" in layout.notes[0]


def test_damaged_files_are_named(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    whole = (tmp_path / "a/1.png").read_bytes()
    (tmp_path / "a/cut.png").write_bytes(whole[:45])
    (tmp_path / "a/text.jpg").write_text("no image")
    (tmp_path / "b/jpeg_in_name_only.jpg").write_bytes(whole)
    with pytest.raises(UserError, match=r"a/text.jpg: not an image"):
        read(tmp_path)
    (tmp_path / "a/text.jpg").unlink()
    with pytest.raises(UserError, match=r"a/cut.png: "):
        read(tmp_path)
    table = data.ImageFolder(str(tmp_path), unreadable="skip").read()
    assert len(table.y) == 3


# Arrays


def test_channels_first_is_refused():
    y = np.arange(20) % 2
    for shape in ((20, 3, 8, 8), (20, 1, 8, 8)):
        with pytest.raises(UserError, match=r"channels first; pass x.transpose"):
            data.Arrays(x=np.zeros(shape, np.float32), y=y).read()
    signals = np.zeros((20, 1, 50, 22), np.float32)
    assert data.Arrays(x=signals, y=y).read().x.shape == signals.shape


def test_pixels_that_are_not_divided_are_said():
    x = np.arange(20 * 16).reshape(20, 4, 4, 1) % 256
    table = data.Arrays(x=x, y=np.arange(20) % 2).read()
    assert "scale=255" in table.notes[0]
    assert data.Arrays(x=x, y=np.arange(20) % 2, scale=255).read().notes == ()
    assert data.Arrays(x=x / 255, y=np.arange(20) % 2).read().notes == ()


def test_black_and_white_arrays_are_numbers():
    x = np.arange(20 * 16).reshape(20, 4, 4) % 2 == 0
    dataset = data.prepare(data.Arrays(x=x, y=np.arange(20) % 2))
    values = np.asarray(preprocess.apply(dataset.preprocess, dataset.x))
    np.testing.assert_array_equal(values[..., 0], x.astype(np.float32))
