"""Data sets of `datasets`, saved and in memory: rows and classes are the library's."""

import json
import pickle

import numpy as np
import pytest

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data.preparation import load_table

pa = pytest.importorskip("pyarrow")
N = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), np.uint8)
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["zebra", "ant", "bee"]},
    "text": {"_type": "Value", "dtype": "string"},
    "width": {"_type": "Value", "dtype": "float64"},
}


def png(pixels):
    import io

    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def rows(numbers):
    return pa.table(
        {
            "image": [{"bytes": png(PIXELS[i]), "path": None} for i in numbers],
            "label": [i % 3 for i in numbers],
            "text": [f"word{i} of text" for i in numbers],
            "width": [i / 7 for i in numbers],
        },
        schema=pa.schema(
            [
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("label", pa.int64()),
                ("text", pa.string()),
                ("width", pa.float64()),
            ]
        ),
    )


def save(folder, table, shards=1, **state):
    """Writes what `Dataset.save_to_disk` of datasets 5.2 writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    bounds = np.linspace(0, len(table), shards + 1).astype(int)
    for name, start, end in zip(names, bounds, bounds[1:]):
        with pa.ipc.new_stream(str(folder / name), table.schema) as out:
            out.write_table(table.slice(start, end - start))
    files = {"_data_files": [{"filename": name} for name in names], **state}
    (folder / "state.json").write_text(json.dumps(files))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "saved"
    save(root / "train", rows(range(8)), shards=2)
    save(root / "validation", rows(range(8, 10)))
    save(root / "test", rows(range(10, 12)))
    save(root / "extra", rows(range(2)))
    splits = {"splits": ["train", "validation", "test", "extra"]}
    (root / "dataset_dict.json").write_text(json.dumps(splits))
    return root


@pytest.mark.parametrize("memory_limit", [2**31, 1])
def test_pictures_classes_and_splits(folder, memory_limit):
    source = data.HFDataset(
        str(folder), target="label", image="image", memory_limit=memory_limit
    )
    table = source.read()
    np.testing.assert_array_equal(table.x[np.arange(N)], PIXELS)
    assert table.class_names == ("zebra", "ant", "bee")
    np.testing.assert_array_equal(table.y, np.arange(N) % 3)
    assert {k: v.tolist() for k, v in table.splits.items()} == {
        "train": [*range(8)],
        "val": [8, 9],
        "test": [10, 11],
    }
    assert table.origins[9].endswith("saved, validation[1]")
    assert "splits that are not read: extra" in table.notes
    if memory_limit == 1:  # a copy in another process reads the files
        pickled = pickle.dumps(table.x)
        np.testing.assert_array_equal(pickle.loads(pickled)[[3, 11]], PIXELS[[3, 11]])
        assert png(PIXELS[0]) not in pickled


def test_texts_pairs_and_tables(folder):
    one = str(folder / "train")
    texts = data.HFDataset(one, target="width", text="text", task="regression").read()
    assert texts.x["text"].tolist() == [f"word{i} of text" for i in range(8)]
    np.testing.assert_allclose(texts.y, np.arange(8) / 7)
    assert texts.splits == {}
    lines = data.HFDataset(one, text="text").read()
    assert lines.task == "language"
    table = data.HFDataset(one, target="label", features=("width",)).read()
    np.testing.assert_allclose(table.x[:, 0], np.arange(8) / 7)
    assert table.class_names == ("zebra", "ant", "bee")


def test_words_with_tags_are_those_of_a_conll_file(tmp_path):
    words = [["a", "b"], ["c"], ["d", "e", "f"]] * 4
    tags = [[1, 2], [0], [0, 1, 0]] * 4
    names = ["O", "B-X", "I-X"]
    kind = {"_type": "List", "feature": {"_type": "ClassLabel", "names": names}}
    save(tmp_path / "saved", pa.table({"tokens": words, "ner_tags": tags}))
    info = json.dumps({"features": {"ner_tags": kind}})
    (tmp_path / "saved/dataset_info.json").write_text(info)
    blocks = [
        "".join(f"{w} {names[t]}\n" for w, t in zip(*row)) for row in zip(words, tags)
    ]
    (tmp_path / "a.conll").write_text("\n".join(blocks))
    saved = str(tmp_path / "saved")
    read = data.HFDataset(saved, text="tokens", target="ner_tags").read()
    expected = data.CoNLL(
        str(tmp_path / "a.conll"), class_names=("O", "B-X", "I-X")
    ).read()
    np.testing.assert_array_equal(read.y, expected.y)
    assert read.x["words"].tolist() == expected.x["words"].tolist()
    assert (read.task, read.class_names) == ("entities", tuple(names))
    save(tmp_path / "bad", pa.table({"tokens": words, "ner_tags": tags[::-1]}))
    bad = data.HFDataset(str(tmp_path / "bad"), text="tokens", target="ner_tags")
    with pytest.raises(UserError, match="each word needs one tag"):
        bad.read()


def test_classes_declared_in_a_parquet_file(tmp_path):
    from pyarrow import parquet

    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    table = rows(range(2)).select(["label", "width"]).replace_schema_metadata(metadata)
    parquet.write_table(table, tmp_path / "a.parquet")
    read = data.Parquet(str(tmp_path / "a.parquet"), target="label").read()
    assert read.class_names == ("zebra", "ant", "bee")
    np.testing.assert_array_equal(read.y, [0, 1])


def test_parquet_files_of_splits_are_the_same_data_set(folder, tmp_path):
    from pyarrow import parquet

    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    parts = {"train-00000-of-00002": range(4), "train-00001-of-00002": range(4, 8)}
    parts |= {"validation-00000-of-00001-0af3": range(8, 10), "test": range(10, 12)}
    (tmp_path / "hub/data").mkdir(parents=True)
    for name, numbers in parts.items():
        table = rows(numbers).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"hub/data/{name}.parquet")
    options = {"target": "label", "image": "image"}
    hub = load_table(data.HFDataset(str(tmp_path / "hub"), **options))
    saved = load_table(data.HFDataset(str(folder), **options))
    np.testing.assert_array_equal(hub[0].x, PIXELS)
    assert hub[1] == saved[1]
    for split, numbers in saved[0].splits.items():
        np.testing.assert_array_equal(hub[0].splits[split], numbers)


def test_a_test_split_without_labels_is_left_out(folder, tmp_path):
    table = rows(range(2))
    hidden = table.set_column(1, "label", pa.array([-1, -1]))
    save(tmp_path / "glue/train", rows(range(6)))
    save(tmp_path / "glue/test", hidden)
    (tmp_path / "glue/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = data.HFDataset(str(tmp_path / "glue"), target="label", text="text")
    read = source.read()
    assert list(read.splits) == ["train"]
    assert any("all its labels are −1" in note for note in read.notes)


def test_what_is_not_read_is_refused(folder, tmp_path):
    def read(**options):
        return data.HFDataset(str(folder), **options).read()

    with pytest.raises(UserError, match="image='image' reads them"):
        read(target="label")
    with pytest.raises(
        UserError, match=r"HFDataset.text: there is no column 'texts'.*"
    ):
        read(target="label", text="texts")
    with pytest.raises(UserError, match="val_split: there is no split 'validaton'"):
        read(target="label", text="text", val_split="validaton")
    with pytest.raises(UserError, match=r"image and HFDataset\.text exclude"):
        read(target="label", text="text", image="image")
    with pytest.raises(UserError, match=r"HFDataset\.pair='text' has no meaning"):
        read(target="label", pair="text")
    with pytest.raises(UserError, match="expected encoded pictures"):
        read(target="label", image="text")
    with pytest.raises(UserError, match=r"expected a folder that datasets"):
        data.HFDataset(str(tmp_path), target="label").read()
    with pytest.raises(UserError, match="got list"):
        data.HFDataset([1, 2], target="label")
    save(tmp_path / "chosen", rows(range(4)), _indices_data_files=[{"filename": "i"}])
    with pytest.raises(UserError, match="flatten_indices"):
        data.HFDataset(str(tmp_path / "chosen"), target="label", text="text").read()


def test_pictures_outside_are_read_again_when_they_change(tmp_path):
    import PIL.Image

    for i in range(3):
        PIL.Image.fromarray(PIXELS[i]).save(tmp_path / f"{i}.png")
    cells = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(3)]
    table = rows(range(3))
    images = pa.array(cells, table.schema.field("image").type)
    save(tmp_path / "saved", table.set_column(0, "image", images))
    source = data.HFDataset(str(tmp_path / "saved"), target="label", image="image")
    np.testing.assert_array_equal(load_table(source)[0].x, PIXELS[:3])
    PIL.Image.fromarray(PIXELS[5]).save(tmp_path / "0.png")
    np.testing.assert_array_equal(load_table(source)[0].x, PIXELS[[5, 1, 2]])


@pytest.mark.slow
def test_the_library_itself_saves_and_holds_the_same_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["zebra", "ant", "bee"]),
            "text": datasets.Value("string"),
        }
    )
    import PIL.Image

    whole = datasets.Dataset.from_dict(
        {
            "image": [PIL.Image.fromarray(x) for x in PIXELS],
            "label": [i % 3 for i in range(N)],
            "text": [f"text {i}" for i in range(N)],
        },
        features=features,
    )
    chosen = datasets.DatasetDict(
        train=whole.select(range(2, N)), test=whole.select([1, 0])
    )
    chosen.save_to_disk(str(tmp_path / "saved"))
    order = [*range(2, N), 1, 0]
    for source in (chosen, str(tmp_path / "saved")):
        hf = data.HFDataset(source, target="label", image="image")
        table, digest = load_table(hf)
        np.testing.assert_array_equal(table.x, PIXELS[order])
        np.testing.assert_array_equal(table.y, np.array(order) % 3)
        assert table.splits["test"].tolist() == [10, 11]
        assert load_table(hf)[1] == digest
    with pytest.raises(UserError, match="has no rows by number"):
        data.HFDataset(whole.to_iterable_dataset(), target="label", text="text")
