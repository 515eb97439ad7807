"""RandAugment: its operations against PIL's, how it draws them; and Cutout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.data import Cutout, RandAugment
from jaxtl.data.augment import image_operations

Image = pytest.importorskip("PIL.Image", reason="operations are held to PIL's")
from PIL import ImageEnhance, ImageOps  # noqa: E402


def _images(channels=3, count=3, side=(20, 24)):
    """Smooth uint8 images of different ranges, one channel constant."""
    rng = np.random.default_rng(channels)
    coarse = rng.uniform(size=(count, 5, 6, channels))
    fine = coarse.repeat(side[0] // 5, 1).repeat(side[1] // 6, 2)
    fine += rng.uniform(0, 0.3, fine.shape)
    fine *= np.linspace(120, 190, count)[:, None, None, None]
    images = fine.astype(np.uint8)
    images[0, ..., 0] = 77
    return images


def _with_pil(images, change):
    """Images changed by a function of one PIL image."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    changed = np.stack([np.asarray(change(Image.fromarray(i))) for i in squeezed])
    return changed.reshape(images.shape).astype(float)


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.05, 0.4, 0.95])
def test_blends_are_pils_within_its_rounding(name, factor, channels):
    images = _images(channels)
    ours = getattr(image_operations, name)(jnp.asarray(images, jnp.float32), factor)
    theirs = _with_pil(images, lambda p: ENHANCERS[name](p).enhance(factor))
    # PIL rounds what it blends with, and cuts the blend's fraction off.
    np.testing.assert_allclose(ours, theirs, atol=1.6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "atol"),
    [
        (image_operations.autocontrast, ImageOps.autocontrast, 1.0),
        (image_operations.equalize, ImageOps.equalize, 0.0),
        (
            lambda x: image_operations.posterize(x, 4),
            lambda p: ImageOps.posterize(p, 4),
            0.0,
        ),
        (
            lambda x: image_operations.posterize(x, 8),
            lambda p: ImageOps.posterize(p, 8),
            0.0,
        ),
        (
            lambda x: image_operations.solarize(x, 90),
            lambda p: ImageOps.solarize(p, 90),
            0.0,
        ),
        (
            lambda x: image_operations.solarize(x, 0),
            lambda p: ImageOps.solarize(p, 0),
            0.0,
        ),
    ],
)
def test_changes_of_levels_are_pils(ours, theirs, atol, channels):
    images = _images(channels)
    changed = ours(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(changed, _with_pil(images, theirs), atol=atol)


def _affine(*matrix):
    return lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix)


@pytest.mark.parametrize("level", [-1.0, -0.37, 0.1, 0.8])
@pytest.mark.parametrize("name", image_operations.GEOMETRIC)
def test_geometric_operations_are_pils(name, level):
    images = _images()
    height, width = images.shape[1:3]
    matrix = image_operations.geometric_matrix(
        name, jnp.full(len(images), level), height, width
    )
    ours = image_operations.affine(jnp.asarray(images, jnp.float32), matrix)
    theirs = {
        "rotate": lambda p: p.rotate(30 * level),
        "shear_x": _affine(1, 0.3 * level, 0, 0, 1, 0),
        "shear_y": _affine(1, 0, 0, 0.3 * level, 1, 0),
        "translate_x": _affine(1, 0, 0.3 * level * width, 0, 1, 0),
        "translate_y": _affine(1, 0, 0, 0, 1, 0.3 * level * height),
    }[name]
    # A pixel whose source lies on an edge may fall to either side.
    different = np.asarray(ours) != _with_pil(images, theirs)
    assert different.mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_results_are_images_that_depend_on_the_key(channels):
    x = jnp.asarray(_images(channels, count=5), jnp.float32) / 255
    augment = jax.jit(RandAugment().__call__)
    first, again, second = (augment(jax.random.key(k), x) for k in (0, 0, 1))
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0
    assert all(np.abs(a - b).max() > 0 for a, b in zip(first, x))


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_each_example_gets_each_operation_equally_often(batch):
    # Of three operations brightness alone darkens gray, by 5 to 95 %.
    names = ("identity", "brightness", "autocontrast")
    augment = RandAugment(rounds=1, operations=names)
    x = jnp.full((batch, 4, 4, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), 600)
    out = jax.jit(jax.vmap(lambda key: augment(key, x)))(keys)[:, :, 0, 0, 0]
    darker = (out < 0.49).mean(0)
    assert darker.shape == (batch,)
    np.testing.assert_allclose(darker, 1 / 3, atol=4 * np.sqrt(2 / 9 / 600))
    factors = np.asarray(out[out < 0.49]) / 0.5
    np.testing.assert_allclose(factors.mean(), 0.5, atol=0.04)
    assert factors.min() < 0.1
    assert factors.max() > 0.9


