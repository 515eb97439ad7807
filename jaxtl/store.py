"""Runs on disk: set up in a directory, save, resume bit for bit."""

import dataclasses
import pathlib

import jax
import numpy as np

from jaxtl import checkpoint, facts, pretrained, rundir, step
from jaxtl import tree as trees
from jaxtl.core import PyTree, UserError
from jaxtl.data import preprocess, splits
from jaxtl.experiment import Experiment
from jaxtl.run import Run


def setup(
    exp: Experiment,
    out: str | pathlib.Path | None = None,
    *,
    overwrite: bool = False,
    file: pathlib.Path | None = None,
    overrides: tuple[str, ...] = (),
    variant: str = "",
) -> Run:
    """Sets an experiment up: data, model, initial weights, compiled step.

    Args:
      exp: the experiment.
      out: directory to store the run in; None keeps it in memory.
      overwrite: whether a run that lies there may be replaced.
      file, overrides, variant: where the experiment came from, to be stored.

    Returns:
      A `Run`; `tl.train(run)` trains it, `for state, metrics in run` steps through.

    Raises:
      UserError: for everything that can be wrong with an experiment.
    """
    directory = None if out is None else pathlib.Path(out)
    if directory is not None and not overwrite:
        rundir.refuse(directory)
    run = Run(exp, directory)
    if directory is not None:
        rundir.create(directory, overwrite=overwrite)
        rundir.write_experiment(
            directory, exp, file=file, overrides=overrides, variant=variant
        )
        splits.save_splits(directory / "splits.npz", run.parts.datasets["target"])
        rundir.write_json(directory / "loaded.json", facts.loaded(run.parts.rows))
    return run


def resume(out: str | pathlib.Path, exp: Experiment | None = None) -> Run:
    """Returns a stored run as its last checkpoint left it; `tl.train` goes on.

    Args:
      out: the run's directory.
      exp: the experiment, for one that can't be rebuilt from the directory (arrays
        given in a notebook).

    Raises:
      UserError: if there is no run, its data changed, `exp` is another experiment than
        the stored one, or a checkpoint is damaged.
    """
    directory = pathlib.Path(out)
    if exp is None:
        exp = rundir.read_experiment(directory)
    else:
        rundir.same_experiment(directory, exp)
    run = Run(exp, directory)
    target = run.parts.datasets["target"]
    stored = directory / "splits.npz"
    if stored.exists():
        _same_rows(directory, splits.load_splits(stored, target), target)
    folder = directory / "checkpoints"
    at = checkpoint.latest(folder)
    if at is not None:
        _restore(run, folder, at)
    return run


def _same_rows(directory, stored, now) -> None:
    changed = [
        name
        for name in sorted({*stored.rows, *now.rows})
        if not np.array_equal(stored.rows.get(name), now.rows.get(name))
    ]
    if changed or not np.array_equal(stored.y, now.y):
        what = ", ".join(changed) or "train labels"
        raise UserError(
            f"the data of {directory} are carved otherwise than when it began ({what} "
            "changed), so it can't go on where it was; begin a new run."
        )


def _items(run: Run) -> dict[str, PyTree]:
    """Returns what a checkpoint of the run holds, as trees of arrays."""
    state = run.state
    rest = {
        "own": state.trainable["terms"],
        "opt": state.opt,
        "terms": state.terms,
        "hypers": state.hypers,
        "step": state.step,
    }
    names = ("last", "best")
    trees_of = {}
    for name, which in zip(names, ("current", "best")):
        params, stats = run.weights(which)
        trees_of[name] = {"params": params, "stats": stats}
        if not jax.tree.leaves(stats):
            del trees_of[name]["stats"]
    return {**trees_of, "state": checkpoint.flat(rest)}


def save(run: Run) -> None:
    """Writes a checkpoint of the run, unless a value in it is not finite."""
    items = _items(run)
    if not bool(trees.all_finite(items)):
        raise UserError(
            f"a parameter or optimizer value is NaN or infinite after step {run.at}; "
            "nothing was saved over the last good checkpoint."
        )
    target = run.parts.datasets["target"]
    meta = {
        "step": run.at,
        "best": run.best,
        "seconds": run.seconds,
        "preprocess": preprocess.to_json(run.preprocess),
        "class_names": list(target.class_names),
        "task": run.parts.program.task,
        # An export rebuilds the model from these, without the data.
        "inputs": facts.inputs(target),
        "single": not isinstance(target.x, dict),
        "outputs": target.outputs,
    }
    checkpoint.save(run.directory / "checkpoints", run.at, items, meta)


def _restore(run: Run, folder: pathlib.Path, at: int) -> None:
    meta = checkpoint.meta(folder, at)
    like = _items(run)
    found = checkpoint.restore(folder, at, like)
    state, mask = run.state, run.parts.program.mask
    rest = {
        "own": state.trainable["terms"],
        "opt": state.opt,
        "terms": state.terms,
        "hypers": state.hypers,
        "step": state.step,
    }
    rest = checkpoint.unflat(found["state"], rest)
    model, frozen = trees.partition(found["last"]["params"], mask)
    run.state = step.State(
        {"model": model, "terms": rest["own"]},
        found["last"].get("stats", state.stats),
        rest["opt"],
        rest["terms"],
        rest["hypers"],
        rest["step"],
    )
    fixed = dataclasses.replace(run.parts.fixed, frozen=frozen)
    run.parts = dataclasses.replace(run.parts, fixed=fixed)
    run.at = run.resumed_at = at
    run.best, run.seconds = meta["best"], meta["seconds"]
    if run.best is not None:
        best = found["best"]
        model = trees.partition(best["params"], mask)[0]
        run._best_weights = model, best.get("stats", state.stats)


def reopen(out: str | pathlib.Path, which: str = "best") -> Run:
    """Returns a finished (or interrupted) run with its weights, to evaluate or export.

    The run's own checkpoint takes the place of its initial weights, so that whatever it
    started from need not be there any more.
    """
    exp = rundir.read_experiment(pathlib.Path(out))
    return Run(dataclasses.replace(exp, init=pretrained.Run(str(out), which=which)))
