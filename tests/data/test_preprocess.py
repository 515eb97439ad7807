"""Preprocessing against numpy and PIL; its JSON and its files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxtl import data
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess
from jaxtl.data.preprocess import Preprocess

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 9, 8, 3)).astype(np.uint8)


def test_apply_is_the_usual_normalization():
    """As torchvision's ToTensor and Normalize compute it, in float64 numpy."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = preprocess.apply(Preprocess(scale=255, mean=mean, std=std), IMAGES)
    assert x.dtype == jnp.float32
    expected = (IMAGES / 255.0 - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_defaults_depend_on_shape_and_dtype():
    default = preprocess.default(IMAGES)
    assert default == Preprocess(scale=255.0, size=(9, 8), channels=3)
    assert preprocess.default(IMAGES.astype(np.float32)).scale == 1
    assert preprocess.default(np.zeros((4, 7), np.uint8)) == Preprocess()


def test_the_option_preprocess_replaces_that_of_the_source():
    pre = Preprocess(scale=8, mean=0.5, std=[2])
    dataset = data.prepare(data.Digits(preprocess=pre))
    assert dataset.preprocess == Preprocess(
        scale=8, mean=(0.5,), std=(2.0,), size=(8, 8), channels=1
    )


@given(
    scale=st.floats(0.1, 1e4),
    mean=st.none() | st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    size=st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    channels=st.sampled_from([None, 1, 3]),
)
def test_json_round_trip(scale, mean, size, channels):
    pre = Preprocess(scale=scale, mean=mean, size=size, channels=channels)
    stored = json.loads(json.dumps(preprocess.to_json(pre)))
    assert preprocess.from_json(stored) == pre


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: preprocess.from_json({"maen": 1}), "did you mean 'mean'"),
        (lambda: Preprocess(scale=0), "scale must be a positive"),
        (lambda: Preprocess(std=(1, 0)), "std must be positive"),
        (lambda: Preprocess(channels=4), "channels must be 1"),
        (lambda: Preprocess(size=(3,)), "size must be"),
        (
            lambda: preprocess.apply(Preprocess(mean=(1, 2)), IMAGES),
            "mean has 2 numbers",
        ),
        (
            lambda: preprocess.load_image("no.png", Preprocess()),
            "no image file 'no.png'",
        ),
    ],
)
def test_bad_preprocessing_is_named(act, message):
    with pytest.raises(UserError, match=message):
        act()


def test_load_image_reads_in_the_units_of_the_data(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IMAGES[0]).save(path)
    np.testing.assert_array_equal(
        preprocess.load_image(path, Preprocess(scale=255.0, channels=3)), IMAGES[0]
    )
    pre = Preprocess(scale=16, size=(4, 4), channels=1)
    image = preprocess.load_image(path, pre)
    assert image.shape == (4, 4, 1)
    small = Image.fromarray(IMAGES[0]).convert("L").resize((4, 4), Image.BILINEAR)
    expected = np.asarray(small)[..., None] / 255.0
    np.testing.assert_allclose(preprocess.apply(pre, image), expected, atol=1e-6)
    path.write_text("no image")
    with pytest.raises(UserError, match="not a readable image"):
        preprocess.load_image(path, pre)


def test_sixteen_bit_files_are_not_clipped(tmp_path):
    path = tmp_path / "deep.png"
    pixels = np.asarray([[0, 256 * 100], [256 * 200, 65535]], np.uint16)
    Image.fromarray(pixels).save(path)
    image = preprocess.load_image(path, Preprocess(scale=255.0))
    np.testing.assert_array_equal(image[..., 0], [[0, 100], [200, 255]])


def test_size_and_channels_are_applied_at_load():
    arrays = data.Arrays(
        x=np.repeat(IMAGES, 6, 0), y=np.arange(30) % 2, size=(4, 6), channels=1
    )
    dataset = data.prepare(arrays)
    assert dataset.x.shape == (30, 4, 6, 1)
    assert (dataset.preprocess.size, dataset.preprocess.channels) == ((4, 6), 1)
