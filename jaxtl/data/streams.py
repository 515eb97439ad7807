"""Which data set each stream reads, how much of it, and how it is preprocessed."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core.errors import UserError, nearest
from jaxtl.data import lazy_array, preprocess, sampler
from jaxtl.data.dataset import Dataset


def read_of(datasets: Mapping[str, Dataset], stream: str) -> tuple[str, str]:
    """Returns (data set, split) that a stream reads.

    "unlabelled" reads the target's train rows that have no label, unless the
    experiment brings a data set of that name; all others read train rows.
    """
    if stream == "unlabelled" and stream not in datasets:
        return "target", "unlabelled"
    return stream, "train"


def labelled(stream: str) -> bool:
    """Returns whether a stream's batches hold labels."""
    return stream != "unlabelled"


def outputs(datasets: Mapping[str, Dataset]) -> int:
    """Returns the number of outputs that the target and its sources need.

    More than the target's own where it has only the first of a source's classes.
    """
    target = datasets["target"]
    names = target.class_names
    known = [d for d in datasets.values() if d.class_names[: len(names)] == names]
    return max([target.outputs, *(d.outputs for d in known)])


def example(dataset: Dataset, pre: preprocess.Preprocess, count: int = 1):
    """Returns the first train rows, preprocessed, as a batch."""
    rows = dataset.rows["train"]
    rows = np.resize(rows if len(rows) else dataset.rows["unlabelled"], count)
    return preprocess.apply(pre, lazy_array.gather(dataset.x, rows))


def batches(datasets, pre, size: int, stream: str):
    """Yields the train examples of a stream once, in order, preprocessed."""
    name, split = read_of(datasets, stream)
    dataset = datasets[name]
    rows = dataset.rows[split]
    for at in range(0, len(rows), size):
        chunk = rows[at : at + size]
        x = preprocess.apply(pre[name], lazy_array.gather(dataset.x, chunk))
        found = {"x": x, "row": jnp.asarray(chunk)}
        if labelled(stream):
            found["y"] = jnp.asarray(dataset.y[chunk])
        yield found


@dataclasses.dataclass(frozen=True)
class DeviceStream:
    """One split of a data set on the device; a pytree.

    Attributes:
      x: all examples (every split), stored dtype, or a dict of arrays.
      y: all labels; None for a stream that must not see them.
      rows: int32[capacity], the split's rows, then zeros; the capacity is the size of
        the data set, so splits of any size share one compiled program.
      n: int32 scalar, how many of `rows` count.
      drawn: int32[steps, batch], the rows of some steps, or None (see `draw`).
      first: int32 scalar, the first of these steps.
      features: cached outputs of a stage, an array or tree with a row for each of some
        examples, or None; x may then be None.
      place: int32[examples], the row of `features` of each of these examples.
    """

    x: typing.Any
    y: jax.Array | None
    rows: jax.Array
    n: jax.Array
    drawn: jax.Array | None = None
    first: jax.Array | None = None
    features: typing.Any = None
    place: jax.Array | None = None


jax.tree_util.register_dataclass(
    DeviceStream, [f.name for f in dataclasses.fields(DeviceStream)], []
)


def device_stream(
    dataset, split: str = "train", sharding=None, *, labels: bool = True
) -> DeviceStream:
    """Puts a split on the device; splits and runs that share x share its copy.

    Args:
      dataset: a `Dataset` whose x is in memory, or small enough to be.
      split: one of `dataset.rows`.
      sharding: a `jax.sharding.Sharding` (replicated on a mesh, usually); None is the
        default device.
      labels: whether batches hold "y".
    """
    stream = label_stream(dataset, split, sharding, labels=labels)
    return dataclasses.replace(stream, x=_placed(_Same(dataset.x), sharding))


