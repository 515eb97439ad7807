"""Lists of images in a CSV: pictures equal PIL's, labels those of the table."""

import unicodedata

import numpy as np
import PIL.Image
import pytest

from jaxtl import data
from jaxtl.core import text_files
from jaxtl.core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,grade,a,b"]
    for i in range(12):
        pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "scans" / f"{i}.png")
        rows.append(f"scans/{i}.png,{'xyz'[i % 3]},{i % 2},{i / 7}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def source(folder, **options):
    return data.ImageList(str(folder / "list.csv"), image="file", **options)


@pytest.mark.parametrize("memory_limit", [2**31, 1])
def test_pictures_and_classes(folder, memory_limit):
    table = source(folder, target="grade", memory_limit=memory_limit).read()
    expected = [
        np.asarray(PIL.Image.open(folder / f"scans/{i}.png")) for i in range(12)
    ]
    np.testing.assert_array_equal(table.x[np.arange(12)], expected)
    assert [table.class_names[i] for i in table.y] == list("xyz" * 4)
    assert table.origins[0].endswith("list.csv:2")


def test_regression_and_several_targets(folder):
    table = source(folder, target="b", task="regression").read()
    np.testing.assert_allclose(table.y, np.arange(12) / 7)
    assert source(folder, target=("a", "b")).read().y.shape == (12, 2)


def test_a_class_may_be_called_none(folder):
    path = folder / "list.csv"
    path.write_text(path.read_text().replace(",x,", ",none,"))
    with pytest.raises(UserError, match=r"missing_values=.* if 'none' is a class"):
        source(folder, target="grade").read()
    table = source(folder, target="grade", missing_values=("",)).read()
    assert table.class_names == ("none", "y", "z")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_files_are_found_in_either_unicode_form_of_their_names(folder, form, listed):
    name = "scans/café 한국.png"
    (folder / "scans/0.png").rename(folder / unicodedata.normalize(form, name))
    path, name = folder / "list.csv", unicodedata.normalize(listed, name)
    path.write_text(path.read_text().replace("scans/0.png", name))
    dataset = data.prepare(source(folder, target="grade", val=0, test=3))
    assert len(dataset.y) == 12


def test_absent_files_are_counted_and_named(folder):
    (folder / "scans/3.png").unlink()
    (folder / "scans/5.png").unlink()
    with pytest.raises(UserError, match=r"(?s)2 of 12 images.*line 5: scans/3.png"):
        source(folder, target="grade").read()


def test_a_changed_picture_is_read_again(folder):
    first = data.prepare(source(folder, target="grade", val=0, test=3))
    PIL.Image.new("RGB", (5, 6)).save(folder / "scans/0.png")
    again = data.prepare(source(folder, target="grade", val=0, test=3))
    assert again.fingerprint != first.fingerprint


def test_the_list_is_parsed_once_and_other_files_are_not_looked_at(folder, monkeypatch):
    calls = []
    read_lines = text_files.read_lines
    monkeypatch.setattr(
        text_files, "read_lines", lambda *a: calls.append(a) or read_lines(*a)
    )
    images = source(folder, target="grade", val=0, test=3)
    data.prepare(images)
    (folder / "scans/other.png").write_bytes(b"none of the list")
    states = images.file_states()
    data.prepare(images)
    assert len(calls) == 1
    assert len(states) == 13
    assert not any("other" in state.path for state in states)
