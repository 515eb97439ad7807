"""Facts about a run that no training changes: costs, versions, what was loaded."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import subprocess

import jax

from jaxtl.core import tree as trees

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def result(run, found: dict, **known) -> dict:
    """Returns what result.json holds.

    Args:
      run: a finished run.
      found: {"val": metrics, "test": metrics} of the chosen checkpoint.
      known: entries that were found elsewhere already, such as `drift`.
    """
    compiled, took = run.compiled, run.at - run.resumed_at
    speed = took / run.session_seconds if took and run.session_seconds > 0 else None
    return {
        **found,
        "steps": run.at,
        "chosen": run.best["step"] if run.best else run.at,
        "monitor": run.monitor,
        "seed": run.exp.seed,
        "steps_per_second": speed,
        "train_seconds": run.seconds,
        "compile_seconds": run.compile_seconds,
        "flops_per_step": compiled.flops if compiled else None,
        "temp_bytes": compiled.temp_bytes if compiled else None,
        "drift": known["drift"] if "drift" in known else drift(run),
        "parameter_bytes": trees.nbytes(run.params),
        "trainable_bytes": trees.nbytes(run.state.trainable),
        "optimizer_bytes": trees.nbytes(run.state.opt),
        "parameters": trees.size(run.params),
        "trainable_parameters": trainable(run),
        "examples": {n: len(r) for n, r in run.parts.datasets["target"].rows.items()},
        "terms": dict(run.notes),
        **environment(),
        **known,
    }


def drift(run) -> float | None:
    """Returns ‖θ − θ₀‖ of the chosen weights over what has a source, None without."""
    if not jax.tree.leaves(run.source.params):
        return None
    apart = trees.sub(run.weights("best")[0], run.source.params)
    return float(trees.sum_squares(apart)) ** 0.5


def trainable(run) -> int:
    """Returns the number of the model's parameters, or of their delta, in training."""
    return sum(trees.size(run.state.trainable[part]) for part in ("model", "peft"))


def environment() -> dict:
    """Returns device, versions and the git commit of the working directory."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": versions(),
        "git_commit": git_commit(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of what computes."""
    from jaxtl import __version__

    found = {"jaxtl": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """Returns the commit of the working directory ("+" if it has changes), or None."""
    try:
        here = pathlib.Path.cwd()
        asked = {"cwd": here, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **asked)
        if head.returncode:
            return None
        changed = subprocess.run(["git", "status", "--porcelain"], **asked)
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def loaded(rows: list) -> list[dict]:
    """Returns the table of loaded weights as JSON."""
    return [dataclasses.asdict(r) for r in rows]


def inputs(dataset) -> dict[str, dict]:
    """Returns {input: {"shape" of one example, stored "dtype"}} as JSON.

    A data set of one array has the input "x".
    """
    x = dataset.x if isinstance(dataset.x, dict) else {"x": dataset.x}
    return {
        name: {"shape": list(v.shape[1:]), "dtype": str(v.dtype)}
        for name, v in x.items()
    }
