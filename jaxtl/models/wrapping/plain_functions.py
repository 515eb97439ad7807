"""Networks from plain pure functions of any library."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, Output, PyTree

_NO_START = "a pair of functions runs as a whole"


def network_of_functions(
    init: Callable[..., PyTree],
    apply: Callable[..., Any],
    stages: tuple[str, ...] | None = None,
) -> Network:
    """Makes a network of any pure `(init, apply)` pair, of whatever library.

    Args:
      init: `(key, x) -> params`, a dict whose top-level keys are the stages; of a pair
        with state `(key, x) -> (params, state)`, the state's keys being stages as well.
      apply: `(params, x) -> logits` or `(logits, {stage: features})`. Three further
        parameters are passed where it names them: `state`, after the parameters, for
        what is not learned (the new state is then the last of what it returns);
        `train`, the names of the stages in training mode, () in evaluation; `key`, a
        PRNG key or None.
      stages: the keys of `params` in order, the head last; a single stage "head" that
        holds everything if left out.

    Returns:
      A `Network` that takes no `start`, and whose features are those that `apply`
      returns.
    """
    names = tuple(stages) if stages else ("head",)
    parameters = inspect.signature(apply).parameters
    has_state = "state" in parameters

    def by_stage(tree: PyTree) -> PyTree:
        return tree if stages or not jax.tree.leaves(tree) else {"head": tree}

    def staged_init(key: jax.Array, x: Any) -> tuple[PyTree, PyTree]:
        params, state = init(key, x) if has_state else (init(key, x), {})
        return (params if stages else {"head": params}), by_stage(state)

    def staged_apply(
        params, stats, x, *, train=(), frozen_stats=(), key=None, start=None, stop=None
    ) -> Output:
        if start is not None or stop not in (None, names[-1]):
            raise UserError(
                "this model is a plain (init, apply) pair and can't start or stop at "
                f"a stage (asked for start={start!r}, stop={stop!r})."
            )
        given = {"train": tuple(train), "key": key}
        options = {n: value for n, value in given.items() if n in parameters}
        state = (stats if stages else stats.get("head", {}),) if has_state else ()
        out = apply(params if stages else params["head"], *state, x, **options)
        parts = tuple(out) if isinstance(out, tuple | list) else (out,)
        if has_state:
            *parts, new = parts
            # What a frozen stage returns is dropped: nothing in it moves.
            new = {s: x for s, x in by_stage(new).items() if s in train}
            stats = {**stats, **new}
        logits, features = (*parts, {})[:2]
        return Output(logits, {**features, names[-1]: logits}, stats)

    return Network(
        names, staged_init, staged_apply, can_start=False, no_start=_NO_START
    )
