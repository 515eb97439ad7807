"""Penalties of parameters and features: the equations against their authors' programs.

EWC and the Fisher information are held to published programs of others, since the
authors of EWC published none.
"""

import jax
import jax.numpy as jnp
import pytest
import stored_values

from jaxtl.models import MLP
from jaxtl.terms.regularizers import (
    attention_transfer,
    ewc,
    fisher,
    function_distance,
    group_lasso,
    kfac,
    l1sp,
    l2sp,
    smoothness,
)

VALUES = stored_values.load("regularizer_values.json")
LABELS = jnp.array([0, 2, 1, 1, 0])


def _linear(params, x):
    return x @ params["w"].T + params["b"]


def _flat(params):
    return jnp.concatenate([params["w"].reshape(-1), params["b"]])


def _attention_transfer(student, teacher):
    def positions(x):
        return jnp.moveaxis(x, 1, -1).reshape(2, 6, -1)

    # Theirs is the mean over the 6 positions, too.
    distance = attention_transfer.attention_distance
    return distance(positions(student), positions(teacher)) / 6


def _ewc(weights, old, bias, x):
    # Their labels are the predicted ones; theirs has no ½. The bias has not moved.
    labels = jnp.argmax(x @ old.T + bias, axis=1)
    params = {"w": old, "b": bias}
    importance = fisher.diagonal_fisher(_linear, params, x, labels)
    return 2 * ewc.ewc(weights, old, importance["w"])


def _fisher(labels):
    def importance(weights, bias, x):
        params = {"w": weights, "b": bias}
        # Theirs divides the sum over 5 examples by the index of the last, 4.
        return _flat(fisher.diagonal_fisher(_linear, params, x, labels)) * 5 / 4

    return importance


def _mas_gradient(weights, old, omega):
    # λ Σ Ω (θ − θ₀)² with λ = 0.7 is `ewc` with the weight 2λ.
    return jax.grad(lambda w: 1.4 * ewc.ewc(w, old, jnp.abs(omega)))(weights)


def _kfac_factors(weights, bias, head_weights, head_bias, x):
    network = MLP(outputs=3, widths=(3,), activation="tanh").pure()
    params = {
        "layer1": {"dense": {"kernel": weights.T, "bias": bias}},
        "head": {"dense": {"kernel": head_weights.T, "bias": head_bias}},
    }
    factors = kfac.kronecker_factors(network, params, {}, x)
    names = [f"{layer}/dense/{f}" for layer in ("layer1", "head") for f in "AG"]
    return jnp.concatenate([factors[name].reshape(-1) for name in names])


def _lwf(student, teacher):
    value = jnp.mean(function_distance.kl_divergence(teacher, student, 2.0))
    # Theirs is the cross-entropy, ours less the targets' entropy, and has T² = 4.
    p = jax.nn.softmax(teacher / 2)
    return 4 * (value - jnp.mean(jnp.sum(p * jnp.log(p), axis=1)))


def _divergence(a, b):
    return jnp.mean(smoothness.divergence(a, b))


def _smart_near(a, b):
    # Theirs holds the first distribution of each KL fixed: half of the gradient.
    value = _divergence(a, jax.lax.stop_gradient(a) + 1e-5 * b)
    return 0.5 * value + jax.lax.stop_gradient(0.5 * value)


EQUATIONS = {
    "attention_transfer": _attention_transfer,
    "ewc": _ewc,
    "fisher": _fisher(None),
    "fisher_empirical": _fisher(LABELS),
    "group_lasso": group_lasso.group_lasso,
    "kfac_factors": _kfac_factors,
    "l1sp": lambda w, old: l1sp.l1sp({"w": w}, {"w": old}),
    "l2sp_authors": lambda w, old: l2sp.l2sp({"w": w}, {"w": old}),
    "lwf": _lwf,
    "mas": lambda w, b, x: _flat(fisher.mas(_linear, {"w": w, "b": b}, x)),
    "mas_gradient": _mas_gradient,
    "r3f": _divergence,
    "smart": _divergence,
    "smart_near": _smart_near,
}
TOLERANCES = {"smart_near": 1e-4}  # of the order of the noise


@pytest.mark.parametrize("name", EQUATIONS)
def test_value_and_gradient_are_the_authors(name):
    tolerance = TOLERANCES.get(name, 1e-9)
    stored_values.assert_equal(VALUES[name], EQUATIONS[name], tolerance)


def test_every_stored_value_is_compared():
    assert set(EQUATIONS) == set(VALUES)
