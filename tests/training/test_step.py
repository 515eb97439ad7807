"""The step against numpy, and one compiled program for all that differs in numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxtl as tl
from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.data import device_stream
from jaxtl.terms.base import Term
from jaxtl.training import compiled_step

LINEAR = tl.models.MLP(widths=())


def rows(run, t):
    """Returns the batch of step t as numpy (x, y)."""
    batch = device_stream.batch_at_step(
        run.parts.device_streams["target"], run.exp.seed, t, 32
    )
    x = np.asarray(batch["x"], np.float64).reshape(32, -1) / 16
    return x, np.asarray(batch["y"])


def values(run):
    dense = run.params["head"]["dense"]
    return np.float64(dense["kernel"]), np.float64(dense["bias"])


def test_steps_of_softmax_regression_are_numpys(digits):
    lr, mu, wd, smooth, weight = 0.2, 0.9, 0.05, 0.1, 0.7
    run = tl.setup(
        digits(
            model=LINEAR,
            terms={"ce": tl.losses.CrossEntropy(label_smoothing=smooth, weight=weight)},
            optim=tl.optim.SGD(lr=lr, momentum=mu, weight_decay=wd),
        )
    )
    w, b = values(run)
    mw, mb = np.zeros_like(w), np.zeros_like(b)
    for t in range(3):
        x, y = rows(run, t)
        p = special.softmax(x @ w + b, -1)
        q = (1 - smooth) * np.eye(10)[y] + smooth / 10
        gw, gb = weight * x.T @ (p - q) / 32, weight * (p - q).mean(0)
        found = run.step()
        loss = -(q * np.log(p)).sum(1).mean()
        assert found["ce"] == pytest.approx(loss, rel=1e-5)
        assert found["loss"] == pytest.approx(weight * loss, rel=1e-5)
        norm = np.sqrt(np.square(gw).sum() + np.square(gb).sum())
        assert found["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert found["ce/accuracy"] == np.float32((p.argmax(-1) == y).mean())
        mw, mb = gw + mu * mw, gb + mu * mb
        w, b = w - lr * (mw + wd * w), b - lr * mb
        np.testing.assert_allclose(values(run)[0], w, atol=1e-6)
        np.testing.assert_allclose(values(run)[1], b, atol=1e-6)
    assert int(run.state.step) == 3


def test_settings_that_differ_in_numbers_share_one_program(digits):
    def exp(lr=0.1, weight=1.0, smooth=0.1, factor=0.5, **more):
        return digits(
            terms={
                "ce": tl.losses.CrossEntropy(label_smoothing=smooth, weight=weight),
                "decay": tl.regularizers.WeightDecay(weight=0.1 * weight),
            },
            optim=tl.optim.AdamW(
                lr=lr, clip=1 / lr, groups={"head": factor, ".*": 1.0}, b1=1 - lr
            ),
            **more,
        )

    losses = [tl.setup(exp()).step()["loss"]]
    before = compilation.stored(compiled_step.compiled)
    for changed in (
        exp(lr=0.3),
        exp(weight=2.0),
        exp(smooth=0.2),
        exp(factor=0.1),
        exp(seed=7),
        exp(seed=2**32 - 1),
        exp(steps=11),
        exp(data=tl.data.Digits(labels_per_class=5)),
        exp(data=tl.data.Digits(val=0.3, test=50, split_seed=3)),
    ):
        run = tl.setup(changed)
        losses.append(run.step()["loss"])
        [dispatch] = run.compile().dispatches.values()
        assert any(dispatch is known for known in before)
    after = compilation.stored(compiled_step.compiled)
    assert set(map(id, after)) == set(map(id, before))
    assert len({round(x, 6) for x in losses}) > 5, "and the numbers do act"


def test_settings_that_shape_the_program_do_not_share(digits):
    seen = set()
    for changed in (
        digits(optim=tl.optim.SGD(lr=0.1)),
        digits(optim=tl.optim.SGD(lr=0.1, nesterov=True)),
        digits(optim=tl.optim.SGD(lr=0.1, clip=1.0)),
        digits(optim=tl.optim.SGD(lr=tl.optim.Cosine(peak=0.1))),
        digits(optim=tl.optim.SGD(lr=0.1), batch=16),
        digits(optim=tl.optim.SGD(lr=0.1), model=tl.models.MLP(widths=(17,))),
        digits(optim=tl.optim.SGD(lr=0.1), terms={"own": Counting(scale=1.0)}),
        digits(optim=tl.optim.SGD(lr=0.1), terms={"own": Counting(scale=2.0)}),
    ):
        seen.add(tl.setup(changed).parts.program.key())
    assert len(seen) == 8


def test_a_learning_rate_of_zero_moves_nothing(digits):
    run = tl.setup(digits(optim=tl.optim.AdamW(lr=0.0, weight_decay=1.0)))
    before = jax.tree.map(np.asarray, run.params)
    run.advance(2)
    jax.tree.map(np.testing.assert_array_equal, before, run.params)


def test_steps_in_a_loop_on_the_device_are_the_same_steps(digits):
    alone, looped = (tl.setup(digits(steps_per_dispatch=count)) for count in (1, 4))
    one, many = alone.advance(6), looped.advance(6)  # 4 and then 2
    assert len(one) == len(many) == 6
    for a, b in zip(one, many):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=1e-6)
    close = {"rtol": 1e-4, "atol": 1e-6}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        alone.params,
        looped.params,
    )
    assert int(looped.state.step) == 6


def test_steps_without_convolutions_take_a_loop_and_keep_their_bits(digits):
    single, default = tl.setup(digits(steps_per_dispatch=1)), tl.setup(digits())
    assert (single.compile().most, default.compile().most) == (1, compiled_step.LOOP)
    single.advance(3)
    default.advance(3)
    jax.tree.map(np.testing.assert_array_equal, single.params, default.params)
    network = tl.models.CNN(widths=(2, 2), units=4)
    assert tl.setup(digits(model=network)).compile().most == 1


def test_accumulated_gradients_are_those_of_the_whole_batch(digits):
    terms = {
        "task": tl.losses.CrossEntropy(),
        "decay": tl.regularizers.WeightDecay(weight=0.01),
    }
    runs = [tl.setup(digits(terms=terms, accumulate=n)) for n in (1, 4)]
    whole, parts = (run.advance(3) for run in runs)
    for a, b in zip(whole, parts):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(digits):
    exact, low = (tl.setup(digits(dtype=d)) for d in ("float32", "bfloat16"))
    a, b = ([r["loss"] for r in run.advance(5)] for run in (exact, low))
    assert a != b
    np.testing.assert_allclose(a, b, rtol=0.02)
    kinds = {x.dtype for x in jax.tree.leaves((low.params, low.state.opt))}
    assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
    found = tl.evaluate(low, "val")
    assert found["nll"] == pytest.approx(tl.evaluate(exact, "val")["nll"], rel=0.03)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(Term):
    """Σ (x̄ − own)² with a trained number of its own and a count of its calls."""

    scale: float = 1.0

    def init(self, key, setup):
        return {"shift": jnp.full((2,), 3.0)}

    def init_state(self, setup):
        return {"calls": jnp.int32(0)}

    def __call__(self, context):
        value = jnp.sum(jnp.square(context.term_params["shift"])) * self.scale
        context.forward()  # so that the model's parameters have a gradient
        context.set_state({"calls": context.state["calls"] + 1})
        return value, {"calls": context.state["calls"].astype(jnp.float32)}


def test_terms_train_their_own_parameters_and_keep_state(digits):
    exp = digits(
        terms={"task": tl.losses.CrossEntropy(), "own": Counting(scale=2.0)},
        optim=tl.optim.SGD(lr=0.1, momentum=0.0, groups={"head": 1.0, ".*": tl.FROZEN}),
        accumulate=2,
    )
    run = tl.setup(exp)
    found = run.advance(3)
    # θ ← θ − 0.1 · 2 · 2θ, three times.
    np.testing.assert_allclose(
        run.state.trainable["terms"]["own"]["shift"], 3.0 * 0.6**3 * np.ones(2), 1e-6
    )
    assert int(run.state.terms["own"]["calls"]) == 6, "once for each micro-batch"
    assert [r["own/calls"] for r in found] == [0.5, 2.5, 4.5]


def test_a_plain_pair_of_functions_trains(digits):
    def init(key, x):
        w = jax.random.normal(key, (x[0].size, 10)) * 0.01
        return {"first": {"b": jnp.zeros(x[0].size)}, "last": {"w": w}}

    def apply(params, x):
        x = x.reshape(len(x), -1) + params["first"]["b"]
        return x @ params["last"]["w"]

    network = tl.models.foreign(init, apply, stages=("first", "last"))
    optim = tl.optim.AdamW(lr=0.01, groups={"first": tl.FROZEN, ".*": 1.0})
    run = tl.setup(digits(model=network, optim=optim, steps=150))
    result = tl.train(run)
    assert result["test"]["accuracy"] > 0.85
    assert not run.params["first"]["b"].any()
    assert trees.size(run.params) == 64 + 640


def test_a_plain_pair_without_stages_is_one_head(digits):
    network = tl.models.foreign(
        lambda key, x: {"w": jnp.zeros((64, 10))},
        lambda params, x: x.reshape(len(x), -1) @ params["w"],
    )
    run = tl.setup(digits(model=network))
    assert run.network.stages == ("head",)
    assert run.step()["loss"] == pytest.approx(np.log(10), rel=1e-5)
