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
pytestmark = pytest.mark.usefixtures("quick_compilation")
RATE, BETA = 0.3, 0.7


def _torch_mldg(room, chosen, second_order, moving):
    """Returns torch's value and gradients by path, of an MLP with one hidden layer."""
    flat = trees.flatten(room.params)
    leaves = {
        path: torch.tensor(np.asarray(x, np.float64), requires_grad=path in moving)
        for path, x in flat.items()
    }
    size = min(len(room.batches[s]["y"]) for s in STREAMS)

    def risk(leaves, names):
        x = np.concatenate([np.asarray(room.batches[s]["x"])[:size] for s in names])
        y = np.concatenate([np.asarray(room.batches[s]["y"])[:size] for s in names])
        hidden = torch.tensor(x.astype(np.float64)) @ leaves["layer1/dense/kernel"]
        hidden = torch.relu(hidden + leaves["layer1/dense/bias"])
        z = hidden @ leaves["head/dense/kernel"] + leaves["head/dense/bias"]
        return torch.nn.functional.cross_entropy(z, torch.tensor(y).long())

    train = risk(leaves, [s for s in STREAMS if s != chosen])
    grads = torch.autograd.grad(
        train, [leaves[p] for p in moving], create_graph=second_order, retain_graph=True
    )
    moved = dict(leaves)
    for path, grad in zip(moving, grads):
        moved[path] = leaves[path] - RATE * grad
    test = risk(moved, [chosen])
    value = train + BETA * test
    value.backward()
    return value.item(), train.item(), test.item(), {p: leaves[p].grad for p in moving}


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("frozen", [(), ("layer1",)])
def test_value_and_gradient_are_torchs(bench, second_order, frozen):
    room = bench(streams=(*STREAMS, "unlabelled"), frozen=frozen)
    term = MLDG(streams=STREAMS, rate=RATE, beta=BETA, second_order=second_order)
    term.check(room.setup)
    free, held = trees.partition(room.params, room.mask)

    @jax.jit
    def grad(free, key):
        def value(free):
            context = room.context(trees.merge(free, held), key=key)
            return term(View(context, "term", 0))

        return jax.value_and_grad(value, has_aux=True)(free)

    moving = list(trees.flatten(free))
    expected = {s: _torch_mldg(room, s, second_order, moving) for s in STREAMS}
    seen = set()
    for seed in range(12):
        (value, extra), grads = grad(free, jax.random.key(seed))
        # The domain that was left out is told by the meta-train risk.
        chosen = min(STREAMS, key=lambda s: abs(expected[s][1] - extra["train"]))
        seen.add(chosen)
        whole, train, test, theirs = expected[chosen]
        np.testing.assert_allclose(extra["train"], train, rtol=1e-5)
        np.testing.assert_allclose(extra["test"], test, rtol=1e-5)
        np.testing.assert_allclose(value, whole, rtol=1e-5)
        for path, ours in trees.flatten(grads).items():
            np.testing.assert_allclose(ours, theirs[path], rtol=1e-4, atol=1e-6)
    assert seen == set(STREAMS)


def test_an_inner_step_moves_what_has_a_gradient():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    moved = mldg.gradient_step(params, {"a": jnp.asarray([1.0, 2.0]), "b": None}, 0.5)
    np.testing.assert_allclose(moved["a"], [0.5, 0.0])
    np.testing.assert_allclose(moved["b"], [1.0, 1.0])


def test_batchnorm_statistics_follow_both_passes(bench):
    room = bench(streams=STREAMS)
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
    context = room.context(program=program, params=params, stats=stats, batches=batches)
    MLDG(streams=STREAMS)(View(context, "term", 0))
    before, after = jax.tree.leaves(stats), jax.tree.leaves(context.stats)
    assert any((a != b).any() for a, b in zip(after, before))
    assert trees.all_finite(context.stats)