def test_each_round_draws_its_operation_independently():
    augment = RandAugment(operations=("identity", "brightness"))
    x = jnp.full((1, 4, 4, 1), 1.0)
    keys = jax.random.split(jax.random.key(1), 400)
    out = jax.jit(jax.vmap(lambda key: augment(key, x)))(keys)[:, 0, 0, 0, 0]
    np.testing.assert_allclose((out == 1).mean(), 0.25, atol=0.09)


def test_its_cost_is_small_beside_that_of_a_network():
    # ResNet-20 takes 41 million multiply-adds for the forward pass of one image.
    x = jnp.zeros((56, 32, 32, 3))
    compiled = jax.jit(RandAugment().__call__).lower(jax.random.key(0), x).compile()
    assert compiled.cost_analysis()["flops"] / 56 < 0.005 * 2 * 41e6


def test_fill_is_the_value_of_pixels_from_outside():
    x = jnp.ones((5, 8, 8, 1))
    augment = RandAugment(rounds=1, operations=image_operations.GEOMETRIC, fill=0.25)
    values = np.unique(augment(jax.random.key(0), x))
    np.testing.assert_allclose(values, [0.25, 1.0], atol=1e-6)


def test_cutout_covers_one_square_anywhere():
    x = jnp.ones((300, 12, 16, 2))
    out = np.asarray(
        jax.jit(Cutout(share=0.5, fill=0.25).__call__)(jax.random.key(0), x)
    )
    covered = out == 0.25
    assert set(np.unique(out)) == {0.25, 1.0}
    assert (covered[..., 0] == covered[..., 1]).all()
    covered = covered[..., 0]
    sizes = covered.sum((1, 2))
    assert sizes.max() == 36
    assert sizes.min() >= 9
    for mask in covered[:20]:
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
    # Every pixel is covered by the centers within half a side of it.
    inner = covered[:, 3:-3, 3:-3].mean()
    np.testing.assert_allclose(inner, 36 / (12 * 16), atol=0.03)


def test_nothing_is_covered_by_a_square_without_size():
    x = jnp.ones((2, 8, 8, 1))
    np.testing.assert_array_equal(Cutout(share=0.0)(jax.random.key(0), x), x)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: RandAugment(operations=("rotat",)), "did you mean 'rotate'"),
        (lambda: RandAugment(operations=()), "None takes all"),
        (lambda: RandAugment(rounds=-1), "RandAugment.rounds"),
        (lambda: Cutout(share=2), "Cutout.share"),
        (lambda: RandAugment()(jax.random.key(0), jnp.ones((2, 3))), r"shape \(2, 3\)"),
        (
            lambda: Cutout()(jax.random.key(0), jnp.ones((1, 4, 4, 1), jnp.uint8)),
            "float images",
        ),
        (lambda: RandAugment()(jax.random.key(0), {"input_ids": 0}), "dict of tokens"),
    ],
)
def test_bad_use_is_named(act, message):
    with pytest.raises(UserError, match=message):
        act()
