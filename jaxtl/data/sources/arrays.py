"""Arrays from `.npz` and `.npy` files, or from memory."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core.array_digests import array_digest
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import (
    label_arrays,
    lazy_array,
    origins,
    paths,
    sparse_rows,
    task_outputs,
)
from jaxtl.data.dataset import MULTITASK, Data, Table
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.sources import array_parts
from jaxtl.data.sources.array_parts import Part
from jaxtl.data.sparse_rows import SparseRows

_ROW_COLUMNS = ("split_by", "sample_weight")  # fields that name a value of each row


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemoryArray:
    """An array in memory, compared by identity so that `Arrays` can be hashed."""

    array: Any  # of numpy, or a matrix of scipy.sparse

    def __repr__(self) -> str:
        kind = "sparse matrix" if sparse_rows.is_sparse(self.array) else "array"
        return f"<{self.array.dtype} {kind} {self.array.shape}>"

    def content_digest(self) -> str:
        """Hash of the values as they are now: who holds the array may change it."""
        return f"{self.array.dtype}{self.array.shape}{array_digest(self.array)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays(Data):
    """Numpy arrays: a `.npz`, a pair of `.npy`, several files, or arrays in memory.

    `Arrays("mnist.npz")`; `Arrays("features.npz", x="x_amazon", y="y_amazon")`;
    `Arrays("x.npy", labels_path="y.npy")`; `Arrays(x=array, y=array)`.

    A `.npz` has `x` and `y`, or `x_train`, `y_train`, `x_test`, `y_test` (and `_val`),
    or concatenated JPEG files: `jpeg` (bytes), `offsets` (n + 1), `label`. Its
    `class_names` are used where present. Images (n, height, width) get a channel axis.
    A matrix of scipy.sparse, in memory or from `scipy.sparse.save_npz`, stays sparse
    until a batch is read.

    Attributes:
      path: a file, or several whose examples are concatenated; looked for under
        $JAXTL_DATA_DIR as well. None with `test_path` alone.
      labels_path: a `.npy`, or a `.npz` with the entry `y`: labels of the train rows.
      test_path: a file of the same kind that holds the test split.
      x: name of the entry, or the array itself.
      y: name of the entry, or the array itself; of several tasks a mapping from their
        names, {"left": left, "right": right}, where NaN (of whole numbers −1) is a
        missing label.
      scale: divides the values (USPS: 2000), inside the compiled step; None divides
        uint8 images by 255 and leaves other values.
      task: None infers it from y: classification for texts, integers and at most 20
        different whole floats, multilabel for a matrix of 0 and 1, regression for
        other floats. Of several tasks a mapping, for those that it names.
      class_names: names in label order; None takes the texts or numbers that occur. Of
        several tasks a mapping, for those that it names.
      memory_limit: bytes; a larger `.npy` stays on disk, memory-mapped.
    """

    path: str | tuple[str, ...] | None = dataclasses.field(default=None, kw_only=False)
    labels_path: str | None = None
    test_path: str | None = None
    x: Any = "x"
    y: Any = "y"
    scale: float | None = None
    task: str | Mapping[str, str] | None = None
    class_names: tuple[str, ...] | Mapping[str, tuple[str, ...]] | None = None
    memory_limit: int = 2**31

    def __post_init__(self):
        super().__post_init__()
        for name in ("path", "class_names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("x", "y", "split_by", "sample_weight"):
            value = getattr(self, name)
            if name == "y" and isinstance(value, Mapping):
                value = {t: _held(v, f"y[{t!r}]") for t, v in value.items()}
                task_outputs.check_names(tuple(value), "Arrays.y")
            object.__setattr__(self, name, _held(value, name))
        in_memory = isinstance(self.x, _InMemoryArray)
        of_tasks = self.y.values() if isinstance(self.y, Mapping) else (self.y,)
        if any(in_memory != isinstance(y, _InMemoryArray) for y in of_tasks):
            raise UserError("Arrays needs x and y both as arrays or both as names.")
        self._check_tasks()
        self._check_files(in_memory)
        for name in ("split_by", "sample_weight"):
            value = getattr(self, name)
            if value is not None and in_memory != isinstance(value, _InMemoryArray):
                kind = "an array" if in_memory else "the name of an entry"
                raise UserError(f"Arrays.{name} must be {kind}, as x and y are.")
        if self.scale is not None and not self.scale > 0:
            raise UserError(f"Arrays.scale must be positive; got {self.scale!r}.")

    def _check_tasks(self) -> None:
        """Raises UserError for options of several tasks that name none of them."""
        for name in ("task", "class_names"):
            value = getattr(self, name)
            if not isinstance(self.y, Mapping) and not isinstance(value, Mapping):
                continue
            if value is not None and not isinstance(value, Mapping):
                raise UserError(
                    f"Arrays.{name}={value!r}: y has several tasks; expected a mapping "
                    "from their names."
                )
            tasks = tuple(self.y) if isinstance(self.y, Mapping) else ()
            for task in value or ():
                if task not in tasks:
                    raise UserError(
                        f"Arrays.{name}[{task!r}]: y has no such task"
                        f"{nearest(task, tasks)} (tasks: {', '.join(tasks) or 'one'})."
                    )
        if isinstance(self.y, Mapping) and self.labels_path is not None:
            raise UserError(
                f"Arrays.labels_path={self.labels_path!r} holds the labels of one task;"
                " for several y= names entries of the files themselves."
            )

    def _check_files(self, in_memory: bool) -> None:
        """Raises UserError for no files, or files that have no meaning."""
        files = {n: getattr(self, n) for n in ("path", "labels_path", "test_path")}
        named = [name for name, value in files.items() if value is not None]
        if in_memory and named:
            raise UserError(
                f"Arrays.{named[0]}={files[named[0]]!r} has no meaning where x= and y= "
                "are arrays; leave one of both out."
            )
        if not in_memory and not {"path", "test_path"} & set(named):
            raise UserError(
                "Arrays needs a path or x= and y= as arrays; test_path= alone is for "
                "evaluation only."
            )
        if self.labels_path is not None and self.path is None:
            raise UserError(
                f"Arrays.labels_path={self.labels_path!r} holds the labels of path=, "
                "which is None."
            )

    def read(self) -> Table:
        """Reads all files; the examples of their parts are concatenated."""
        parts, names = self._parts()
        x = _with_channel_axis(array_parts.concatenated([part.x for part in parts]))
        labels = self._labels([part.y for part in parts], names)
        scale = self.scale
        return Table(
            x=x,
            y=labels.y,
            class_names=labels.class_names,
            task=labels.task,
            splits=_splits([p.split for p in parts], [len(p.x) for p in parts]),
            preprocess=None if scale is None else Preprocess(scale=float(scale)),
            origins=origins.of_elements([n for part in parts for n in part.names]),
            digests=x.digests() if isinstance(x, SparseRows) else None,
            notes=(
                *(note for part in parts for note in part.notes),
                *labels.notes,
                *_pixel_notes(x, scale),
            ),
            groups=array_parts.row_values(parts, "split_by"),
            weights=array_parts.row_values(parts, "sample_weight"),
        )

    def _labels(
        self, parts: list[Any], names: tuple[str, ...] | None
    ) -> label_arrays.Labels:
        """The labels of all parts; `names` are the class names of the files."""
        if not isinstance(self.y, Mapping):
            y = label_arrays.concatenated(parts, "Arrays.y")
            return label_arrays.read(
                y, self.class_names or names, self.task, "Arrays.y"
            )
        labels = {
            task: task_outputs.of_array(
                np.concatenate([np.asarray(part[task]) for part in parts]),
                (self.task or {}).get(task),
                (self.class_names or {}).get(task),
                f"Arrays.y[{task!r}]",
            )
            for task in self.y
        }
        y, outputs, notes = task_outputs.packed(labels, "Arrays.y")
        return label_arrays.Labels(y, outputs, MULTITASK, list(notes))

    def _parts(self) -> tuple[list[Part], tuple[str, ...] | None]:
        """Reads the parts of all files, and the class names that the files have."""
        if isinstance(self.x, _InMemoryArray):
            return [self._part_in_memory()], None
        entries = array_parts.Entries(
            x=self.x,
            y=self.y,
            columns={n: v for n in _ROW_COLUMNS if (v := getattr(self, n)) is not None},
            has_labels_file=self.labels_path is not None,
        )

        def read(path: str, field: str):
            file = paths.find(path, f"Arrays.{field}")
            return file, *array_parts.read(file, entries, self.memory_limit)

        train = (self.path,) if isinstance(self.path, str) else self.path or ()
        files = [read(path, "path") for path in train]
        parts = [part for _, file_parts, _ in files for part in file_parts]
        if self.labels_path is not None:
            path = paths.find(self.labels_path, "Arrays.labels_path")
            parts = array_parts.relabelled(parts, path, self.y)
        if self.test_path is not None:
            files.append(read(self.test_path, "test_path"))
            # The rows of a test file are test rows, whatever their split is there.
            parts += [part._replace(split="test") for part in files[-1][1]]
        array_parts.check(parts)
        if self.class_names is not None:
            return parts, None
        return parts, array_parts.common_class_names({f: n for f, _, n in files})

    def _part_in_memory(self) -> Part:
        x, y = self.x.array, _arrays_of(self.y)
        if sparse_rows.is_sparse(x):
            x = sparse_rows.as_rows(x, "Arrays.x")
        columns = {
            name: value.array
            for name in _ROW_COLUMNS
            if (value := getattr(self, name)) is not None
        }
        return Part("all", x, y, (("x", len(x)),), columns)


def _held(value: Any, name: str) -> Any:
    """An array as one in memory; names, None and the tasks of y as they are."""
    is_tasks = name == "y" and isinstance(value, Mapping)
    if value is None or is_tasks or isinstance(value, (str, _InMemoryArray)):
        return value
    if np.ndim(value) == 0:
        raise UserError(
            f"Arrays.{name} must be an array with an example per row; got "
            f"{reprlib.repr(value)}."
        )
    if np.ma.is_masked(value):
        raise UserError(
            f"Arrays.{name} has {np.ma.count_masked(value)} masked values, and what "
            "lies below a mask is no value: leave their rows out, or fill them by "
            ".filled(…)."
        )
    is_matrix = name == "x" and sparse_rows.is_sparse(value)
    return _InMemoryArray(value if is_matrix else np.asarray(value))


def _arrays_of(y: Any) -> Any:
    """The arrays in memory of y, of each task where it has several."""
    if isinstance(y, Mapping):
        return {task: values.array for task, values in y.items()}
    return y.array


def _with_channel_axis(x: Any) -> np.ndarray | lazy_array.LazyArray:
    """Appends a channel axis to images (n, height, width)."""
    _check_channel_axis(tuple(x.shape))
    if lazy_array.is_lazy(x):
        return x
    if x.dtype == bool:
        x = x.astype(np.float32)
    if x.dtype.kind not in "iuf":
        raise UserError(f"Arrays.x must be numbers; got dtype {x.dtype}.")
    return x[..., None] if x.ndim == 3 else x


def _check_channel_axis(shape: tuple[int, ...]) -> None:
    """Raises UserError for images whose channels come first, (n, 3, height, width)."""
    if len(shape) != 4 or shape[3] <= 4:
        return
    if shape[1] == 3 or (shape[1] == 1 and shape[2] == shape[3]):
        raise UserError(
            f"Arrays.x has the shape {shape}, images with channels first; pass "
            "x.transpose(0, 2, 3, 1): channels are the last axis here."
        )


def _pixel_notes(x: Any, scale: float | None) -> list[str]:
    """Says where values that look like pixels of 8 or more bits are not divided."""
    if scale is not None or lazy_array.is_lazy(x) or x.ndim != 4 or not x.size:
        return []
    low, high = float(x.min()), float(x.max())
    if x.dtype == np.uint8 and 0 < high <= 16:
        return [
            f"pixels are uint8 from {low:g} to {high:g} and are divided by 255; "
            f"scale={high:g} makes the largest one 1"
        ]
    if x.dtype == np.uint8 or low < 0 or high <= 64:
        return []
    divisor = "scale=255" if high <= 255 else "scale="
    return [
        f"pixels are {x.dtype} from {low:g} to {high:g} and are not divided; {divisor} "
        "divides them"
    ]


def _splits(names: Sequence[str], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """Rows of each split; parts without a split are train where others have one."""
    if set(names) == {"all"}:
        return {}
    names = ["train" if name == "all" else name for name in names]
    split_of = np.repeat(names, lengths)
    return {name: np.flatnonzero(split_of == name) for name in dict.fromkeys(names)}
