"""Augmentations of images: shapes, shifts and statistics of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.data import Crop, Flip, Jitter
from jaxtl.data.augment.image import apply_augmentations

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 9, 8, 3)).astype(np.uint8)
X = jnp.asarray(IMAGES, jnp.float32)


@pytest.mark.parametrize(
    "operation", [Flip(), Crop(pad=2), Crop(pad=3, mode="reflect")]
)
def test_shape_and_dtype_stay_and_jit_changes_nothing(operation):
    key = jax.random.key(0)
    for x in (X, jnp.asarray(IMAGES)):
        changed = operation(key, x)
        assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(changed, jax.jit(operation.__call__)(key, x))


@pytest.mark.parametrize(
    "operation", [Flip(), Crop(pad=2), Crop(pad=3, mode="reflect")]
)
def test_the_examples_of_a_batch_change_independently(operation):
    copies = jnp.repeat(X[:1], 64, 0)
    changed = np.asarray(operation(jax.random.key(1), copies))
    assert len(np.unique(changed, axis=0)) > 1


def test_flip_mirrors_none_and_all():
    np.testing.assert_array_equal(
        Flip(probability=1.0)(jax.random.key(0), X), np.asarray(X)[:, :, ::-1]
    )
    np.testing.assert_array_equal(Flip(probability=0.0)(jax.random.key(0), X), X)


@given(seed=st.integers(0, 1000), pad=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_crop_is_one_of_the_shifts_of_numpys_padding(seed, pad):
    cropped = np.asarray(Crop(pad=pad)(jax.random.key(seed), X))
    padded = np.pad(np.asarray(X), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for image, padded_image in zip(cropped, padded):
        shifts = [
            padded_image[i : i + 9, j : j + 8]
            for i in range(2 * pad + 1)
            for j in range(2 * pad + 1)
        ]
        assert any((image == shift).all() for shift in shifts)


def test_crop_shifts_are_uniform():
    x = jnp.zeros((4000, 3, 3, 1)).at[:, 1, 1].set(1)
    share = np.asarray(Crop(pad=1)(jax.random.key(0), x)).mean(0)[..., 0]
    np.testing.assert_allclose(share, 1 / 9, atol=4 * np.sqrt(8 / 81 / 4000))


def test_jitter_is_affine_about_the_mean():
    jitter = Jitter(brightness=3.0, contrast=0.5)
    changed = np.asarray(jitter(jax.random.key(0), X))
    for image, original in zip(changed, np.asarray(X)):
        gain, shift = np.polyfit(original.ravel(), image.ravel(), 1)
        np.testing.assert_allclose(image, gain * original + shift, atol=1e-2)
        assert 0.5 <= gain <= 1.5
        assert abs(image.mean() - original.mean()) <= 3.001


def test_augmentations_in_a_row_get_keys_of_their_own():
    key = jax.random.key(3)
    cropped = Crop(pad=1)(jax.random.fold_in(key, 0), X)
    expected = Flip()(jax.random.fold_in(key, 1), cropped)
    operations = (Crop(pad=1), Flip())
    np.testing.assert_array_equal(apply_augmentations(operations, key, X), expected)
    np.testing.assert_array_equal(apply_augmentations((), key, X), X)


@pytest.mark.parametrize(
    ("act", "message"),
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
def test_bad_augmentations_are_named(act, message):
    with pytest.raises(UserError, match=message):
        act()
