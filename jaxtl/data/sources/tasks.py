"""Several data sets as one: each is a task, with examples of its own."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import lazy_array, origins, preparation, task_outputs
from jaxtl.data.dataset import MULTITASK, Data, Table

_KINDS = ("classification", "multilabel", "regression")
_SHARED = ("preprocess", "feature_names", "encoding", "train_tokenizer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks(Data):
    """Data sets whose inputs are of one kind, each a task with a head of its own.

    `Tasks({"photos": ImageFolder("photos"), "sketches": ImageFolder("sketches")})`. An
    example has the label of its own data set alone; those of all are shuffled together.
    Splits are drawn from all examples, unless every data set has its own; the options
    of splits, labels and sizes are those of `Tasks`.

    Attributes:
      sources: task -> data set, two or more.
    """

    sources: Mapping[str, Data] = dataclasses.field(kw_only=False)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.sources, Mapping):
            raise UserError(
                f"Tasks.sources must map names of tasks to data sets; got "
                f"{type(self.sources).__name__}."
            )
        task_outputs.check_names(tuple(self.sources), "Tasks.sources")
        defaults = {field.name: field.default for field in dataclasses.fields(Data)}
        for task, source in self.sources.items():
            where = f"Tasks.sources[{task!r}]"
            if not isinstance(source, Data):
                raise UserError(f"{where} must be a data set; got {source!r}.")
            for name in (*preparation.SPLIT_OPTIONS, "split_by", "sample_weight"):
                if getattr(source, name) != defaults[name]:
                    raise UserError(
                        f"{where}.{name}={getattr(source, name)!r} is not read; the "
                        f"splits and labels of all tasks are those of Tasks({name}=)."
                        if name in preparation.SPLIT_OPTIONS
                        else f"{where}.{name} is not read for several tasks."
                    )

    def files(self) -> tuple[pathlib.Path, ...]:
        return tuple(f for source in self.sources.values() for f in source.files())

    def sizes_differ(self) -> bool:
        return any(source.sizes_differ() for source in self.sources.values())

    def read(self) -> Table:
        """Reads all data sets; the rows of one follow those of the other."""
        tables = {
            task: preparation.load_table(self._sized(source))[0]
            for task, source in self.sources.items()
        }
        first = next(iter(tables.values()))
        _check_alike(tables)
        counts = [len(table.y) for table in tables.values()]
        ends = np.cumsum(counts)
        labels = {
            task: _labels(table, sum(counts), end - len(table.y))
            for (task, table), end in zip(tables.items(), ends)
        }
        y, names, _ = task_outputs.packed(labels, "Tasks.sources")
        return Table(
            x=_concatenated([table.x for table in tables.values()]),
            y=y,
            class_names=names,
            task=MULTITASK,
            splits=_splits(tables, ends),
            preprocess=first.preprocess,
            standardize=first.standardize,
            feature_names=first.feature_names,
            encoding=first.encoding,
            train_tokenizer=first.train_tokenizer,
            origins=origins.concatenated([table.origins for table in tables.values()]),
            digests=_digests(tables),
            notes=tuple(
                f"{t}: {n}" for t, table in tables.items() for n in table.notes
            ),
        )

    def _sized(self, source: Data) -> Data:
        """A data set in the size and channels of `Tasks`, where these are set."""
        names = ("size", "shortest", "resample", "channels")
        values = {name: getattr(self, name) for name in names}
        chosen = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(source, **chosen) if chosen else source


def _labels(table: Table, count: int, first: int) -> task_outputs.TaskLabels:
    """The labels of one data set among the rows of all; its own begin at `first`."""
    labelled = np.zeros(count, bool)
    labelled[first : first + len(table.y)] = True
    names = table.class_names or table.target_names or None
    return task_outputs.spread(table.y, labelled, table.task, names)


def _check_alike(tables: Mapping[str, Table]) -> None:
    """Raises UserError where data sets can't be the inputs of one model."""
    name, first = next(iter(tables.items()))
    for task, table in tables.items():
        where = f"Tasks.sources[{task!r}]"
        if table.task not in _KINDS:
            raise UserError(
                f"{where} is of the task {table.task}; expected {', '.join(_KINDS)}."
            )
        if table.preprocess.target_offset is not None:
            raise UserError(
                f"{where}: 32 bits can't tell its targets apart; subtract an offset "
                "before they are read."
            )
        if (ours := _shapes(first.x)) != (theirs := _shapes(table.x)):
            raise UserError(
                f"{where} has examples of {theirs}, and {name!r} of {ours}; give all "
                "the same columns, or size= and channels=."
            )
        for field in _SHARED:
            if getattr(table, field) != getattr(first, field):
                what = "columns" if field == "encoding" else field.replace("_", " ")
                raise UserError(
                    f"{where} has other {what} than {name!r}; one model reads one kind "
                    "of input."
                )


def _shapes(x: PyTree) -> str:
    parts = x if isinstance(x, dict) else {"": x}
    return ", ".join(
        f"{name} {tuple(v.shape[1:])} {np.dtype(v.dtype)}".strip()
        for name, v in sorted(parts.items())
    )


def _concatenated(parts: Sequence[Any]) -> PyTree:
    if isinstance(parts[0], dict):
        return {name: _concatenated([p[name] for p in parts]) for name in parts[0]}
    if any(lazy_array.is_lazy(part) for part in parts):
        return lazy_array.Concatenation(tuple(parts))
    return np.concatenate(parts)


def _digests(tables: Mapping[str, Table]) -> np.ndarray | None:
    digests = [table.digests for table in tables.values()]
    return None if any(d is None for d in digests) else np.concatenate(digests)


def _splits(tables: Mapping[str, Table], ends: np.ndarray) -> dict[str, np.ndarray]:
    """The splits of all data sets together, which must have the same ones."""
    kinds = {task: tuple(sorted(table.splits)) for task, table in tables.items()}
    if len(set(kinds.values())) > 1:
        shown = "; ".join(f"{t}: {', '.join(k) or 'none'}" for t, k in kinds.items())
        raise UserError(
            f"Tasks.sources have splits of their own that differ ({shown}); give all "
            "the same ones, or none."
        )
    starts = [end - len(table.y) for table, end in zip(tables.values(), ends)]
    return {
        split: np.concatenate(
            [
                table.splits[split] + start
                for table, start in zip(tables.values(), starts)
            ]
        )
        for split in next(iter(kinds.values()))
    }
