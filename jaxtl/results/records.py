"""Records of results, read from the database of a sweep or from directories of runs."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.results import run_names, unfinished_runs
from jaxtl.results.database import DATABASE_FILE, DONE, FAILED, Database
from jaxtl.results.labels import labels_text
from jaxtl.results.unfinished_runs import UnfinishedRun
from jaxtl.training import run_dir
from jaxtl.training.metrics_log import curve

# Fields of a data source that name what it reads.
_DATA_FIELDS = ("path", "name", "folder", "root", "dataset", "config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One cell of a sweep, or one run.

    Attributes:
      labels: axis -> value as it is shown, {"method": "L2-SP", "optim.lr": 0.001,
        "seed": 3}; a run of a study has {"run": its variant, "seed": …}.
      status: "done", "failed", "stopped" (by successive halving), "waiting",
        "running", "interrupted" (a run that ended without a result) or "damaged".
      result: as in result.json: {"val": {metric: …}, "test": {…}, "drift": …,
        "steps_per_second": …, "trainable_parameters": …, "monitor": …}.
      curve: {"step": […], "loss": […], "val": [{"step": …, metric: …}, …]}.
      error: why it failed, or how far an interrupted run came.
      key: identity within its folder.
      folder: where it was read from.
      data: the data set that it was measured on, "" where that is unknown.
      init: directory of the run that it starts from, "" for another start.
    """

    labels: Mapping[str, Any]
    status: str = DONE
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curve: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    key: str = ""
    folder: pathlib.Path = pathlib.Path()
    data: str = ""
    init: str = ""

    def value(self, split: str, metric: str) -> float | None:
        """Returns a metric of a split, None where it was not measured."""
        return self.result.get(split, {}).get(metric)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """Records with the axes that they span.

    Attributes:
      records: in the sweep's order.
      axes: axis -> its values as shown, in their order; "seed" last.
      title: first line of the experiment file's docstring.
      meta: facts about the whole: of a sweep "file", "doc", "axes", "experiments"
        (variant -> experiment as JSON), "overrides", "environment"; of a study "file",
        "doc", "overrides"; {} for runs, and for several folders.
    """

    records: tuple[Record, ...]
    axes: Mapping[str, tuple]
    title: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def without(self, records: Iterable[Record]) -> "Collection":
        """Returns the collection without some of its records, and the axes of the rest.

        The same records in another order or as copies are others: identity decides.
        """
        left_out = {id(record) for record in records}
        if not left_out:
            return self
        remaining = [r for r in self.records if id(r) not in left_out]
        return dataclasses.replace(
            self, records=tuple(remaining), axes=_axes(remaining)
        )


def collect(
    records: Iterable[Record], meta: Mapping[str, Any] | None = None
) -> Collection:
    """Makes a collection of records.

    The labels get the axis "folder" where records of two folders have the same labels.
    Runs named "a/x", "a/y", "b/x" … get two axes: "setting" (a, b) and "run" (x, y).

    Args:
      records: in their order.
      meta: see `Collection`.
    """
    meta = meta or {}
    records = _split_run_names(_add_folder_labels(list(records)))
    title = (meta.get("doc") or "").split("\n")[0]
    return Collection(
        records=tuple(records), axes=_axes(records), title=title, meta=meta
    )


def _add_folder_labels(records: list[Record]) -> list[Record]:
    """Adds the label "folder" where two folders hold records of the same labels."""
    folders: dict[str, set[pathlib.Path]] = {}
    for record in records:
        key = json.dumps(dict(record.labels), sort_keys=True)
        folders.setdefault(key, set()).add(record.folder)
    if all(len(paths) == 1 for paths in folders.values()):
        return records
    paths = set().union(*folders.values())
    unique_names = len({path.name for path in paths}) == len(paths)

    def folder(record: Record) -> str:
        return record.folder.name if unique_names else str(record.folder)

    return [
        dataclasses.replace(r, labels={"folder": folder(r), **r.labels})
        for r in records
    ]


