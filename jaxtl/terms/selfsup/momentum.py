"""Momentum encoders: moving averages of the network and its heads, a term's state."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxtl.core import tree as trees
from jaxtl.core.config import traced
from jaxtl.core.types import PyTree
from jaxtl.models import merging
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.context import View
from jaxtl.terms.selfsup.two_views import TwoViewTerm


def cosine_rise(
    base: float | jax.Array, step: jax.Array, steps: jax.Array
) -> jax.Array:
    """1 − (1 − base)·(1 + cos(π·step/steps))/2, from `base` to 1.

    References:
      Grill et al., NeurIPS 2020, section 3.3.
    """
    share = step / jnp.maximum(steps, 1)
    return 1 - (1 - base) * (1 + jnp.cos(jnp.pi * share)) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumTerm(TwoViewTerm):
    """Base class of terms with a momentum encoder.

    It is the average m·encoder + (1 − m)·network of the trainable parameters and of
    the term's own in `averaged`, begins as the network is when the term begins, and
    runs in training mode, with batch statistics and dropout of its own. No gradient
    flows through it.

    Attributes:
      stream, stage, views, second: as in `TwoViewTerm`.
      momentum: m.
      rises: whether m rises to 1 over the run, by half a cosine.
    """

    averaged: ClassVar[tuple[str, ...]] = ("projector",)
    moves_once: ClassVar[bool] = True

    momentum: float = traced(0.996)
    rises: bool = True

    def check(self, setup: Setup) -> None:
        super().check(setup)
        checks.number(setup, "momentum", self.momentum, 0.0, 1.0)

    def init_state(self, setup: Setup) -> PyTree:
        own = jax.eval_shape(lambda: self.init(jax.random.key(0), setup))
        heads = {name: own[name] for name in self.averaged if name in own}
        # The first step replaces these zeros.
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), heads)
        network = trees.restrict(setup.params, setup.program.trainable_mask)
        return {"network": network, "heads": zeros}

    def encoder(self, context: View, parts: int = 1) -> PyTree:
        """The encoder {"network", "heads"} after this step's average.

        Args:
          context: of the step.
          parts: number of micro-batches that each average, where they do.
        """
        state = {name: context.state[name] for name in ("network", "heads")}
        params = jax.lax.stop_gradient(context.params)
        mask = jax.tree.map(
            lambda x: x is not None, state["network"], is_leaf=lambda x: x is None
        )
        own = jax.lax.stop_gradient(context.term_params)
        student = {
            "network": trees.restrict(trees.like(state["network"], params), mask),
            "heads": {name: own[name] for name in state["heads"]},
        }
        m = jnp.asarray(self.momentum)
        if self.rises:
            m = cosine_rise(m, context.step, context.steps)
        m = jnp.where(context.step == 0, 0.0, m ** (1 / parts))
        return merging.ema(state, student, m)

    def encoded(self, context: View, encoder: PyTree, x: PyTree) -> jax.Array:
        """Features of the momentum encoder, (batch, width), without gradient."""
        params = jax.lax.stop_gradient(context.params)
        params = trees.merge(encoder["network"], params)
        return jax.lax.stop_gradient(self.features(context, x, params=params))
