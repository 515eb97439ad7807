"""Devices as a mesh: one device is a mesh of one.

Axes "data" and "param" both split the batch; "param" also splits parameters and
optimizer state (fully sharded). XLA inserts the communication.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.core import devices as devices_
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree


def mesh(devices: int = 1, param: int = 1) -> Mesh:
    """A mesh of `device_count(devices)` devices, shape (devices / param, param).

    Args:
      devices: how many of the visible devices take part; of the processes of a job
        each gives as many.
      param: over how many of them each parameter is split.

    Raises:
      UserError: if so many devices do not exist, the processes do not divide them, or
        `param` does not.
    """
    visible, devices = devices_.visible(), device_count(devices)
    processes = jax.process_count()
    if processes > 1:
        visible = _even_share(devices, visible, processes)
    elif not 1 <= devices <= len(visible):
        raise UserError(
            f"devices={devices}, but this process sees {len(visible)} "
            f"({visible[0].platform}); on CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes "
            "virtual ones."
        )
    if param < 1 or devices % param:
        raise UserError(f"param_shards={param} must divide devices={devices}.")
    return _mesh(tuple(visible[:devices]), param)


def device_count(devices: int) -> int:
    """The number of devices that take part.

    Args:
      devices: as an experiment says; in a job of several processes its default of 1
        stands for all devices of all processes.
    """
    if devices == 1 and jax.process_count() > 1:
        return len(devices_.visible())
    return devices


def _even_share(
    devices: int, visible: list[jax.Device], processes: int
) -> list[jax.Device]:
    """As many devices of each process of a job.

    Raises:
      UserError: the number does not divide, or a process has fewer.
    """
    each = devices // processes
    groups = [
        [device for device in visible if device.process_index == index][:each]
        for index in range(processes)
    ]
    if devices < 1 or devices % processes or any(len(g) < each for g in groups):
        raise UserError(
            f"devices={devices}, but this job has {processes} processes with "
            f"{len(visible)} devices in all; expected a multiple of {processes} up to "
            f"{len(visible)}, as many of each process."
        )
    return [device for group in groups for device in group]


@functools.cache
def _mesh(devices: tuple[jax.Device, ...], param: int) -> Mesh:
    grid = np.array(devices).reshape(len(devices) // param, param)
    return Mesh(grid, ("data", "param"), axis_types=(AxisType.Auto,) * 2)


def leaf_spec(shape: tuple[int, ...], param: int) -> PartitionSpec:
    """Splits the largest axis that `param` divides; replicates where none does."""
    fits = [i for i, n in enumerate(shape) if n % param == 0 and n >= param]
    if param == 1 or not fits:
        return PartitionSpec()
    axis = max(fits, key=lambda i: shape[i])
    return PartitionSpec(*("param" if i == axis else None for i in range(len(shape))))


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts parameters, statistics and optimizer state on the mesh."""
    return jax.tree.map(lambda x: _put(x, _leaf(x, mesh)), tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a copy of every leaf on each device of the mesh."""
    return put(tree, replicated(mesh))


def put(tree: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """Puts every leaf where a sharding says; None is the default device.

    In a job of several processes each has the whole of every leaf that is not spread
    over processes yet, and puts its part of it on its own devices.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    is_everywhere = isinstance(x, jax.Array) and not x.is_fully_addressable
    if is_everywhere or getattr(x, "weak_type", False):
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    whole = whole.astype(jax.dtypes.canonicalize_dtype(whole.dtype), copy=False)
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


def to_host(tree: PyTree) -> PyTree:
    """Every leaf as a numpy array, in every process, wherever its parts lie."""
    return jax.tree.map(_to_host, tree)


def _to_host(x: Any) -> np.ndarray:
    is_here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if is_here or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that each device of the mesh holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def constrain_state(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside jit: keeps state where `place` put it."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, _leaf(x, mesh)), tree
    )


def gather(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside jit: parameters whole on each device, for a pass over its examples.

    Left to itself, XLA splits products by features too and moves activations, of which
    there are more: 11 times the bytes in a ViT (`benchmarks/README.md`).
    """
    if mesh.shape["param"] == 1:
        return tree
    whole = replicated(mesh)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)


def batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "param")))


def batch_rows(mesh: Mesh, size: int) -> slice:
    """The rows of a batch of a size that lie on devices of this process."""
    slices = batch(mesh).addressable_devices_indices_map((size,)).values()
    bounds = [rows[0].indices(size) for rows in slices if rows]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))


def put_batch(rows: PyTree, mesh: Mesh, size: int) -> PyTree:
    """A batch over all devices of a mesh.

    Args:
      rows: the `batch_rows` of it, numpy arrays.
      mesh: the devices.
      size: rows of the whole batch.
    """
    placement = batch(mesh)
    if placement.is_fully_addressable:
        return jax.device_put(rows, placement)

    def put_leaf(x: np.ndarray) -> jax.Array:
        x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
        shape = (size, *x.shape[1:])
        return jax.make_array_from_process_local_data(placement, x, shape)

    return jax.tree.map(put_leaf, rows)


def constrain_batch(tree: PyTree, mesh: Mesh) -> PyTree:
    """Inside jit: splits the leading axis of every leaf over all devices."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, batch(mesh)), tree
    )


def _leaf(x: Any, mesh: Mesh) -> NamedSharding:
    # Typed keys carry a hidden trailing axis; scalars and keys are replicated.
    shape = getattr(x, "shape", ())
    return NamedSharding(mesh, leaf_spec(shape, mesh.shape["param"]))
