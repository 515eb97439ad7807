"""Tensor parallelism as data: which axis of which parameter is split.

References:
  Shoeybi et al.: Megatron-LM, arXiv:1909.08053.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from jaxtl.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class TensorRules:
    """How a model family is split over the devices of the mesh axis "tensor".

    Attributes:
      axes: (path of a leaf as a regular expression, from the "/" before it to its end;
        the axis that is split). The first match wins; other leaves are copied.
      counts: (setting of the model, its number), which the number of devices must
        divide.
    """

    axes: tuple[tuple[str, int], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()

    def axis(self, path: str, shape: tuple[int, ...], shards: int) -> int | None:
        """The axis of a leaf that is split over so many devices, None for a copy.

        Args:
          path: "a/b/kernel", which may have more in front ("opt/0/mu/a/b/kernel").
          shape: of the leaf; an axis that can't be divided is not split.
          shards: number of devices.
        """
        axis = _axis(self.axes, path)
        if axis is None or axis >= len(shape) or shape[axis] % shards:
            return None
        return axis

    def check(self, shards: int, model: str) -> None:
        """Raises UserError unless the number of devices divides all `counts`."""
        for name, count in self.counts:
            if count % shards:
                divisors = [n for n in range(1, count + 1) if count % n == 0]
                nearest = min(divisors, key=lambda n: abs(n - shards))
                raise UserError(
                    f"tensor_shards={shards} doesn't divide {name}={count} of {model}; "
                    f"the nearest divisor is {nearest}."
                )

    def copied(
        self, leaves: Iterable[tuple[str, tuple[int, ...]]], shards: int
    ) -> list[str]:
        """Paths of the leaves that a rule names and that can't be divided.

        Args:
          leaves: (path, shape) of each.
          shards: number of devices.
        """
        return [
            path
            for path, shape in leaves
            if _axis(self.axes, path) is not None
            and self.axis(path, shape, shards) is None
        ]


@functools.lru_cache(maxsize=100_000)
def _axis(axes: tuple[tuple[str, int], ...], path: str) -> int | None:
    for pattern, axis in axes:
        if re.search(rf"(^|/)({pattern})$", path):
            return axis
    return None


NO_RULES = TensorRules()
