"""Members of an ensemble: finished runs, read, held against each other, evaluated."""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxtl.core import config, sharding
from jaxtl.core.errors import UserError
from jaxtl.core.types import Network, PyTree
from jaxtl.data import splits as carving
from jaxtl.data import streams
from jaxtl.data.dataset import Data, Dataset
from jaxtl.evaluation import forward
from jaxtl.training import run_dir, setup
from jaxtl.training.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One run's model and data, without what only training needs.

    Attributes:
      name: the run's directory, as short as it can be told from the others.
      predictor: its network and how it is evaluated.
      params, stats: its weights, on the host.
      dataset: its data, with their splits.
      data: their options.
    """

    name: str
    predictor: forward.Predictor
    params: PyTree
    stats: PyTree
    dataset: Dataset
    data: Data


def directories(paths: Iterable[str | pathlib.Path]) -> list[pathlib.Path]:
    """Returns the runs at and below some directories, seeds in numerical order.

    Raises:
      UserError: a directory that does not exist or holds no run, or a run named twice.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if not path.is_dir():
            raise UserError(f"there is no directory {str(path)!r}.")
        here = [path] if (path / run_dir.MARK).exists() else []
        here = here or sorted((p.parent for p in path.rglob(run_dir.MARK)), key=_order)
        if not here:
            raise UserError(f"{path} holds no run: there is no {run_dir.MARK} in it.")
        found += here
    resolved = [path.resolve() for path in found]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UserError(f"the run {found[i]} is named twice.")
    return found


def _order(path: pathlib.Path) -> list:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def read(runs: Iterable[Run | str | pathlib.Path], which: str = "best") -> list[Member]:
    """Reads the runs' models and checks that they can be members of one ensemble.

    Args:
      runs: directories, as in `directories`, or runs in memory.
      which: "best" or "last" checkpoint.

    Raises:
      UserError: fewer than two runs, or two that differ in task, classes or splits.
    """
    given = list(runs)
    live = [run for run in given if isinstance(run, Run)]
    paths = directories([run for run in given if not isinstance(run, Run)])
    if len(given) < 2 and len(paths) < 2:
        got = f"one, {paths[0]}" if paths else ("one" if live else "none")
        raise UserError(f"an ensemble needs at least two runs; got {got}.")
    members = []
    for name, run, folder in _opened(live, paths, which):
        members.append(_member(name, run, folder, which))
        _agree(members[0], members[-1])
    return members


def _opened(live, paths, which):
    """Yields (name, run, directory or None), of stored runs one at a time."""
    for i, run in enumerate(live):
        yield f"run {i + 1}", run, run.directory
    above = os.path.commonpath([path.resolve() for path in paths]) if paths else ""
    above = above if len(paths) > 1 else os.path.dirname(above)
    for path in paths:
        yield os.path.relpath(path.resolve(), above), setup.reopen(path, which), path


def _member(name: str, run: Run, folder: pathlib.Path | None, which: str) -> Member:
    dataset = run.parts.datasets["target"]
    if folder is not None and (folder / "splits.npz").exists():
        dataset = carving.load_splits(folder / "splits.npz", dataset)
    weights = run.weights("best" if which == "best" else "current")
    params, stats = jax.tree.map(np.asarray, weights)
    return Member(
        name=name,
        predictor=forward.predictor(run),
        params=params,
        stats=stats,
        dataset=dataset,
        data=run.exp.data,
    )


def _agree(first: Member, other: Member) -> None:
    """Raises UserError where two runs were not evaluated on the same examples.

    Their train rows may differ: a member may know fewer labels.
    """
    a, b = first.dataset, other.dataset
    pair = f"{first.name} and {other.name}"
    for what, one, two in (
        ("task", a.task, b.task),
        ("classes", a.class_names, b.class_names),
    ):
        if one != two:
            raise UserError(
                f"{pair} are runs of different {what}, {one!r} and {two!r}; an "
                "ensemble needs one and the same."
            )
    if a.fingerprint != b.fingerprint and _content(first.data) != _content(other.data):
        raise UserError(
            f"{pair} are runs of different data ({a.name} and {b.name}, fingerprints "
            f"{a.fingerprint} and {b.fingerprint}), so they share no test examples."
        )
    for name in ("val", "test"):
        if not np.array_equal(a.rows.get(name, ()), b.rows.get(name, ())):
            raise UserError(
                f"{pair} have different {name} splits, so one may have trained on what "
                "the other is tested on; give their data one split_seed=."
            )


def _content(data: Data) -> Any:
    """Returns what decides which examples the data hold, and not how they look."""
    plain = {f.name: f.default for f in dataclasses.fields(Data)}
    del plain["classes"]
    return config.key(dataclasses.replace(data, **plain))


def evaluate(members: list[Member], splits: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns {split: (members, examples, outputs)}, before the output activation.

    Members of equal architecture, shapes and input are evaluated in one program whose
    weights have a leading axis; the others in a program of their own.
    """
    groups: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        groups.setdefault(_alike(member), []).append(i)
    found: dict[str, list] = {name: [None] * len(members) for name in splits}
    for places in groups.values():
        for name, logits in _stacked([members[i] for i in places], splits).items():
            for i, one in zip(places, logits):
                found[name][i] = one
    for name, rows in found.items():
        _same_shape(members, rows, name)
    return {name: np.stack(rows) for name, rows in found.items()}


def _same_shape(members: list[Member], rows: list, split: str) -> None:
    """Raises UserError for outputs of different width, or that are no numbers."""
    for member, logits in zip(members, rows):
        if not np.isfinite(logits).all():
            raise UserError(
                f"the outputs of {member.name} on {split} are not all finite."
            )
        if logits.shape != rows[0].shape:
            raise UserError(
                f"{members[0].name} and {member.name} have different numbers of "
                f"outputs, {rows[0].shape[-1]} and {logits.shape[-1]}."
            )


def _alike(member: Member) -> Any:
    leaves, tree = jax.tree.flatten((member.params, member.stats))
    shapes = tuple((x.shape, str(x.dtype)) for x in leaves)
    model = member.predictor
    how = model.network, model.preprocess, model.dtype, model.mesh
    return (*how, member.dataset.fingerprint, str(tree), shapes)


def _stacked(members: list[Member], splits: Iterable[str]) -> dict[str, np.ndarray]:
    model, dataset = members[0].predictor, members[0].dataset
    weights = jax.tree.map(
        lambda *leaves: np.stack(leaves), *((m.params, m.stats) for m in members)
    )
    # On CPU batched matrix products are slow; elsewhere taking turns leaves most idle.
    together = model.mesh.devices.flat[0].platform != "cpu"
    return forward.predict_splits(
        model,
        sharding.replicate(weights, model.mesh),
        dataset,
        {name: streams.split_rows(dataset, name) for name in splits},
        functools.partial(stacked_logits, together=together),
        axis=1,
    )


def stacked_logits(
    network: Network,
    weights: tuple[PyTree, PyTree],
    x: PyTree,
    task: str,
    *,
    together: bool,
) -> jax.Array:
    """Logits (members, batch, outputs) of weights with a leading axis of members.

    Args:
      network, x, task: as for `forward.logits`.
      weights: (parameters, statistics), stacked.
      together: whether members are computed at the same time or in turn.
    """

    def member_logits(weights: tuple[PyTree, PyTree]) -> jax.Array:
        return forward.logits(network, weights, x, task)

    if together:
        return jax.vmap(member_logits)(weights)
    return jax.lax.map(member_logits, weights)
