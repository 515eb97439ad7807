"""Jacobian difference against double backpropagation and closed forms in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Source
from jaxtl.models import CNN, MLP, Bert, ResNet
from jaxtl.terms.base import Term
from jaxtl.terms.context import View, loss
from jaxtl.terms.regularizers import JacobianDifference
from jaxtl.terms.regularizers import jacobian_estimates as J

_PROJECTED = {"params": J.projected_params, "inputs": J.projected_inputs}


def _forward_params(f, params, source_params, x, key, probes=1):
    own, source = (J.tangents(lambda p: f(p, x), p) for p in (params, source_params))
    keys = jax.random.split(key, probes)
    return J.forward(own, source, [J.random_signs(k, params) for k in keys])


def _forward_inputs(f, params, source_params, x, key, probes=1):
    own, source = (
        J.tangents(lambda z, p=p: f(p, z), x) for p in (params, source_params)
    )
    keys = jax.random.split(key, probes)
    return J.forward(own, source, [J.random_signs(k, x) for k in keys])


_FORWARD = {"params": _forward_params, "inputs": _forward_inputs}
_DRAWN = {"projected": _PROJECTED, "forward": _FORWARD}
_EXACT = {"params": J.exact_params, "inputs": J.exact_inputs}


@pytest.fixture
def double():
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield


def _perceptron(params, x):
    h = jnp.tanh(x @ params["w1"] + params["b1"])
    return jnp.tanh(h @ params["w2"]) @ params["w3"]


def _draw(seed, n=5, d=3, hidden=4, outputs=3):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (d, hidden), "b1": (hidden,), "w2": (hidden, hidden)}
    shapes["w3"] = (hidden, outputs)
    theta, start = (
        {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()} for _ in "ab"
    )
    return theta, start, jnp.asarray(rng.normal(size=(n, d)))


@pytest.mark.usefixtures("double")
def test_linear_functions_in_closed_form():
    # f = x W: ∂f_c/∂W is x in column c whatever W is; ∂f/∂x is Wᵀ.
    rng = np.random.default_rng(0)
    w, w0, x = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), rng.normal(size=(5, 3))

    def f(p, x):
        return x @ p["w"]

    a, b = {"w": jnp.asarray(w)}, {"w": jnp.asarray(w0)}
    np.testing.assert_allclose(J.exact_params(f, a, b, x), 0, atol=1e-20)
    expected = np.sum((w - w0) ** 2)
    np.testing.assert_allclose(J.exact_inputs(f, a, b, x), expected, rtol=1e-12)

    # f = ½ (x · w)²: ∂f/∂w = (x · w) x, so Ω = mean (x · (w − w₀))² ‖x‖².
    def square(p, x):
        return 0.5 * (x @ p["w"]) ** 2

    a, b = {"w": a["w"][:, :1]}, {"w": b["w"][:, :1]}
    gap = (x @ (w - w0)[:, 0]) ** 2
    expected = np.mean(gap * np.sum(x**2, 1))
    np.testing.assert_allclose(J.exact_params(square, a, b, x), expected, rtol=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrt", ["params", "inputs"])
def test_exact_by_finite_differences(wrt):
    theta, start, x = _draw(0, n=2)

    def numeric(params, row):
        if wrt == "params":
            return _differences(lambda p: _perceptron(p, row[None])[0], params)
        return _differences(lambda z: _perceptron(params, z[None])[0], row)

    gaps = [jnp.sum((numeric(theta, row) - numeric(start, row)) ** 2) for row in x]
    found = _EXACT[wrt](_perceptron, theta, start, x)
    np.testing.assert_allclose(found, np.mean(gaps), rtol=1e-6)


def _differences(fn, at, step=1e-5):
    """Returns the Jacobian by central differences, (flat size of at, outputs)."""
    flat, unravel = ravel_pytree(at)
    steps = step * jnp.eye(flat.size)
    there, back = (
        jax.vmap(lambda v: fn(unravel(v)))(flat + s) for s in (steps, -steps)
    )
    return (there - back) / (2 * step)


def _double_backprop(wrt, signs, theta, start, x):
    """The estimate as its definition reads; jax.grad of it reverses twice."""

    def g(p):
        if wrt == "params":
            return jax.grad(lambda p: jnp.sum(signs * _perceptron(p, x)))(p)
        return jax.grad(lambda z: jnp.sum(signs * _perceptron(p, z)))(x)

    gap = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), g(theta), g(start))
    return sum(jax.tree.leaves(gap)) / len(x)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrt", ["params", "inputs"])
@pytest.mark.parametrize("probes", [1, 3])
def test_value_and_gradient_are_those_of_double_backpropagation(wrt, probes):
    theta, start, x = _draw(1)
    key = jax.random.key(0)
    fn = jax.jit(
        jax.value_and_grad(
            lambda p: _PROJECTED[wrt](_perceptron, p, start, x, key, probes)
        )
    )
    value, grad = fn(theta)
    signs = [
        jax.random.rademacher(k, (5, 3), jnp.float64)
        for k in jax.random.split(key, probes)
    ]
    expected, slope = jax.value_and_grad(
        lambda p: sum(_double_backprop(wrt, s, p, start, x) for s in signs) / probes
    )(theta)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for name in theta:
        np.testing.assert_allclose(grad[name], slope[name], rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrt", ["params", "inputs"])
@pytest.mark.parametrize("estimator", _DRAWN)
def test_an_estimate_is_unbiased_in_value_and_gradient(estimator, wrt):
    theta, start, x = _draw(2)
    draws = 400

    def one(key):
        return jax.value_and_grad(
            lambda p: _DRAWN[estimator][wrt](_perceptron, p, start, x, key)
        )(theta)

    values, grads = jax.vmap(one)(jax.random.split(jax.random.key(3), draws))
    exact, slope = jax.value_and_grad(lambda p: _EXACT[wrt](_perceptron, p, start, x))(
        theta
    )
    error = values.std(ddof=1) / np.sqrt(draws)
    assert abs(values.mean() - exact) < 3 * error
    assert error < 0.1 * exact  # so that the line above says something
    for name in theta:
        spread = grads[name].std(0, ddof=1) / np.sqrt(draws)
        # About 50 entries: 4.5 standard errors keep a chance of 3e-4 for all of them.
        assert np.all(np.abs(grads[name].mean(0) - slope[name]) < 4.5 * spread + 1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrt", ["params", "inputs"])
def test_the_forward_estimate_is_that_of_whole_jacobians(wrt):
    theta, start, x = _draw(1)
    key, draws = jax.random.key(0), 3
    rows = range(len(x))

    def jacobians(params):
        if wrt == "params":
            jac = jax.jacrev(lambda p: _perceptron(p, x))(params)
            parts = [jac[k].reshape(*jac[k].shape[:2], -1) for k in sorted(jac)]
            return jnp.concatenate(parts, -1)
        jac = jax.jacrev(lambda z: _perceptron(params, z))(x)
        return jnp.stack([jac[i, :, i] for i in rows])

    leaves = [theta[k] for k in sorted(theta)] if wrt == "params" else [x]
    directions = []
    for k in jax.random.split(key, draws):
        draw = J.random_signs(k, leaves)
        flat = jnp.concatenate([a.ravel() for a in draw])
        directions.append(jnp.stack([flat] * len(x)) if wrt == "params" else draw[0])

    def expected(params):
        gap = jacobians(params) - jax.lax.stop_gradient(jacobians(start))
        along = [jnp.einsum("ncp,np->nc", gap, u) for u in directions]
        return sum(jnp.sum(a**2) for a in along) / (draws * len(x))

    def ours(params):
        return _FORWARD[wrt](_perceptron, params, start, x, key, draws)

    values, grads = zip(*(jax.value_and_grad(f)(theta) for f in (ours, expected)))
    np.testing.assert_allclose(*values, rtol=1e-10)
    for name in theta:
        np.testing.assert_allclose(*(g[name] for g in grads), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("double")
def test_gradients_reach_what_the_function_closes_over():
    theta, start, x = _draw(4)
    key = jax.random.key(0)
    signs = jax.random.rademacher(jax.random.split(key, 1)[0], (5, 3), jnp.float64)

    def part(p):
        return {"w1": p["w1"]}, {k: v for k, v in p.items() if k != "w1"}

    def ours(p):
        chosen, rest = part(p)
        _, rest0 = part(start)
        return J.projected_params(
            lambda q, x: _perceptron({**q, **rest}, x),
            chosen, part(start)[0], x, key,
            source_f=lambda q, x: _perceptron({**q, **rest0}, x),
        )  # fmt: skip

    def naive(p):
        def g(p):
            fn = lambda w: jnp.sum(signs * _perceptron({**p, "w1": w}, x))  # noqa: E731
            return jax.grad(fn)(p["w1"])

        return jnp.sum((g(p) - g(start)) ** 2) / len(x)

    found, expected = jax.grad(ours)(theta), jax.grad(naive)(theta)
    assert np.any(expected["w3"])
    for name in theta:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12)


def test_the_value_does_not_drown_near_the_source():
    theta, start, x = jax.tree.map(lambda a: a.astype(jnp.float32), _draw(5))
    near = jax.tree.map(lambda a, b: a + 1e-3 * b, start, theta)
    key = jax.random.key(0)
    single = J.projected_params(_perceptron, near, start, x, key)
    signs = np.asarray(
        jax.random.rademacher(jax.random.split(key, 1)[0], (5, 3), jnp.float32)
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)),
                            (near, start, x))  # fmt: skip
        exact = _double_backprop("params", jnp.asarray(signs, jnp.float64), *wide)
    np.testing.assert_allclose(single, exact, rtol=1e-3)


# --- how signs are drawn --------------------------------------------------------------


def test_random_signs_are_fair_and_independent():
    tree = {"a": jnp.zeros((5, 7)), "b": jnp.zeros((), jnp.float16)}
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: J.random_signs(key, tree))(keys)
    assert [draws[k].dtype for k in "ab"] == [jnp.float32, jnp.float16]
    flat = np.concatenate([draws["a"].reshape(4000, 35), draws["b"][:, None]], 1)
    assert set(np.unique(flat)) == {-1.0, 1.0}
    # Means and products of two entries have a standard error of 1/√4000; 4.5 of them
    # leave a chance of 0.5 % for all 666.
    moments = np.concatenate([np.ones((4000, 1)), flat], 1)
    gap = moments.T.astype(np.float64) @ moments / 4000 - np.eye(37)
    assert np.abs(gap).max() < 4.5 / np.sqrt(4000)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("draws", "probes"), [("signs", 1), ("orthogonal", 2)])
def test_over_all_signs_the_mean_is_exact(monkeypatch, draws, probes):
    theta, start, x = _draw(6, n=2, outputs=2)
    patterns = 1 - 2 * jnp.asarray(np.indices((2,) * 4).reshape(4, 16).T, float)

    def one(pattern):
        def fixed(key, shape, dtype):
            return pattern.reshape(shape).astype(dtype)

        monkeypatch.setattr(jax.random, "rademacher", fixed)
        return jax.value_and_grad(
            lambda p: J.projected_params(
                _perceptron, p, start, x, jax.random.key(0), probes, draws=draws
            )
        )(theta)

    values, grads = jax.vmap(one)(patterns)
    exact, slope = jax.value_and_grad(
        lambda p: J.exact_params(_perceptron, p, start, x)
    )(theta)
    assert values.std() > 0.01 * exact
    np.testing.assert_allclose(values.mean(), exact, rtol=1e-12)
    for name in theta:
        np.testing.assert_allclose(grads[name].mean(0), slope[name], atol=1e-10)
    # A draw and its negative are one: the last pattern is the first, negated.
    np.testing.assert_allclose(values, values[::-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("probes", "shape"),
    [(1, (3, 4)), (2, (3, 2)), (3, (2, 5)), (4, (6, 3)), (8, (2, 9))],
)
def test_orthogonal_draws(probes, shape):
    key = jax.random.key(1)
    v = np.asarray(J.signs(key, probes, shape, jnp.float32, "orthogonal"))
    assert v.shape == (probes, *shape)
    assert set(np.unique(v)) <= {-1.0, 1.0}
    # The first draw is plain signs: all independent, so E v vᵀ = 1 in each draw.
    np.testing.assert_array_equal(v[0], jax.random.rademacher(key, shape, jnp.float32))
    if probes == 3:
        return  # not a power of two: nearly orthogonal only
    for rows in (*np.moveaxis(v, 1, 0), *np.moveaxis(v, 2, 0)):
        # The outputs of one example, or the examples of one output.
        m = rows.T @ rows / probes
        index = np.arange(len(m))
        agree = (index[:, None] - index) % probes == 0
        np.testing.assert_array_equal(np.abs(m), agree)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("wrt", ["params", "inputs"])
def test_orthogonal_draws_leave_no_noise_within_an_example(wrt):
    theta, start, x = _draw(7, n=1)  # of three outputs

    def draw(key):
        return jax.value_and_grad(
            lambda p: _PROJECTED[wrt](
                _perceptron, p, start, x, key, 4, draws="orthogonal"
            )
        )(theta)

    exact, slope = jax.value_and_grad(lambda p: _EXACT[wrt](_perceptron, p, start, x))(
        theta
    )
    value, grad = draw(jax.random.key(8))
    np.testing.assert_allclose(value, exact, rtol=1e-10)
    for name in theta:
        np.testing.assert_allclose(grad[name], slope[name], rtol=1e-9, atol=1e-10)


# --- the term -----------------------------------------------------------------------


def _value(term, room, **changes):
    def fn(params):
        return loss({"term": term}, room.context(params, **changes))[0]

    return jax.jit(jax.value_and_grad(fn))


_MODELS = {
    "mlp": MLP(outputs=3, widths=(8, 6), activation="gelu"),
    "cnn": CNN(outputs=3, widths=(3, 4), units=5),
    "batchnorm": CNN(outputs=3, widths=(3, 4), units=5, norm=True),
    "resnet": ResNet(outputs=3, depth=8, width=2),
    "bert": Bert(outputs=3, vocab=9, width=8, layers=2, heads=2, hidden=12, context=6),
}


def _image_room(bench, name, **kwargs):
    room = bench(model=_MODELS["mlp"], **kwargs)
    if name == "mlp":
        return room
    network = _MODELS[name].pure()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 8, 8, 1)), jnp.float32)
    if name == "bert":
        ids = jnp.asarray(rng.integers(0, 9, (6, 5)))
        x = {"input_ids": ids, "attention_mask": jnp.arange(5) < jnp.arange(6)[:, None]}
    room.network = network
    room.batches = {k: {**b, "x": x} for k, b in room.batches.items()}
    start, room.stats = network.init(jax.random.key(0), x)
    room.source = Source(start, room.stats, start["head"])
    room.params = jax.tree.map(lambda a: a * 1.1, start)
    room.mask = jax.tree.map(lambda _: True, start)
    return room


@pytest.mark.parametrize(
    ("model", "wrt", "estimator"),
    [
        ("mlp", "params", "projected"),
        ("mlp", "inputs", "projected"),
        ("mlp", "params", "exact"),
        ("mlp", "inputs", "exact"),
        ("cnn", "params", "projected"),
        ("cnn", "inputs", "projected"),
        ("batchnorm", "params", "projected"),
        ("batchnorm", "params", "exact"),
        ("resnet", "params", "projected"),
        ("mlp", "params", "forward"),
        ("mlp", "inputs", "forward"),
        ("batchnorm", "params", "forward"),
        pytest.param("resnet", "params", "forward", marks=pytest.mark.slow),
        pytest.param("bert", "params", "forward", marks=pytest.mark.slow),
    ],
)
def test_exactly_zero_at_the_source(bench, model, wrt, estimator):
    room = _image_room(bench, model)
    term = JacobianDifference(wrt=wrt, estimator=estimator)
    term.check(room.setup)
    value, grad = _value(term, room)(room.source.params)
    assert value == 0.0
    assert all(not np.any(g) for g in jax.tree.leaves(grad))
    value, grad = _value(term, room)(room.params)
    assert value > 0
    assert trees.all_finite(grad)


@pytest.mark.parametrize(
    ("model", "wrt", "estimator"),
    [
        ("mlp", "params", "projected"),
        ("mlp", "inputs", "projected"),
        ("batchnorm", "params", "projected"),
        ("batchnorm", "params", "forward"),
        pytest.param("cnn", "inputs", "forward", marks=pytest.mark.slow),
        pytest.param("resnet", "params", "forward", marks=pytest.mark.slow),
        pytest.param("bert", "params", "forward", marks=pytest.mark.slow),
    ],
)
def test_the_term_estimates_its_exact_self(bench, model, wrt, estimator):
    room = _image_room(bench, model)
    exact, _ = _value(JacobianDifference(wrt=wrt, estimator="exact"), room)(room.params)

    def draw(seed):
        term = JacobianDifference(wrt=wrt, estimator=estimator)
        context = room.context(key=jax.random.key(seed))
        return term(View(context, "term", 0))

    values = jax.jit(lambda: jax.lax.map(draw, jnp.arange(200)))()
    error = values.std(ddof=1) / np.sqrt(200)
    assert abs(values.mean() - exact) < 3 * error + 1e-5 * exact


class _Logits(Term):
    """Reads the pass of the target, as a task does."""

    def __call__(self, context):
        return jnp.sum(context.forward("target").logits ** 2)


@pytest.mark.parametrize(("fraction", "probes"), [(1.0, 1), (0.5, 1), (1.0, 2)])
@pytest.mark.parametrize("stage", [None, "layer1"])
def test_the_forward_estimate_shares_the_pass_of_the_task(
    bench, fraction, probes, stage
):
    """The same value and gradient as by passes of its own; one pass less."""
    room = bench(model=_MODELS["mlp"])
    term = JacobianDifference(
        estimator="forward", fraction=fraction, probes=probes, stage=stage
    )
    calls = []
    network = room.network

    def apply(*args, **settings):
        calls.append(settings)
        return network.apply(*args, **settings)

    room.network = dataclasses.replace(network, apply=apply)

    def value(params, passes_first):
        context = room.context(params)
        if passes_first:
            context.forward("target")
        total, metrics = loss({"task": _Logits(), "term": term}, context)
        assert [*metrics] == ["loss", "task", "term"]
        return total

    results = []
    for passes_first in (False, True):
        calls.clear()
        fn = jax.value_and_grad(lambda p, first=passes_first: value(p, first))
        results.append((len(calls), *fn(room.params), len(calls)))
    (_, shared, shared_grad, few), (_, alone, alone_grad, many) = results
    np.testing.assert_allclose(shared, alone, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        shared_grad,
        alone_grad,
    )
    # The pass, once more to see whether it draws, its other rows, and the source's.
    further = 2 * (probes - 1)  # one of its own and one of the source's
    assert few == (3 if fraction == 1 else 4) + further
    assert many == 3 + further


@pytest.mark.parametrize("name", ["batchnorm", "dropout"])
def test_a_pass_that_trains_otherwise_is_not_shared(bench, name):
    room = bench(model=dataclasses.replace(_MODELS["mlp"], dropout=0.5))
    if name == "batchnorm":
        room = _image_room(bench, name)
    context = room.context()
    value = JacobianDifference(estimator="forward")(View(context, "term", 0))
    assert value > 0
    assert context._passes == {}


def test_a_moved_statistic_counts_and_gets_no_gradient(bench):
    room = _image_room(bench, "batchnorm")
    term = JacobianDifference()
    room.stats = jax.tree.map(lambda a: a + 0.5, room.stats)
    value, _ = _value(term, room)(room.source.params)
    assert value > 0  # θ = θ₀, yet the function is another

    def after_training(params, hold):
        # As a task loss before the term does: statistics are functions of θ then.
        context = room.context(params)
        context.forward("target")
        if hold:
            context.stats = jax.lax.stop_gradient(context.stats)
        return term(View(context, "term", 0))

    live, held = (
        jax.jit(jax.grad(lambda p, h=h: after_training(p, h)))(room.params)
        for h in (False, True)
    )
    for a, b in zip(jax.tree.leaves(live), jax.tree.leaves(held)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_fraction_takes_the_first_rows_and_keeps_the_scale(bench):
    room = bench(batch=8)
    x = room.batches["target"]["x"]

    def exact(rows, fraction=1.0):
        room.batches = {"target": {"x": rows, "y": None}}
        term = JacobianDifference(wrt="inputs", estimator="exact", fraction=fraction)
        return term(View(room.context(), "term", 0))

    np.testing.assert_allclose(exact(x, 0.25), exact(x[:2]), rtol=1e-6)
    np.testing.assert_allclose(exact(x, 0.01), exact(x[:1]), rtol=1e-6)
    twice = jnp.concatenate([x, x])
    np.testing.assert_allclose(exact(twice), exact(x), rtol=1e-5)


def test_every_third_step_counts_three_times(bench):
    room, key = bench(), jax.random.key(4)

    @jax.jit
    def both(step):
        def value(params, every):
            context = room.context(params, step=step, key=key)
            return JacobianDifference(every=every)(View(context, "term", 0))

        return [jax.value_and_grad(lambda p, k=k: value(p, k))(room.params)
                for k in (1, 3)]  # fmt: skip

    for step in range(7):
        (always, slope), (value, grad) = both(step)
        factor = 3.0 if step in (2, 5) else 0.0
        np.testing.assert_allclose(value, factor * always, rtol=1e-6)
        for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(slope)):
            np.testing.assert_allclose(a, factor * b, rtol=1e-5, atol=1e-7)


def test_the_steps_between_do_not_run_the_network(bench):
    room, ran = bench(), []
    plain = room.network.apply

    def counted(*args, **kwargs):
        jax.debug.callback(lambda: ran.append(1))
        return plain(*args, **kwargs)

    def step(params, number, every):
        context = room.context(params, step=number)
        return loss({"term": JacobianDifference(every=every)}, context)[0]

    gradient = jax.grad(step)
    whole = jax.jit(gradient, static_argnums=2).lower(room.params, 0, 2).compile()
    assert " conditional(" in whole.as_text()  # and not a choice between both values
    room.network = dataclasses.replace(room.network, apply=counted)
    run, counts = jax.jit(gradient, static_argnums=2), []
    for number in range(6):
        jax.block_until_ready(run(room.params, number, 3))
        jax.effects_barrier()
        counts.append(len(ran))
        ran.clear()
    assert counts[2] == counts[5] > 0
    assert [counts[i] for i in (0, 1, 3, 4)] == [0, 0, 0, 0]


def test_a_new_head_makes_it_the_features(bench):
    room = bench(model=_MODELS["mlp"], new_head=True)
    term = JacobianDifference(estimator="exact")
    term.check(room.setup)
    value, grad = _value(term, room)(room.params)
    said = term.describe(room.setup)
    assert "features of stage 'layer2'" in said
    assert "102 parameters of layer1, layer2" in said
    assert not np.any(jax.tree.leaves(grad["head"])[0])
    # By definition, from the features' own Jacobians.
    shared = ("layer1", "layer2")
    x = room.batches["target"]["x"]

    def features(p, row):
        full = {**room.params, **p}
        return room.network.apply(full, {}, row[None]).features["layer2"][0]

    total = 0.0
    for row in x:
        jacobians = [
            jax.jacfwd(features)({s: tree[s] for s in shared}, row)
            for tree in (room.params, room.source.params)
        ]
        total += trees.sum_squares(trees.sub(*jacobians))
    np.testing.assert_allclose(value, total / len(x), rtol=1e-4)


def test_the_whole_network_when_the_head_has_a_source(bench):
    room = bench(model=_MODELS["mlp"])
    assert "outputs" in JacobianDifference().describe(room.setup)
    assert "layer1" in JacobianDifference(stage="layer1").describe(room.setup)
    assert "inputs" in JacobianDifference(wrt="inputs").describe(room.setup)


@pytest.mark.parametrize(
    ("frozen", "select"), [(("layer1",), ".*"), ((), "layer2|head")]
)
def test_only_selected_trainable_leaves_are_differentiated_by(bench, frozen, select):
    room = bench(model=_MODELS["mlp"], frozen=frozen)
    term = JacobianDifference(estimator="exact", select=select)
    term.check(room.setup)
    value, _ = _value(term, room)(room.params)

    def jacobian(tree, row):
        def logits(part):
            return room.network.apply({**tree, **part}, {}, row[None]).logits[0]

        return jax.jacfwd(logits)({s: tree[s] for s in ("layer2", "head")})

    gaps = [
        trees.sub(jacobian(room.params, row), jacobian(room.source.params, row))
        for row in room.batches["target"]["x"]
    ]
    expected = np.mean([trees.sum_squares(gap) for gap in gaps])
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_errors(bench):
    room = bench()
    fresh = bench(new_head=True)
    for fields, where, message in (
        ({}, bench(scratch=True), "from scratch"),
        ({"stage": "layr1"}, room, "did you mean 'layer1'"),
        ({"wrt": "param"}, room, "did you mean 'params'"),
        ({"estimator": "exat"}, room, "did you mean 'exact'"),
        ({"fraction": 1.5}, room, r"in \[0, 1\]"),
        ({"probes": 0}, room, "at least 1"),
        ({"every": 0}, room, r"term\.every=0.*at least 1"),
        ({"draws": "sings"}, room, "did you mean 'signs'"),
        ({"estimator": "forward", "draws": "orthogonal"}, room, "draws='signs'"),
        ({"estimator": "dens"}, room, "did you mean 'dense'"),
        ({"select": "layr1"}, room, "did you mean 'layer1'"),
        ({"select": "head"}, fresh, "no trainable parameter"),
        ({"select": "head", "stage": "layer1"}, room, "at or before the stage"),
        ({"stream": "targets"}, room, "did you mean 'target'"),
    ):
        with pytest.raises(UserError, match=message):
            JacobianDifference(**fields).check(where.setup)
    ids = {"x": jnp.zeros((2, 3), jnp.int32), "y": None}
    context = dataclasses.replace(room.context(), batches={"target": ids})
    with pytest.raises(UserError, match=r"int32.*wrt='params'"):
        JacobianDifference(wrt="inputs")(View(context, "term", 0))
