"""Sources of a sweep: variants that are trained before cells start from them."""

import dataclasses
import pathlib
import time

from jaxtl import pretrained
from jaxtl.core.errors import RunLocked, UserError
from jaxtl.sweep.sweep_folder import Sweep
from jaxtl.training import loop, run_dir, setup
from jaxtl.training.experiment import Experiment, Variant

POLL_SECONDS = 1.0  # between looks at a source that another process trains


def with_trained_source(exp: Experiment, sweep: Sweep) -> Experiment:
    """Trains the variant that an experiment starts from, unless it is trained already.

    Returns:
      The experiment, starting from the variant's run in the sweep's folder.

    Raises:
      UserError: the training of the source fails, or failed before in this process.
    """
    if not isinstance(exp.init, Variant):
        return exp
    init = exp.init
    base = sweep.file.variants[init.name]
    seed = exp.seed if init.per_seed else base.seed
    path = sweep.folder / "sources" / init.name.replace("/", "_") / f"seed{seed}"
    source = with_trained_source(dataclasses.replace(base, seed=seed), sweep)
    if path not in sweep.failed_sources:  # a failed source is not tried for every cell
        try:
            _train(source, path, sweep)
        except UserError as error:
            message = f"its source {init.name!r} failed: {error}"
            sweep.failed_sources[path] = message
    if path in sweep.failed_sources:
        raise UserError(sweep.failed_sources[path])
    start = pretrained.FromRun(str(path), init.reset, init.ignore, init.which)
    return dataclasses.replace(exp, init=start)


def _train(exp: Experiment, path: pathlib.Path, sweep: Sweep) -> None:
    """Trains a source, or waits until another process has trained it."""
    while not (path / "result.json").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with run_dir.lock(path.parent):
                if (path / run_dir.MARK).exists():
                    run = setup.resume(path)
                else:
                    run = setup.setup(
                        exp, path, file=sweep.file.path, overwrite=path.exists()
                    )
                loop.train(run, progress=False)
        except RunLocked:
            time.sleep(POLL_SECONDS)
