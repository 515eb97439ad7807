"""Writes a run's weights or adapter in the layout of another library."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxtl import pretrained
from jaxtl.core import atomic, checkpoint
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import preprocess
from jaxtl.export import hf_card
from jaxtl.pretrained import hf_peft_write
from jaxtl.training import run_paths, setup, source_defaults
from jaxtl.training.run_dir import read_experiment
from jaxtl.training.stored_network import check_trained


def write_weights(
    run_dir: pathlib.Path, target: pathlib.Path, layout: str | None = None
) -> pathlib.Path:
    """Writes a run's best model in its family's published layout, for torch to load.

    Args:
      run_dir: the run's directory.
      target: a ".safetensors" file; or, for a run that began from a Hugging Face
        directory, a new directory that transformers opens.
      layout: of the family, by name; None takes the usual one.

    Raises:
      UserError: the target exists, or the family has no layout of another library.
    """
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; remove it first.")
    run_dir = run_paths.one_run(run_dir)
    check_trained(run_dir)
    exp = read_experiment(run_dir)
    folder = run_dir / "checkpoints"
    step = checkpoint.latest(folder)
    assert step is not None  # the run is trained
    best = checkpoint.read(folder, step, "best")
    meta = checkpoint.meta(folder, step)
    _check_targets(run_dir, meta)
    names = tuple(meta["class_names"])
    if not (hasattr(exp.model, "layouts") and exp.model.layouts()):
        raise UserError(
            f"{type(exp.model).__name__} is no model of jaxtl's, so no names "
            f"of tensors are laid down for it; `jaxtl export {run_dir} OUT` writes its "
            "program, and its parameters by their paths to OUT/parameters.safetensors."
        )
    model = exp.model
    if model.outputs is None:
        model = dataclasses.replace(model, outputs=meta["outputs"])
    params, stats = best["params"], best.get("stats", {})
    if target.suffix == ".safetensors":
        stored = {n: meta.get(n, ()) for n in ("output_names", "feature_names")}
        return pretrained.write_file(target, model, params, stats, layout, stored)
    if not isinstance(exp.init, pretrained.FromHub):
        raise UserError(
            f"{str(target)!r} should end in .safetensors; a directory is "
            "written only for runs that began from a Hugging Face directory."
        )
    pre = preprocess.from_json(meta["preprocess"])
    tokenizer = source_defaults.run_tokenizer(exp.data, run_dir)
    with atomic.folder(target) as draft:
        pretrained.write_directory(
            draft,
            model,
            params,
            stats,
            like=exp.init.folder(),
            class_names=tuple(meta.get("output_names") or names),
            task=meta["task"],
            preprocess=pre,
            tokenizer=tokenizer,
            card=hf_card.markdown(exp, model, meta, pre, tokenizer),
        )
    return target


def _check_targets(run_dir: pathlib.Path, meta: Mapping[str, Any]) -> None:
    """Raises UserError for a model of differences, which no other library adds up."""
    offset = meta["preprocess"].get("target_offset")
    if offset is not None:
        raise UserError(
            f"{run_dir} predicts differences from "
            f"{', '.join(map(str, offset))}, which files of other libraries have no "
            "place for; `jaxtl export` adds them, or subtract a number from the "
            "targets and train again."
        )


def write_adapter(run_dir: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes a run's reparametrization in Hugging Face PEFT's layout.

    Stages that the run trained without it (a new head) are written beside it.

    Args:
      run_dir: the run's directory.
      target: a new directory, for `PeftModel.from_pretrained(base, target)`.

    Raises:
      UserError: a run without peft=, one whose best weights are a mixture, or a method
        that PEFT has no place for.
    """
    run_dir = run_paths.one_run(run_dir)
    check_trained(run_dir)
    exp = read_experiment(run_dir)
    if exp.peft is None:
        raise UserError(
            f"{run_dir} trained the model's parameters themselves "
            "(peft=None); leave --adapter out."
        )
    if exp.wise_ft:
        raise UserError(
            f"the best weights of {run_dir} lie between the initial and the "
            "trained ones (wise_ft), which no adapter gives; leave --adapter out."
        )
    run = setup.resume(run_dir)
    delta = run.best_peft_params
    delta = run.state.trainable["peft"] if delta is None else delta
    params, _ = run.weights("best")
    trainable = trees.flatten(run.program.base_mask)
    stages = dict.fromkeys(path.split("/")[0] for path, m in trainable.items() if m)
    is_hub = isinstance(exp.init, pretrained.FromHub)
    return hf_peft_write.save_adapter(
        target,
        exp.peft,
        jax.device_get(delta),
        jax.device_get(run.fixed.peft_constants),
        params,
        run.parts.model.config,
        saved=tuple(stages),
        of=str(exp.init.folder()) if is_hub else None,
        output_names=run.parts.model.output_names,
    )
