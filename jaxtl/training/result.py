"""The result of a run, as in result.json: metrics, costs, versions, inputs."""

import dataclasses
import functools
import html
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxtl.core import devices, lazy_leaf
from jaxtl.core import tree as trees
from jaxtl.core.progress import duration
from jaxtl.data.dataset import QUESTION_ANSWERING, Dataset
from jaxtl.evaluation import (
    answer_threshold,
    evaluate,
    model_selection,
    selection_cost,
    thresholds,
)
from jaxtl.evaluation.metrics.experiment_metrics import of_features
from jaxtl.training import data_contents
from jaxtl.training import inputs as input_lib
from jaxtl.training.run import Run

_SPLITS = ("val", "test")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class TrainingResult(dict):
    """The content of result.json; a notebook shows its metrics as a table."""

    def _repr_html_(self) -> str:
        splits = [split for split in _SPLITS if split in self]
        names = dict.fromkeys(name for split in splits for name in self[split])
        heads = "".join(f"<th>{split}</th>" for split in splits)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>{_cells(self, splits, name)}</tr>"
            for name in names
        )
        chosen = f"step {self['chosen']:,} of {self['steps']:,}"
        monitor = f", chosen by {self['monitor']} on val" if self["monitor"] else ""
        costs = (
            f"{self['trainable_parameters']:,} of {self['parameters']:,} parameters "
            f"trained in {duration(self['train_seconds'])}"
        )
        head = html.escape(f"{chosen}{monitor}; {costs}")
        return (
            f"<div>{head}</div><table><thead><tr><th>metric</th>{heads}</tr>"
            f"</thead><tbody>{rows}</tbody></table>"
        )


def _cells(content: Mapping[str, Any], splits: Sequence[str], name: str) -> str:
    values = [content[split].get(name) for split in splits]
    return "".join(f"<td>{'' if v is None else f'{v:.4f}'}</td>" for v in values)


def finish(
    run: Run,
    evaluations: Mapping[str, tuple[dict[str, float], dict]],
    val_curve: Sequence[Mapping[str, float]],
    **overrides: Any,
) -> dict[str, Any]:
    """Assembles the result of a finished run.

    Args:
      run: a run whose training has ended.
      evaluations: "val" and "test", as far as measured -> (metrics, details) of the
        chosen weights; the result has the details of the last split with any.
      val_curve: {"step", metric or criterion: value} of each evaluation during
        training, in order.
      overrides: entries that replace the run's own, or that it does not have. A run
        that trained as one of several replicas holds its initial state only.

    Returns:
      The content of result.json.
    """
    measured: dict[str, Any] = {s: values for s, (values, _) in evaluations.items()}
    for split, (_, details) in evaluations.items():
        if details:
            measured["details"] = {"split": split, **details}
    target = run.datasets["target"]
    chosen = thresholds.by_name(target.task, run.thresholds, target.label_names)
    steps = overrides.get("steps", run.steps_done)
    rows = val_curve or [{"step": steps, **measured.get("val", {})}]
    choosing = _choosing(run, rows)
    return {
        **measured,
        "steps": run.steps_done,
        "chosen": run.best["step"] if run.best else run.steps_done,
        "monitor": run.monitor,
        "seed": run.exp.seed,
        **_costs(run),
        "drift": overrides["drift"] if "drift" in overrides else _drift(run),
        "examples": {n: len(r) for n, r in target.example_rows.items()},
        "contents": data_contents.contents(input_lib.sources(run.exp), run.datasets),
        "terms": dict(run.notes),
        **environment(),
        **({"choosing": choosing} if choosing else {}),
        **({"higher_is_better": run.directions} if run.directions else {}),
        **({"thresholds": chosen} if chosen else {}),
        **overrides,
    }


