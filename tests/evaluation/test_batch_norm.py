"""BatchNorm statistics of a run, estimated again from its train rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.evaluation import batch_norm
from jaxtl.models.layers import batch_norm_stats
from jaxtl.training import setup


@pytest.fixture(scope="module")
def normed():
    """A run of a CNN with BatchNorm whose first block is frozen."""
    model = tl.models.CNN(widths=(2, 3), units=4, pool=1, norm=True, dropout=0.2)
    data = tl.data.Digits(limit=300, split_seed=0)
    optim = tl.optim.AdamW(groups={"block1": tl.FROZEN, ".*": 1.0})
    return tl.setup(
        tl.Experiment(model=model, data=data, optim=optim, steps=2, batch=100)
    )


def test_batch_statistics_are_the_moments_of_the_batch(normed):
    x = jax.random.normal(jax.random.key(0), (7, 8, 8, 1)) + 2
    params, stats = normed.weights()
    network, key = normed.network, jax.random.key(1)
    train = network.stages
    new_stats = batch_norm_stats.batch_statistics(
        network, params, stats, x, train=train, key=key
    )
    kernel = params["block1"]["conv"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = np.asarray(y, np.float64)
    block1 = new_stats["block1"]["bn"]
    np.testing.assert_allclose(block1["mean"], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(block1["var"], y.var((0, 1, 2)), rtol=1e-4)
    # Whatever was there before, and whatever else stays still.
    shifted = jax.tree.map(lambda s: 100 + s, stats)
    frozen = batch_norm_stats.batch_statistics(
        network, params, shifted, x, train=train, frozen_stats=("block1/bn",), key=key
    )
    jax.tree.map(np.testing.assert_array_equal, frozen["block1"], shifted["block1"])


def test_refreshed_statistics_are_the_mean_over_whole_batches(normed):
    params, stats = normed.weights()
    changed = jax.tree.map(lambda p: 1.5 * p, params)
    refreshed = batch_norm.refresh_statistics(normed, changed, stats, batch=64, seed=5)
    jax.tree.map(np.testing.assert_array_equal, refreshed["block1"], stats["block1"])
    data = normed.parts.datasets["target"]
    rows = data.rows["train"]
    order = np.random.default_rng(5).permutation(rows)
    means, variances = [], []
    assert len(rows) == 216
    for i in range(4):  # of at most 64 rows, so 4 equal batches of 54
        x = jnp.asarray(data.x[order[i * 54 : (i + 1) * 54]] / 16.0, jnp.float32)
        # The second block reads the first as it is in evaluation.
        y = normed.network.apply(changed, stats, x, stop="block1").features["block1"]
        y = jax.lax.conv_general_dilated(
            y,
            changed["block2"]["conv"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = np.asarray(y, np.float64)
        means.append(y.mean((0, 1, 2)))
        variances.append(y.var((0, 1, 2)))
    block2 = refreshed["block2"]["bn"]
    np.testing.assert_allclose(block2["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(block2["var"], np.mean(variances, 0), rtol=1e-4)


def test_statistics_that_moved_in_any_phase_are_refreshed(normed):
    phases = (tl.optim.Phase(until=0.5, frozen="block2"), tl.optim.Phase())
    run = tl.setup(dataclasses.replace(normed.exp, phases=phases))
    stats = run.state.stats
    train, frozen = batch_norm.updated_in_training(run, stats)
    assert batch_norm_stats.moving_mask(stats, train, frozen) == {
        "block1": {"bn": {"mean": False, "var": False}},
        "block2": {"bn": {"mean": True, "var": True}},
    }


def test_a_stored_run_is_refreshed_as_the_one_in_memory(normed, tmp_path):
    run = tl.setup(normed.exp, tmp_path / "run")
    tl.train(run, progress=False)
    params, stats = run.weights("best")
    stored = setup.reopen(tmp_path / "run")
    changed = jax.tree.map(lambda p: 1.5 * p, params)
    jax.tree.map(
        np.testing.assert_array_equal,
        batch_norm.refresh_statistics(stored, changed, stats),
        batch_norm.refresh_statistics(run, changed, stats),
    )


def test_refreshing_a_model_without_statistics_changes_nothing(digits):
    run = tl.setup(digits())
    params, stats = run.weights()
    assert batch_norm.refresh_statistics(run, params, stats) is stats
