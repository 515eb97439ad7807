"""VAT: its direction against the Hessian's eigenvector, its value in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pseudo_targets import softmax

import jaxtl as tl
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.models import MLP, Llama
from jaxtl.terms.context import View
from jaxtl.terms.semi import pseudo_targets, vat


def _linear(seed=0, n=3, width=5, classes=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)), rng.normal(size=(width, classes))


def _worst(p, w):
    """Returns the dominant eigenvector of W (diag p − p pᵀ) Wᵀ, the KL's Hessian."""
    values, vectors = np.linalg.eigh(w @ (np.diag(p) - np.outer(p, p)) @ w.T)
    return vectors[:, -1], values


def test_the_direction_is_the_hessians_dominant_eigenvector():
    x, w = _linear()
    p = softmax(x @ w)
    x32, w32 = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)

    def distance(r):
        return pseudo_targets.kl(jnp.asarray(p, jnp.float32), (x32 + r) @ w32).sum()

    start = jax.random.normal(jax.random.key(0), x.shape)
    actual = vat.adversarial_direction(distance, start, steps=60, size=1e-2)
    for d, row in zip(np.asarray(actual), p):
        direction, values = _worst(row, w)
        assert values[-2] < 0.9 * values[-1]  # else sixty iterations are too few
        np.testing.assert_allclose(np.linalg.norm(d), 1, rtol=1e-5)
        assert abs(d @ direction) > 0.999


def test_one_iteration_is_one_product_with_the_hessian():
    x, w = _linear(1)
    p = softmax(x @ w)
    x32, w32 = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    start = np.random.default_rng(2).normal(size=x.shape)

    def distance(r):
        return pseudo_targets.kl(jnp.asarray(p, jnp.float32), (x32 + r) @ w32).sum()

    actual = vat.adversarial_direction(
        distance, jnp.asarray(start, jnp.float32), steps=1, size=1e-2
    )
    for d, first, row in zip(np.asarray(actual), start, p):
        product = w @ (np.diag(row) - np.outer(row, row)) @ w.T @ first
        np.testing.assert_allclose(d, product / np.linalg.norm(product), atol=0.02)


def test_an_example_that_nothing_changes_gets_no_direction():
    actual = vat.adversarial_direction(
        lambda r: 0 * r.sum(), jnp.ones((2, 3)), steps=2, size=0.1
    )
    np.testing.assert_array_equal(actual, np.zeros((2, 3)))


def test_unit_survives_gradients_whose_squares_underflow():
    actual = vat.unit(jnp.asarray([[3e-30, 4e-30], [0.0, 0.0]]))
    np.testing.assert_allclose(actual, [[0.6, 0.8], [0, 0]], rtol=1e-5)


def test_the_value_of_a_linear_model_is_the_closed_form(bench):
    harness = bench(model=MLP(outputs=3, widths=()))
    term = tl.semi.VAT(radius=0.7, steps=80)
    term.check(harness.setup)
    value = term(View(harness.context(), "term", 0))
    x = np.asarray(harness.batches["unlabelled"]["x"], np.float64)
    w = np.asarray(harness.params["head"]["dense"]["kernel"], np.float64)
    b = np.asarray(harness.params["head"]["dense"]["bias"], np.float64)
    p = softmax(x @ w + b)
    either = []
    for row, example in zip(p, x):
        direction, _ = _worst(row, w)
        perturbed = [softmax((example + s * 0.7 * direction) @ w + b) for s in (1, -1)]
        either.append([(row * np.log(row / q)).sum() for q in perturbed])
    either = np.asarray(either)  # the sign is the start's; the value lies between
    assert either.min(1).mean() * 0.99 <= value <= either.max(1).mean() * 1.01
    larger = tl.semi.VAT(radius=1.4, steps=80)(View(harness.context(), "term", 0))
    assert larger > value


def test_the_gradient_is_that_of_a_fixed_move_and_target(bench):
    harness = bench()
    term = tl.semi.VAT(radius=0.5)
    x = harness.batches["unlabelled"]["x"]
    view = View(harness.context(), "term", 0)
    drawing, _ = jax.random.split(view.key)
    p = pseudo_targets.softmax(
        harness.network.apply(harness.params, harness.stats, x).logits
    )

    def distance(r, params):
        return pseudo_targets.kl(
            p, harness.network.apply(params, harness.stats, x + r).logits
        )

    d = vat.adversarial_direction(
        lambda r: distance(r, harness.params).sum(),
        jax.random.normal(drawing, x.shape),
        steps=1,
        size=1e-2,
    )
    theirs = jax.grad(lambda params: distance(0.5 * d, params).mean())(harness.params)
    ours = jax.grad(lambda params: term(View(harness.context(params), "term", 0)))(
        harness.params
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def _texts(bench):
    model = Llama(
        vocab=11,
        width=8,
        layers=1,
        heads=2,
        hidden=8,
        context=16,
        predict="class",
        outputs=3,
    )
    harness = bench("language", model=model)
    harness.task = "classification"
    return harness


def test_texts_are_moved_at_their_embeddings(bench):
    harness = _texts(bench)
    term = tl.semi.VAT(radius=2.0)
    term.check(harness.setup)
    assert harness.network.stages[0] in term.describe(harness.setup)

    def value(params):
        return term(View(harness.context(params), "term", 0))

    value, grads = jax.jit(jax.value_and_grad(value))(harness.params)
    assert value > 0
    assert trees.all_finite(grads)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": "head"}, "before the head"),
        ({"stage": "layer2"}, "did you mean 'layer1'"),
        ({"radius": 0.0}, "above 0"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_wrong_fields_are_named(bench, fields, message):
    with pytest.raises(UserError, match=message):
        tl.semi.VAT(**fields).check(bench().setup)
