"""Attention transfer against the authors' formula in torch, and by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import AttentionTransfer
from jaxtl.terms.regularizers.attention_transfer import (
    attention_distance,
    attention_map,
)

rng = np.random.default_rng(0)
PAIR = [rng.normal(size=(3, 10, 4)), rng.normal(size=(3, 10, 6))]


def _map(a):
    q = np.array([[sum(v**2 for v in place) for place in one] for one in a])
    return q / np.sqrt((q**2).sum(1, keepdims=True))


@pytest.mark.parametrize("squared", [True, False])
def test_the_distance_by_loops(squared):
    square = ((_map(PAIR[0]) - _map(PAIR[1])) ** 2).sum(1)
    expected = np.mean(square if squared else np.sqrt(square))
    with jax.enable_x64(True):
        got = attention_distance(*map(jnp.asarray, PAIR), squared)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_the_square_is_the_authors_times_the_positions():
    torch = pytest.importorskip("torch", reason="the reference is torch")

    def at(x):
        x = torch.tensor(x.transpose(0, 2, 1))
        return torch.nn.functional.normalize(x.pow(2).mean(1))

    theirs = (at(PAIR[0]) - at(PAIR[1])).pow(2).mean()
    ours = attention_distance(*map(jnp.float32, PAIR))
    np.testing.assert_allclose(ours, 10 * theirs, rtol=1e-5)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10))
@settings(max_examples=15, deadline=None)
def test_attention_has_norm_1_and_no_scale(seed, scale):
    a = jnp.float32(np.random.default_rng(seed).normal(size=(2, 7, 3)))
    q = attention_map(a)
    np.testing.assert_allclose(jnp.linalg.norm(q, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(attention_map(scale * a), q, rtol=1e-4)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("start", ["same", "dead"])
def test_gradients_are_finite_where_maps_agree_or_vanish(squared, start):
    theirs = jnp.float32(PAIR[0])
    ours = theirs if start == "same" else jnp.zeros_like(theirs)
    value, grad = jax.value_and_grad(attention_distance)(ours, theirs, squared)
    np.testing.assert_allclose(value, float(start == "dead"), atol=1e-6)
    assert not np.any(grad)


def test_the_term_sums_over_stages_and_skips_padding(bench):
    room = bench("language")
    term = AttentionTransfer()
    term.check(room.setup)
    assert term.describe(room.setup) == "attention of layer_0, norm"
    ours = room.context().forward("target").features
    theirs = room.context().source_forward("target").features
    expected = 0.0
    for stage in ("layer_0", "norm"):
        mask = np.asarray(ours[stage].mask)[..., None]
        a, b = (np.asarray(f[stage].states, np.float64) * mask for f in (ours, theirs))
        expected += ((_map(a) - _map(b)) ** 2).sum(1).mean()
    value = term(View(room.context(), "term", 0))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    still = bench("language", moved=0.0)
    assert term(View(still.context(), "term", 0)) < 1e-12


def test_errors(bench):
    with pytest.raises(UserError, match=r"'layer1' gives one vector per example"):
        AttentionTransfer().check(bench().setup)
    with pytest.raises(UserError, match=r"from scratch"):
        AttentionTransfer().check(bench("language", scratch=True).setup)
    with pytest.raises(UserError, match=r"did you mean 'layer_0'"):
        AttentionTransfer(stages=("layer0",)).check(bench("language").setup)
