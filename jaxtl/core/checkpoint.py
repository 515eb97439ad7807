"""Checkpoints on disk with orbax: complete or absent, even if the process is killed.

A checkpoint of step N is a folder `N/` with the items `last` and `best` (parameters and
statistics each), `state` (optimizer, terms, counters) and `meta` (JSON). Orbax writes
into a temporary name and renames at the end, so a kill leaves the previous one.
"""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import atomic, process_group, resource_errors
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, describe_error
from jaxtl.core.orbax_module import orbax
from jaxtl.core.types import PyTree

BESIDE = "jaxtl.json"  # the file that holds `meta` beside the arrays of a folder
_MARK = "_CHECKPOINT_METADATA"  # orbax's file in a whole checkpoint


def _manager(directory: pathlib.Path, *, create: bool):
    ocp = orbax()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=create,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=create,
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(
    directory: pathlib.Path, step: int, items: Mapping[str, PyTree], meta: dict
) -> None:
    """Writes one checkpoint and removes the one before it, in that order.

    A complete checkpoint of the same step is kept: training is a function of the step,
    and deleting it first would leave a moment without any checkpoint. All processes of
    a job call this; each writes the parts of arrays that it holds.

    Args:
      directory: the folder of checkpoints, made if missing.
      step: number of steps taken.
      items: name -> tree of arrays; empty trees are left out.
      meta: JSON-able facts.

    Raises:
      UserError: if the disk is full or can't be written; the checkpoint before is kept.
    """
    if process_group.first_value(step in steps(directory)):
        return
    ocp = orbax()
    parts = {
        name: ocp.args.PyTreeSave(tree)
        for name, tree in items.items()
        if jax.tree.leaves(tree)
    }
    try:
        with _manager(directory, create=True) as manager:
            manager.save(
                step,
                args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **parts),
                force=True,
            )
            manager.wait_until_finished()
    except Exception as error:
        sentence = resource_errors.disk_sentence(
            error, f"the checkpoint of step {step} in {directory}"
        )
        if not sentence:
            raise
        previous = latest(directory)
        remains = (
            "none was written before"
            if previous is None
            else f"step {previous} is kept"
        )
        raise UserError(f"{sentence}; {remains}.") from error


def steps(directory: pathlib.Path) -> list[int]:
    """The steps of the whole checkpoints in a folder, in order."""
    return sorted(int(p.name) for p in _folders(directory) if (p / _MARK).exists())


def _folders(directory: pathlib.Path) -> list[pathlib.Path]:
    """The folders of checkpoints that hold something, perhaps not all of it."""
    if not directory.is_dir():
        return []
    numbered = [p for p in directory.iterdir() if p.name.isdigit() and p.is_dir()]
    return [p for p in numbered if any(p.iterdir())]


def latest(directory: pathlib.Path) -> int | None:
    """The newest whole checkpoint's step, or None.

    Raises:
      UserError: the newest one is not whole. A checkpoint gets its name when it is
        complete, and is removed after the next one: so this one was damaged.
    """
    complete = steps(directory)
    newest = max((int(p.name) for p in _folders(directory)), default=None)
    if newest is None or newest in complete:
        return newest
    remains = f"goes on from step {complete[-1]}" if complete else "begins again"
    raise UserError(
        f"the checkpoint {directory / str(newest)} is damaged: its {_MARK} is missing; "
        f"a run without this folder {remains}."
    )


def meta(directory: pathlib.Path, step: int) -> dict:
    """The JSON part of a checkpoint; UserError where it is damaged."""
    ocp = orbax()
    with _reading(directory, step) as manager:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        values = manager.restore(step, args=args)["meta"]
    if not isinstance(values, dict) or "step" not in values:
        raise UserError(
            f"the meta of the checkpoint {directory / str(step)} is damaged."
        )
    return values


def restore(directory: pathlib.Path, step: int, targets: Mapping[str, PyTree]) -> dict:
    """Reads items into the structure, types and shardings of `targets`.

    Returns:
      {name: tree}; an item whose target has no leaves comes back as that target.

    Raises:
      UserError: if the checkpoint is damaged or holds other shapes; both are shown.
    """
    ocp = orbax()
    nonempty = {n: t for n, t in targets.items() if jax.tree.leaves(t)}
    for name, target in nonempty.items():
        _compare(directory, step, name, target)
    with _reading(directory, step) as manager:
        args = {
            name: ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            )
            for name, target in nonempty.items()
        }
        restored = manager.restore(step, args=ocp.args.Composite(**args))
    return {
        name: restored[name] if name in nonempty else t for name, t in targets.items()
    }


def read(directory: pathlib.Path, step: int, item: str) -> PyTree:
    """Reads one item as nested dicts of numpy arrays, without knowing its shapes."""
    ocp = orbax()
    described = _described(directory, step, item)
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described
    )
    with _reading(directory, step) as manager:
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]


