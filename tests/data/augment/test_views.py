"""Operations of self-supervised views against torchvision's, and what is drawn."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.data.augment import image_operations, view_operations

VALUES = json.loads(pathlib.Path(__file__).with_name("view_values.json").read_text())
X = jnp.asarray(np.random.default_rng(0).random((2, 6, 5, 3)).astype(np.float32))
KEY = jax.random.key(0)
OPERATIONS = (
    tl.data.RandomResizedCrop(),
    tl.data.ColorJitter(),
    tl.data.RandomGrayscale(),
    tl.data.GaussianBlur(share=0.6),
    tl.data.Solarize(),
)

# (what is computed, largest difference): torchvision takes 0.2989 for the share of red
# in gray, PIL 0.299, and PIL rounds the mean of contrast to a whole level of 255.
CHANGES = {
    "hue": (lambda: view_operations.hue(X, jnp.array([0.1, -0.35])), 1e-6),
    "blur": (lambda: view_operations.gaussian_blur(X, jnp.array([0.5, 1.7]), 3), 1e-6),
    "crop": (
        lambda: view_operations.resized_crop(
            X, jnp.array([[1.0, 2, 3, 2], [0, 1, 6, 4]])
        ),
        1e-6,
    ),
    "contrast": (lambda: image_operations.contrast(255 * X, 1.3) / 255, 7e-4),
    "saturation": (lambda: image_operations.color(X, 0.4), 1e-4),
    "gray": (lambda: image_operations.color(X, 0.0), 1.1e-4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_torchvisions(name):
    change, tolerance = CHANGES[name]
    ours = np.clip(np.asarray(change()), 0, 1)
    np.testing.assert_allclose(ours, VALUES[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_range_stay(operation, channels):
    changed = operation(KEY, X[..., :channels])
    assert changed.shape == (2, 6, 5, channels)
    assert changed.dtype == X.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6


def test_a_probability_of_none_and_settings_of_no_change_leave_images():
    for operation in (
        tl.data.GaussianBlur(probability=0.0, share=0.6),
        tl.data.ColorJitter(
            brightness=0, contrast=0, saturation=0, hue=0, probability=1.0
        ),
        tl.data.Solarize(threshold=1.0, probability=1.0),
    ):
        np.testing.assert_allclose(operation(KEY, X), X, atol=1e-6)
    whole = tl.data.RandomResizedCrop(scale=(1, 1), ratio=(1, 1))
    square = X[:, :5]
    np.testing.assert_allclose(whole(KEY, square), square, atol=1e-6)


@settings(max_examples=15)
@given(
    low=st.floats(0.05, 1.0),
    wide=st.floats(1.0, 4.0),
    seed=st.integers(0, 2**31),
)
def test_boxes_lie_within_the_image_and_the_bounds(low, wide, seed):
    size, ratio = (9, 13), (1 / wide, wide)
    drawn = view_operations.random_boxes(
        jax.random.key(seed), 64, size, (low, 1.0), ratio
    )
    top, left, height, width = np.asarray(drawn).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 9).all()
    assert (left + width <= 13).all()
    assert (height >= 1).all()
    assert (width >= 1).all()
    # Rounding to whole pixels moves a side by half of one.
    assert (width - 0.5 <= wide * (height + 0.5)).all()


def test_the_central_box_is_torchvisions_for_images_that_are_too_wide():
    # in_ratio = 20 / 4 > 4/3: the height stays, the width is 4 · 4/3, rounded.
    assert view_operations.central_box((4, 20), (3 / 4, 4 / 3)) == (0, 7, 4, 5)
    assert view_operations.central_box((20, 4), (3 / 4, 4 / 3)) == (7, 0, 5, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tl.data.ColorJitter(hue=0.6), r"ColorJitter.hue must .* 0 to 0.5"),
        (lambda: tl.data.Solarize(threshold=2.0), "Solarize.threshold must"),
        (
            lambda: tl.data.RandomResizedCrop(scale=(0.5, 2.0)),
            "RandomResizedCrop.scale",
        ),
        (lambda: tl.data.GaussianBlur(sigma=(0.0, 1.0)), "GaussianBlur.sigma"),
        (lambda: tl.data.RandomGrayscale()(KEY, X[0]), "RandomGrayscale needs images"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()
