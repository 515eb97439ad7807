"""Batches read on the host, ahead of the steps, for data that stay on disk."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, sampler
from jaxtl.data.dataset import Dataset
from jaxtl.data.episodic import Episodes
from jaxtl.data.streams import sampled_rows

if TYPE_CHECKING:
    import grain


def batches(
    dataset: Dataset,
    split: str,
    seed: int,
    batch: int,
    *,
    start_step: int = 0,
    workers: int = 0,
    prefetch: int = 8,
    labels: bool = True,
    part: slice | None = None,
) -> Iterator[dict[str, Any]]:
    """Endless numpy batches from `start_step` on, read ahead by Grain.

    Args:
      dataset: a data set, lazy or not.
      split: one of `dataset.rows`.
      seed: of the order; gives the batches of `device_stream.batch_at_step`.
      batch: examples per batch.
      start_step: the first step; a resumed run passes its own.
      workers: processes that read; 0 reads in threads of this process. Data in
        memory are always read in threads, since each process would copy them.
      prefetch: batches read ahead.
      labels: whether batches hold "y".
      part: which rows of each batch are read, those of this process; None reads all.

    Yields:
      {"x": (batch, ...), "y": (batch, ...), "row": (batch,)}, numpy, or `part` of them.

    Raises:
      UserError: Grain is not installed, or there is no such split.
    """
    y = dataset.y if labels else None
    weights = dataset.weights if labels else None
    order = sampled_rows(dataset, split)
    episodes = dataset.episodes if split == "train" else None
    draw = (seed, batch, part or slice(None), episodes)
    read = _BatchReader(dataset.x, y, weights, *order, *draw)
    grain = _import_grain()
    last = (2**32 // batch) - 1
    steps = grain.MapDataset.range(start_step, last).map(read)
    if workers and lazy_array.is_lazy(dataset.x):
        return _read_in_processes(steps, workers, prefetch)
    options = grain.ReadOptions(
        num_threads=min(max(prefetch, 1), 16), prefetch_buffer_size=max(prefetch, 1)
    )
    return iter(steps.to_iter_dataset(options))


def _import_grain() -> types.ModuleType:
    try:
        import grain
    except ImportError:
        raise UserError(
            "data that stream from the host need Grain: pip install 'jaxtl[grain]'."
        ) from None
    return grain


def _read_in_processes(
    steps: grain.MapDataset, workers: int, prefetch: int
) -> Iterator[dict[str, Any]]:
    """Reads ahead in processes, each whole batches; the order of steps is kept."""
    import grain

    _parse_absl_flags()
    steps = steps.to_iter_dataset(grain.ReadOptions(num_threads=0))
    options = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=max(1, prefetch // workers)
    )
    return iter(steps.mp_prefetch(options))


def batch_shapes(
    dataset: Dataset, batch: int, sharding: jax.sharding.Sharding, labels: bool = True
) -> dict[str, PyTree]:
    """Shapes of the batches of `batches`, placed on a device, without reading ahead.

    Args:
      dataset: any `Dataset`, lazy or not; one example of it is read.
      batch: examples per batch.
      sharding: where batches are placed.
      labels: whether batches hold "y".
    """
    row = np.zeros(1, np.int32)
    example = {"x": lazy_array.gather(dataset.x, row), "row": row}
    if labels:
        example["y"] = dataset.y[row]
        if dataset.weights is not None:
            example["weight"] = dataset.weights[row]

    def of_batch(x: np.ndarray) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(x.dtype)
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]), dtype, sharding=sharding)

    return jax.tree.map(of_batch, example)


@dataclasses.dataclass(frozen=True)
class _BatchReader:
    """Maps a step to its batch; picklable, for worker processes."""

    x: Any
    y: np.ndarray | None
    weights: np.ndarray | None
    rows: np.ndarray
    class_sizes: np.ndarray | None
    class_seats: np.ndarray | None
    seed: int
    batch: int
    part: slice
    episodes: Episodes | None = None

    def __call__(self, step: int) -> dict[str, Any]:
        draw = (self.seed, int(step), self.batch)
        episodes = self.episodes
        if episodes is not None:
            shape = (episodes.ways, episodes.per_class)
            index = sampler.episode_indices(*draw, self.class_sizes, *shape)
        elif self.class_seats is None:
            index = sampler.indices(*draw, len(self.rows))
        else:
            sizes, seats = self.class_sizes, self.class_seats
            index = sampler.class_indices(*draw, sizes, seats)
        rows = self.rows[index[self.part]]
        examples = {
            "x": lazy_array.gather(self.x, rows),
            "row": np.asarray(rows, np.int32),
        }
        if self.y is not None:
            is_row = episodes is None
            examples["y"] = (
                self.y[rows] if is_row else episodes.labels(self.batch)[self.part]
            )
        if self.weights is not None:
            examples["weight"] = self.weights[rows]
        return examples


def _parse_absl_flags() -> None:
    """Marks absl's flags as parsed: Grain's workers read them, jaxtl never sets any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["jaxtl"])
