"""MLDG: value and gradient against torch, which steps and differentiates by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core import tree as trees
from jaxtl.models import CNN
from jaxtl.terms.context import View
from jaxtl.terms.generalization import MLDG, mldg

torch = pytest.importorskip("torch", reason="MLDG is held to autograd's")

STREAMS = ("source", "target", "photo")
RATE, BETA = 0.3, 0.7


def _torch_mldg(harness, test_domain, second_order, trained_paths):
    """Returns torch's value and gradients by path, of an MLP with one hidden layer."""
    flat = trees.flatten(harness.params)
    leaves = {
        path: torch.tensor(
            np.asarray(x, np.float64), requires_grad=path in trained_paths
        )
        for path, x in flat.items()
    }
    size = min(len(harness.batches[s]["y"]) for s in STREAMS)

    def risk(leaves, names):
        x = np.concatenate([np.asarray(harness.batches[s]["x"])[:size] for s in names])
        y = np.concatenate([np.asarray(harness.batches[s]["y"])[:size] for s in names])
        hidden = torch.tensor(x.astype(np.float64)) @ leaves["layer1/dense/kernel"]
        hidden = torch.relu(hidden + leaves["layer1/dense/bias"])
        z = hidden @ leaves["head/dense/kernel"] + leaves["head/dense/bias"]
        return torch.nn.functional.cross_entropy(z, torch.tensor(y).long())

    train = risk(leaves, [s for s in STREAMS if s != test_domain])
    grads = torch.autograd.grad(
        train,
        [leaves[p] for p in trained_paths],
        create_graph=second_order,
        retain_graph=True,
    )
    stepped = dict(leaves)
    for path, grad in zip(trained_paths, grads):
        stepped[path] = leaves[path] - RATE * grad
    test = risk(stepped, [test_domain])
    value = train + BETA * test
    value.backward()
    return (
        value.item(),
        train.item(),
        test.item(),
        {p: leaves[p].grad for p in trained_paths},
    )


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("frozen", [(), ("layer1",)])
def test_value_and_gradient_are_torchs(bench, second_order, frozen):
    harness = bench(streams=(*STREAMS, "unlabelled"), frozen=frozen)
    term = MLDG(streams=STREAMS, rate=RATE, beta=BETA, second_order=second_order)
    term.check(harness.setup)
    trainable, frozen_params = trees.partition(harness.params, harness.mask)

    @jax.jit
    def grad(trainable, key):
        def value(trainable):
            context = harness.context(trees.merge(trainable, frozen_params), key=key)
            return term(View(context, "term", 0))

        return jax.value_and_grad(value, has_aux=True)(trainable)

    trained_paths = list(trees.flatten(trainable))
    expected = {
        s: _torch_mldg(harness, s, second_order, trained_paths) for s in STREAMS
    }
    drawn = set()
    for seed in range(12):
        (value, extra), grads = grad(trainable, jax.random.key(seed))
        # The domain that was left out is told by the meta-train risk.
        test_domain = min(STREAMS, key=lambda s: abs(expected[s][1] - extra["train"]))
        drawn.add(test_domain)
        whole, train, test, theirs = expected[test_domain]
        np.testing.assert_allclose(extra["train"], train, rtol=1e-5)
        np.testing.assert_allclose(extra["test"], test, rtol=1e-5)
        np.testing.assert_allclose(value, whole, rtol=1e-5)
        for path, ours in trees.flatten(grads).items():
            np.testing.assert_allclose(ours, theirs[path], rtol=1e-4, atol=1e-6)
    assert drawn == set(STREAMS)


def test_an_inner_step_moves_what_has_a_gradient():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    stepped = mldg.gradient_step(params, {"a": jnp.asarray([1.0, 2.0]), "b": None}, 0.5)
    np.testing.assert_allclose(stepped["a"], [0.5, 0.0])
    np.testing.assert_allclose(stepped["b"], [1.0, 1.0])


def test_batchnorm_statistics_follow_both_passes(bench):
    harness = bench(streams=STREAMS)
    model = CNN(outputs=3, widths=(2,), units=4, norm=True).pure()
    rng = np.random.default_rng(0)
    batches = {
        name: {
            "x": jnp.asarray(rng.normal(size=(4, 6, 6, 1)), jnp.float32),
            "y": jnp.asarray(rng.integers(0, 3, 4)),
        }
        for name in STREAMS
    }
    params, stats = model.init(jax.random.key(0), batches["photo"]["x"])
    mask = jax.tree.map(lambda _: True, params)
    program = {
        "network": model,
        "train_stages": model.stages,
        "trainable_mask": mask,
    }
    context = harness.context(
        program=program, params=params, stats=stats, batches=batches
    )
    MLDG(streams=STREAMS)(View(context, "term", 0))
    before, after = jax.tree.leaves(stats), jax.tree.leaves(context.stats)
    assert any((a != b).any() for a, b in zip(after, before))
    assert trees.all_finite(context.stats)
