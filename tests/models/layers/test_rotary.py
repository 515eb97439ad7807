"""Rotary positions need pairs of features; parity tests compare their values."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.models.layers.rotary import RotaryPositions, rotate


@pytest.mark.parametrize("share", [0.25, 0.75, 0.1])
def test_a_share_without_pairs_is_refused(share):
    x, positions = jnp.ones((1, 3, 2, 4)), jnp.arange(3)[None]
    message = rf"rope_share={share} of a head's 4 features are {int(4 * share)}, "
    with pytest.raises(UserError, match=message):
        rotate(x, positions, RotaryPositions(share=share))


def test_a_pair_turns_by_position_times_frequency():
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    turned = rotate(x, jnp.full((1, 1), 5), RotaryPositions(share=0.5))
    # The frequency of the first pair is 1; the other half of the features stays.
    expected = [np.cos(5) - 2 * np.sin(5), 2 * np.cos(5) + np.sin(5), 3.0, 4.0]
    np.testing.assert_allclose(turned.ravel(), expected, rtol=1e-6)
