"""Saves and restores the state of a run, bit for bit."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.core import checkpoint, lazy_leaf
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data import preprocess
from jaxtl.training import result, step
from jaxtl.training.run import Run


def _items(run: Run) -> dict[str, PyTree]:
    """The items of a checkpoint of the run, as trees of arrays."""
    trees_of = {}
    for name, which in zip(("last", "best"), ("current", "best")):
        params, stats = run.packed_weights(which)
        trees_of[name] = {"params": _floats(params), "stats": stats}
        if not jax.tree.leaves(stats):
            del trees_of[name]["stats"]
    if run.best_peft_params is not None:
        trees_of["delta"] = run.best_peft_params
    if run.datasets["target"].episodes is not None:
        learners = {which: run.learner(which) for which in ("current", "best")}
        parts = {n: learner.term_params for n, learner in learners.items()}
        trees_of["learner"] = checkpoint.flat(parts)
    return {**trees_of, "state": checkpoint.flat(_rest(run))}


def _floats(params: PyTree) -> PyTree:
    """The parameters with floats in place of a quantized base, one leaf at a time."""
    return jax.tree.map(
        lambda x: np.asarray(x) if lazy_leaf.is_lazy(x) else x,
        params,
        is_leaf=lazy_leaf.is_lazy,
    )


def _rest(run: Run) -> dict[str, PyTree]:
    """The state that a resumed run needs beside its weights as they are evaluated."""
    state = run.state
    resumable = {
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
        changed = trees.flatten(run.exp.peft.adapted_mask(base))
        moves = trees.flatten(run.program.base_mask)
        resumable["base"] = trees.map_with_path(
            lambda path, x: (
                x
                if (changed[path] or moves[path]) and not lazy_leaf.is_lazy(x)
                else None
            ),
            base,
        )
    elif run.exp.average is not None:
        resumable["base"] = state.trainable["model"]
    if run.exp.average is not None:
        resumable["stats"] = state.stats
    return resumable


def _base(run: Run) -> PyTree:
    """All parameters before a reparametrization and without averaging."""
    return trees.merge(run.state.trainable["model"], run.fixed.frozen)


def save(run: Run) -> None:
    """Writes a checkpoint of the run, unless a value in it is not finite."""
    assert run.directory is not None, "a run in memory has no checkpoints"
    items = _items(run)
    if not bool(trees.all_finite(items)):
        raise UserError(
            "a parameter or optimizer value is NaN or infinite after step "
            f"{run.steps_done}; nothing was saved over the last good checkpoint."
        )
    target = run.parts.datasets["target"]
    meta = {
        "step": run.steps_done,
        "phase": run.phase,
        "delta": run.best_peft_params is not None,
        "best": run.best,
        "thresholds": None if run.thresholds is None else run.thresholds.tolist(),
        "seconds": run.seconds,
        "preprocess": preprocess.to_json(run.preprocess),
        "class_names": list(target.label_names),
        "output_names": list(run.parts.model.output_names),
        "feature_names": list(target.feature_names),
        "encoding": target.encoding and target.encoding.to_json(),
        "answers": target.questions and target.questions.prediction_settings(),
        "task": run.parts.program.task,
        # An export rebuilds the model from these, without the data.
        "inputs": result.inputs(target),
        "single": not isinstance(target.x, dict),
        "outputs": target.outputs,
    }
    if target.episodes is not None:
        meta["learner"] = run.learner().to_json()
    checkpoint.save(run.directory / "checkpoints", run.steps_done, items, meta)


def _restore(run: Run, folder: pathlib.Path, step_number: int) -> None:
    meta = checkpoint.meta(folder, step_number)
    run.enter_phase(meta.get("phase", 0))
    if meta.get("delta"):
        run.best_peft_params = run.state.trainable["peft"]
    restored = checkpoint.restore(folder, step_number, _items(run))
    resumable = checkpoint.unflat(restored["state"], _rest(run))
    last, mask = restored["last"], run.program.base_mask
    leaves = {
        **trees.flatten(last["params"]),
        **trees.flatten(resumable.get("base", {})),
    }
    # A quantized base is that of the initial weights, as the run has it already.
    base = trees.map_with_path(
        lambda path, leaf: leaf if lazy_leaf.is_lazy(leaf) else leaves[path], _base(run)
    )
    model, frozen = trees.partition(base, mask)
    stats = resumable.get("stats", last.get("stats", run.state.stats))
    run.state = step.State(
        {"model": model, "peft": resumable["peft"], "terms": resumable["own"]},
        stats,
        resumable["opt"],
        resumable["terms"],
        resumable["average"],
        resumable["hypers"],
        resumable["step"],
    )
    run.fixed = dataclasses.replace(run.fixed, frozen=frozen)
    run.steps_done = run.resumed_at = step_number
    run.best, run.seconds = meta["best"], meta["seconds"]
    if meta.get("thresholds") is not None:
        run.thresholds = np.asarray(meta["thresholds"], np.float64)
    if run.best is not None:
        best = restored["best"]
        run.best_peft_params = restored.get("delta")
        params = _quantized_again(run, best["params"], run.best_peft_params)
        run.best_weights = params, best.get("stats", run.state.stats)
        if "learner" in restored:
            parts = {n: run.learner(n).term_params for n in ("current", "best")}
            run.best_learner = checkpoint.unflat(restored["learner"], parts)["best"]


def _quantized_again(run: Run, params: PyTree, delta: PyTree) -> PyTree:
    """Restored parameters with the run's quantized base in place of its floats.

    Args:
      run: the run, restored.
      params: as they are stored.
      delta: the parameters of its reparametrization that are merged in them; None for
        a mixture of weights, which stays float.
    """
    params = jax.tree.map(jnp.asarray, params)
    if delta is None or not lazy_leaf.has_lazy(run.fixed.frozen):
        return params
    weights = {"model": run.state.trainable["model"], "peft": delta}
    # A copy: its numbers are part of the state, which steps donate.
    packed = trees.copy(run.pack(weights))
    return jax.tree.map(
        lambda new, x: new if lazy_leaf.is_lazy(new) else x,
        packed,
        params,
        is_leaf=lazy_leaf.is_lazy,
    )
