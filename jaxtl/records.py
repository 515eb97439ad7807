"""Results as records, wherever they lie: a sweep's ledger, or directories of runs."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtl import ledger, rundir
from jaxtl.core import UserError


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
    """

    labels: Mapping[str, Any]
    status: str = ledger.DONE
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curve: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    key: str = ""
    folder: pathlib.Path = pathlib.Path()

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
        snapshot as JSON), "overrides", "environment"; {} for runs.
    """

    records: tuple[Record, ...]
    axes: Mapping[str, tuple]
    title: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(paths: Iterable[str | pathlib.Path]) -> Collection:
    """Reads the records at and below some directories.

    Raises:
      UserError: a directory that does not exist or holds neither a sweep nor a
        finished run.
    """
    found, metas = [], []
    paths = [pathlib.Path(path) for path in paths]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no directory {str(path)!r}.")
        if (path / ledger.FILE).exists():
            with ledger.Ledger(path) as book:
                metas.append(book.meta())
                found += [
                    Record(folder=path, **entry._asdict()) for entry in book.entries()
                ]
        else:
            found += _runs(path, several=len(paths) > 1)
    meta = metas[0] if len(metas) == 1 else {}
    title = (meta.get("doc") or "").split("\n")[0]
    return Collection(records=tuple(found), axes=axes(found), title=title, meta=meta)


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
    files = sorted(path.rglob("result.json"), key=_in_order)
    if not files:
        raise UserError(
            f"{path} holds neither a sweep nor a finished run (a result.json); was it "
            f"interrupted? Go on with: jaxtl resume {path}"
        )
    return [_run(path, file.parent, several) for file in files]


def _run(path: pathlib.Path, folder: pathlib.Path, several: bool) -> Record:
    labels: dict[str, Any] = {}
    stored = rundir.read_json(folder / rundir.MARK)
    seed = stored.get("experiment", {}).get("seed")
    below = folder.relative_to(path)
    if re.fullmatch(r"seed\d+", folder.name):
        below = below.parent
        seed = int(folder.name[4:]) if seed is None else seed
    name = stored.get("variant") or str(below)
    labels["run"] = name if name != "." else path.name
    if several:
        labels["run"] = f"{path.name}/{name}" if name != "." else path.name
    if isinstance(seed, int):
        labels["seed"] = seed
    return Record(
        labels=labels,
        result=rundir.read_json(folder / "result.json"),
        curve=_curve(folder / "metrics.jsonl"),
        key=str(folder),
        folder=path,
    )


def _curve(path: pathlib.Path) -> dict:
    steps, losses, evaluations = [], [], []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        kind = row.pop("kind", "")
        if kind == "train":
            steps.append(row["step"])
            losses.append(row["loss"])
        elif kind == "val":
            row.pop("best", None)
            evaluations.append(row)
    return {"step": steps, "loss": losses, "val": evaluations}


def _in_order(path: pathlib.Path) -> list:
    parts = re.split(r"(\d+)", str(path))
    return [int(p) if p.isdigit() else p for p in parts]
