"""AdaBN: target statistics by numpy, normalized activations, what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxtl as tl
from jaxtl.core.errors import UserError
from jaxtl.models.layers import batch_norm_stats


def _arrays(seed, shift, scale, **options):
    rng = np.random.default_rng(seed)
    x = scale * rng.normal(size=(60, 6, 6, 1)).astype(np.float32) + shift
    return tl.data.Arrays(
        x=x.astype(np.float32), y=np.arange(60) % 3, val=12, test=0, **options
    )


def _experiment(**changes):
    fields = {
        # Nothing between convolution and head but the norms: what a block gives out is
        # its normalized activation, as long as scale and bias are 1 and 0.
        "model": tl.models.CNN(
            widths=(3, 4), units=4, pool=0, norm=True, activation="identity"
        ),
        "data": _arrays(1, 2.0, 3.0, labels=0),
        "streams": {"source": _arrays(0, 0.0, 1.0)},
        "terms": {"adabn": tl.domain.AdaBN()},
        "optim": tl.optim.SGD(lr=0.0),
        "steps": 3,
        "batch": 16,
        "monitor": None,
    }
    return tl.Experiment(**{**fields, **changes})


def _rows(run, name="target", split="unlabelled"):
    data = run.parts.datasets[name]
    return jnp.asarray(data.x[data.rows[split]])


def _convolved(kernel, x):
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return np.asarray(y, np.float64)


@pytest.fixture(scope="module")
def run():
    return tl.setup(_experiment())


def test_activations_are_normalized_on_the_target(run):
    x = _rows(run)
    assert len(x) == 48
    before = run.network.apply(*run.weights(), x).features
    assert abs(np.asarray(before["block1"]).mean((0, 1, 2))).max() > 0.3
    adapted = tl.adabn(run)
    after = adapted.network.apply(*adapted.weights(), x).features
    for block in ("block1", "block2"):  # one batch of all rows: exact in every layer
        y = np.asarray(after[block], np.float64)
        np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
        np.testing.assert_allclose(y.var((0, 1, 2)), 1.0, rtol=1e-3)
    assert tl.evaluate(adapted, "val") != tl.evaluate(run, "val")


def test_small_batches_are_pooled_to_the_moments_of_all_rows(run):
    params, stats = run.weights()
    statistics = tl.adabn(run, batch=16).weights()[1]["block1"]["bn"]
    y = _convolved(params["block1"]["conv"]["kernel"], _rows(run))
    np.testing.assert_allclose(statistics["mean"], y.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], y.var((0, 1, 2)), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, run.weights()[1], stats)


def test_any_stream_can_be_asked_for(run):
    statistics = tl.adabn(run, stream="source").weights()[1]["block1"]["bn"]
    kernel = run.weights()[0]["block1"]["conv"]["kernel"]
    y = _convolved(kernel, _rows(run, "source", "train"))
    np.testing.assert_allclose(statistics["mean"], y.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(statistics["var"], y.var((0, 1, 2)), rtol=1e-4)


def test_the_term_takes_the_moments_of_what_it_saw_and_trains_nothing():
    run = tl.setup(_experiment())
    start = jax.tree.map(np.array, run.params)
    tl.train(run, progress=False)  # 3 steps of 16 rows: each of the 48 once
    jax.tree.map(np.testing.assert_array_equal, start, run.params)
    statistics = run.weights("best")[1]["block1"]["bn"]
    y = _convolved(start["block1"]["conv"]["kernel"], _rows(run))
    np.testing.assert_allclose(statistics["mean"], y.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], y.var((0, 1, 2)), rtol=1e-4)
    assert run.notes["adabn"].startswith("takes the statistics of 2 BatchNorm layers")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), batches=st.integers(1, 6))
def test_pooling_batches_gives_the_moments_of_their_rows(seed, batches):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batches, 7, 3)) + rng.normal(size=(batches, 1, 3)) * 3
    total = {"bn": {"mean": np.full(3, 7.0), "var": np.full(3, 9.0), "other": 1.0}}
    for i, rows in enumerate(x):
        moments = {"mean": rows.mean(0), "var": rows.var(0), "other": float(i)}
        total = batch_norm_stats.pool_statistics(total, {"bn": moments}, i)
    rows = x.reshape(-1, 3)
    np.testing.assert_allclose(total["bn"]["mean"], rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(total["bn"]["var"], rows.var(0), rtol=1e-4)
    np.testing.assert_allclose(total["bn"]["other"], np.mean(range(batches)), rtol=1e-5)


def test_errors(run, digits):
    with pytest.raises(UserError, match="this model has no BatchNorm"):
        tl.adabn(tl.setup(digits()))
    with pytest.raises(UserError, match=r"stream='sorce': .*did you mean 'source'"):
        tl.adabn(run, stream="sorce")
    frozen = tl.optim.SGD(groups={".*": tl.FROZEN, "head": 1.0})
    with pytest.raises(UserError, match=r"every stage is frozen|matches nothing|head"):
        tl.setup(_experiment(optim=frozen))


def test_it_says_where_there_is_nothing_to_do(bench):
    assert tl.domain.AdaBN().describe(bench().setup).startswith("nothing to do")
