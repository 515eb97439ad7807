"""Results as records, wherever they lie: a sweep's database, or directories of runs."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.results.database import DATABASE_FILE, DONE, Database
from jaxtl.training import run_dir
from jaxtl.training.metrics_log import curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One cell of a sweep, or one run.

    Attributes:
      labels: axis -> value as it is shown, {"method": "L2-SP", "optim.lr": 0.001,
        "seed": 3}; a run of a study has {"run": its variant, "seed": …}.
      status: "done", "failed", "stopped" (by successive halving), "waiting",
        "running" or "damaged".
      result: as in result.json: {"val": {metric: …}, "test": {…}, "drift": …,
        "steps_per_second": …, "trainable_parameters": …, "monitor": …}.
      curve: {"step": […], "loss": […], "val": [{"step": …, metric: …}, …]}.
      error: why it failed.
      key: identity within its folder.
      folder: where it was read from.
      data: the data set that it was measured on, "" where that is not known.
    """

    labels: Mapping[str, Any]
    status: str = DONE
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curve: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    key: str = ""
    folder: pathlib.Path = pathlib.Path()
    data: str = ""

    def value(self, split: str, metric: str) -> float | None:
        """Returns a metric of a split, None where it was not measured."""
        return self.result.get(split, {}).get(metric)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """Records, and what is known of them as a whole.

    Attributes:
      records: in the sweep's order.
      axes: axis -> its values as shown, in their order; "seed" last.
      title: first line of the experiment file's docstring.
      meta: the sweep's facts: "file", "doc", "axes", "experiments" (variant ->
        snapshot as JSON), "overrides", "environment"; of a study "file", "doc",
        "overrides"; {} for runs, and for several folders.
    """

    records: tuple[Record, ...]
    axes: Mapping[str, tuple]
    title: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(paths: Iterable[str | pathlib.Path]) -> Collection:
    """Reads the records at and below some directories.

    Raises:
      UserError: a directory that does not exist or holds neither a sweep nor a
        finished run, or a file in it that is damaged.
    """
    found, metas = [], []
    paths = list(dict.fromkeys(pathlib.Path(path) for path in paths))
    for path in paths:
        _check_directory(path)
        if (path / DATABASE_FILE).exists():
            meta, rows = _sweep(path)
        else:
            meta, rows = _study(path), _runs(path, several=len(paths) > 1)
        metas.append(meta)
        found += rows
    found = _runs_by_setting(_told_apart(found, paths))
    meta = metas[0] if len(metas) == 1 else {}
    title = (meta.get("doc") or "").split("\n")[0]
    return Collection(records=tuple(found), axes=axes(found), title=title, meta=meta)


def _sweep(path: pathlib.Path) -> tuple[dict, list[Record]]:
    with Database(path) as database:
        meta, entries = database.meta(), database.entries()
    sources = {
        name: _source(made)
        for name, made in (meta.get("experiments") or {}).items()
        if isinstance(made, dict)
    }
    rows = [
        Record(folder=path, data=_data_of(entry.labels, sources), **entry._asdict())
        for entry in entries
    ]
    return meta, rows


def _study(path: pathlib.Path) -> dict:
    stored = run_dir.read_json(path / run_dir.STUDY) if _is_study(path) else {}
    return {
        name: stored[name] for name in ("file", "doc", "overrides") if name in stored
    }


def _is_study(path: pathlib.Path) -> bool:
    return (path / run_dir.STUDY).exists()


