"""Stochastic normalization: by numpy and the authors' formula, and its two limits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.core.errors import UserError
from jaxtl.models import CNN, MLP, VGG, MobileNet, ResNet, ResNetImageNet, staged
from jaxtl.models.layers import batch_norm, channel_moments

rng = np.random.default_rng(0)
IMAGES = jnp.asarray(rng.normal(2.0, 3.0, (6, 8, 8, 2)), jnp.float32)
FIELDS = {"outputs": 3, "widths": (4, 5), "units": 6, "norm": True}


def _network(**fields):
    network = CNN(**FIELDS, **fields).pure()
    params, stats = network.init(jax.random.key(0), IMAGES)
    noisy = jax.tree.map(lambda s: s + rng.uniform(0.1, 0.5, s.shape), stats)
    return network, params, jax.tree.map(jnp.float32, noisy)


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class _Stage(nn.Module):
    @nn.compact
    def __call__(self, x, mode):
        return batch_norm.BatchNorm(name="bn")(x, mode)


def test_channels_take_one_pair_or_the_other_by_numpy():
    """Value and gradient of the authors' (1 − s) · z₀ + s · z₁ in torch."""
    torch = pytest.importorskip("torch", reason="the reference is torch")
    channels, key = 40, jax.random.key(3)
    x = rng.normal(1.0, 2.0, (5, 3, 3, channels))
    mean, scale, bias = rng.normal(size=(3, channels))
    var, ct = rng.uniform(1, 2, channels), rng.normal(size=x.shape)
    stats = {"bn": {"mean": mean, "var": var}}
    params = {"bn": {"scale": scale, "bias": bias}}
    with jax.enable_x64(True):
        stats, params = jax.tree.map(jnp.asarray, (stats, params))

        def apply(x):
            return _Stage().apply(
                {"params": params, "batch_stats": stats},
                x,
                staged.Mode(("bn",), (), 0.3),
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )

        y, pull, new = jax.vjp(apply, jnp.asarray(x), has_aux=True)
        (gradient,) = pull(jnp.asarray(ct))
    axes = (0, 1, 2)
    z0 = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    z1 = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * scale + bias
    batch = np.isclose(y, z1, atol=1e-9).all(axes)
    moving = np.isclose(y, z0, atol=1e-9).all(axes)
    np.testing.assert_array_equal(batch, ~moving)
    assert 4 <= moving.sum() <= 20
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    # Each branch has buffers of its own: torch's backward pass of the first would
    # otherwise read the variance that the second has moved.
    t0, t1 = (
        torch.nn.functional.batch_norm(
            tx, *map(torch.tensor, (mean, var, scale, bias)), train, 0.1, 1e-5
        )
        for train in (False, True)
    )
    s = torch.tensor(batch, dtype=torch.float64)[:, None, None]
    ((1 - s) * t0 + s * t1).backward(torch.tensor(ct.transpose(0, 3, 1, 2)))
    expected = tx.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, atol=1e-9)
    # The running statistics follow the batch in every channel.
    running = new["batch_stats"]["bn"]
    np.testing.assert_allclose(running["mean"], 0.9 * mean + 0.1 * x.mean(axes))
    np.testing.assert_allclose(running["var"], 0.9 * var + 0.1 * x.var(axes))


def test_the_share_is_that_of_the_moving_statistics():
    moving, batch = (
        channel_moments.ChannelMoments(*(jnp.full(4000, value),) * 3)
        for value in (0.0, 1.0)
    )
    mixed = batch_norm.mix_statistics(jax.random.key(0), 0.2, moving, batch)
    _same(mixed.shift, mixed.offset)
    _same(mixed.shift, mixed.variance)
    assert abs(float(mixed.shift.mean()) - 0.8) < 0.03


def test_a_probability_of_0_is_plain_batch_norm_without_random_numbers():
    network, params, stats = _network()

    def step(params, key):
        return network.apply(params, stats, IMAGES, train=network.stages, key=key)

    program = str(jax.make_jaxpr(step)(params, jax.random.key(0)))
    assert "random" not in program
    assert "threefry" not in program
    assert CNN(**FIELDS, stochnorm=0.0) == CNN(**FIELDS)
    assert staged.Mode(("a",)) == staged.Mode(("a",), (), 0.0)


