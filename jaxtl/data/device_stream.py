"""Batches of one split that lies on the device, gathered inside the compiled step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import sharding as sharding_
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, sampler
from jaxtl.data.dataset import Dataset
from jaxtl.data.episodic import Episodes
from jaxtl.data.streams import sampled_rows


@dataclasses.dataclass(frozen=True)
class DeviceStream:
    """One split of a data set on the device; a pytree.

    Attributes:
      x: all examples (every split), stored dtype, or a dict of arrays; None where
        `features` replace the inputs.
      y: all labels; None for a stream that must not see them.
      rows: int32[capacity], the split's rows, then zeros. The capacity is the size of
        the data set, so splits of any size share one compiled program.
      n: int32 scalar, the number of rows in the split.
      weights: float32 weights of all examples, None where each counts once.
      class_sizes, class_seats: int32[classes], the rows of each class, which then lie
        one class after another, and its places in an epoch (`sampler.class_seats`);
        None where all rows are drawn alike. Of episodes there are sizes alone, of the
        classes that have rows.
      drawn_rows: int32[steps, batch], the rows of some consecutive steps, or None; see
        `with_drawn_rows`.
      first_step: int32 scalar, the step of `drawn_rows[0]`.
      features: cached outputs of a stage, an array or tree with one row per cached
        example, or None.
      feature_index: int32[examples], the row of `features` that belongs to an example.
      episodes: that batches consist of, None where they are of rows.
    """

    x: PyTree
    y: jax.Array | None
    rows: jax.Array
    n: jax.Array
    weights: jax.Array | None = None
    class_sizes: jax.Array | None = None
    class_seats: jax.Array | None = None
    drawn_rows: jax.Array | None = None
    first_step: jax.Array | None = None
    features: PyTree = None
    feature_index: jax.Array | None = None
    episodes: Episodes | None = None


jax.tree_util.register_dataclass(
    DeviceStream,
    [f.name for f in dataclasses.fields(DeviceStream) if f.name != "episodes"],
    ["episodes"],
)


def from_split(
    dataset: Dataset,
    split: str = "train",
    sharding: jax.sharding.Sharding | None = None,
    *,
    labels: bool = True,
) -> DeviceStream:
    """Puts a split on the device; splits and runs that share x share its copy.

    Args:
      dataset: a data set whose x is in memory, or small enough to be.
      split: one of `dataset.rows`.
      sharding: where to put it (usually replicated on a mesh); None is the default
        device.
      labels: whether batches hold "y".
    """
    stream = without_inputs(dataset, split, sharding, labels=labels)
    return dataclasses.replace(stream, x=inputs(dataset, sharding))


def inputs(dataset: Dataset, sharding: jax.sharding.Sharding | None = None) -> PyTree:
    """Puts the inputs of all examples on the device; uses of one x share the copy."""
    return _put_inputs(_ById(dataset.x), dataset.fingerprint, sharding)


def without_inputs(
    dataset: Dataset,
    split: str,
    sharding: jax.sharding.Sharding | None = None,
    *,
    labels: bool = True,
) -> DeviceStream:
    """Puts a split on the device with x=None, for `with_features` to replace x.

    The arguments are those of `from_split`.
    """
    rows, sizes, seats = sampled_rows(dataset, split)
    padded = np.zeros(len(dataset.y), np.int32)
    padded[: len(rows)] = rows
    y = dataset.y if labels else None
    weights = dataset.weights if labels else None
    arrays = (y, padded, np.int32(len(rows)), weights, sizes, seats)
    arrays = sharding_.put(arrays, sharding)
    episodes = dataset.episodes if split == "train" else None
    return DeviceStream(None, *arrays, episodes=episodes)


def fits(dataset: Dataset, limit_bytes: int) -> bool:
    """Whether x and y, put on the device, take at most `limit_bytes` bytes."""
    return dataset.nbytes + dataset.y.nbytes <= limit_bytes


def with_features(
    stream: DeviceStream, features: PyTree, rows: np.ndarray
) -> DeviceStream:
    """Adds cached features to a stream.

    Args:
      stream: the split.
      features: (len(rows), ...) array or tree of arrays.
      rows: int (n,), the data set's row of each row of `features`.
    """
    index = np.zeros(len(stream.rows), np.int32)
    index[rows] = np.arange(len(rows), dtype=np.int32)
    index = sharding_.put(index, stream.rows.sharding)
    return dataclasses.replace(stream, features=features, feature_index=index)


def with_drawn_rows(
    stream: DeviceStream, seed: Any, first_step: Any, batch: int, steps: int
) -> DeviceStream:
    """Draws the rows of `steps` steps ahead, for `batch_at_step` to look up.

    The rows of one step take little arithmetic in many small operations: drawn inside
    the step they took half the time of a small step on a CPU.

    Args:
      stream: the split.
      seed: integer, may be traced.
      first_step: integer, may be traced.
      batch: rows per step, static.
      steps: number of steps, static.

    Returns:
      The stream, to be read with this seed and batch, and at these steps only.
    """
    order = (stream.rows, stream.n, stream.class_sizes, stream.class_seats)
    rows, first_step = _draw_rows(
        order, seed, first_step, batch, steps, stream.episodes
    )
    return dataclasses.replace(stream, drawn_rows=rows, first_step=first_step)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _draw_rows(
    order: tuple,
    seed: Any,
    first_step: Any,
    batch: int,
    steps: int,
    episodes: Episodes | None,
) -> tuple[jax.Array, jax.Array]:
    offset = jnp.asarray(first_step).astype(np.uint32) * np.uint32(batch)
    rows = _rows_in_order(order, episodes, seed, 0, steps * batch, offset)
    return rows.reshape(steps, batch), jnp.asarray(first_step, np.int32)


def _rows_in_order(
    order: tuple,
    episodes: Episodes | None,
    seed: Any,
    step: Any,
    batch: int,
    offset: Any = 0,
) -> jax.Array:
    """Row numbers, int32[batch], of (rows, n, class_sizes, class_seats) of a stream."""
    rows, n, sizes, seats = order
    if episodes is not None:
        shape = (episodes.ways, episodes.per_class)
        draw = (seed, step, batch, sizes, *shape)
        return rows[sampler.episode_indices(*draw, offset=offset)]
    if seats is None:
        return rows[sampler.indices(seed, step, batch, n, offset=offset)]
    return rows[sampler.class_indices(seed, step, batch, sizes, seats, offset=offset)]


def batch_at_step(
    stream: DeviceStream, seed: Any, step: Any, batch: int
) -> dict[str, PyTree]:
    """The batch of one step; a pure function, to be called inside a jitted one.

    Args:
      stream: the split.
      seed: integer, may be traced.
      step: integer, may be traced.
      batch: number of examples, static.

    Returns:
      {"x", "y", "row"}, each (batch, ...): "row" holds row numbers of the data set, "y"
      is left out of streams without labels, "x" of those without inputs; "weight" is
      added where examples have one, and "features" where they are cached. "y" of
      episodes holds places of classes in them (`Episodes`).
    """
    rows = _rows_at_step(stream, seed, step, batch)
    examples = {"row": rows}
    if stream.y is not None and stream.episodes is not None:
        examples["y"] = jnp.asarray(stream.episodes.labels(batch))
    elif stream.y is not None:
        examples["y"] = stream.y[rows]
    if stream.weights is not None:
        examples["weight"] = stream.weights[rows]
    if stream.x is not None:
        examples["x"] = jax.tree.map(lambda values: values[rows], stream.x)
    if stream.features is not None:
        index = stream.feature_index[rows]
        examples["features"] = jax.tree.map(
            lambda values: values[index], stream.features
        )
    return examples


def _rows_at_step(stream: DeviceStream, seed: Any, step: Any, batch: int) -> jax.Array:
    """Row numbers, int32[batch], of the examples that `batch_at_step` gathers."""
    if stream.drawn_rows is not None:
        return stream.drawn_rows[step - stream.first_step]
    order = (stream.rows, stream.n, stream.class_sizes, stream.class_seats)
    return _rows_in_order(order, stream.episodes, seed, step, batch)


@dataclasses.dataclass(frozen=True)
class _ById:
    """Hashes and compares an object by identity, as the key of a cache of arrays."""

    value: Any

    def __eq__(self, key: object) -> bool:
        return self.value is key.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=4)
def _put_inputs(
    key: _ById, fingerprint: str, sharding: jax.sharding.Sharding | None
) -> PyTree:
    """The copy on the device; another one where an array's values have changed."""
    x = key.value
    if lazy_array.is_lazy(x):
        x = lazy_array.gather(x, np.arange(lazy_array.length(x)))
    return sharding_.put(x, sharding)
