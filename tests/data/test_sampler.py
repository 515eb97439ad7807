"""The stateless order: a bijection per epoch, the same on host and device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxtl.core.errors import UserError
from jaxtl.data import sampler

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n=st.integers(1, 400), epochs=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_each_epoch_holds_every_row_once(seed, n, epochs):
    rows = sampler.indices(seed, 0, epochs * n, n)
    for epoch in range(epochs):
        part = rows[epoch * n : (epoch + 1) * n]
        np.testing.assert_array_equal(np.sort(part), np.arange(n))


@given(seed=seeds, n=st.integers(1, 300), batch=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_batches_tile_the_same_endless_stream(seed, n, batch):
    whole = sampler.indices(seed, 0, 7 * batch, n)
    parts = [sampler.indices(seed, step, batch, n) for step in range(7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(
        sampler.indices(seed, 1, batch, n, offset=3 * batch), parts[4]
    )


jitted = jax.jit(sampler.indices, static_argnums=2)


@given(seed=seeds, step=st.integers(0, 10**6), n=st.integers(1, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_numpy_and_jax_agree_with_everything_traced(seed, step, n):
    host = sampler.indices(seed, step, 33, n)
    assert host.dtype == np.int32
    device = jitted(jnp.uint32(seed), jnp.int32(step), 33, jnp.int32(n))
    assert device.dtype == jnp.int32
    np.testing.assert_array_equal(host, device)
    assert host.min() >= 0
    assert host.max() < n


def test_one_program_serves_every_n_and_seed():
    traces = []

    def counted(seed, step, n):
        traces.append(1)
        return sampler.indices(seed, step, 64, n)

    compiled = jax.jit(counted)
    for seed, n in ((0, 5), (1, 50), (2, 5000)):
        compiled(jnp.uint32(seed), jnp.int32(0), jnp.int32(n))
    assert len(traces) == 1


def test_vmap_over_runs_gives_the_rows_of_each():
    runs = jnp.arange(4, dtype=jnp.uint32), jnp.asarray([3, 10, 100, 7], jnp.int32)
    rows = jax.vmap(lambda s, n: sampler.indices(s, 2, 16, n))(*runs)
    for i in range(4):
        expected = sampler.indices(int(runs[0][i]), 2, 16, int(runs[1][i]))
        np.testing.assert_array_equal(rows[i], expected)


def test_seeds_and_epochs_have_different_orders():
    n = 1000
    first = sampler.indices(0, 0, n, n)
    for second in (sampler.indices(1, 0, n, n), sampler.indices(0, 1, n, n)):
        # Unrelated permutations share one place on average.
        assert (first == second).sum() < 10


def test_negative_seeds_wrap():
    np.testing.assert_array_equal(
        sampler.indices(-1, 0, 8, 100), sampler.indices(2**32 - 1, 0, 8, 100)
    )


@pytest.mark.parametrize("n", [2, 3, 5, 12, 100])
def test_every_row_is_equally_likely_in_every_place(n):
    """Chi-square over 2,000 seeds of (place, row) counts against 1/n each."""
    draws = 2000
    table = np.zeros((n, n))
    for seed in range(draws):
        table[np.arange(n), sampler.indices(seed, 0, n, n)] += 1
    expected = draws / n
    statistic = ((table - expected) ** 2 / expected).sum()
    # Rows and columns of a permutation matrix sum to one: (n-1)² degrees of freedom,
    # after scaling by (n-1)/n.
    p = stats.chi2.sf(statistic * (n - 1) / n, (n - 1) ** 2)
    assert p > 1e-4


def test_consecutive_rows_are_independent():
    """Lag-one correlation of a long permutation: standard error 1/√n."""
    n = 20000
    rows = sampler.indices(3, 0, n, n).astype(float)
    correlation = np.corrcoef(rows[:-1], rows[1:])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(n)


def test_late_steps_do_not_overflow():
    n, batch = 1000, 2**16
    step = 2**32 // batch - 1
    rows = sampler.indices(0, step, batch, n)
    last_epoch = (step * batch) // n + 1
    start = last_epoch * n - step * batch
    np.testing.assert_array_equal(np.sort(rows[start : start + n]), np.arange(n))
    with pytest.raises(UserError, match="beyond 2\\*\\*32"):
        sampler.indices(0, step + 1, batch, n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0, 10), "batch must be at least 1; got 0"),
        ((0, 0, 4, 0), "n, the rows of a split"),
        ((0, -1, 4, 10), "step must not be negative; got -1"),
    ],
)
def test_bad_numbers_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        sampler.indices(*arguments)
