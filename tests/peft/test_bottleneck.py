"""Bottleneck adapters: by numpy behind each kind of stage; runs from and to a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens
from jaxtl.models import CNN, MLP, Bert, ResNetImageNet
from jaxtl.peft import Adapters, adapted_leaves, base

rng = np.random.default_rng(0)
TEXT = {
    "input_ids": rng.integers(1, 29, (3, 5)).astype(np.int32),
    "attention_mask": np.arange(5) < np.array([[5], [2], [4]]),
}
IMAGES = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
BERT = Bert(
    outputs=3, vocab=29, width=16, layers=2, heads=4, hidden=20, context=9, dropout=0.0
)
CASES = {
    "tokens": (BERT, TEXT, "layer_0|layer_1"),
    "vector": (BERT, TEXT, "pooler"),
    "map": (CNN(outputs=3, widths=(4, 5), units=6, norm=True), IMAGES, "block[12]"),
    "mlp": (MLP(outputs=3, widths=(6, 7)), IMAGES, "layer1"),
}


def array(x):
    return np.asarray(x.states if isinstance(x, Tokens) else x, np.float64)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(network, wrapped, base, merged, statistics, inputs, δ) with filled adapters."""
    model, x, select = CASES[request.param]
    network, method = model.pure(), Adapters(select=select, width=3)
    params, stats = network.init(jax.random.key(0), x)
    method.check(network, params)
    features = jax.eval_shape(lambda: network.apply(params, stats, x).features)
    delta = method.init(jax.random.key(1), params, features)
    rng = np.random.default_rng(2)
    delta = jax.tree.map(
        lambda a: a + 0.3 * rng.normal(size=a.shape).astype("f4"), delta
    )
    merged = method.merge(params, delta, {})
    return network, method.network(network), params, merged, stats, x, delta


def test_the_bottleneck_by_numpy(case):
    network, wrapped, params, merged, stats, x, delta = case
    out = wrapped.apply(merged, stats, x)
    inputs = x
    for i, stage in enumerate(network.stages):
        own = network.apply(params, stats, inputs, start=stage, stop=stage).logits
        expected = array(own)
        if stage in delta:
            a = jax.tree.map(lambda w: np.asarray(w, np.float64), delta[stage])
            down, up = a["adapter"]["down"], a["adapter"]["up"]
            inner = np.maximum(expected @ down["kernel"] + down["bias"], 0)
            expected = expected + inner @ up["kernel"] + up["bias"]
        np.testing.assert_allclose(array(out.features[stage]), expected, atol=1e-4)
        inputs = out.features[stage]
        if isinstance(inputs, Tokens):
            np.testing.assert_array_equal(inputs.mask, x["attention_mask"])
        assert i < len(network.stages) - 1 or (out.logits == inputs).all()


def test_runs_from_and_to_a_stage_are_parts_of_the_whole(case):
    _, wrapped, _, merged, stats, x, _ = case
    full = wrapped.apply(merged, stats, x)
    assert tuple(full.features) == wrapped.stages
    for before, after in zip(wrapped.stages, wrapped.stages[1:]):
        half = wrapped.apply(merged, stats, x, stop=before)
        np.testing.assert_array_equal(array(half.logits), array(full.features[before]))
        assert tuple(half.features) == wrapped.stages[: wrapped.stages.index(after)]
        rest = wrapped.apply(merged, stats, half.logits, start=after)
        np.testing.assert_array_equal(rest.logits, full.logits)
    with pytest.raises(UserError, match="did you mean 'head'"):
        wrapped.apply(merged, stats, x, stop="haed")


def test_fresh_adapters_change_nothing(case):
    network, wrapped, params, _, stats, x, delta = case
    fresh = {
        stage: jax.tree.map(jnp.zeros_like, own) | {"down": own["adapter"]["down"]}
        for stage, own in delta.items()
    }
    fresh = {
        s: {"adapter": {**a["adapter"], "down": a["down"]}} for s, a in fresh.items()
    }
    key = jax.random.key(3)
    ours = wrapped.apply(
        adapted_leaves.add_leaves(params, fresh),
        stats,
        x,
        train=network.stages,
        key=key,
    )
    plain = network.apply(params, stats, x, train=network.stages, key=key)
    np.testing.assert_array_equal(ours.logits, plain.logits)
    for a, b in zip(jax.tree.leaves(ours.stats), jax.tree.leaves(plain.stats)):
        np.testing.assert_array_equal(a, b)


def test_initial_adapters_are_the_identity_and_leave_the_base_alone():
    network, method = BERT.pure(), Adapters(width=3)
    params, stats = network.init(jax.random.key(0), TEXT)
    delta = method.init(jax.random.key(1), params)
    assert set(delta) == {"layer_0", "layer_1"}
    merged = method.merge(params, delta, method.constants(params))
    kept = trees.flatten(merged)
    assert all(kept[p] is x for p, x in trees.flatten(params).items())
    assert not any(jax.tree.leaves(method.adapted_mask(params)))
    assert not method.deployable
    got = method.network(network).apply(merged, stats, TEXT).logits
    np.testing.assert_array_equal(got, network.apply(params, stats, TEXT).logits)
    assert method.network(network) is method.network(network)


def test_dropout_is_the_plain_networks():
    network = BERT.clone(dropout=0.5).pure()
    method = Adapters(width=3)
    params, stats = network.init(jax.random.key(0), TEXT)
    merged = method.merge(params, method.init(jax.random.key(1), params), {})
    how = {"train": network.stages, "key": jax.random.key(5)}
    got = method.network(network).apply(merged, stats, TEXT, **how).logits
    expected = network.apply(params, stats, TEXT, **how).logits
    np.testing.assert_array_equal(got, expected)


def test_half_precision_stays():
    network, method = BERT.clone(dtype="bfloat16").pure(), Adapters(width=3)
    params, stats = network.init(jax.random.key(0), TEXT)
    merged = method.merge(params, method.init(jax.random.key(1), params), {})
    out = jax.eval_shape(method.network(network).apply, merged, stats, TEXT)
    assert out.features["layer_0"].states.dtype == jnp.bfloat16
    assert out.logits.dtype == jnp.float32


def test_widths_without_features_or_an_error():
    params = jax.eval_shape(
        ResNetImageNet(outputs=3, sizes=(1, 1, 1, 1), width=4).pure().init,
        jax.random.key(0),
        np.zeros((1, 32, 32, 3), "f4"),
    )[0]
    assert base.stage_width("stem", params, None) == 4
    with pytest.raises(UserError, match=r"stage 'stage1' can't be told from its"):
        base.stage_width("stage1", params, None)
    bert = jax.eval_shape(BERT.pure().init, jax.random.key(0), TEXT)[0]
    assert {base.stage_width(s, bert, None) for s in BERT.stages[:-1]} == {16}


def test_errors():
    network = BERT.pure()
    with pytest.raises(UserError, match=r"matches no stage; did you mean 'layer_0'"):
        Adapters(select="layr_0").check(network, {})
    with pytest.raises(UserError, match=r"covers the stage 'head'"):
        Adapters(select=".*").check(network, {})
    with pytest.raises(UserError, match=r"peft.width=0"):
        Adapters(width=0).check(network, {})
    with pytest.raises(UserError, match=r"activation='rleu'.*'relu'"):
        Adapters(activation="rleu").check(network, {})
