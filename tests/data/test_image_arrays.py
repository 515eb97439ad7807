"""Sizes and channels of images against torch and PIL."""

import numpy as np
import pytest
from PIL import Image

from jaxtl.core.errors import UserError
from jaxtl.data import images

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 9, 8, 3)).astype(np.uint8)


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
    rounded = images.resize(IMAGES, size)
    assert rounded.dtype == np.uint8
    np.testing.assert_allclose(rounded, expected, atol=0.51)


def test_luma_is_pils():
    expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in IMAGES])
    gray = images.convert_channels(IMAGES, 1)[..., 0]
    assert np.abs(gray.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(
        images.convert_channels(gray[..., None], 3), np.repeat(gray[..., None], 3, 3)
    )
    with pytest.raises(UserError, match="needs images of 1 or 3"):
        images.convert_channels(np.zeros((1, 2, 2, 4)), 3)
