"""Sparse features and labels from files of svmlight and LIBSVM."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxtl.core.errors import UserError, first_line, nearest
from jaxtl.data import (
    cells,
    label_arrays,
    origins,
    paths,
    sparse_rows,
    split_fields,
    splits,
)
from jaxtl.data.dataset import Data, Table

_TASKS = ("classification", "regression", "multilabel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVMLight(Data):
    """Files of svmlight or LIBSVM, `label index:value …`, kept sparse until the batch.

    `SVMLight("rcv1_train.svm", test_path="rcv1_test.svm.gz")`. Values are not
    standardized, as zeros would not stay zeros. scikit-learn reads the files, those
    compressed by gzip or bzip2 as well; comments behind # are left out, and the groups
    of `qid:` are read by split_by="qid".

    Attributes:
      path: the train file; looked for under $JAXTL_DATA_DIR as well. None where there
        are held-out splits alone.
      val_path, test_path: files of the validation and test split.
      zero_based: whether the first column is 0, else 1; "auto" takes 0 where an index
        is 0 in any of the files.
      n_features: number of columns; None takes the largest index of all files.
      task: "classification", "regression", or "multilabel" for labels "1,3"; None
        infers one of the first two: classification for whole numbers of at most 20
        values.
    """

    path: str | None = dataclasses.field(default=None, kw_only=False)
    val_path: str | None = None
    test_path: str | None = None
    zero_based: bool | Literal["auto"] = "auto"
    n_features: int | None = None
    task: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.task is not None and self.task not in _TASKS:
            raise UserError(
                f"SVMLight.task={self.task!r} is no task{nearest(self.task, _TASKS)} "
                f"(tasks: {', '.join(_TASKS)})."
            )
        if self.zero_based not in (True, False, "auto"):
            raise UserError(
                f"SVMLight.zero_based must be True, False or 'auto'; got "
                f"{self.zero_based!r}."
            )
        if self.n_features is not None and not (
            isinstance(self.n_features, int) and self.n_features > 0
        ):
            raise UserError(
                "SVMLight.n_features must be a whole number of columns, at least 1; "
                f"got {self.n_features!r}."
            )
        if self.split_by not in (None, "qid"):
            raise UserError(
                f"SVMLight.split_by={self.split_by!r}: the files have no columns by "
                "name; expected 'qid', the numbers behind qid:."
            )

    def read(self) -> Table:
        """Reads all files with the same columns."""
        named = split_fields.by_split(self)
        parts = self._load(named)
        matrices = [
            sparse_rows.as_rows(
                x, f"SVMLight.{split_fields.split_field(split)}: {named[split]}"
            )
            for split, (x, _, _) in parts.items()
        ]
        x = sparse_rows.concatenated(matrices, "SVMLight.path")
        labels = _labels([y for _, y, _ in parts.values()], self.task)
        lengths = dict(zip(named, map(len, matrices)))
        groups = [qid for _, _, qid in parts.values() if qid is not None]
        return Table(
            x=x,
            y=labels.y,
            class_names=labels.class_names,
            task=labels.task,
            splits=splits.consecutive(lengths),
            origins=origins.of_elements([(named[s], n) for s, n in lengths.items()]),
            digests=x.digests(),
            notes=(*labels.notes, *self._notes()),
            groups=np.concatenate(groups) if groups else None,
        )

    def _notes(self) -> list[str]:
        """Says how columns are counted where the train file does not tell."""
        if self.path is not None or self.zero_based != "auto":
            return []
        return [
            "columns are counted from 0 where an index of the held-out files is 0, "
            "else from 1; zero_based= says how those of the train file were"
        ]

    def _load(self, named: dict[str, str]) -> dict[str, tuple[Any, Any, Any]]:
        """Split -> (matrix, labels, groups or None), all with the same columns."""
        import sklearn.datasets

        files = [
            paths.find(p, f"SVMLight.{split_fields.split_field(s)}")
            for s, p in named.items()
        ]
        has_groups = self.split_by is not None
        try:
            read = sklearn.datasets.load_svmlight_files(
                [str(file) for file in files],
                n_features=self.n_features,
                multilabel=self.task == "multilabel",
                zero_based=self.zero_based,
                query_id=has_groups,
            )
        except (ValueError, OSError, EOFError, OverflowError) as error:
            shown = " or ".join(named.values())
            raise UserError(
                f"SVMLight.path: {shown} can't be read: {first_line(error)}; expected "
                "lines such as '1 3:0.5 7:2'."
            ) from None
        width = 3 if has_groups else 2
        parts = [read[i : i + width] for i in range(0, len(read), width)]
        for (split, path), part in zip(named.items(), parts):
            if part[0].shape[0] == 0:
                raise UserError(
                    f"SVMLight.{split_fields.split_field(split)}: {path} has no rows."
                )
            if has_groups and len(part[2]) != part[0].shape[0]:
                raise UserError(
                    f"SVMLight.split_by='qid': {path} has rows without qid:."
                )
        return {
            split: (part[0], part[1], part[2] if has_groups else None)
            for split, part in zip(named, parts)
        }


def _labels(parts: list[Any], task: str | None) -> label_arrays.Labels:
    """Labels of all files: numbers, or sets of numbers for multilabel."""
    if task != "multilabel":
        y = np.concatenate(parts)
        return label_arrays.read(y, None, task, "SVMLight.path")
    sets = [labels for part in parts for labels in part]
    flat = [label for labels in sets for label in labels]
    _, names = cells.classes([f"{label:.17g}" for label in flat])
    index = {float(name): i for i, name in enumerate(names)}
    y = np.zeros((len(sets), len(names)), np.float32)
    for row, labels in enumerate(sets):
        y[row, [index[float(label)] for label in labels]] = 1
    return label_arrays.Labels(y, names, "multilabel", [])