def _choosing(run: Run, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What choosing without labels has cost; {} with labels, or an untrained head."""
    own = of_features(run.metrics)
    label_free = {n: run.directions[n] for n, m in own.items() if m.label_free}
    task = run.parts.program.task
    if not run.trains_head or not model_selection.is_label_free(run.datasets):
        return {}
    return selection_cost.cost_of_criteria(rows, run.monitor, task, label_free)


def choose_thresholds(run: Run) -> None:
    """Chooses the thresholds of a run's best weights on val, and notes them."""
    target, criterion = run.datasets["target"], run.exp.threshold
    assert criterion is not None
    logits, labels = evaluate.predict_split(run, "val", "best")
    weights = evaluate.example_weights(run, "val")
    if target.task == QUESTION_ANSWERING:
        run.thresholds = answer_threshold.choose(logits, criterion, weights)
        run.notes["threshold"] = (
            "no answer is predicted where its score leads by more than "
            f"{run.thresholds[0]:.3g}, chosen on val by {criterion}"
        )
        return
    run.thresholds = thresholds.choose(target.task, logits, labels, criterion, weights)
    values = thresholds.by_name(target.task, run.thresholds, target.label_names)
    pairs = ", ".join(f"p({name}) > {value:.3g}" for name, value in values.items())
    run.notes["threshold"] = f"{pairs}, chosen on val by {criterion}"


def _costs(run: Run) -> dict[str, Any]:
    """Time, floating-point operations, memory (bytes) and sizes of a run."""
    compiled, steps = run.compiled, run.steps_done - run.resumed_at
    timed = steps > 0 and run.session_seconds > 0
    return {
        "steps_per_second": steps / run.session_seconds if timed else None,
        "train_seconds": run.seconds,
        "compile_seconds": run.compile_seconds,
        "flops_per_step": compiled.flops if compiled else None,
        "temp_bytes": compiled.temp_bytes if compiled else None,
        "parameter_bytes": _parameter_bytes(run),
        "trainable_bytes": trees.nbytes(run.state.trainable),
        "optimizer_bytes": trees.nbytes(run.state.opt),
        "parameters": trees.size(run.packed_params),
        "trainable_parameters": trainable(run),
    }


def _parameter_bytes(run: Run) -> int:
    """Bytes of the parameters; δ counts beside a quantized base, else as merged."""
    if not lazy_leaf.has_lazy(run.fixed.frozen):
        return trees.nbytes(run.params)
    parts = {name: run.state.trainable[name] for name in ("model", "peft")}
    return trees.nbytes((run.fixed.frozen, parts))


def _drift(run: Run) -> float | None:
    """‖θ − θ₀‖ of the chosen weights over the leaves of θ₀; None without a source."""
    if not jax.tree.leaves(run.source.params):
        return None
    difference = trees.sub(run.weights("best")[0], run.source.params)
    return float(trees.sum_squares(difference)) ** 0.5


def trainable(run: Run) -> int:
    """Number of parameters in training: the model's and its reparametrization's."""
    return sum(trees.size(run.state.trainable[part]) for part in ("model", "peft"))


def environment() -> dict[str, Any]:
    """Device, package versions and the git commit of the working directory."""
    device = devices.first()
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "devices": len(devices.visible()),
        "python": platform.python_version(),
        "versions": versions(),
        "git_commit": _git_commit(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of jaxtl and of the packages that compute."""
    from jaxtl import __version__

    installed = {"jaxtl": __version__}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


@functools.cache
def _git_commit() -> str | None:
    """Commit of the working directory, with "+" if it has changes; None without git."""
    try:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options)
        if head.returncode:
            return None
        changes = subprocess.run(["git", "status", "--porcelain"], **options)
        return head.stdout.strip() + ("+" if changes.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def loaded(rows: Sequence[Any]) -> list[dict]:
    """The table of loaded weights (`pretrained.match` rows) as JSON."""
    return [dataclasses.asdict(row) for row in rows]


def inputs(dataset: Dataset) -> dict[str, dict]:
    """{input: {"shape" of one example, stored "dtype"}} as JSON.

    A data set of one array has the input "x".
    """
    x = dataset.x if isinstance(dataset.x, dict) else {"x": dataset.x}
    return {
        name: {"shape": list(v.shape[1:]), "dtype": str(v.dtype)}
        for name, v in x.items()
    }