def _split_run_names(records: list[Record]) -> list[Record]:
    """Splits runs named "a/x", "b/x" … into the axes "setting" and "run"."""
    names = {r.labels["run"] for r in records if "run" in r.labels}
    settings: dict[str, set[str]] = {}
    for setting, slash, run in (str(name).rpartition("/") for name in names):
        if slash:
            settings.setdefault(run, set()).add(setting)
    if "setting" in _axes(records) or all(len(s) == 1 for s in settings.values()):
        return records

    def split(labels: Mapping[str, Any]) -> dict[str, Any]:
        setting, slash, run = str(labels.get("run", "")).rpartition("/")
        return {"setting": setting, **labels, "run": run} if slash else dict(labels)

    return [dataclasses.replace(r, labels=split(r.labels)) for r in records]


def _axes(records: Iterable[Record]) -> dict[str, tuple]:
    """Axis -> values in the order of first appearance; "seed" is the last axis."""
    axes: dict[str, dict] = {}
    for record in records:
        for name, value in record.labels.items():
            axes.setdefault(name, {})[_hashable(value)] = value
    order = sorted(axes, key=lambda name: name == "seed")
    return {name: tuple(axes[name].values()) for name in order}


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else (type(value), value)


def read(paths: Iterable[str | pathlib.Path]) -> Collection:
    """Reads the records at and below some directories.

    Raises:
      UserError: a directory does not exist or holds neither a sweep nor a finished
        run, or a file in it is damaged.
    """
    records, metas = [], []
    paths = list(dict.fromkeys(map(pathlib.Path, paths)))
    for path in paths:
        _check_directory(path)
        if (path / DATABASE_FILE).exists():
            meta, part = _read_sweep(path)
        else:
            meta, part = _study_meta(path), _read_runs(path, prefix=len(paths) > 1)
        metas.append(meta)
        records += part
    return collect(records, metas[0] if len(metas) == 1 else {})


def _check_directory(path: pathlib.Path) -> None:
    if not path.is_dir():
        raise UserError(f"there is no directory {str(path)!r}.")


def _read_sweep(path: pathlib.Path) -> tuple[dict[str, Any], list[Record]]:
    with Database(path) as database:
        meta, entries = database.meta(), database.entries()
    sources = {
        name: _data_source(experiment)
        for name, experiment in (meta.get("experiments") or {}).items()
        if isinstance(experiment, dict)
    }
    return meta, [
        Record(folder=path, data=_cell_data(entry.labels, sources), **entry._asdict())
        for entry in entries
    ]