def test_a_probability_of_1_is_evaluation_whose_statistics_move():
    network, params, stats = _network(stochnorm=1.0)
    plain = _network()[0]
    key = jax.random.key(0)
    ours = network.apply(params, stats, IMAGES, train=network.stages, key=key)
    np.testing.assert_allclose(
        ours.features["block1"],
        plain.apply(params, stats, IMAGES).features["block1"],
        rtol=1e-6,
    )
    theirs = plain.apply(params, stats, IMAGES, train=plain.stages, key=key)
    # The first norm sees the same batch either way.
    _same(ours.stats["block1"], theirs.stats["block1"])


def test_evaluation_and_modules_with_frozen_statistics_do_not_change():
    network, params, stats = _network(stochnorm=0.5)
    plain = _network()[0]
    ours, theirs = (n.apply(params, stats, IMAGES) for n in (network, plain))
    _same(ours, theirs)
    settings = {"train": plain.stages, "frozen_stats": ("block1/bn", "block2/bn")}
    ours, theirs = (
        n.apply(params, stats, IMAGES, **settings) for n in (network, plain)
    )
    _same(ours, theirs)


def test_draws_follow_the_key_and_survive_recomputation():
    network, params, stats = _network(stochnorm=0.5)
    again = CNN(**FIELDS, stochnorm=0.5, remat=True).pure()

    def value(params, network, key):
        out = network.apply(params, stats, IMAGES, train=network.stages, key=key)
        return jnp.sum(jnp.square(out.logits))

    grad = jax.jit(jax.grad(value), static_argnums=1)
    plain, recomputed, other_key = (
        grad(params, n, jax.random.key(k))
        for n, k in ((network, 0), (again, 0), (network, 1))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), plain, recomputed
    )
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), plain, other_key)
    assert max(jax.tree.leaves(gaps)) > 1e-3


@pytest.mark.parametrize(
    "model",
    [
        CNN(**FIELDS, stochnorm=0.5),
        ResNet(outputs=3, depth=8, width=4, stochnorm=0.5),
        ResNetImageNet(outputs=3, sizes=(1, 1, 1, 1), width=4, stochnorm=0.5),
        MobileNet(outputs=3, alpha=0.125, stochnorm=0.5),
        VGG(outputs=3, depth=11, width=4, hidden=8, pooled=2, norm=True, stochnorm=0.5),
    ],
    ids=lambda m: type(m).__name__,
)
def test_every_norm_of_every_family_draws_once(model, monkeypatch):
    network, x = model.pure(), jnp.zeros((2, 32, 32, 3))
    key = jax.random.key(0)
    params, stats = jax.eval_shape(network.init, key, x)
    norms = len(jax.tree.leaves(stats)) // 2

    def step(params, stats, key):
        out = network.apply(params, stats, x, train=network.stages, key=key)
        return out.logits

    widths, mixed = [], batch_norm.mix_statistics

    def counted(key, share, moving, batch):
        widths.append(moving[0].size)
        return mixed(key, share, moving, batch)

    monkeypatch.setattr(batch_norm, "mix_statistics", counted)
    jax.eval_shape(step, params, stats, key)
    assert len(widths) == norms > 0
    assert 2 * sum(widths) == sum(s.size for s in jax.tree.leaves(stats))


def test_errors():
    with pytest.raises(UserError, match=r"stochnorm=1\.5: expected a number in"):
        CNN(**FIELDS, stochnorm=1.5).pure()
    network = MLP(outputs=3, stochnorm=0.5).pure()
    with pytest.raises(UserError, match=r"MLP has no BatchNorm"):
        network.init(jax.random.key(0), IMAGES)
    network, params, stats = _network(stochnorm=0.5)
    with pytest.raises(UserError, match=r"give apply a key="):
        network.apply(params, stats, IMAGES, train=network.stages)
