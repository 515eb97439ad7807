"""Deep CORAL against numpy's covariance, and the laws that it obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.core.errors import UserError
from jaxtl.terms.context import View
from jaxtl.terms.domain import DeepCORAL
from jaxtl.terms.domain.coral import coral


@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), m=st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_against_numpy(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 5)), rng.normal(size=(m, 5)) * 2 + 1
    gap = np.cov(a, rowvar=False) - np.cov(b, rowvar=False)
    expected = np.linalg.norm(gap, "fro") ** 2 / (4 * 5**2)
    with jax.enable_x64(True):
        actual = coral(jnp.asarray(a), jnp.asarray(b))
        np.testing.assert_allclose(actual, expected, rtol=1e-10)
        # Symmetric, blind to shifts and to the order of rows.
        np.testing.assert_allclose(actual, coral(jnp.asarray(b + 7), a), rtol=1e-10)
        np.testing.assert_allclose(actual, coral(jnp.asarray(a[::-1]), b), rtol=1e-10)


def test_the_term_reads_the_stages_named(bench):
    harness = bench()
    outs = {
        name: harness.network.apply(
            harness.params, harness.stats, harness.batches[name]["x"]
        )
        for name in ("source", "unlabelled")
    }

    def gap(stage):
        cov = [np.cov(out.features[stage], rowvar=False) for out in outs.values()]
        return np.sum((cov[0] - cov[1]) ** 2) / (4 * len(cov[0]) ** 2)

    for stages, expected in (
        (None, gap("layer1")),
        (("layer1", "head"), gap("layer1") + gap("head")),
    ):
        term = DeepCORAL(stages=stages)
        term.check(harness.setup)
        value = term(View(harness.context(), "term", 0))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_errors(bench):
    with pytest.raises(UserError, match="at least 2"):
        coral(jnp.zeros((1, 3)), jnp.zeros((4, 3)))
    with pytest.raises(UserError, match="did you mean 'layer1'"):
        DeepCORAL(stages=("layr1",)).check(bench().setup)
    with pytest.raises(UserError, match="did you mean 'unlabelled'"):
        DeepCORAL(target="unlabeled").check(bench().setup)
    with pytest.raises(UserError, match="at least one of layer1"):
        DeepCORAL(stages=()).check(bench().setup)
