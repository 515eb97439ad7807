"""Networks from plain pure functions of any library."""

from collections.abc import Callable
from typing import Any

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree


def foreign(
    init: Callable[..., PyTree],
    apply: Callable[..., jax.Array],
    stages: tuple[str, ...] | None = None,
) -> Network:
    """Makes a network of any pure `(init, apply)` pair, of whatever library.

    Args:
      init: `(key, x) -> params`, a dict whose top-level keys are the stages.
      apply: `(params, x) -> logits`, without state or randomness.
      stages: the keys of `params` in order, the head last; a single stage "head" that
        holds everything if left out.

    Returns:
      A `Network`. It offers no features, and no `start`/`stop`.
    """
    names = stages or ("head",)

    def staged_init(key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        params = init(key, x)
        return (params if stages else {"head": params}), {}

    def staged_apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        if start is not None or stop not in (None, names[-1]):
            raise UserError(
                "this model is a plain (init, apply) pair and can't start or stop at "
                f"a stage (asked for start={start!r}, stop={stop!r})."
            )
        out = apply(params if stages else params["head"], x)
        return Output(out, {names[-1]: out}, stats)

    return Network(names, staged_init, staged_apply, can_start=False)
