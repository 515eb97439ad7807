"""TFDS: builders are read without TensorFlow, images, texts and numbers alike."""

import dataclasses
import io
import sys

import numpy as np
import pytest
from PIL import Image

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import lazy_array


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A prepared array_record data set with a builder of our own."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")

    class TinyShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["square", "disc"]),
                "weight": tfds.features.Scalar(np.float32),
                "text": tfds.features.Text(),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(20),
                "test": self._generate_examples(6),
            }

        def _generate_examples(self, count):
            for i in range(count):
                file = io.BytesIO()
                image = np.full((4 + i % 2, 5, 3), i, np.uint8)
                Image.fromarray(image).save(file, "PNG")
                file.seek(0)
                example = {"image": file, "label": i % 2, "weight": i / 2}
                yield i, {**example, "text": "square " * (i % 2) + "disc é"}

    builder = TinyShapes(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def test_a_builder_of_ours_is_read_without_tensorflow(shapes):
    dataset = data.prepare(data.TFDS(shapes, size=4))
    assert dataset.x.shape == (26, 4, 4, 3)
    assert dataset.class_names == ("square", "disc")
    assert len(dataset.rows["test"]) == 6
    # Each image has one color, its number, whose parity is the label.
    np.testing.assert_array_equal(dataset.x[:, 0, 0, 0] % 2, dataset.y)
    np.testing.assert_array_equal(np.sort(dataset.x[:20, 0, 0, 0]), np.arange(20))
    assert "tensorflow" not in sys.modules


def test_lazy_data_are_the_same(shapes):
    in_memory = data.prepare(data.TFDS(shapes, size=4))
    on_disk = data.prepare(data.TFDS(shapes, size=4, memory_limit=10))
    assert lazy_array.is_lazy(on_disk.x)
    np.testing.assert_array_equal(on_disk.x[:], in_memory.x)
    np.testing.assert_array_equal(on_disk.y, in_memory.y)
    assert on_disk.fingerprint == in_memory.fingerprint


def test_texts_are_tokenized(shapes, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "square", "disc"]))
    tokenizer = data.Tokenizer(str(vocab), max_length=8, buckets=(8,))
    source = data.TFDS(shapes, x="text", tokenizer=tokenizer)
    dataset = data.prepare(source)
    assert dataset.class_names == ("square", "disc")
    assert [len(dataset.rows[s]) for s in ("test", "train")] == [6, 18]
    for row, label in zip(dataset.x["input_ids"], dataset.y):
        square = [4] * int(label)
        assert row.tolist() == ([2, *square, 5, 1, 3] + 8 * [0])[:8]
    both = data.prepare(dataclasses.replace(source, pair="text"))
    assert set(both.x["token_type_ids"][0].tolist()) == {0, 1}
    for options, message in (
        ({"tokenizer": None}, "give tokenizer= if it is text"),
        ({"x": "weight"}, "the feature 'weight' holds no text"),
        ({"pair": "txet"}, "did you mean 'text'"),
    ):
        with pytest.raises(UserError, match=message):
            data.prepare(dataclasses.replace(source, **options))


def test_a_slice_in_gray_with_a_number_to_predict(shapes):
    source = data.TFDS(shapes, size=4, channels=1, y="weight", train="train[:10]")
    dataset = data.prepare(source)
    assert dataset.x.shape == (16, 4, 4, 1)
    assert dataset.task == "regression"


def test_images_of_several_sizes_become_squares_that_are_said(shapes):
    dataset = data.prepare(data.TFDS(shapes))
    assert dataset.x.shape == (26, 224, 224, 3)
    assert (dataset.preprocess.size, dataset.preprocess.shortest) == ((224, 224), 224)
    assert "brought to 224×224" in dataset.notes[-1]
    stored = data.prepare(data.TFDS(shapes, size=224, shortest=224))
    assert stored.fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4, "x": "imgae"}, "did you mean 'image'"),
        ({"size": 4, "y": "labels"}, "did you mean 'label'"),
        ({"size": 4, "train": "trian"}, "'trian' is no split .* has train, test"),
    ],
)
def test_bad_options_of_tfds_are_named(shapes, options, message):
    with pytest.raises(UserError, match=message):
        data.prepare(data.TFDS(shapes, **options))


def test_the_error_for_unprepared_data_says_how_to_prepare_them(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"jaxtl\[tfds-prepare\].*tfds build mnist"):
        data.prepare(data.TFDS("mnist", data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="'mnits'; did you mean 'mnist'"):
        data.prepare(data.TFDS("mnits", data_dir=str(tmp_path)))


def test_a_builder_of_the_package_is_read_from_mock_data(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=30):
        dataset = data.prepare(data.TFDS("mnist", data_dir=str(tmp_path)))
    assert dataset.x.shape == (30, 28, 28, 1)
    assert dataset.class_names == tuple("0123456789")
