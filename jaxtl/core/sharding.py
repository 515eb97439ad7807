"""Devices as a mesh: one device is a mesh of one.

Axes "data" and "param" both split the batch; "param" also splits parameters and
optimizer state (fully sharded). XLA inserts the communication.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.core import devices as devices_
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree


def mesh(devices: int = 1, param: int = 1) -> Mesh:
    """A mesh of `devices` devices, shape (devices / param, param).

    Args:
      devices: how many of the visible devices take part.
      param: over how many of them each parameter is split.

    Raises:
      UserError: if so many devices do not exist, or `param` does not divide them.
    """
    visible = devices_.visible()
    if not 1 <= devices <= len(visible):
        raise UserError(
            f"devices={devices}, but this process sees {len(visible)} "
            f"({visible[0].platform}); on CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes "
            "virtual ones."
        )
    if param < 1 or devices % param:
        raise UserError(f"param_shards={param} must divide devices={devices}.")
    return _mesh(tuple(visible[:devices]), param)


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
    return jax.tree.map(lambda x: jax.device_put(x, _leaf(x, mesh)), tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a copy of every leaf on each device of the mesh."""
    return jax.tree.map(lambda x: jax.device_put(x, replicated(mesh)), tree)


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


def batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "param")))


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
