"""Quantized bases: the same numbers as the float base that they stand for, less memory.

The reference is always the same method on a base of plain floats, those that
`dequantize` gives; the quantizers are tested in test_quantization.py.
"""

import dataclasses
import gc
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import model_rows
import numpy as np
import pytest

import jaxtl as tl
from jaxtl.cli import main
from jaxtl.core import config, lazy_leaf
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import FROZEN, Network, Output
from jaxtl.peft import IA3, Adapters, LoRA, VeRA, base, quantized_base
from jaxtl.training import checkpointing

MODEL = tl.models.MLP(widths=(48, 32))
KERNELS = ((64, 48), (48, 32))
NF4 = LoRA(rank=2, alpha=4.0, select="layer.*", base="nf4")
SGD = tl.optim.SGD(lr=0.1, momentum=0.9)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The directory of a run that others start from."""
    folder = tmp_path_factory.mktemp("source") / "run"
    exp = tl.Experiment(model=MODEL, data=tl.data.Digits(), steps=3, batch=32)
    run = tl.setup(exp, folder)
    run.advance(3)
    checkpointing.save(run)
    return folder


def _exp(digits, source, peft=NF4, **changes):
    init = tl.pretrained.FromRun(str(source), reset="head")
    fields = {"model": MODEL, "init": init, "peft": peft, "steps": 4, "cache": "off"}
    return digits(**{**fields, "optim": SGD, **changes})


def _float_twin(run, exp):
    """The same run on the float base that the quantized one stands for."""
    peft = dataclasses.replace(exp.peft, base="float", double_quantization=False)
    twin = tl.setup(dataclasses.replace(exp, peft=peft))
    frozen = lazy_leaf.realized(run.fixed.frozen)
    twin.fixed = dataclasses.replace(twin.fixed, frozen=frozen, source=run.source)
    trainable = trees.copy(run.state.trainable)
    twin.state = dataclasses.replace(twin.state, trainable=trainable)
    return twin


# --- functions ------------------------------------------------------------------------


def _parts(family, method):
    """(network, base, quantized base, δ, statistics, two examples)."""
    model, x = MODELS[family]
    x, network = jax.tree.map(lambda a: a[:2], x), model.pure()
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    params, stats = trees.map_with_path(
        lambda p, s: model_rows.filled(p, s, rng), shapes
    )
    frozen = jax.tree.map(lambda _: False, params)
    matrices = quantized_base.quantizable(network, params, frozen)
    packed = quantized_base.quantized(method, params, matrices)
    floats = lazy_leaf.realized(packed)
    delta = jax.eval_shape(lambda: method.init(jax.random.key(1), floats))
    delta = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape).astype("f4") / 4 + 0.2), delta
    )
    return network, floats, packed, delta, stats, x


MODELS = {
    **model_rows.MODELS,
    "albert": (
        tl.models.Albert(
            outputs=3,
            vocab=29,
            width=16,
            token_width=8,
            layers=2,
            heads=4,
            context=9,
            dropout=0.0,
            head_dropout=0.0,
        ),
        model_rows.MODELS["bert"][1],
    ),
}
BASES = (
    {"base": "int8"},
    {"base": "nf4"},
    {"base": "nf4", "double_quantization": True},
)
FAMILIES = {
    family: LoRA(rank=1, alpha=0.5, select="(?!head).*", **BASES[number % 3])
    for number, family in enumerate(MODELS)
}


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_those_of_the_float_base(family):
    method = FAMILIES[family]
    network, floats, packed, delta, stats, x = _parts(family, method)
    shell, hypers = config.without_hyperparameters(method), {"alpha": jnp.float32(0.5)}
    wrapped = quantized_base.stagewise(method.network(network))

    def quantized(delta):
        params = quantized_base.packed(shell, hypers, packed, delta, {})
        return wrapped.apply(params, stats, x, train=network.stages, key=KEY)

    def plain(delta):
        params = method.merge(floats, delta, {})
        return network.apply(params, stats, x, train=network.stages, key=KEY)

    def compare(delta):
        outs, losses = [], []
        for run in (quantized, plain):

            def loss(delta, run=run):
                out = run(delta)
                total = sum(jnp.sum(jnp.sin(f)) for f in jax.tree.leaves(out.features))
                return total, out

            grads, out = jax.grad(loss, has_aux=True, allow_int=True)(delta)
            outs.append(out)
            losses.append(grads)
        return outs, losses

    outs, grads = jax.jit(compare)(delta)
    for ours, theirs in (outs, grads):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
            scale = 1 + np.abs(np.float64(b)).max()
            np.testing.assert_allclose(a, b, atol=1e-5 * scale)


KEY = jax.random.key(3)


def _drawing(params, stats, x, *, key, start, stop, **settings):
    """A network whose stages, of which b has the weights of a, draw a number each."""
    del params, stop, settings
    path = {"a": 0, "b": 0, "head": 1}[start]
    number = jax.random.normal(jax.random.fold_in(key, path))
    return Output(jnp.append(x, number), {}, stats)


def _unchanged(params):
    del params
    return dict.fromkeys("ab", lambda x: x)


@pytest.mark.parametrize(
    "wrapped",
    [quantized_base.stagewise, lambda n: base.with_changed_features(n, _unchanged)],
    ids=["quantized", "changed features"],
)
def test_a_layer_without_weights_of_its_own_draws_numbers_of_its_own(wrapped):
    network = Network(("a", "b", "head"), dict, _drawing)
    matrices = {"a/kernel": jnp.ones((2, 2))}
    params = {**trees.nested(matrices), "head": {"kernel": jnp.ones((2, 2))}}
    params = quantized_base.quantized(NF4, params, matrices)
    settings = {"start": "a", "stop": "head", "key": KEY}
    drawn = wrapped(network).apply(params, {}, jnp.zeros(0), **settings).logits
    plain = [jax.random.normal(jax.random.fold_in(KEY, path)) for path in (0, 1)]
    np.testing.assert_array_equal(drawn[np.array([0, 2])], plain)
    assert len(np.unique(drawn)) == 3


@pytest.mark.parametrize(
    "method",
    [
        LoRA(rank=2, dora=True, select="layer.*", base="nf4"),
        VeRA(rank=3, select="layer.*", base="int8"),
        IA3(select="layer.*", inputs="layer2", base="nf4"),
        Adapters(width=2, select="layer.*", base="int8"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_every_method_merges_what_is_quantized(method):
    _, floats, packed, delta, *_ = _parts("mlp", method)
    hypers = jax.tree.map(jnp.float32, config.hyperparameters(method))
    constants = method.constants(floats)
    merged = quantized_base.packed(method, hypers, packed, delta, constants)
    values = trees.flatten(lazy_leaf.realized(merged))
    expected = trees.flatten(method.merge(floats, delta, constants))
    assert values.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(values[path], value, atol=1e-6)
    lazy = [p for p, leaf in trees.flatten(merged).items() if lazy_leaf.is_lazy(leaf)]
    assert lazy == ["layer1/dense/kernel", "layer2/dense/kernel"]


# --- runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": {"task": tl.losses.CrossEntropy(), "near": tl.regularizers.L2SP()}},
        {"dtype": "bfloat16", "average": tl.optim.EMA(decay=0.5)},
    ],
    ids=["l2sp", "bfloat16"],
)
def test_five_steps_are_those_of_the_float_base(digits, source, changes):
    exp = _exp(digits, source, **changes)
    run = tl.setup(exp)
    twin = _float_twin(run, exp)
    codes = jax.tree.map(np.array, run.fixed.frozen)
    for _ in range(5):
        ours, theirs = run.step(), twin.step()
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    for which in (run.state.trainable, run.state.average):
        assert {x.dtype for x in jax.tree.leaves(which)} <= {np.dtype("f4")}
    for a, b in zip(
        jax.tree.leaves(run.weights()), jax.tree.leaves(twin.weights()), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # The base is as it was, and nothing but δ and the head has an optimizer state.
    for a, b in zip(jax.tree.leaves(codes), jax.tree.leaves(run.fixed.frozen)):
        np.testing.assert_array_equal(a, b)
    assert trees.nbytes(run.state.opt) == trees.nbytes(twin.state.opt)
    # XLA's count: the step reads the base in place of its floats, and θ₀ once more
    # where a term reads it.
    numbers = sum(a * b for a, b in KERNELS)
    saved = 4 * numbers - (numbers // 2 + 4 * (numbers // 64))
    reads = 2 if "near" in exp.terms else 1
    steps = [r.compile().at(0).call for r in (twin, run)]
    memory = [step.memory_analysis() for step in steps]
    assert memory[0].argument_size_in_bytes - memory[1].argument_size_in_bytes == (
        reads * saved
    )
    # Networks make a matrix float once in the forward and once in the backward pass.
    hlo = steps[1].as_text()  # each time the upper four bits of its codes are read
    dequantized = len(re.findall(r"u8\S* shift-right-logical\(", hlo))
    # L2-SP reads θ and θ₀ besides.
    assert dequantized == len(KERNELS) * (4 if "near" in exp.terms else 2)
    # θ − θ₀ is of δ alone: 0 where it is.
    assert float(trees.sum_squares(trees.sub(run.params, run.source.params))) > 0
    still = dataclasses.replace(
        run.state, trainable=jax.tree.map(jnp.zeros_like, run.state.trainable)
    )
    run.state = still
    assert float(trees.sum_squares(trees.sub(run.params, run.source.params))) == 0


def _float_arrays():
    gc.collect()
    return [x for x in jax.live_arrays() if x.shape in KERNELS and x.dtype == "float32"]


def test_no_float_copy_of_the_base_stays_in_memory(digits, source, tmp_path):
    before = len(_float_arrays())
    terms = {"task": tl.losses.CrossEntropy(), "near": tl.regularizers.L2SP()}
    exp = _exp(digits, source, terms=terms, evaluate_every=2)
    run = tl.setup(exp, tmp_path / "run")
    assert len(_float_arrays()) == before
    result = tl.train(run, progress=False)
    assert len(_float_arrays()) == before
    # Half a byte a weight, and 4 bytes for 64 of them; the head and biases are float.
    matrices = sum(a * b for a, b in KERNELS)
    floats = 4 * (48 + 32 + 33 * 10)
    base = matrices // 2 + 4 * (matrices // 64) + floats
    delta = 4 * 2 * sum(a + b for a, b in KERNELS)
    assert result["parameter_bytes"] == base + delta
    assert (
        f"{base:,} bytes in place of {4 * matrices + floats:,}"
        in run.notes["peft.base"]
    )
    again = tl.resume(tmp_path / "run")
    assert lazy_leaf.has_lazy(again.best_weights[0])
    assert len(_float_arrays()) == before


def test_resumed_runs_end_bit_for_bit_the_same(digits, source, tmp_path, capsys):
    exp = _exp(digits, source, evaluate_every=2)
    whole = tl.setup(exp, tmp_path / "whole")
    tl.train(whole, progress=False)
    part = tl.setup(exp, tmp_path / "part")
    part.advance(2)
    part.update_best(tl.evaluate(part))
    checkpointing.save(part)
    again = tl.resume(tmp_path / "part")
    tl.train(again, progress=False)
    best = whole.weights("best"), again.weights("best")
    for pair in ((whole.state, again.state), best):
        for a, b in zip(*map(jax.tree.leaves, pair)):
            np.testing.assert_array_equal(a, b)
    # What is stored is the merged model, as float.
    stored = tl.load_model(tmp_path / "whole")
    for a, b in zip(*map(jax.tree.leaves, (stored.params, whole.weights("best")[0]))):
        np.testing.assert_array_equal(a, b)
    assert tl.evaluate(stored) == pytest.approx(tl.evaluate(whole, which="best"))
    assert main.main(["show", str(tmp_path / "whole")]) == 0
    assert "2 frozen matrices as nf4" in capsys.readouterr().out
    assert main.main(["export", str(tmp_path / "whole"), str(tmp_path / "out")]) == 0
    assert "what it stands for is written, as float" in capsys.readouterr().out
    settings = json.loads((tmp_path / "whole" / "experiment.json").read_text())
    assert settings["experiment"]["peft"]["base"] == "nf4"


def test_what_is_trained_stays_float(digits, source):
    optim = dataclasses.replace(SGD, groups={"layer2|head": 1.0, ".*": FROZEN})
    run = tl.setup(_exp(digits, source, optim=optim))
    kernels = {
        p: x for p, x in trees.flatten(run.fixed.frozen).items() if "kernel" in p
    }
    assert list(kernels) == ["layer1/dense/kernel"]
    assert lazy_leaf.is_lazy(kernels["layer1/dense/kernel"])
    assert run.step()["loss"] > 0


class _Pair(nn.Module):
    """A module without stages that share nothing but their order."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(12, name="first")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="last")(x + nn.Dense(12, name="second")(x))


