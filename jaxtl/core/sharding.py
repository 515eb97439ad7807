"""Devices as a mesh: one device is a mesh of one.

Axes "data" and "param" both split the batch; "param" also splits parameters and
optimizer state (fully sharded). "tensor" splits the layers themselves, as the
`TensorRules` of the model say; the devices along it see the same examples. XLA inserts
the communication.

References:
  Rajbhandari et al.: ZeRO, SC 2020 (fully sharded).
  Shoeybi et al.: Megatron-LM, arXiv:1909.08053 (tensor parallelism).
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.core import devices as devices_
from jaxtl.core.errors import UserError
from jaxtl.core.tensor_rules import NO_RULES, TensorRules
from jaxtl.core.types import PyTree

AXES = ("data", "param", "tensor")


def mesh(devices: int = 1, param: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of `device_count(devices)` devices with the axes `AXES`.

    Args:
      devices: how many of the visible devices take part; of the processes of a job
        each gives as many.
      param: over how many groups of them each parameter is split.
      tensor: over how many neighboring ones each layer is split.

    Raises:
      UserError: if so many devices do not exist, the processes do not divide them,
        `param * tensor` does not, or `tensor` does not divide those of a process.
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
    if tensor < 1 or devices % tensor:
        raise UserError(f"tensor_shards={tensor} must divide devices={devices}.")
    if tensor > 1 and (devices // processes) % tensor:
        raise UserError(
            f"tensor_shards={tensor} must divide the {devices // processes} devices of "
            f"each of {processes} processes, as the devices that share a layer see the "
            "same examples."
        )
    if param < 1 or devices % (param * tensor):
        rest = f" / tensor_shards = {devices // tensor}" if tensor > 1 else ""
        raise UserError(f"param_shards={param} must divide devices={devices}{rest}.")
    return _mesh(tuple(visible[:devices]), param, tensor)


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
def _mesh(devices: tuple[jax.Device, ...], param: int, tensor: int) -> Mesh:
    grid = np.array(devices).reshape(-1, param, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["param"]


def leaf_spec(
    shape: tuple[int, ...], param: int, tensor_axis: int | None = None
) -> PartitionSpec:
    """Splits the largest axis that `param` divides; replicates where none does.

    Args:
      shape: of the leaf.
      param: number of parts.
      tensor_axis: the axis that is split over the mesh axis "tensor", None for none.
    """
    axes: dict[int, str] = {} if tensor_axis is None else {tensor_axis: "tensor"}
    fits = [
        i
        for i, n in enumerate(shape)
        if n % param == 0 and n >= param and i != tensor_axis
    ]
    if param > 1 and fits:
        axes[max(fits, key=lambda i: shape[i])] = "param"
    if not axes:
        return PartitionSpec()
    return PartitionSpec(*(axes.get(i) for i in range(len(shape))))


def place(tree: PyTree, mesh: Mesh, rules: TensorRules = NO_RULES) -> PyTree:
    """Puts parameters, statistics and optimizer state on the mesh.

    Args:
      tree: any whose leaves' paths end with those of the model's parameters.
      mesh: the devices.
      rules: of the model.
    """
    return jax.tree.map(_put, tree, leaf_shardings(tree, mesh, rules))


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


def constrain_state(tree: PyTree, mesh: Mesh, rules: TensorRules = NO_RULES) -> PyTree:
    """Inside jit: keeps state where `place` put it."""
    if mesh.size == 1:
        return tree
    shardings = leaf_shardings(tree, mesh, rules)
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)


def gather(tree: PyTree, mesh: Mesh, rules: TensorRules = NO_RULES) -> PyTree:
    """Inside jit: parameters for a pass over a device's examples.

    They are whole on each device, or split over the axis "tensor" alone. Left to
    itself, XLA splits products by features too and moves activations, of which there
    are more: 11 times the bytes in a ViT (`benchmarks/README.md`).
    """
    if mesh.shape["param"] == mesh.shape["tensor"] == 1:
        return tree
    shardings = leaf_shardings(tree, mesh, rules, param=1)
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)


def batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis over `batch_parts` devices."""
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


def leaf_shardings(
    tree: PyTree, mesh: Mesh, rules: TensorRules, param: int | None = None
) -> PyTree:
    """The sharding of each leaf, of arrays or of their shapes.

    Args:
      tree: parameters, or what holds trees like them (optimizer states).
      mesh: the devices.
      rules: of the model.
      param: number of parts of a parameter; None takes the mesh's.
    """
    tensor = mesh.shape["tensor"]
    param = mesh.shape["param"] if param is None else param

    def leaf(path: Any, x: Any) -> NamedSharding:
        # Typed keys carry a hidden trailing axis; scalars and keys are replicated.
        shape, axis = getattr(x, "shape", ()), None
        if tensor > 1:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            axis = rules.axis(name, shape, tensor)
        return NamedSharding(mesh, leaf_spec(shape, param, axis))

    return jax.tree_util.tree_map_with_path(leaf, tree)
