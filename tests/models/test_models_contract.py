"""The contract of every family: stages, start and stop, freezing, dtypes, seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_rows import COMPARED, IMAGES, MODELS, filled

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import Tokens

# Families without dropout.
DETERMINISTIC = (
    "resnet-cifar",
    "resnet",
    "bottleneck",
    "regnet",
    "clip-vision",
    "siglip-vision",
    "clip-text",
    "llama-tied",
    "llama-class",
)


# What a bi-encoder has beyond its encoder is tested in test_bi_encoder.
CASES = [*MODELS, *(pytest.param(n, marks=pytest.mark.slow) for n in COMPARED)]


@functools.cache
def compiled(network, **static):
    """`(params, stats, x, key) -> Output`, compiled."""
    return jax.jit(
        lambda params, stats, x, key=None: network.apply(
            params, stats, x, key=key, **static
        )
    )


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(name, model, network, params, stats, x) with random values.

    To fill trees is quicker than to compile the initialization.
    """
    model, x = (MODELS | COMPARED)[request.param]
    network = model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    params, stats = trees.map_with_path(lambda path, s: filled(path, s, rng), shapes)
    return request.param, model, network, params, stats, x


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def near(a, b, tolerance=1e-5):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, atol=tolerance * scale)


def array(feature):
    return feature.states if isinstance(feature, Tokens) else feature


def test_stages_order_the_parameters_and_end_with_head(case):
    _, _, network, params, stats, x = case
    assert network.stages[-1] == "head"
    assert set(params) <= set(network.stages)
    assert set(stats) <= set(network.stages)
    out = network.apply(params, stats, x)
    assert tuple(out.features) == network.stages
    assert len(out.logits) == 4
    assert np.isfinite(out.logits).all()
    same(out.logits, out.features["head"])


