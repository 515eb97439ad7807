"""The dense layers' block of the Jacobian difference against per-example Jacobians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Source
from jaxtl.models import CNN, MLP, Bert
from jaxtl.terms.context import View
from jaxtl.terms.regularizers import JacobianDifference, dense_layers
from jaxtl.terms.regularizers.jacobian_dense import outer_distance

_TEXT = {
    "input_ids": np.random.default_rng(0).integers(0, 13, (3, 4)),
    "attention_mask": np.arange(4) < np.array([[4], [2], [3]]),
}
_BERT = Bert(
    outputs=2, vocab=13, width=4, layers=1, heads=2, context=6, hidden=5, pooling="mean"
)
_CNN = CNN(outputs=3, widths=(3, 4), units=5, activation="tanh", norm=True)
_MLP = MLP(outputs=3, widths=(6,), activation="gelu")


@pytest.fixture
def double():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield


@given(sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_distance_of_sums_of_outer_products(sizes, seed):
    # Both forms occur: with few places the inner products, with many the matrices.
    rng = np.random.default_rng(seed)
    n, t, i, o = sizes
    a, a0 = rng.normal(size=(2, n, t, i))
    d, d0 = rng.normal(size=(2, n, t, o))
    found = outer_distance(*(x.astype(np.float32) for x in (a, d, a0, d0)))
    for e in range(n):
        gap = np.zeros((i, o))
        for s in range(t):
            gap += np.outer(a[e, s], d[e, s]) - np.outer(a0[e, s], d0[e, s])
        np.testing.assert_allclose(found[e], np.sum(gap**2), rtol=1e-4, atol=1e-5)


def test_it_does_not_cancel_near_the_source():
    rng = np.random.default_rng(0)
    a0, d0 = rng.normal(size=(2, 1, 2, 40)).astype(np.float32)
    a, d = (x + np.float32(1e-4) * rng.normal(size=x.shape).astype(np.float32)
            for x in (a0, d0))  # fmt: skip
    wide = [np.float64(x)[0] for x in (a, d, a0, d0)]
    expected = np.sum((wide[0].T @ wide[1] - wide[2].T @ wide[3]) ** 2)
    np.testing.assert_allclose(outer_distance(a, d, a0, d0)[0], expected, rtol=1e-3)


def _room(bench, model, x=None, **kwargs):
    """Returns a bench of a model in float64 (where it is enabled), θ away from θ₀."""
    room = bench(model=_MLP, **kwargs)
    if x is None:
        x = room.batches["target"]["x"]
    room.network = model.pure()
    room.batches = {"target": {"x": x, "y": None}}
    start, room.stats = room.network.init(jax.random.key(0), x)
    other, _ = room.network.init(jax.random.key(1), x)
    wide = jnp.promote_types(jnp.result_type(float), jnp.float32)
    tree = jax.tree.map(lambda a: a.astype(wide), (start, other, room.stats))
    start, other, room.stats = tree
    room.source = Source(start, room.stats, start["head"])
    room.params = jax.tree.map(lambda a, b: a + 0.5 * b + 0.1, start, other)
    room.mask = jax.tree.map(lambda _: True, start)
    return room


def _images():
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 1))
    return jnp.asarray(x, jnp.result_type(float))


def _value(term, room, **changes):
    def fn(params):
        return term(View(room.context(params, **changes), "term", 0))

    return jax.jit(jax.value_and_grad(fn))(room.params)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("model", "x", "select", "stage"),
    [
        (_MLP, None, ".*", None),
        (_MLP, None, ".*/kernel", "layer1"),
        (_CNN, _images, "hidden|head", None),
        (_BERT, lambda: _TEXT, ".*(query|value|out|in|dense)", None),
    ],
    ids=["mlp", "mlp-kernels", "cnn", "bert"],
)
def test_it_is_the_exact_jacobian_difference_of_those_parameters(
    bench, model, x, select, stage
):
    room = _room(bench, model, x and x())
    term = JacobianDifference(estimator="dense", select=select, stage=stage)
    term.check(room.setup)
    reference = dataclasses.replace(term, estimator="exact")
    chosen = set(dense_layers.paths(room.params))
    leaves = trees.flatten(reference._leaf_mask(room.context()))
    counted = {path.rpartition("/")[0] for path, m in leaves.items() if m}
    assert counted <= chosen  # the reference is of the same parameters
    value, grad = _value(term, room)
    expected, slope = _value(reference, room)
    assert value > 1e-3
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    slope = trees.flatten(slope)
    # Gradients reach the leaves that it is not of, too: embeddings, convolutions.
    largest = max(np.abs(s).max() for s in slope.values())
    for path, leaf in trees.flatten(grad).items():
        np.testing.assert_allclose(
            leaf, slope[path], rtol=1e-5, atol=1e-6 * largest, err_msg=path
        )


@pytest.mark.usefixtures("double")
def test_its_projection_is_exact_where_the_draws_are_orthogonal(bench):
    # Three outputs, four orthogonal draws: no error within an example, none between.
    room = _room(bench, _MLP)
    exact, slope = _value(JacobianDifference(estimator="dense"), room)
    term = JacobianDifference(estimator="dense_projected", probes=4, draws="orthogonal")
    value, grad = _value(term, room)
    np.testing.assert_allclose(value, exact, rtol=1e-10)
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(slope)):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_its_projection_is_unbiased_with_less_noise(bench):
    room = _room(bench, _MLP)
    exact, _ = _value(JacobianDifference(estimator="dense"), room)
    found = {}
    for name in ("projected", "dense_projected"):

        def draw(seed, name=name):
            context = room.context(key=jax.random.key(seed))
            return JacobianDifference(estimator=name)(View(context, "term", 0))

        found[name] = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(400)))
        error = found[name].std(ddof=1) / 20
        assert abs(found[name].mean() - exact) < 3 * error
    assert found["dense_projected"].std() < found["projected"].std()


def test_many_outputs_go_a_few_at_a_time(bench):
    # Eleven units: more than are pulled back at once.
    room = _room(bench, MLP(outputs=3, widths=(11,), activation="tanh"))
    for select in ("layer1", "layer1/dense/bias"):
        term = JacobianDifference(estimator="dense", stage="layer1", select=select)
        value, grad = _value(term, room)
        expected, slope = _value(dataclasses.replace(term, estimator="exact"), room)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(slope)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_exactly_zero_at_the_source(bench):
    room = _room(bench, _CNN, _images())
    room.params = room.source.params
    for estimator in ("dense", "dense_projected"):
        value, grad = _value(JacobianDifference(estimator=estimator), room)
        assert value == 0.0
        assert all(not np.any(g) for g in jax.tree.leaves(grad))


def test_it_says_what_it_covers_and_refuses_what_it_can_t(bench):
    room = _room(bench, _CNN, _images())
    said = JacobianDifference(estimator="dense", every=4).describe(room.setup)
    assert "of the dense layers head/dense, hidden/dense, every 4 steps" in said
    count = sum(
        leaf.size
        for s in ("hidden", "head")
        for leaf in jax.tree.leaves(room.params[s])
    )
    assert f"by {count:,} parameters" in said
    for fields, message in (
        ({"wrt": "inputs"}, r"estimator='dense'.*wrt='inputs'.*use wrt='params'"),
        ({"select": "block1"}, r"none of the 3 parameters.*head/dense, hidden/dense"),
    ):
        with pytest.raises(UserError, match=message):
            JacobianDifference(estimator="dense", **fields).check(room.setup)
    room.network = dataclasses.replace(room.network, taps=None)
    with pytest.raises(UserError, match=r"term\.estimator='dense' reads the inputs"):
        JacobianDifference(estimator="dense").check(room.setup)
