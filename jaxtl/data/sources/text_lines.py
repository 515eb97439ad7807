"""Text without labels, one example per line, to adapt a language model to."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.core import text_files
from jaxtl.core.errors import UserError
from jaxtl.data import origins, paths
from jaxtl.data.dataset import Table
from jaxtl.data.text_columns import TextData, fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(TextData):
    """Lines of text files for next-token prediction (task "language").

    `Lines("book.txt", tokenizer=Tokenizer("vocab.json", max_length=128))`. Blank lines
    are left out, longer lines truncated.

    Attributes:
      path: a file, or several that are concatenated; looked for under
        $JAXTL_DATA_DIR as well.
      encoding: character encoding of the files.
    """

    path: str | tuple[str, ...] = dataclasses.field(kw_only=False)
    encoding: str = "utf-8"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.path, list):
            object.__setattr__(self, "path", tuple(self.path))

    def read(self) -> Table:
        """Reads ids and masks, (n, length) each; the labels are zeros without use."""
        paths_of_files = (self.path,) if isinstance(self.path, str) else self.path
        numbered = [(path, self._lines(path)) for path in paths_of_files]
        lines = [line for _, text_of in numbered for line in text_of.values()]
        if not lines:
            raise UserError(f"Lines.path: {self.path!r} has no line of text.")
        return Table(
            **fields(self, [lines], "byte_pairs"),
            y=np.zeros(len(lines), np.int32),
            task="language",
            origins=origins.of_lines([(path, list(n)) for path, n in numbered]),
        )

    def _lines(self, path: str) -> dict[int, str]:
        """The lines of a file that are not blank, by their numbers from 1."""
        file = paths.find(path, "Lines.path")
        lines = text_files.read_lines(file, self.encoding, "Lines.encoding")
        return {n: line.strip() for n, line in enumerate(lines, 1) if line.strip()}