def test_start_and_stop_give_the_full_run(case):
    _, _, network, params, stats, x = case
    full = network.apply(params, stats, x)
    count = len(network.stages)
    for i in sorted({0, count // 2 - 1, count - 2}):
        stage = network.stages[i]
        half = network.apply(params, stats, x, stop=stage)
        same(half.logits, full.features[stage])
        assert tuple(half.features) == network.stages[: i + 1]
        later = network.apply(params, stats, half.logits, start=network.stages[i + 1])
        same(later.logits, full.logits)
        same(later.stats, stats)


def test_an_unknown_stage_is_an_error(case):
    _, _, network, params, stats, x = case
    with pytest.raises(UserError, match="did you mean 'head'"):
        network.apply(params, stats, x, stop="haed")


def test_evaluation_is_deterministic_and_does_not_change_statistics(case):
    _, _, network, params, stats, x = case
    plain = compiled(network)(params, stats, x)
    keyed = compiled(network)(params, stats, x, jax.random.key(5))
    same(plain.logits, keyed.logits)
    same(plain.stats, stats)


def test_examples_do_not_affect_each_other_in_evaluation(case):
    _, _, network, params, stats, x = case
    full = compiled(network)(params, stats, x).logits
    reversed_x = jax.tree.map(lambda a: a[::-1], x)
    near(compiled(network)(params, stats, reversed_x).logits[::-1], full)
    changed = jax.tree.map(lambda a: np.concatenate([a[:1], a[:1], a[:1], a[3:]]), x)
    near(compiled(network)(params, stats, changed).logits[3], full[3])


def test_training_moves_only_the_statistics_of_the_stages_that_train(case):
    name, _, network, params, stats, x = case
    key = jax.random.key(1)
    cut = len(network.stages) // 2
    train = network.stages[cut:]
    out = compiled(network, train=train)(params, stats, x, key)
    for stage in stats:
        moved = [
            bool((a != b).any())
            for a, b in zip(
                jax.tree.leaves(stats[stage]), jax.tree.leaves(out.stats[stage])
            )
        ]
        assert all(moved) if stage in train else not any(moved), stage
    # Below the cut a frozen stage computes what it computes in evaluation.
    plain = compiled(network)(params, stats, x)
    for stage in network.stages[:cut]:
        near(array(out.features[stage]), array(plain.features[stage]))
    training = compiled(network, train=network.stages)
    trained = training(params, stats, x, key).logits
    same(trained, training(params, stats, x, key).logits)
    if name not in DETERMINISTIC:
        changed = training(params, stats, x, jax.random.key(2)).logits
        assert (changed != trained).any()


def test_every_parameter_has_a_gradient(case):
    name, _, network, params, stats, x = case

    def loss(p):
        out = network.apply(p, stats, x, train=(), key=None).logits
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum()

    grads = trees.flatten(jax.jit(jax.grad(loss))(params))
    dead = [path for path, g in grads.items() if not (jnp.abs(g) > 0).any()]
    # A constant added to all scores does not change the softmax.
    assert all(path.endswith("attention/key/bias") for path in dead), name


def test_padding_does_not_change_the_output(case):
    _, _, network, params, stats, x = case
    if not isinstance(x, dict):
        pytest.skip("images and vectors have no padding")
    mask = x["attention_mask"]
    changed = {**x, "input_ids": np.where(mask, x["input_ids"], 11)}
    a, b = (compiled(network)(params, stats, v).logits for v in (x, changed))
    if a.ndim == 3:
        a, b = a[mask], b[mask]
    same(a, b)
    short = jax.tree.map(lambda v: v[1:2, :3], x)
    c = compiled(network)(params, stats, short).logits[0]
    full = compiled(network)(params, stats, x).logits[1]
    near(c, full[:3] if full.ndim == 2 else full)


def test_vmapped_initialization_equals_single_ones(case):
    _, _, network, _, _, x = case
    keys = jax.random.split(jax.random.key(3), 3)
    stacked, _ = jax.jit(jax.vmap(lambda key: network.init(key, x)))(keys)
    single, _ = jax.jit(network.init)(keys[1], x)
    for leaves, expected in zip(jax.tree.leaves(stacked), jax.tree.leaves(single)):
        np.testing.assert_allclose(leaves[1], expected, atol=1e-6)


def test_bfloat16_is_near_float32_with_parameters_in_float32(case):
    _, model, network, params, stats, x = case
    half = model.clone(dtype="bfloat16").pure()
    fresh, _ = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {a.dtype for a in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    out = compiled(half)(params, stats, x)
    assert out.logits.dtype == jnp.float32
    for stage in network.stages[:-1]:
        assert array(out.features[stage]).dtype == jnp.bfloat16, stage
    exact = network.apply(params, stats, x).logits
    scale = float(jnp.abs(exact).max())
    np.testing.assert_allclose(out.logits, exact, atol=0.1 * scale)
    trained = half.apply(params, stats, x, train=network.stages, key=jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(trained.stats)} <= {jnp.dtype("float32")}


def reductions(program):
    """The sums over axes in a program, and in the programs that it calls."""
    for equation in program.eqns:
        if equation.primitive.name == "reduce_sum":
            yield equation
        for value in jax.tree.leaves(tuple(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from reductions(inner)


def test_no_gradient_is_summed_in_half_precision(case):
    # XLA would add up the gradients of biases, positions and prompts in bfloat16.
    _, model, _, params, stats, x = case
    network = model.clone(dtype="bfloat16").pure()

    def loss(params):
        out = network.apply(
            params, stats, x, train=network.stages, key=jax.random.key(0)
        )
        return out.logits.sum()

    program = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
    sums = list(reductions(program))
    assert sums
    assert not [str(s) for s in sums if s.outvars[0].aval.dtype == jnp.bfloat16]


def test_parameters_may_be_stored_in_bfloat16(case):
    _, model, _, _, _, x = case
    network = model.clone(param_dtype="bfloat16").pure()
    params, stats = jax.jit(network.init)(jax.random.key(0), x)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    out = jax.eval_shape(compiled(network), params, stats, x)
    first = array(out.features[network.stages[0]])
    assert first.dtype == jnp.bfloat16


def test_rematerialization_changes_no_value_and_no_gradient(case):
    _, model, network, params, stats, x = case
    again = model.clone(remat=True).pure()
    key = jax.random.key(4)

    def value(net):
        def loss(p):
            out = net.apply(p, stats, x, train=net.stages, key=key)
            return (out.logits**2).sum(), out.stats

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    fresh, _ = jax.eval_shape(again.init, jax.random.key(0), x)
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    (a, stats_a), grads_a = value(network)
    (b, stats_b), grads_b = value(again)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(
        jax.tree.leaves((stats_a, grads_a)), jax.tree.leaves((stats_b, grads_b))
    ):
        near(y, x, 2e-5)


def test_an_unknown_dtype_is_an_error(case):
    _, model, *_ = case
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        model.clone(dtype="bfloat").pure()


@pytest.mark.parametrize("name", ["vgg", "mobilenet"])
def test_images_that_are_too_small_are_an_error(name):
    model, _ = MODELS[name]
    with pytest.raises(UserError, match=r"\(4, 16, 16, 3\) are too small for"):
        jax.eval_shape(model.pure().init, jax.random.key(0), IMAGES)
