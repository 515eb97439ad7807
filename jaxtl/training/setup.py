"""Sets a run up in a directory, resumes one, and reopens a finished one."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxtl import pretrained
from jaxtl.core import checkpoint, process_group, serialization, sharding
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import description
from jaxtl.evaluation import metrics
from jaxtl.terms.regularizers import importance_file
from jaxtl.training import (
    evaluation_only,
    inputs,
    loggers,
    result,
    run_dir,
    run_paths,
    source_weights,
)
from jaxtl.training.checkpointing import _restore
from jaxtl.training.experiment import PLACEMENT, Experiment
from jaxtl.training.load_model import check_names, with_stored_inputs
from jaxtl.training.run import Run
from jaxtl.training.stored_learner import read_learner
from jaxtl.training.stored_network import check_trained


def setup(
    exp: Experiment,
    out: str | pathlib.Path | None = None,
    *,
    overwrite: bool = False,
    file: pathlib.Path | None = None,
    file_name: str = "",
    overrides: tuple[str, ...] = (),
    variant: str = "",
) -> Run:
    """Sets an experiment up: data, model, initial weights, compiled step.

    Args:
      exp: the experiment.
      out: directory to store the run in; None keeps it in memory.
      overwrite: whether a run that lies there may be replaced.
      file, overrides, variant: where the experiment came from, to be stored.
      file_name: of the file that `file` is a copy of; "" where it is none.

    Returns:
      A `Run`; `tl.train(run)` trains it, `for state, metrics in run` steps through.

    Raises:
      UserError: for everything that can be wrong with an experiment.
    """
    directory = None if out is None else pathlib.Path(out)
    if process_group.count() > 1:
        advice = "give all processes the same file and overrides"
        process_group.check_same("experiment", serialization.to_json(exp), advice)
    if directory is not None:
        check = run_dir.check_replaceable if overwrite else run_dir.refuse
        process_group.on_first(lambda: check(directory))
        loggers.check_installed(exp)
    run = Run(exp, directory)
    _check_same_start(run)
    if directory is not None:
        process_group.on_first(lambda: _write_beginning(run, directory, overwrite))
        source_weights.save(directory, run.fixed.source)
        # It is the directory's mark, so it comes last.
        process_group.on_first(
            lambda: run_dir.write_experiment(
                directory,
                exp,
                file=file,
                file_name=file_name,
                overrides=overrides,
                variant=variant,
            )
        )
    return run


def _write_beginning(run: Run, directory: pathlib.Path, overwrite: bool) -> None:
    """Makes a run's directory and writes what it begins with."""
    run_dir.create(directory, overwrite=overwrite)
    inputs.save_splits(directory, run.parts.datasets)
    run_dir.write_json(
        directory / run_dir.DATA, description.summarize(run.parts.datasets)
    )
    run_dir.write_json(
        directory / run_dir.LOADED, result.loaded(run.parts.model.loading)
    )


def _check_same_start(run: Run) -> None:
    """Compares the data and the initial weights that the processes of a job read.

    Raises:
      UserError: a process has others than process 0.
    """
    if process_group.count() == 1:
        return
    fingerprints = {name: data.fingerprint for name, data in run.datasets.items()}
    advice = "every machine must read the same files, such as those of a shared folder"
    process_group.check_same("data", fingerprints, advice)
    weights = importance_file.digests(run.parts.model.params)
    process_group.check_same("initial weights", weights, advice)


