"""Mixtures fitted to the remembered losses of two networks, as a term's state.

The state holds, for n examples of the data set:
  "losses": (2, n), each network's last loss of each example.
  "seen": (n,), 1 for an example that has a loss.
  "span": (2, 2), smallest and largest loss of each network at the last fit.
  "mixtures": a `Mixture` of each network's losses, rescaled from its span to [0, 1].
"""

import jax
import jax.numpy as jnp

from jaxtl.core.types import PyTree
from jaxtl.terms.noisy.gaussian_mixture import (
    Mixture,
    fit_two_gaussians,
    lower_component_probability,
)


def init_state(examples: int) -> PyTree:
    """The state before any loss is known.

    Args:
      examples: n, number of examples of the data set.
    """
    mixture = Mixture(jnp.zeros(2), jnp.ones(2), jnp.full(2, 0.5))
    return {
        "losses": jnp.zeros((2, examples)),
        "seen": jnp.zeros(examples),
        "span": jnp.tile(jnp.asarray([[0.0, 1.0]]), (2, 1)),
        "mixtures": jax.tree.map(lambda x: jnp.stack([x, x]), mixture),
    }


def store(state: PyTree, rows: jax.Array, losses: jax.Array) -> PyTree:
    """The state with the losses (2, batch) of a batch's examples, rows (batch,)."""
    return {
        **state,
        "losses": state["losses"].at[:, rows].set(losses),
        "seen": state["seen"].at[rows].set(1.0),
    }


def fit(state: PyTree) -> PyTree:
    """The state with mixtures fitted to all losses that are known."""
    was_seen = state["seen"] > 0
    low = jnp.min(jnp.where(was_seen, state["losses"], jnp.inf), axis=1)
    high = jnp.max(jnp.where(was_seen, state["losses"], -jnp.inf), axis=1)
    span = jnp.stack([low, jnp.maximum(high, low + 1e-6)], axis=1)

    def fit_network(losses: jax.Array, span: jax.Array) -> Mixture:
        return fit_two_gaussians(_rescale(losses, span), state["seen"])

    mixtures = jax.vmap(fit_network)(state["losses"], span)
    return {**state, "span": span, "mixtures": mixtures}


def clean_probabilities(state: PyTree, losses: jax.Array) -> jax.Array:
    """P(label is clean) by each network's mixture: the component of the smaller mean.

    Args:
      state: the state.
      losses: (2, batch), current losses of both networks.

    Returns:
      (2, batch).
    """

    def probability(mixture: Mixture, losses: jax.Array, span: jax.Array) -> jax.Array:
        return lower_component_probability(mixture, _rescale(losses, span))

    return jax.vmap(probability)(state["mixtures"], losses, state["span"])


def _rescale(losses: jax.Array, span: jax.Array) -> jax.Array:
    return (losses - span[0]) / (span[1] - span[0])
