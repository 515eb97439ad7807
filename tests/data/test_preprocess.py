"""Preprocessing against torch and PIL; augmentation by its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxtl import data as datasets
from jaxtl.core.errors import UserError
from jaxtl.data import images, preprocess
from jaxtl.data.augment.image import Crop, Flip, Jitter, apply_augmentations

Pre = preprocess.Preprocess
IMAGES = np.random.default_rng(0).integers(0, 255, (5, 9, 8, 3)).astype(np.uint8)


def test_apply_is_the_usual_normalisation():
    """As torchvision's ToTensor and Normalize compute it, in float64 numpy."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = preprocess.apply(Pre(scale=255, mean=mean, std=std), IMAGES)
    assert out.dtype == jnp.float32
    expected = (IMAGES / 255.0 - np.asarray(mean)) / np.asarray(std)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_defaults_by_kind():
    assert preprocess.default(IMAGES) == Pre(scale=255.0, size=(9, 8), channels=3)
    assert preprocess.default(IMAGES.astype(np.float32)).scale == 1
    assert preprocess.default(np.zeros((4, 7), np.uint8)) == Pre()


def test_own_preprocessing_replaces_the_sources():
    pre = Pre(scale=8, mean=0.5, std=[2])
    dataset = datasets.prepare(datasets.Digits(preprocess=pre))
    assert dataset.preprocess == Pre(
        scale=8, mean=(0.5,), std=(2.0,), size=(8, 8), channels=1
    )


@given(
    scale=st.floats(0.1, 1e4),
    mean=st.none() | st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    size=st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    channels=st.sampled_from([None, 1, 3]),
)
def test_json_round_trip(scale, mean, size, channels):
    import json

    pre = Pre(scale=scale, mean=mean, size=size, channels=channels)
    again = json.loads(json.dumps(preprocess.to_json(pre)))
    assert preprocess.from_json(again) == pre


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preprocess.from_json({"maen": 1}), "did you mean 'mean'"),
        (lambda: Pre(scale=0), "scale must be a positive"),
        (lambda: Pre(std=(1, 0)), "std must be positive"),
        (lambda: Pre(channels=4), "channels must be 1"),
        (lambda: Pre(size=(3,)), "size must be"),
        (lambda: preprocess.apply(Pre(mean=(1, 2)), IMAGES), "mean has 2 numbers"),
        (lambda: preprocess.load_image("no.png", Pre()), "no image file 'no.png'"),
    ],
)
def test_bad_preprocessing(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_load_image_speaks_the_units_of_the_data(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(IMAGES[0]).save(path)
    np.testing.assert_array_equal(
        preprocess.load_image(path, Pre(scale=255.0, channels=3)), IMAGES[0]
    )
    pre = Pre(scale=16, size=(4, 4), channels=1)
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
    deep = np.asarray([[0, 256 * 100], [256 * 200, 65535]], np.uint16)
    Image.fromarray(deep).save(path)
    image = preprocess.load_image(path, Pre(scale=255.0))
    np.testing.assert_array_equal(image[..., 0], [[0, 100], [200, 255]])


@pytest.mark.parametrize("size", [(4, 4), (13, 6), (9, 8)])
def test_resize_is_torchs_antialiased_bilinear(size):
    torch = pytest.importorskip("torch")
    x = IMAGES.astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        size=size,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images.resize(x, size), expected, atol=1e-3)
    whole = images.resize(IMAGES, size)
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole, expected, atol=0.51)


def test_luma_is_pils():
    expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in IMAGES])
    grey = images.convert_channels(IMAGES, 1)[..., 0]
    assert np.abs(grey.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(
        images.convert_channels(grey[..., None], 3), np.repeat(grey[..., None], 3, 3)
    )
    with pytest.raises(UserError, match="needs images of 1 or 3"):
        images.convert_channels(np.zeros((1, 2, 2, 4)), 3)


def test_size_and_channels_at_load():
    arrays = datasets.Arrays(
        x=np.repeat(IMAGES, 6, 0), y=np.arange(30) % 2, size=(4, 6), channels=1
    )
    dataset = datasets.prepare(arrays)
    assert dataset.x.shape == (30, 4, 6, 1)
    assert (dataset.preprocess.size, dataset.preprocess.channels) == ((4, 6), 1)


X = jnp.asarray(IMAGES, jnp.float32)


@pytest.mark.parametrize("op", [Flip(), Crop(pad=2), Crop(pad=3, mode="reflect")])
def test_shape_dtype_key_and_jit(op):
    for x in (X, jnp.asarray(IMAGES)):
        out = op(jax.random.key(0), x)
        assert (out.shape, out.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(out, jax.jit(op.__call__)(jax.random.key(0), x))
    many = jnp.repeat(X[:1], 64, 0)
    assert len(np.unique(np.asarray(op(jax.random.key(1), many)), axis=0)) > 1


def test_flip_mirrors_some_and_all():
    np.testing.assert_array_equal(
        Flip(probability=1.0)(jax.random.key(0), X), np.asarray(X)[:, :, ::-1]
    )
    np.testing.assert_array_equal(Flip(probability=0.0)(jax.random.key(0), X), X)


@given(seed=st.integers(0, 1000), pad=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_crop_is_one_of_the_shifts_of_numpys_padding(seed, pad):
    out = np.asarray(Crop(pad=pad)(jax.random.key(seed), X))
    padded = np.pad(np.asarray(X), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for image, whole in zip(out, padded):
        shifts = [
            whole[i : i + 9, j : j + 8]
            for i in range(2 * pad + 1)
            for j in range(2 * pad + 1)
        ]
        assert any((image == s).all() for s in shifts)


def test_crop_shifts_are_uniform():
    x = jnp.zeros((4000, 3, 3, 1)).at[:, 1, 1].set(1)
    where = np.asarray(Crop(pad=1)(jax.random.key(0), x)).mean(0)[..., 0]
    np.testing.assert_allclose(where, 1 / 9, atol=4 * np.sqrt(8 / 81 / 4000))


def test_jitter_is_affine_about_the_mean():
    out = np.asarray(Jitter(brightness=3.0, contrast=0.5)(jax.random.key(0), X))
    for image, old in zip(out, np.asarray(X)):
        gain, shift = np.polyfit(old.ravel(), image.ravel(), 1)
        np.testing.assert_allclose(image, gain * old + shift, atol=1e-2)
        assert 0.5 <= gain <= 1.5
        assert abs(image.mean() - old.mean()) <= 3.001


def test_augment_gives_each_operation_its_own_key():
    ops = (Crop(pad=1), Flip())
    key = jax.random.key(3)
    expected = Flip()(
        jax.random.fold_in(key, 1), Crop(pad=1)(jax.random.fold_in(key, 0), X)
    )
    np.testing.assert_array_equal(apply_augmentations(ops, key, X), expected)
    np.testing.assert_array_equal(apply_augmentations((), key, X), X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(probability=2), "Flip.probability must lie in 0 to 1"),
        (lambda: Crop(pad=-1), "Crop.pad"),
        (lambda: Crop(mode="wrap"), "Crop.mode must be"),
        (lambda: Jitter(contrast=1.5), "Jitter.contrast"),
        (lambda: Flip()(jax.random.key(0), X[0]), "Flip needs images"),
        (lambda: Jitter()(jax.random.key(0), IMAGES), "Jitter needs float"),
        (lambda: Crop(pad=8, mode="reflect")(jax.random.key(0), X), "to reflect"),
    ],
)
def test_bad_augmentation(make, message):
    with pytest.raises(UserError, match=message):
        make()
