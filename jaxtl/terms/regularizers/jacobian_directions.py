"""Fixed directions of the Jacobian difference: the source's derivatives, kept."""

import functools

import jax
import numpy as np

from jaxtl.core import compilation
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.terms import checks
from jaxtl.terms.base import Setup
from jaxtl.terms.regularizers.jacobian_estimates import random_signs, tangents
from jaxtl.terms.regularizers.jacobian_sides import Side
from jaxtl.terms.regularizers.jacobian_stages import Groups, within_group


def fixed_direction(number: jax.Array | int, params: PyTree) -> PyTree:
    """The direction of this number, of −1 and 1, the same in every run.

    Args:
      number: from 0.
      params: the parameters that it moves.
    """
    return random_signs(jax.random.fold_in(jax.random.key(0), number), params)


def check_directions(setup: Setup, stage: str) -> None:
    """Raises UserError where the source's derivatives are not the same at each step.

    Args:
      setup: of the experiment.
      stage: whose output is derived.
    """
    field, program = checks.where(setup, "directions"), setup.program
    if program.augment:
        raise UserError(
            f"{field}: augmentation gives other inputs at each step, and the source's "
            "derivatives are kept for one input; expected directions=0, or no augment."
        )
    stages = program.network.stages[: program.network.stages.index(stage) + 1]
    present = {*trees.flatten(setup.source.params), *trees.flatten(setup.source.stats)}
    needed = {
        **trees.flatten(program.base_params(setup.params)),
        **trees.flatten(setup.stats),
    }
    missing = [
        path for path in needed if path.split("/")[0] in stages and path not in present
    ]
    if missing:
        raise UserError(
            f"{field}: the source has no {missing[0]}, so its derivatives change with "
            "the model; expected directions=0, or another stage."
        )


def source_tangents(
    setup: Setup,
    stream: str,
    mask: PyTree,
    stop: str | None,
    count: int,
    groups: Groups,
) -> np.ndarray:
    """J₀u of each train example of a stream along each fixed direction u, by groups.

    Args:
      setup: of the experiment.
      stream: its name.
      mask: tree of bools: the parameters that the directions move.
      stop: the stage whose output is derived, None for the head.
      count: number of directions.
      groups: of stages; a direction has a derivative for its part in each of them.

    Returns:
      (examples of the data set, count · groups, outputs) in float32, those of one
      direction side by side; 0 for other examples than those of train.
    """
    program = setup.program.in_compute_dtype()
    network = program.base_network or program.network
    params = trees.fill(setup.source.params, program.base_params(setup.params))
    stats = trees.fill(setup.source.stats, setup.stats)
    selected, fixed = trees.partition(params, trees.like(params, mask))
    f = Side(params, stats, network.apply).function(fixed, stop, None)

    @functools.partial(jax.jit, compiler_options=compilation.default_options())
    def along(selected: PyTree, x: PyTree) -> list[jax.Array]:
        tangent = tangents(lambda p: f(p, x), selected)
        return [
            tangent(within_group(fixed_direction(i, selected), groups, g))
            for i in range(count)
            for g in range(len(groups))
        ]

    table = None
    for batch in setup.batches(stream):
        values = np.stack(along(selected, batch["x"]), 1).astype(np.float32)
        if table is None:
            shape = (setup.examples[stream], *values.shape[1:])
            table = np.zeros(shape, np.float32)
        table[np.asarray(batch["row"])] = values
    assert table is not None, "a stream has train examples"
    return table
