"""Runs on disk: set up in a directory, save, resume bit for bit."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoint, config, facts, metrics, pretrained, rundir, sharding, step
from jaxtl import tree as trees
from jaxtl.core import PyTree, Term, UserError
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
    trees_of = {}
    for name, which in zip(("last", "best"), ("current", "best")):
        params, stats = run.weights(which)
        trees_of[name] = {"params": params, "stats": stats}
        if not jax.tree.leaves(stats):
            del trees_of[name]["stats"]
    if run.best_delta is not None:
        trees_of["delta"] = run.best_delta
    return {**trees_of, "state": checkpoint.flat(_rest(run))}


def _rest(run: Run) -> dict[str, PyTree]:
    """Returns what a resumed run needs beside its weights as they are evaluated."""
    state = run.state
    rest = {
        "own": state.trainable["terms"],
        "peft": state.trainable["peft"],
        "opt": state.opt,
        "terms": state.terms,
        "average": state.average,
        "hypers": state.hypers,
        "step": state.step,
    }
    base = _base(run)
    if run.exp.peft is not None:
        changed = trees.flatten(run.exp.peft.adapted(base))
        moves = trees.flatten(run.program.mask)
        rest["base"] = trees.map_with_path(
            lambda path, x: x if changed[path] or moves[path] else None, base
        )
    elif run.exp.average is not None:
        rest["base"] = state.trainable["model"]
    if run.exp.average is not None:
        rest["stats"] = state.stats
    return rest


def _base(run: Run) -> PyTree:
    """Returns all parameters before a reparametrisation and without averaging."""
    return trees.merge(run.state.trainable["model"], run.fixed.frozen)


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
        "phase": run.phase,
        "delta": run.best_delta is not None,
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
    run.enter(meta.get("phase", 0))
    if meta.get("delta"):
        run.best_delta = run.state.trainable["peft"]
    found = checkpoint.restore(folder, at, _items(run))
    rest = checkpoint.unflat(found["state"], _rest(run))
    last, mask = found["last"], run.program.mask
    known = {**trees.flatten(last["params"]), **trees.flatten(rest.get("base", {}))}
    base = trees.map_with_path(lambda path, _: known[path], _base(run))
    model, frozen = trees.partition(base, mask)
    stats = rest.get("stats", last.get("stats", run.state.stats))
    run.state = step.State(
        {"model": model, "peft": rest["peft"], "terms": rest["own"]},
        stats,
        rest["opt"],
        rest["terms"],
        rest["average"],
        rest["hypers"],
        rest["step"],
    )
    run.fixed = dataclasses.replace(run.fixed, frozen=frozen)
    run.at = run.resumed_at = at
    run.best, run.seconds = meta["best"], meta["seconds"]
    if run.best is not None:
        best = found["best"]
        run._best_weights = best["params"], best.get("stats", run.state.stats)
        run.best_delta = found.get("delta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Nothing(Term):
    """Stands for the loss of a reopened run, which is not trained any more."""

    @property
    def streams(self) -> tuple[str, ...]:
        return ("unlabelled",)

    def __call__(self, context):
        return jnp.float32(0.0)


def reopen(out: str | pathlib.Path, which: str = "best") -> Run:
    """Returns a finished (or interrupted) run with its weights, to evaluate or export.

    The run's own checkpoint takes the place of its initial weights, so that whatever it
    started from need not be there any more.
    """
    exp = rundir.read_experiment(pathlib.Path(out))
    init = pretrained.Run(str(out), which=which)
    # What shaped its training is not needed to read it, and may be gone by now.
    free = {"terms": {}, "streams": {}, "batch": 1, "accumulate": 1, "devices": 1}
    free |= {"phases": (), "average": None, "param_shards": 1}
    if exp.data.labels == 0:  # the task's own loss has no labels to read
        free["terms"] = {"task": _Nothing()}
    if exp.monitor in metrics.CRITERIA:  # the source is no longer there to choose by
        free["monitor"] = "auto"
    data, pre = exp.data, init.read().meta.get("preprocess", {})
    if data.size is None and pre.get("size"):
        # What the pretrained weights wanted, where the data left it open.
        wanted = {name: pre.get(name) for name in ("size", "shortest")}
        data = config.replace(data, **wanted)
    exp = dataclasses.replace(exp, init=init, data=data, **free)
    if exp.peft is None or exp.peft.deployable:
        return Run(dataclasses.replace(exp, peft=None))
    # The stored parameters are the merged ones: what was added is no part of the base.
    found = init.read()
    run = Run(dataclasses.replace(exp, init=None))
    shapes = {p: x.shape for p, x in trees.flatten(run.params).items()}
    stored = trees.flatten(found.params)
    if {p: x.shape for p, x in stored.items()} != shapes:
        raise UserError(f"the checkpoint of {out} is not of its own experiment.")
    params = trees.map_with_path(lambda p, x: jnp.asarray(stored[p]), run.params)
    stats = trees.fill(found.stats, run.state.stats)
    run.loaded = sharding.place((params, stats), run.program.mesh)
    return run