def test_wrapped_modules_have_quantized_bases(digits, source):
    model = tl.models.wrap(_Pair(), stages=("first", "second", "last"))
    peft = LoRA(select="first|second", rank=2, base="int8")
    exp = _exp(digits, source, peft, model=model, init=None)
    run = tl.setup(exp)
    twin = _float_twin(run, exp)
    for _ in range(2):
        assert run.step() == pytest.approx(twin.step(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "nf3"}, r"peft\.base='nf3': expected .* did you mean 'nf4'"),
        (
            {"base": "int8", "double_quantization": True},
            r"double_quantization=True, but peft\.base='int8' has no scales",
        ),
    ],
)
def test_wrong_settings_are_refused(digits, source, settings, message):
    with pytest.raises(UserError, match=message):
        tl.setup(_exp(digits, source, LoRA(select="layer.*", rank=2, **settings)))


def test_a_base_without_frozen_matrices_is_refused(digits, source):
    optim = dataclasses.replace(SGD, groups={".*/bias": FROZEN, ".*": 1.0})
    with pytest.raises(UserError, match="no frozen matrix outside its head"):
        tl.setup(_exp(digits, source, optim=optim))


def test_parameters_in_half_precision_are_trained(digits, source):
    model = dataclasses.replace(MODEL, param_dtype="bfloat16")
    optim = tl.optim.AdamW(lr=1e-2, clip=1.0)
    run = tl.setup(_exp(digits, source, model=model, init=None, optim=optim))
    losses = [float(metrics["loss"]) for _, metrics in run]
    assert np.isfinite(losses).all()
    assert {x.dtype.name for x in jax.tree.leaves(run.params)} == {"bfloat16"}
    dtypes = {x.dtype.name for x in jax.tree.leaves(run.state.opt)}
    assert dtypes == {"float32", "int32"}
