"""What a trained model calls its outputs and the columns of its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.data.preprocess import from_json
from jaxtl.data.table_encoding import TableEncoding


@dataclasses.dataclass(frozen=True)
class TrainedNames:
    """What a trained model calls its outputs and columns.

    Attributes:
      owner: the model in messages, such as "runs/a".
      output_names: of its classes, labels or targets in order; () for none.
      task: that it was trained for; None where the weights do not say.
      encoding: of the columns of its table; None for other data.
      unseen: columns of the encoding that no train row had.
      target_offset: what its regression targets are differences from.
    """

    owner: str
    output_names: tuple[str, ...] = ()
    task: str | None = None
    encoding: TableEncoding | None = None
    unseen: tuple[int, ...] = ()
    target_offset: tuple[float, ...] | None = None

    @classmethod
    def from_meta(
        cls, owner: str, meta: Mapping[str, Any], output_names: Sequence[str]
    ) -> TrainedNames:
        """The names that the meta data of weights hold.

        Args:
          owner: as the attribute.
          meta: of a checkpoint; {} of weights without any.
          output_names: of the model's outputs.
        """
        encoding = meta.get("encoding")
        stored = from_json(meta.get("preprocess") or {})
        return cls(
            owner,
            tuple(output_names),
            meta.get("task"),
            TableEncoding.from_json(encoding) if encoding else None,
            stored.unseen,
            stored.target_offset,
        )