def label_stream(
    dataset, split: str, sharding=None, *, labels: bool = True
) -> DeviceStream:
    """Puts a split on the device without its inputs, for features to stand in."""
    rows = split_rows(dataset, split)
    padded = np.zeros(len(dataset.y), np.int32)
    padded[: len(rows)] = rows
    y = dataset.y if labels else None
    small = jax.device_put((y, padded, np.int32(len(rows))), sharding)
    return DeviceStream(None, *small)


def with_features(stream: DeviceStream, features, rows) -> DeviceStream:
    """Returns the stream with cached features of its split's rows, in their order."""
    place = np.zeros(len(stream.rows), np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    place = jax.device_put(place, stream.rows.sharding)
    return dataclasses.replace(stream, features=features, place=place)


def take(stream: DeviceStream, seed, step, batch: int) -> dict:
    """Batch of step t: {"x", "y", "row"}, each (batch, ...); pure, jit it.

    Args:
      stream: the data.
      seed: integer, may be traced.
      step: integer, may be traced.
      batch: static.
    """
    return gather(stream, take_rows(stream, seed, step, batch))


def take_rows(stream: DeviceStream, seed, step, batch: int) -> jax.Array:
    """Row numbers of the data set that `take` gathers: int32[batch]."""
    if stream.drawn is not None:
        return stream.drawn[step - stream.first]
    return stream.rows[sampler.indices(seed, step, batch, stream.n)]


def draw(stream: DeviceStream, seed, first, batch: int, steps: int) -> DeviceStream:
    """Draws ahead the rows of `steps` steps from `first` on, for `take` to look up.

    One step's few dozen rows cost a device little arithmetic in many small operations:
    drawn by the step itself they were half a small step's time on a CPU.

    Args:
      stream: the data.
      seed, first: integers, may be traced.
      batch, steps: static. `take` must then be given this seed and batch, and a step
        of these.
    """
    drawn, first = _draw(stream.rows, stream.n, seed, first, batch, steps)
    return dataclasses.replace(stream, drawn=drawn, first=first)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _draw(rows, n, seed, first, batch, steps):
    offset = jnp.asarray(first).astype(np.uint32) * np.uint32(batch)
    places = sampler.indices(seed, 0, steps * batch, n, offset=offset)
    return rows[places].reshape(steps, batch), jnp.asarray(first, np.int32)


def gather(stream: DeviceStream, rows) -> dict:
    """Returns {"x", "y", "row"} of some rows, and "features" where they are cached."""
    found = {"row": rows}
    if stream.y is not None:
        found["y"] = stream.y[rows]
    if stream.x is not None:
        found["x"] = jax.tree.map(lambda values: values[rows], stream.x)
    if stream.features is not None:
        at = stream.place[rows]
        found["features"] = jax.tree.map(lambda values: values[at], stream.features)
    return found


def split_rows(dataset, split: str) -> np.ndarray:
    """Returns the rows of a split.

    Raises:
      UserError: the data set has no such split.
    """
    if split not in dataset.rows:
        raise UserError(
            f"{dataset.name} has no split {split!r}{nearest(split, dataset.rows)}; "
            f"it has {', '.join(sorted(dataset.rows))}."
        )
    return dataset.rows[split]


def fits(dataset, limit_bytes: int) -> bool:
    """Whether x and y, put on the device, stay within a number of bytes."""
    return dataset.nbytes + dataset.y.nbytes <= limit_bytes


def evaluation_batches(rows, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows into equal batches, the last one padded, so that all are counted once.

    Args:
      rows: (n,) row numbers, n ≥ 1.
      batch: rows per batch.

    Returns:
      int32 (⌈n/batch⌉, batch) rows, padded by the first row, and float32 weights of the
      same shape, 0 where padded: Σ weight·value / Σ weight is the mean over the split.
    """
    if batch < 1:
        raise UserError(f"batch must be at least 1; got {batch}.")
    rows = np.asarray(rows, np.int32)
    if len(rows) == 0:
        raise UserError("there are no rows to evaluate: the split is empty.")
    steps = -(-len(rows) // batch)
    padded = np.full(steps * batch, rows[0], np.int32)
    padded[: len(rows)] = rows
    weights = np.zeros(steps * batch, np.float32)
    weights[: len(rows)] = 1.0
    return padded.reshape(steps, batch), weights.reshape(steps, batch)


def host_batches(
    dataset,
    split: str,
    seed: int,
    batch: int,
    *,
    start_step: int = 0,
    workers: int = 0,
    prefetch: int = 8,
    labels: bool = True,
) -> Iterator[dict]:
    """Endless numpy batches from `start_step` on, read ahead by Grain.

    Args:
      dataset: any `Dataset`, lazy or not.
      split: one of `dataset.rows`.
      seed: of the order; equal to `take`'s for equal batches.
      batch: examples per batch.
      start_step: the first step; a resumed run passes its own.
      workers: processes that read; 0 reads in threads of this process. Data in
        memory are always read in threads, since each process would copy them.
      prefetch: batches read ahead.
      labels: whether batches hold "y".

    Yields:
      {"x": (batch, ...), "y": (batch, ...), "row": (batch,)}, numpy.

    Raises:
      UserError: Grain is not installed, or there is no such split.
    """
    try:
        import grain
    except ImportError:
        raise UserError(
            "data that stream from the host need Grain: pip install 'jaxtl[grain]'."
        ) from None
    y = dataset.y if labels else None
    read = _Reader(dataset.x, y, split_rows(dataset, split), seed, batch)
    last = (2**32 // batch) - 1
    steps = grain.MapDataset.range(start_step, last).map(read)
    if workers and lazy_array.is_lazy(dataset.x):
        _parse_absl()
        # Each worker reads whole batches; the order of steps is kept.
        steps = steps.to_iter_dataset(grain.ReadOptions(num_threads=0))
        options = grain.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=max(1, prefetch // workers)
        )
        return iter(steps.mp_prefetch(options))
    options = grain.ReadOptions(
        num_threads=min(max(prefetch, 1), 16), prefetch_buffer_size=max(prefetch, 1)
    )
    return iter(steps.to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Step number -> batch; picklable, for worker processes."""

    x: typing.Any
    y: np.ndarray | None
    rows: np.ndarray
    seed: int
    batch: int

    def __call__(self, step):
        rows = sampler.indices(self.seed, int(step), self.batch, len(self.rows))
        rows = self.rows[rows]
        found = {
            "x": lazy_array.gather(self.x, rows),
            "row": np.asarray(rows, np.int32),
        }
        return found if self.y is None else {**found, "y": self.y[rows]}


def sample(dataset, split: str = "train", per_class: int = 1) -> dict:
    """The first few examples of each class, for a contact sheet.

    Returns:
      {"x", "y", "rows"} numpy, ordered by class; for other tasks than classification,
      the first `per_class` rows of the split.
    """
    rows = split_rows(dataset, split)
    if dataset.task == "classification":
        labels = dataset.y[rows]
        of_class = [
            rows[labels == label][:per_class] for label in range(dataset.outputs)
        ]
        rows = np.concatenate(of_class)
    else:
        rows = rows[:per_class]
    return {"x": lazy_array.gather(dataset.x, rows), "y": dataset.y[rows], "rows": rows}


@dataclasses.dataclass(frozen=True)
class _Same:
    """Compares by identity, which a cache key of arrays has to."""

    value: typing.Any

    def __eq__(self, other):
        return self.value is other.value

    def __hash__(self):
        return id(self.value)


@functools.lru_cache(maxsize=4)
def _placed(same: _Same, sharding):
    x = same.value
    whole = np.arange(lazy_array.length(x))
    values = lazy_array.gather(x, whole) if lazy_array.is_lazy(x) else x
    return jax.device_put(values, sharding)


def forget() -> None:
    """Lets go of the last four data sets' device copies."""
    _placed.cache_clear()


def _parse_absl() -> None:
    """Grain's workers read absl flags, which only absl programs have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["jaxtl"])
