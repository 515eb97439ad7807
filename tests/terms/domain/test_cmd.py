"""CMD: central moments by loops, and its gradient where moments agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import CMD
from jaxtl.terms.domain.cmd import central_moments


def _loop(s, t, moments, span):
    """The definition, a coordinate and an example at a time."""

    def moment(x, k):
        mean = sum(x) / len(x)
        return mean if k == 1 else sum((value - mean) ** k for value in x) / len(x)

    total = 0.0
    for k in range(1, moments + 1):
        columns = zip(s.T, t.T)
        square = sum((moment(a, k) - moment(b, k)) ** 2 for a, b in columns)
        total += np.sqrt(square) / span**k
    return total


@pytest.mark.parametrize(("moments", "span"), [(1, 1.0), (2, 2.0), (5, 1.0), (5, 2.0)])
def test_the_definition_by_loops(moments, span):
    rng = np.random.default_rng(0)
    s, t = np.tanh(rng.normal(size=(6, 4))), np.tanh(1 + rng.normal(size=(9, 4)))
    actual = central_moments(jnp.float32(s), jnp.float32(t), moments, span)
    np.testing.assert_allclose(actual, _loop(s, t, moments, span), rtol=1e-5)


def test_equal_domains_are_at_distance_0_with_a_finite_gradient():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    value, grad = jax.value_and_grad(lambda s: central_moments(s, x))(x)
    assert value == 0
    np.testing.assert_array_equal(grad, 0.0)
    single_gradient = jax.grad(lambda s: central_moments(s, x))(x[:1])
    assert jnp.all(jnp.isfinite(single_gradient))


def test_the_term_reads_both_streams(bench):
    harness = bench()
    term = CMD(span=2.0)
    term.check(harness.setup)
    features = [
        np.float64(
            harness.network.apply(
                harness.params, harness.stats, harness.batches[name]["x"]
            ).features["layer1"]
        )
        for name in term.streams
    ]
    value = term(View(harness.context(), "term", 0))
    np.testing.assert_allclose(value, _loop(*features, 5, 2.0), rtol=1e-4)


def test_errors(bench):
    for fields, message in (
        ({"moments": 0}, "moments=0"),
        ({"span": 0.0}, "span=0.0: expected a number above 0"),
        ({"stages": ("stem",)}, "no such stage"),
    ):
        with pytest.raises(UserError, match=message):
            CMD(**fields).check(bench().setup)
