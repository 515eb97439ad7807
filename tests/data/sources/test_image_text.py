"""Images with texts: lists in CSV and JSON lines, their splits and fingerprints."""

import json

import numpy as np
import PIL.Image
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import images, preparation

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "na"]
CAPTIONS = ["a red cat", "a dog", "NA", "red, red", "two dogs", "a cat"]


@pytest.fixture
def folder(tmp_path):
    """Six pictures of one color each."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        picture = PIL.Image.new("RGB", (8, 8), (40 * i, 10, 200))
        picture.save(tmp_path / f"images/{i}.png")
    return tmp_path


def csv(folder, rows):
    lines = ["file,caption", *(f'images/{i}.png,"{text}"' for i, text in rows)]
    (folder / "list.csv").write_text("\n".join(lines))
    return str(folder / "list.csv")


def source(path, **options):
    defaults = {"image": "file", "text": "caption", "val": 0, "test": 0}
    return data.ImageText(path, **{**defaults, **options})


def test_pairs_of_a_csv_have_pixels_ids_and_numbers(folder):
    dataset = preparation.prepare(source(csv(folder, enumerate(CAPTIONS))))
    assert dataset.task == "contrastive"
    assert dataset.class_names == ()
    assert sorted(dataset.x) == ["attention_mask", "image", "input_ids"]
    assert dataset.x["image"].shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(dataset.x["image"][:, 0, 0, 0], 40 * np.arange(6))
    np.testing.assert_array_equal(dataset.y, np.arange(6))
    for i, text in enumerate(CAPTIONS):
        mask = dataset.x["attention_mask"][i]
        want = dataset.tokenizer([text])
        np.testing.assert_array_equal(
            dataset.x["input_ids"][i][mask], want["input_ids"][want["attention_mask"]]
        )
    assert dataset.preprocess.scale == 255
    assert dataset.preprocess.size == (8, 8)


def test_json_lines_give_what_the_csv_gives(folder):
    rows = [{"file": f"images/{i}.png", "caption": t} for i, t in enumerate(CAPTIONS)]
    path = folder / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    options = {"tokenizer": str(folder / "vocab.txt")}
    one = preparation.prepare(source(str(path), **options))
    table = csv(folder, enumerate(CAPTIONS))
    two = preparation.prepare(source(table, **options))
    assert one.fingerprint == two.fingerprint
    for name in one.x:
        np.testing.assert_array_equal(one.x[name], two.x[name])


def test_the_fingerprint_reads_pictures_and_texts(folder):
    def fingerprint(captions):
        path = csv(folder, enumerate(captions))
        return preparation.prepare(source(path)).fingerprint

    first = fingerprint(CAPTIONS)
    assert fingerprint(["a blue cat", *CAPTIONS[1:]]) != first
    assert fingerprint(CAPTIONS) == first
    PIL.Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "images/0.png")
    assert fingerprint(CAPTIONS) != first


def test_texts_of_one_image_stay_in_one_split(folder):
    rows = [(i % 6, f"text {i}") for i in range(18)]
    dataset = preparation.prepare(source(csv(folder, rows), val=0.34, test=0.17))
    numbers = {name: set(dataset.y[rows]) for name, rows in dataset.rows.items()}
    assert sum(map(len, numbers.values())) == 6
    assert min(map(len, numbers.values()))
    assert any("6 images have 18 texts" in note for note in dataset.notes)


def test_lists_of_texts_are_rows_of_one_image(folder):
    rows = [{"file": f"images/{i}.png", "caption": CAPTIONS[i:]} for i in range(3)]
    (folder / "a.json").write_text(json.dumps(rows))
    table = source(str(folder / "a.json")).read()
    assert table.x["text"].tolist() == [*CAPTIONS, *CAPTIONS[1:], *CAPTIONS[2:]]
    np.testing.assert_array_equal(table.y, np.repeat([0, 1, 2], [6, 5, 4]))
    np.testing.assert_array_equal(table.x["image"][:, 0, 0, 0], 40 * table.y)
    rows[1]["caption"] = []
    (folder / "a.json").write_text(json.dumps(rows))
    table = source(str(folder / "a.json")).read()
    np.testing.assert_array_equal(table.y, np.repeat([0, 1], [6, 4]))
    assert "1 rows have an empty list of texts and are left out" in table.notes


def test_an_image_of_several_texts_is_decoded_once(folder, monkeypatch):
    decoded = []
    decode = images.decode

    def counted(file, *options):
        decoded.append(str(file))
        return decode(file, *options)

    monkeypatch.setattr(images, "decode", counted)
    rows = [(i % 3, f"text {i}") for i in range(9)]
    table = source(csv(folder, rows)).read()
    assert len(decoded) == len(set(decoded)) == 3
    np.testing.assert_array_equal(table.x["image"][:, 0, 0, 0], 40 * (np.arange(9) % 3))


def test_weights_size_and_disk_are_honored(folder):
    lines = ["file,caption,w", *(f"images/{i}.png,text {i},{i}" for i in range(6))]
    (folder / "w.csv").write_text("\n".join(lines))
    options = {"sample_weight": "w", "size": 4, "memory_limit": 1, "channels": 1}
    dataset = preparation.prepare(source(str(folder / "w.csv"), **options))
    np.testing.assert_array_equal(dataset.weights, np.arange(6))
    assert dataset.x["image"].shape == (6, 4, 4, 1)
    assert not isinstance(dataset.x["image"], np.ndarray)
    assert dataset.preprocess.size == (4, 4)
    assert dataset.preprocess.channels == 1


def test_what_is_missing_is_named(folder):
    path = csv(folder, [(0, "a"), (9, "b")])
    with pytest.raises(UserError, match=r"images/9\.png"):
        source(path).read()
    with pytest.raises(UserError, match=r"ImageText\.text: there is no column 'words'"):
        source(path, text="words").read()
    with pytest.raises(UserError, match="is the image, too"):
        source(path, text="file")
    (folder / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match="has no meaning for a"):
        source(str(folder / "a.jsonl"), delimiter=",").read()
    (folder / "images/0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not an image"):
        source(csv(folder, [(0, "a")])).read()
    kept = source(csv(folder, [(0, "a"), (1, "b"), (2, "c")]), unreadable="skip").read()
    assert kept.x["text"].tolist() == ["b", "c"]
    assert kept.y.tolist() == [0, 1]
