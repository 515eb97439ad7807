"""One compiled function over whole splits, each row once, in the splits' order."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from jaxtl.core import compilation, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import device_stream, lazy_array, preprocess, streams
from jaxtl.data.dataset import Dataset


class Forward(NamedTuple):
    """A function of (weights, inputs), compiled for both places data may live in.

    Attributes:
      resident: (weights, all examples on the device, rows) -> outputs.
      streamed: (weights, a batch from the host) -> outputs.
      mesh: of the devices it runs on.
    """

    resident: Callable
    streamed: Callable
    mesh: jax.sharding.Mesh


def forward(compute: Callable, pre: preprocess.Preprocess, mesh) -> Forward:
    """Compiles `compute(weights, x)`, x preprocessed and split over the mesh.

    Keep what it returns: another call compiles anew.
    """

    def streamed(weights, x):
        x = preprocess.apply(pre, sharding.constrain_batch(x, mesh))
        return compute(weights, x)

    def resident(weights, x, rows):
        return streamed(weights, jax.tree.map(lambda values: values[rows], x))

    options = compilation.options(mesh.devices.flat[0].platform)
    made = (jax.jit(f, compiler_options=options) for f in (resident, streamed))
    return Forward(*made, mesh)


def over(
    made: Forward,
    weights: PyTree,
    dataset: Dataset,
    splits: Iterable[str],
    *,
    batch: int,
    device_bytes: int,
    axis: int = 0,
) -> dict[str, PyTree]:
    """Returns {split: outputs of all its rows}, as numpy.

    The splits are read as one row of batches, so that one program serves them all.

    Args:
      made: the compiled function.
      weights: its first argument, on the mesh.
      dataset: the data.
      splits: their names, in any number.
      batch: examples per call, at most.
      device_bytes: data up to this size are put on the device.
      axis: of the outputs, along which examples lie.

    Raises:
      UserError: a split that does not exist, or is empty.
    """
    rows = {name: streams.split_rows(dataset, name) for name in splits}
    for name, found in rows.items():
        if len(found) == 0:
            raise UserError(f"the split {name!r} of {dataset.name} is empty.")
    every = np.concatenate(list(rows.values()))
    parts = made.mesh.size
    batch = -(-min(batch, len(every)) // parts) * parts
    batches, _ = streams.evaluation_batches(every, batch)
    call = caller(made, weights, dataset, next(iter(rows)), device_bytes)
    # To the host batch by batch: the outputs of a data set may not fit the device.
    out = [jax.tree.map(np.asarray, call(b)) for b in batches]
    whole = jax.tree.map(lambda *xs: np.concatenate(xs, axis), *out)
    ends = np.cumsum([len(found) for found in rows.values()])
    return {
        name: jax.tree.map(lambda x, a=a, b=b: x.take(range(a, b), axis), whole)
        for name, a, b in zip(rows, [0, *ends], ends)
    }


def caller(made, weights, dataset, split, device_bytes):
    """Returns rows -> outputs, of data on the device or on the host."""
    if device_stream.fits(dataset, device_bytes):
        whole = jax.sharding.NamedSharding(made.mesh, jax.sharding.PartitionSpec())
        x = device_stream.from_split(dataset, split, whole).x
        return lambda rows: made.resident(weights, x, rows)
    place = sharding.batch(made.mesh)
    return lambda rows: made.streamed(
        weights, jax.device_put(lazy_array.gather(dataset.x, rows), place)
    )
