"""What a run's next steps read: rows of resident streams, and batches of the host."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import sharding
from jaxtl.data import device_stream, host_stream, streams
from jaxtl.data.dataset import Dataset
from jaxtl.terms.program import Program
from jaxtl.training import step as step_lib

DRAWN_STEPS = 64  # steps whose rows are drawn at once


class StepData:
    """The data of one run's steps, in order.

    Args:
      datasets: name -> data set, those of the experiment.
      seed: of the orders.
    """

    def __init__(self, datasets: Mapping[str, Dataset], seed: int):
        self._datasets = datasets
        self._seed = seed
        self._host_batches: dict[str, Iterator] = {}
        self.use({})

    def use(self, resident: Mapping[str, device_stream.DeviceStream]) -> None:
        """Makes streams on the device the resident ones from the next step on.

        Args:
          resident: stream name -> stream, with cached features for instance.
        """
        self._resident = resident
        self._drawn: tuple[range, dict] = (range(0), {})

    def copy(self) -> "StepData":
        """The same streams for another run; batches that this one read ahead stay."""
        other = StepData(self._datasets, self._seed)
        other.use(self._resident)
        return other

    def at(
        self, program: Program, seed: jax.Array, first: int, most: int
    ) -> dict[str, Any]:
        """Reads the data of the next steps.

        Args:
          program: of the current phase.
          seed: of the run, on the device.
          first: number of steps taken so far.
          most: number of steps that one dispatch takes at most.

        Returns:
          Stream name -> resident stream with drawn rows, or batch from the host.
        """
        data: dict[str, Any] = dict(self._device_data(program, seed, first, most))
        for index, name in enumerate(program.streams):
            if name in program.host_streams:
                size = program.batch_sizes[name]
                if name not in self._host_batches:
                    stream = self._host_stream(program, name, index, first)
                    self._host_batches[name] = stream
                rows = next(self._host_batches[name])
                data[name] = sharding.put_batch(rows, program.mesh, size)
        return data

    def shapes(
        self, program: Program, seed: jax.Array, first: int, most: int
    ) -> dict[str, Any]:
        """The same as `at`, with shapes in place of batches of the host.

        To compile must not consume a batch.
        """
        data: dict[str, Any] = dict(self._device_data(program, seed, first, most))
        placement = sharding.batch(program.mesh)
        for name in program.host_streams:
            read, _ = streams.dataset_and_split_of(self._datasets, name)
            data[name] = host_stream.batch_shapes(
                self._datasets[read],
                program.batch_sizes[name],
                placement,
                labels=streams.has_labels(name),
            )
        return data

    def _device_data(
        self, program: Program, seed: jax.Array, first: int, most: int
    ) -> dict[str, device_stream.DeviceStream]:
        """The resident streams with the rows of the next steps drawn."""
        steps, _ = self._drawn
        if first not in steps or first + most > steps.stop:
            count = max(DRAWN_STEPS, most)
            drawn = {
                name: device_stream.with_drawn_rows(
                    self._resident[name],
                    step_lib.stream_seed(seed, index),
                    np.int32(first),
                    size,
                    count,
                )
                for index, (name, size) in enumerate(program.batch_sizes.items())
                if name in self._resident
            }
            self._drawn = range(first, first + count), drawn
        return self._drawn[1]

    def _host_stream(
        self, program: Program, name: str, index: int, first: int
    ) -> Iterator[dict]:
        """Batches of a stream that stays on disk, from step `first` on."""
        read, split = streams.dataset_and_split_of(self._datasets, name)
        size = program.batch_sizes[name]
        return host_stream.batches(
            self._datasets[read],
            split,
            step_lib.stream_seed(self._seed, index),
            size,
            start_step=first,
            part=sharding.batch_rows(program.mesh, size),
            labels=streams.has_labels(name),
        )
