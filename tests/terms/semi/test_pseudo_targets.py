"""What semi-supervised terms share, and pseudo-labels, by loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.terms.context import View
from jaxtl.terms.semi import pseudo_targets


def _logits(seed, n=7, classes=4, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=(n, classes))


def softmax(z):
    """Returns the softmax of rows in float64."""
    z = np.asarray(z, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_sharpening_is_the_equation():
    p = softmax(_logits(0))
    actual = pseudo_targets.sharpen(jnp.asarray(p, jnp.float32), 0.5)
    expected = np.stack([row**2 / sum(v**2 for v in row) for row in p])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_sharpening_keeps_the_order_and_raises_the_largest(seed, temperature):
    p = softmax(_logits(seed))
    actual = np.asarray(
        pseudo_targets.sharpen(jnp.asarray(p, jnp.float32), temperature)
    )
    np.testing.assert_allclose(actual.sum(-1), 1, rtol=1e-5)
    assert (actual.max(-1) >= p.max(-1) - 1e-5).all()
    np.testing.assert_array_equal(actual.argmax(-1), p.argmax(-1))


def test_sharpening_survives_numbers_that_underflow():
    p = jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.5, 1e-30]])
    actual = pseudo_targets.sharpen(p, 0.1)
    np.testing.assert_allclose(actual, [[1, 0, 0], [0.5, 0.5, 0]], atol=1e-6)


def test_masked_cross_entropy_divides_by_the_whole_batch():
    logits, labels = _logits(1), np.asarray([0, 1, 2, 3, 0, 1, 2])
    mask = np.asarray([1, 0, 1, 0, 0, 0, 1.0])
    total = 0.0
    for p, label, m in zip(softmax(logits), labels, mask):
        total -= m * np.log(p[label])
    args = (jnp.asarray(x) for x in (logits, labels, mask))
    np.testing.assert_allclose(
        pseudo_targets.masked_cross_entropy(*args), total / 7, rtol=1e-5
    )


def test_kl_and_distance_are_torchs():
    torch = pytest.importorskip("torch", reason="two formulas are held to torch's")
    p, q = softmax(_logits(2)), _logits(3)
    log_q = torch.log_softmax(torch.tensor(q), -1)
    theirs = torch.nn.functional.kl_div(log_q, torch.tensor(p), reduction="none").sum(1)
    np.testing.assert_allclose(
        pseudo_targets.kl(jnp.asarray(p), jnp.asarray(q)), theirs, rtol=1e-4
    )
    theirs = torch.nn.functional.mse_loss(torch.tensor(p), torch.tensor(softmax(q)))
    ours = pseudo_targets.squared_distance(jnp.asarray(p), jnp.asarray(softmax(q)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_prediction_of_zero_adds_nothing_to_kl():
    actual = pseudo_targets.kl(jnp.asarray([[1.0, 0.0]]), jnp.asarray([[2.0, 2.0]]))
    np.testing.assert_allclose(actual, [np.log(2)], rtol=1e-6)


def test_pseudo_labels_are_the_likeliest_classes_and_are_held(bench):
    harness = bench()
    x = harness.batches["unlabelled"]["x"]

    def value(params, threshold=0.0):
        context = harness.context(params)
        return tl.semi.PseudoLabel(threshold=threshold)(View(context, "term", 0))

    logits = harness.network.apply(harness.params, harness.stats, x).logits
    p = softmax(logits)
    actual, extra = value(harness.params)
    np.testing.assert_allclose(actual, -np.log(p.max(-1)).mean(), rtol=1e-5)
    assert extra["mask"] == 1
    np.testing.assert_allclose(extra["confidence"], p.max(-1).mean(), rtol=1e-5)
    half = float(np.median(p.max(-1)))
    actual, extra = value(harness.params, half)
    is_confident = p.max(-1) >= half - 1e-7
    np.testing.assert_allclose(extra["mask"], is_confident.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        actual, -(np.log(p.max(-1)) * is_confident).mean(), rtol=1e-5
    )
    # Labels are held: the gradient is that of cross-entropy with labels given.
    grads = jax.grad(lambda params: value(params)[0])(harness.params)
    labels = jnp.asarray(p.argmax(-1))
    theirs = jax.grad(
        lambda params: tl.losses.cross_entropy(
            harness.network.apply(params, harness.stats, x).logits, labels
        )
    )(harness.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), grads, theirs
    )


def test_pseudo_labels_default_weight_is_lees_ramp():
    weight = tl.semi.PseudoLabel().weight
    values = [float(weight.value(jnp.asarray(t), jnp.asarray(100))) for t in range(101)]
    for t, value in enumerate(values):
        alpha = 0 if t < 10 else 3 if t >= 60 else 3 * (t - 10) / 50
        assert abs(value - alpha) < 1e-5