def resume(
    out: str | pathlib.Path,
    exp: Experiment | None = None,
    *,
    placement: Mapping[str, int] | None = None,
) -> Run:
    """A stored run as its last checkpoint left it; `tl.train` goes on.

    Args:
      out: the run's directory.
      exp: the experiment, for one that can't be rebuilt from the directory (arrays
        given in a notebook).
      placement: "devices", "param_shards" and "tensor_shards" that take the place of
        the experiment's; on another number of devices results agree up to rounding.

    Returns:
      The run, at the step of its last checkpoint.

    Raises:
      RunLocked: another process is training it.
      DataChanged: its data changed.
      UserError: if there is no run, the weights that it began from changed, `exp` is
        another experiment than the stored one, or a checkpoint is damaged.
    """
    process_group.on_first(lambda: run_dir.check_unlocked(pathlib.Path(out)))
    directory = run_paths.one_run(out)
    process_group.on_first(lambda: run_dir.check_unlocked(directory))
    if exp is None:
        exp = run_dir.read_experiment(directory)
    else:
        run_dir.same_experiment(directory, exp)
    moved: dict[str, Any] = dict(placement or {})
    exp = dataclasses.replace(exp, **moved)
    datasets = inputs.load_datasets(exp, directory)
    for name, fresh in inputs.load_datasets(exp).items():
        _same_rows(directory, datasets[name], fresh)
    run = Run(exp, directory, datasets=datasets)
    _check_same_start(run)
    source_weights.check(directory, run.fixed.source)
    target = run.parts.datasets["target"]
    folder = directory / "checkpoints"
    last_step = checkpoint.latest(folder)
    if last_step is not None:
        check_names(directory, checkpoint.meta(folder, last_step), target)
        _restore(run, folder, last_step)
    return run


def _same_rows(directory: pathlib.Path, stored: Any, current: Any) -> None:
    changed = [
        name
        for name in sorted({*stored.rows, *current.rows})
        if not np.array_equal(stored.rows.get(name), current.rows.get(name))
    ]
    if changed or not np.array_equal(stored.y, current.y):
        what = ", ".join(changed) or "train labels"
        raise UserError(
            f"the data of {directory} are split differently than when it began ({what} "
            "changed), so it can't be resumed; start a new run."
        )


def reopen(out: str | pathlib.Path, which: Literal["best", "last"] = "best") -> Run:
    """A stored run with its weights, to evaluate, show or average it, not to train it.

    It has no terms and no streams but the target, so what its training read need not
    exist any more, nor what it started from: its own checkpoint takes the place of the
    initial weights. `load_model` loads the model alone, `resume` a run to train on.

    Args:
      out: the run's directory.
      which: "best" or "last" weights.

    Raises:
      UserError: there is no trained run, or its experiment can't be rebuilt.
      DataChanged: its data are no longer those that it was trained on.
    """
    out = run_paths.one_run(out)
    check_trained(out)
    init = pretrained.FromRun(str(out), which=which)
    weights = init.read()
    exp = run_dir.read_experiment(out)
    one_device: dict[str, Any] = dict.fromkeys((*PLACEMENT, "accumulate"), 1)
    exp = dataclasses.replace(
        exp,
        init=init,
        data=with_stored_inputs(exp.data, weights.meta),
        terms={},
        streams={},
        statistics=None,
        phases=(),
        average=None,
        # A criterion that reads the source can't be measured without it.
        monitor="auto" if exp.monitor in metrics.CRITERIA else exp.monitor,
        **one_device,
    )
    target = inputs.load_datasets(exp, out)["target"]
    target = evaluation_only.aligned_to_run(target, out, weights.meta)
    datasets = {"target": target}
    learner = read_learner(out, weights.meta, which)
    if exp.peft is None or exp.peft.deployable:
        exp = dataclasses.replace(exp, peft=None)
        run = Run(exp, terms={}, datasets=datasets)
        run.loaded_learner = learner
        return run
    # The network has the parameters that the reparametrization added, which no initial
    # weights can have.
    # Its base is stored as float, like everything else.
    peft = dataclasses.replace(exp.peft, base="float", double_quantization=False)
    exp = dataclasses.replace(exp, init=None, peft=peft)
    run = Run(exp, terms={}, datasets=datasets)
    check_names(out, weights.meta, run.parts.datasets["target"])
    shapes = {p: x.shape for p, x in trees.flatten(run.params).items()}
    stored = trees.flatten(weights.params)
    if {p: x.shape for p, x in stored.items()} != shapes:
        raise UserError(f"the checkpoint of {out} is not of its own experiment.")
    params = trees.map_with_path(lambda p, x: jnp.asarray(stored[p]), run.params)
    stats = trees.fill(weights.stats, run.state.stats)
    run.loaded_learner = learner
    run.loaded = sharding.place((params, stats), run.program.mesh)
    return run