def _cell_data(labels: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """The data of a cell: its variant's, and what the sweep varies of it."""
    variant = next((labels[n] for n in ("run", "method", "variant") if n in labels), "")
    source = sources.get(variant, "")
    if not source and len(set(sources.values())) == 1:
        source = next(iter(sources.values()))
    varied = [
        str(value)
        for name, value in labels.items()
        if name == "data"
        or (name.startswith("data.") and name.removeprefix("data.") in _DATA_FIELDS)
    ]
    return " ".join([source, *varied]).strip()


def _data_source(experiment: Mapping[str, Any]) -> str:
    """The data set of an experiment in JSON, as text: "Arrays digits/mnist.npz"."""
    data = experiment.get("data")
    if not isinstance(data, dict):
        return ""
    kind = str(data.get("type", "")).rsplit(":", 1)[-1]
    return " ".join([kind, *(str(data[n]) for n in _DATA_FIELDS if data.get(n))])


def _study_meta(path: pathlib.Path) -> dict[str, Any]:
    study = run_dir.read_study(path)
    return {name: study[name] for name in ("file", "doc", "overrides") if name in study}


def _read_runs(path: pathlib.Path, *, prefix: bool) -> list[Record]:
    """Reads the runs below a directory; `prefix` puts its name before theirs."""
    unfinished = list(unfinished_runs.read(path))
    has_failed = any(run.status == FAILED for run in unfinished)
    finished: dict[pathlib.Path, dict[str, Any]] = {}
    if not has_failed or any(path.rglob("result.json")):
        files = _result_files(path, "neither a sweep nor a finished run")
        finished = {f.parent: run_dir.read_json(f.parent / run_dir.MARK) for f in files}
    stored = {run.folder: run.stored for run in unfinished} | finished
    labels = run_names.labels_of_runs(path, stored, prefix=prefix)
    records = [_unfinished(path, run, labels[run.folder]) for run in unfinished]
    records += [
        _finished(path, folder, mark, labels[folder])
        for folder, mark in finished.items()
    ]
    records.sort(key=lambda r: _natural(pathlib.Path(r.key, "result.json")))
    start = f"{path.name}/" if prefix else ""
    variants = run_dir.read_study(path).get("variants", [])
    order = {f"{start}{name}": i for i, name in enumerate(variants)}
    return sorted(records, key=lambda r: order.get(r.labels["run"], len(order)))


def _finished(
    path: pathlib.Path,
    folder: pathlib.Path,
    stored: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> Record:
    return Record(
        labels=labels,
        result=run_dir.read_json(folder / "result.json"),
        curve=curve(folder / "metrics.jsonl"),
        key=str(folder),
        folder=path,
        **provenance(_experiment_of(stored)),
    )


def _unfinished(
    path: pathlib.Path, run: UnfinishedRun, labels: Mapping[str, Any]
) -> Record:
    """A run without a result, with why it has none."""
    return Record(
        labels=labels,
        status=run.status,
        error=run.reason,
        key=str(run.folder),
        folder=path,
        **provenance(_experiment_of(run.stored)),
    )


def _experiment_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment of what a run's mark holds, {} where it holds none."""
    experiment = stored.get("experiment")
    return experiment if isinstance(experiment, dict) else {}


def provenance(experiment: Mapping[str, Any]) -> dict[str, str]:
    """The fields "data" and "init" of the record of an experiment in JSON."""
    init = experiment.get("init")
    from_run = isinstance(init, dict) and str(init.get("type")).endswith(":FromRun")
    path = str(init.get("path", "")) if from_run else ""
    return {"data": _data_source(experiment), "init": path}


def read_by_directory(paths: Sequence[str | pathlib.Path]) -> list[Record]:
    """Reads the finished runs below some directories, named by their directories.

    Runs in DIR/seed0, DIR/seed1 … share the label {"run": DIR}; a cell of a sweep in
    DIR has {"run": "DIR lr=0.1"} by its axes. Curves of runs are not read.

    Raises:
      UserError: a directory does not exist, holds no finished run, or a damaged file.
    """
    records = []
    for path in map(pathlib.Path, paths):
        _check_directory(path)
        if (path / DATABASE_FILE).exists():
            records += map(_named_by_directory, _read_sweep(path)[1])
            continue
        for file in _result_files(path, "no finished run"):
            seed = run_names.seed_of(file.parent) if file.parent != path else None
            folder = file.parent if seed is None else file.parent.parent
            labels = {"run": str(folder)} | ({} if seed is None else {"seed": seed})
            result = run_dir.read_json(file)
            key = str(file.parent)
            records.append(Record(labels=labels, result=result, key=key, folder=path))
    return records


def read_without_result(paths: Sequence[str | pathlib.Path]) -> list[Record]:
    """The runs at and below some directories that `read_by_directory` leaves out.

    They have failed, were interrupted, still run or wait; cells of sweeps are none.

    Raises:
      UserError: a damaged file.
    """
    records = []
    for path in map(pathlib.Path, paths):
        if not (path / DATABASE_FILE).exists():
            runs = list(unfinished_runs.read(path))
            stored = {run.folder: run.stored for run in runs}
            labels = run_names.labels_of_runs(path, stored)
            records += [_unfinished(path, run, labels[run.folder]) for run in runs]
    return records


def _named_by_directory(cell: Record) -> Record:
    """A cell of a sweep with the labels "run", of its folder and axes, and "seed"."""
    axes = {name: value for name, value in cell.labels.items() if name != "seed"}
    name = " ".join([str(cell.folder), labels_text(axes)]).strip()
    seed = {"seed": cell.labels["seed"]} if "seed" in cell.labels else {}
    return dataclasses.replace(cell, labels={"run": name, **seed})


def _result_files(path: pathlib.Path, missing: str) -> list[pathlib.Path]:
    """Finds every result.json below a directory; numbers in paths sort by value.

    `missing` describes, for the error message, what the directory does not hold.
    """
    files = sorted(path.rglob("result.json"), key=_natural)
    if not files:
        raise UserError(
            f"{path} holds {missing} (a result.json); was it interrupted? Go on with: "
            f"jaxtl resume {path}"
        )
    return files


def _natural(path: pathlib.Path) -> list[int | str]:
    """A key that sorts paths by the values of numbers in them."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if part.isdigit() else part for part in parts]
