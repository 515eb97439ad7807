"""DeepJDOT: costs by loops; plans against scipy's assignment and linear programme."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import DeepJDOT, deepjdot


@pytest.fixture
def ott():
    """Skips where ott-jax is not installed."""
    return pytest.importorskip("ott", reason="plans are computed by ott-jax")


def _exact(cost):
    """Returns the least Σ γ C of uniform batches, by linear programming."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solution = linprog(
        cost.ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
    )
    return solution.fun


def test_costs_by_loops():
    rng = np.random.default_rng(0)
    s, t, z = (rng.normal(size=shape) for shape in ((4, 3), (5, 3), (5, 6)))
    y = rng.integers(0, 6, 4)
    distances = [[np.sum((a - b) ** 2) for b in t] for a in s]
    actual = deepjdot.feature_cost(jnp.float32(s + 100), jnp.float32(t + 100))
    np.testing.assert_allclose(actual, distances, rtol=1e-4)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    wrong = [[-row[label] for row in log_p] for label in y]
    for labels in (jnp.asarray(y), jax.nn.one_hot(y, 6)):
        actual = deepjdot.label_cost(labels, jnp.float32(z))
        np.testing.assert_allclose(actual, wrong, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(8, 8), (6, 9), (1, 5)])
def test_the_plan_nears_the_exact_one(ott, sizes):
    rng = np.random.default_rng(0)
    cost = np.sum(
        (rng.normal(size=(sizes[0], 1, 2)) - rng.normal(size=(1, sizes[1], 2))) ** 2, -1
    )
    actual = np.float64(jax.jit(deepjdot.transport_plan)(jnp.float32(cost), 0.002))
    np.testing.assert_allclose(actual.sum(1), 1 / sizes[0], atol=2e-3)
    np.testing.assert_allclose(actual.sum(0), 1 / sizes[1], atol=2e-3)
    minimum = _exact(cost)
    if sizes[0] == sizes[1]:
        i, j = linear_sum_assignment(cost)
        np.testing.assert_allclose(cost[i, j].mean(), minimum, rtol=1e-6)
    np.testing.assert_allclose((actual * cost).sum(), minimum, rtol=0.02)


def test_a_cost_of_zeros_is_carried_evenly(ott):
    actual = deepjdot.transport_plan(jnp.zeros((3, 4)))
    np.testing.assert_allclose(actual, 1 / 12, rtol=1e-3)


def test_the_term_is_the_plans_cost_and_holds_the_plan(ott, bench):
    harness = bench(moved=0.5)
    term = DeepJDOT(feature=0.1, label=0.5, epsilon=0.01)
    term.check(harness.setup)

    @jax.jit
    def value(params):
        return term(View(harness.context(params), "term", 0))

    def numpy_cost(params):
        out = [
            harness.network.apply(params, harness.stats, harness.batches[name]["x"])
            for name in term.streams
        ]
        s, t = (np.float64(o.features["layer1"]) for o in out)
        z = np.float64(out[1].logits)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        distances = np.sum((s[:, None] - t) ** 2, -1)
        labels = np.asarray(harness.batches["source"]["y"])
        return 0.1 * distances - 0.5 * log_p[:, labels].T

    cost = numpy_cost(harness.params)
    actual, extra = value(harness.params)
    np.testing.assert_allclose(actual, _exact(cost), rtol=0.02)
    parts = 0.1 * extra["features"] + 0.5 * extra["labels"]
    np.testing.assert_allclose(parts, actual, rtol=1e-5)
    # Along one parameter: the change of Σ γ C at the plan of here.
    plan = np.float64(deepjdot.transport_plan(jnp.float32(cost), 0.01))
    grads = jax.grad(lambda p: value(p)[0])(harness.params)
    kernel = harness.params["layer1"]["dense"]["kernel"]
    moved = []
    for sign in (1, -1):
        layer = {**harness.params["layer1"]["dense"]}
        layer["kernel"] = kernel.at[0, 0].add(sign * 1e-2)
        moved.append(numpy_cost({**harness.params, "layer1": {"dense": layer}}))
    slope = (plan * (moved[0] - moved[1])).sum() / 2e-2
    np.testing.assert_allclose(
        grads["layer1"]["dense"]["kernel"][0, 0], slope, rtol=0.02, atol=1e-4
    )


def test_without_ott_one_sentence_says_what_to_install(bench, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "ott" else real(n, *a)
    )
    monkeypatch.setitem(__import__("sys").modules, "ott.geometry", None)
    with pytest.raises(UserError, match=r"pip install 'jaxtl\[ot\]'"):
        DeepJDOT().check(bench().setup)
    with pytest.raises(UserError, match=r"pip install 'jaxtl\[ot\]'"):
        deepjdot.transport_plan(jnp.ones((2, 2)))


def test_errors(bench):
    setup = bench().setup
    for fields, message in (
        ({"epsilon": 0.0}, r"epsilon=0\.0: expected a number above 0"),
        ({"feature": -1.0}, "feature=-1.0"),
        ({"iterations": 0}, "iterations=0"),
        ({"source": "unlabelled"}, "this stream has no labels"),
    ):
        with pytest.raises(UserError, match=message):
            DeepJDOT(**fields).check(setup)