def items(directory: pathlib.Path, step: int) -> list[str]:
    """The names of a checkpoint's items."""
    return sorted(p.name for p in (directory / str(step)).iterdir() if p.is_dir())


def read_tree(path: pathlib.Path) -> PyTree:
    """Reads one folder of arrays, by whichever orbax handler wrote it, as numpy."""
    ocp = orbax()
    path = path.absolute()
    described = _metadata(path, str(path))
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described
    )
    return ocp.PyTreeCheckpointer().restore(path, restore_args=as_numpy)


def write_tree(path: pathlib.Path, tree: PyTree, meta: dict) -> None:
    """Writes one folder of arrays, completely or not at all, for `read_tree`.

    Args:
      path: a path that does not exist yet.
      tree: nested dicts of arrays; empty ones are left out.
      meta: JSON-able facts, for `beside`.

    Raises:
      UserError: if something lies at the path, or the disk is full or read-only.
    """
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten; remove it.")
    nonempty = {name: part for name, part in tree.items() if jax.tree.leaves(part)}
    try:
        with atomic.folder(path, replace=False) as draft:
            orbax().PyTreeCheckpointer().save(draft, nonempty, force=True)
            (draft / BESIDE).write_text(json.dumps(meta))
    except Exception as error:
        sentence = resource_errors.disk_sentence(error, path)
        if not sentence:
            raise
        raise UserError(f"{sentence}.") from error


def beside(path: pathlib.Path) -> dict:
    """Reads what was stored with a folder of arrays, {} if another program wrote it.

    That is the `meta` of `write_tree`, or for an item of a checkpoint that of `save`.
    """
    notes, step = path / BESIDE, path.absolute().parent
    if notes.exists():
        return json.loads(notes.read_text())
    if step.name.isdigit() and int(step.name) in steps(step.parent):
        return meta(step.parent, int(step.name)) if (step / "meta").is_dir() else {}
    return {}


def _described(directory: pathlib.Path, step: int, item: str) -> PyTree:
    """The item's tree of shapes, from its metadata alone."""
    path = directory / str(step) / item
    return _metadata(path.absolute(), f"{directory / str(step)} (item {item!r})")


def _metadata(path: pathlib.Path, shown: str) -> PyTree:
    try:
        metadata = orbax().PyTreeCheckpointHandler().metadata(path)
        return metadata.tree if hasattr(metadata, "tree") else metadata
    except Exception as error:
        raise UserError(
            f"{shown} can't be read as a checkpoint: {describe_error(error)}."
        ) from None


def _compare(directory: pathlib.Path, step: int, item: Any, target: Any) -> None:
    expected_shapes = {p: tuple(x.shape) for p, x in trees.flatten(target).items()}
    stored_shapes = {
        p: tuple(x.shape)
        for p, x in trees.flatten(_described(directory, step, item)).items()
    }
    if expected_shapes == stored_shapes:
        return
    lines = []
    for path in sorted(expected_shapes.keys() | stored_shapes.keys()):
        if expected_shapes.get(path) != stored_shapes.get(path):
            lines.append(
                f"- {path} {stored_shapes.get(path, 'missing')}   (checkpoint)"
            )
            lines.append(
                f"+ {path} {expected_shapes.get(path, 'missing')}   (experiment)"
            )
    raise UserError(
        f"the checkpoint {directory / str(step)} does not fit the experiment:\n  "
        + "\n  ".join(lines[:40])
    )


class _reading:
    """Opens a folder for reading; orbax errors become a UserError of one sentence."""

    def __init__(self, directory: pathlib.Path, step: int):
        self.directory, self.step = directory, step

    def __enter__(self):
        if not self.directory.is_dir():
            raise UserError(f"there is no folder of checkpoints {self.directory}.")
        try:
            self.manager = _manager(self.directory, create=False)
        except Exception as error:  # of a damaged description of any checkpoint
            raise self._explained(error) from error
        return self.manager

    def __exit__(self, kind: Any, error: Any, trace: Any):
        self.manager.close()
        if error is not None and isinstance(error, Exception):
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> UserError:
        return UserError(
            f"the checkpoint {self.directory / str(self.step)} can't be read: "
            f"{describe_error(error)}."
        )


def remove(directory: pathlib.Path) -> None:
    """Deletes a folder of checkpoints."""
    shutil.rmtree(directory, ignore_errors=True)


def flat(tree: PyTree) -> dict[str, Any]:
    """{path: leaf} with paths that are safe as names, for trees of any kind."""
    return {p.replace("/", "."): x for p, x in trees.flatten(tree).items()}


def unflat(leaves: Mapping[str, Any], like: PyTree) -> PyTree:
    """The tree `like` with the leaves of a `flat` tree."""
    return trees.map_with_path(lambda p, _: leaves[p.replace("/", ".")], like)