def _data_of(labels: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Returns the data of a cell: its variant's, and what the sweep set of it."""
    variant = next((labels[n] for n in ("run", "method", "variant") if n in labels), "")
    known = sources.get(variant, "")
    if not known and len(set(sources.values())) == 1:
        known = next(iter(sources.values()))
    swept = [
        str(value)
        for name, value in labels.items()
        if name == "data" or (name.startswith("data.") and name[5:] in _NAMES)
    ]
    return " ".join([known, *swept]).strip()


_NAMES = ("path", "name", "folder", "root", "dataset", "config")


def _source(experiment: Mapping[str, Any]) -> str:
    """Returns a snapshot's data set as text, "Arrays digits/mnist.npz"."""
    data = experiment.get("data")
    if not isinstance(data, dict):
        return ""
    kind = str(data.get("type", "")).rsplit(":", 1)[-1]
    return " ".join([kind, *(str(data[n]) for n in _NAMES if data.get(n))])


def _told_apart(records: list[Record], paths: list[pathlib.Path]) -> list[Record]:
    """Adds the axis "folder" where two folders hold records of the same labels."""
    places: dict[str, set[pathlib.Path]] = {}
    for record in records:
        text = json.dumps(dict(record.labels), sort_keys=True)
        places.setdefault(text, set()).add(record.folder)
    if all(len(folders) == 1 for folders in places.values()):
        return records
    short = len({path.name for path in paths}) == len(paths)
    return [
        dataclasses.replace(
            r, labels={"folder": r.folder.name if short else str(r.folder), **r.labels}
        )
        for r in records
    ]


def _runs_by_setting(records: list[Record]) -> list[Record]:
    """Makes runs that are called "a/x", "a/y", "b/x" … two axes: a, b and x, y."""
    names = {r.labels["run"] for r in records if "run" in r.labels}
    parts = [name.rpartition("/") for name in names if isinstance(name, str)]
    folders: dict[str, set[str]] = {}
    for before, slash, last in parts:
        if slash:
            folders.setdefault(last, set()).add(before)
    if "setting" in axes(records) or all(len(f) == 1 for f in folders.values()):
        return records

    def split(labels: Mapping[str, Any]) -> dict[str, Any]:
        before, slash, last = str(labels.get("run", "")).rpartition("/")
        first = {"setting": before} if slash else {}
        return {**first, **labels, "run": last} if slash else dict(labels)

    return [dataclasses.replace(r, labels=split(r.labels)) for r in records]


def axes(records: Iterable[Record]) -> dict[str, tuple]:
    """Returns axis -> values in the order of their first appearance, "seed" last."""
    found: dict[str, dict] = {}
    for record in records:
        for name, value in record.labels.items():
            found.setdefault(name, {})[_hashable(value)] = value
    order = sorted(found, key=lambda name: name == "seed")
    return {name: tuple(found[name].values()) for name in order}


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else (type(value), value)


def _runs(path: pathlib.Path, *, several: bool) -> list[Record]:
    files = _result_files(path, "neither a sweep nor a finished run")
    rows = [_run(path, file.parent, several) for file in files]
    if _is_study(path):  # in the order of its file
        order = run_dir.read_json(path / run_dir.STUDY).get("variants", [])
        prefix = f"{path.name}/" if several else ""
        place = {f"{prefix}{name}": i for i, name in enumerate(order)}
        rows.sort(key=lambda row: place.get(row.labels["run"], len(place)))
    return rows


def _run(path: pathlib.Path, folder: pathlib.Path, several: bool) -> Record:
    labels: dict[str, Any] = {}
    stored = run_dir.read_json(folder / run_dir.MARK)
    experiment = stored.get("experiment", {})
    seed = experiment.get("seed")
    below = folder.relative_to(path)
    if (number := _seed_of(folder)) is not None:
        below = below.parent
        seed = number if seed is None else seed
    name = stored.get("variant") or str(below)
    labels["run"] = name if name != "." else path.name
    if several:
        labels["run"] = f"{path.name}/{name}" if name != "." else path.name
    if isinstance(seed, int):
        labels["seed"] = seed
    return Record(
        labels=labels,
        result=run_dir.read_json(folder / "result.json"),
        curve=curve(folder / "metrics.jsonl"),
        key=str(folder),
        folder=path,
        data=_source(experiment),
    )


def read_by_directory(paths: Iterable[str | pathlib.Path]) -> list[Record]:
    """Reads the finished runs below some directories, named by where they lie.

    Runs in DIR/seed0, DIR/seed1 … share the label {"run": DIR}. Curves are not read.

    Raises:
      UserError: a directory does not exist, holds no finished run, or a damaged file.
    """
    records = []
    for path in map(pathlib.Path, paths):
        _check_directory(path)
        for file in _result_files(path, "no finished run"):
            seed = _seed_of(file.parent) if file.parent != path else None
            folder = file.parent if seed is None else file.parent.parent
            labels = {"run": str(folder)} | ({} if seed is None else {"seed": seed})
            result = run_dir.read_json(file)
            key = str(file.parent)
            records.append(Record(labels=labels, result=result, key=key, folder=path))
    return records


def _check_directory(path: pathlib.Path) -> None:
    if not path.is_dir():
        raise UserError(f"there is no directory {str(path)!r}.")


def _result_files(path: pathlib.Path, missing: str) -> list[pathlib.Path]:
    """Returns every result.json below a directory; numbers in paths sort by value.

    `missing` tells what the directory holds none of, for the error.
    """

    def order(file: pathlib.Path) -> list[int | str]:
        parts = re.split(r"(\d+)", str(file))
        return [int(part) if part.isdigit() else part for part in parts]

    files = sorted(path.rglob("result.json"), key=order)
    if not files:
        raise UserError(
            f"{path} holds {missing} (a result.json); was it interrupted? Go on with: "
            f"jaxtl resume {path}"
        )
    return files


def _seed_of(folder: pathlib.Path) -> int | None:
    """Returns the seed of a folder called "seed3", None for another name."""
    match = re.fullmatch(r"seed(\d+)", folder.name)
    return int(match.group(1)) if match else None
