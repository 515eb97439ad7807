"""Balancers of several tasks against torchjd and LibMTL, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored_values

from jaxtl.terms.multitask import (
    aligned,
    cagrad,
    dwa,
    famo,
    gradnorm,
    gradvac,
    imtl,
    mgda,
    nash,
    pcgrad,
    uncertainty,
    upgrad,
)
from jaxtl.terms.multitask.balancer import TaskValues

VALUES = stored_values.load("multitask_values.json")
_NAMES = ("a", "b", "c")


def _scaled(gradients):
    """The gradients of the programs: task k is k + 1 times as long."""
    return gradients * jnp.arange(1, len(gradients) + 1)[:, None]


def _direction(weights_of):
    """Σ w_k g_k, with the weights of the Gram matrix."""

    def direction(gradients):
        gradients = _scaled(gradients)
        return weights_of(gradients @ gradients.T) @ gradients

    return direction


def _last_first(count):
    return jnp.tile(jnp.arange(count)[::-1], (count, 1))


def _gradvac(*steps):
    count, directions = len(steps[0]), []
    targets = jnp.zeros((count, count), steps[0].dtype)
    for gradients in map(_scaled, steps):
        gram = gradients @ gradients.T
        weights, targets = gradvac.gradvac_weights(
            gram, targets, _last_first(count), 0.5
        )
        directions.append(weights @ gradients)
    return jnp.stack(directions)


def _uncertainty(losses, log_variances):
    def loss(losses, log_variances):
        weights, penalty = uncertainty.uncertainty_weights(log_variances)
        return weights @ losses + penalty

    return jnp.stack(jax.grad(loss, (0, 1))(jnp.exp(losses), log_variances))


def _gradnorm(gradients, losses, first, scales):
    norms, ratios = jnp.linalg.norm(gradients, axis=1), jnp.exp(losses - first)

    def loss(scales):
        weights = 3 * jax.nn.softmax(scales)
        return gradnorm.gradnorm_loss(weights, norms, ratios, 1.5)

    return jnp.stack([jax.grad(loss)(scales), 3 * jax.nn.softmax(scales)])


def _famo(losses):
    balancer, weights = famo.FAMO(), []
    state = {n: jnp.zeros(3, losses.dtype) for n in ("scores", "mean", "square")}
    state |= {"previous": jnp.zeros(3, losses.dtype), "updates": jnp.zeros(())}
    for step, row in enumerate(jnp.exp(losses[:3])):
        labelled, key = jnp.ones(3, bool), jax.random.key(0)
        values = TaskValues(row, _NAMES, labelled, None, {}, state, step, key)
        balance = balancer.balance(values)
        weights.append(balance.weights)
        state = balance.state
    return jnp.stack(weights)


def _cagrad(gram):
    return cagrad.cagrad_weights(gram, 0.4)


def _nash(gram):
    return nash.nash_weights(gram, 1.0)


def _pcgrad(gram):
    return pcgrad.pcgrad_weights(gram, _last_first(len(gram)))


BY_GRADIENTS = {
    "aligned": _direction(aligned.aligned_weights),
    "cagrad": _direction(_cagrad),
    "gradvac": _gradvac,
    "imtl_g": _direction(imtl.imtl_g_weights),
    "mgda": _direction(mgda.mgda_weights),
    "nash": _direction(_nash),
    "pcgrad": _direction(_pcgrad),
    "upgrad": _direction(upgrad.upgrad_weights),
}
EQUATIONS = {
    **{name: BY_GRADIENTS[name.rpartition("_")[0]] for name in VALUES if "_" in name},
    "dwa": lambda last, before: dwa.dwa_weights(jnp.exp(last), jnp.exp(before), 2.0),
    "famo": _famo,
    "gradnorm": _gradnorm,
    "uncertainty": _uncertainty,
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_balance_is_the_programs(name):
    stored_values.assert_equal(VALUES[name], EQUATIONS[name], 1e-5)


def test_every_stored_value_is_compared():
    assert set(EQUATIONS) == set(VALUES)


def test_the_nash_bargain_holds_to_rounding():
    gradients = np.random.default_rng(0).normal(size=(3, 9))
    gram = gradients @ gradients.T
    with jax.enable_x64(True):
        w = np.asarray(jax.jit(nash.nash_weights)(jnp.asarray(gram), jnp.inf))
    np.testing.assert_allclose(gram / np.linalg.norm(gram) @ w, 1 / w, rtol=1e-9)
