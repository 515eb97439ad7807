"""Writes a finished run as one self-contained folder; see `bundle.py` for its files."""

import contextlib
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxtl.core import atomic, numpy_files, resource_errors
from jaxtl.core import tree as trees
from jaxtl.core.errors import DataChanged, UserError
from jaxtl.data import episodic, preprocess
from jaxtl.data.dataset import QUESTION_ANSWERING
from jaxtl.data.text_columns import TextData
from jaxtl.data.tokenizer import TOKENIZER, as_tokenizer
from jaxtl.export import bundle, model_card
from jaxtl.export.predict_text_tables import COLUMNS
from jaxtl.export.predictor import SINGLE_INPUT
from jaxtl.export.program import ExportedProgram, export_program, weights_by_path
from jaxtl.pretrained import tensor_files
from jaxtl.pretrained.from_run import stored_names
from jaxtl.training.experiment import Experiment
from jaxtl.training.load_model import TrainedModel, load_model
from jaxtl.training.result import environment, versions
from jaxtl.training.run_dir import read_json, read_mark, write_json
from jaxtl.training.stored_network import input_specs

# Allowed deviation of the example's outputs, absolute plus relative. Half precision
# keeps few bits, and which ones depends on how a platform fuses and orders the sums.
TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2
_HALF_PRECISION = ("bfloat16", "float16")


def export(
    run_dir: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    exp: Experiment | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes the best model of a run as a folder that needs none of its code.

    Args:
      run_dir: the run's directory.
      out: folder to write; it appears complete or not at all.
      exp: the experiment, where it can't be rebuilt from the directory (a model made
        of functions in a notebook).
      licence: of the model, for its card; "unknown" if left out.
      overwrite: whether to replace an export that `out` holds.

    Returns:
      The folder.

    Raises:
      DataChanged: the run's data are no longer those that it was trained on.
      UserError: if there is no trained run, `out` holds anything (other than an export,
        with `overwrite`) or can't be written, or the model does not export with a free
        batch size.
    """
    out = pathlib.Path(out)
    _check_target(out, overwrite)
    trained = load_model(run_dir, exp=exp)
    if isinstance(trained.dataset_error, DataChanged):
        # The columns and the tokenizer are read from the data's files again.
        raise trained.dataset_error
    episodic.refuse(trained.stored_learner is not None, f"{run_dir} can't be exported")
    try:
        with atomic.folder(out) as draft:
            _write(draft, trained, licence)
            bundle.load(draft)  # checks that the export computes what the model does
    except OSError as error:
        sentence = resource_errors.disk_sentence(error, f"the export {out}")
        sentence = sentence or f"the export {out} can't be written: {error}"
        raise UserError(f"{sentence}.") from error
    return out


def _write(folder: pathlib.Path, trained: TrainedModel, licence: str | None) -> None:
    """Writes all files of an export into an empty folder."""
    exported = export_program(trained)
    (folder / bundle.PROGRAM).write_bytes(exported.program.serialize())
    tensor_files.write(folder / bundle.WEIGHTS, weights_by_path(trained))
    # safetensors files are readable by their owner alone; exports are to be shared.
    shutil.copymode(folder / bundle.PROGRAM, folder / bundle.WEIGHTS)
    _write_tokenizer(folder, trained)
    np.savez_compressed(folder / bundle.EXAMPLE, **_example(trained, exported))
    metadata = _metadata(trained, exported, licence, folder)
    write_json(folder / bundle.METADATA, metadata)
    card = model_card.markdown(metadata, _history(trained, exported.origin))
    (folder / "README.md").write_text(card)


def _example(trained: TrainedModel, exported: ExportedProgram) -> dict[str, np.ndarray]:
    """The example's inputs "x.…" and outputs "y.…", in the units of the data."""
    inputs, outputs = dict(exported.inputs), dict(exported.outputs)
    pre = trained.preprocess
    if pre.offset is not None:
        inputs[SINGLE_INPUT] = inputs[SINGLE_INPUT] + np.asarray(pre.offset)
    if pre.target_offset is not None:
        outputs["outputs"] = outputs["outputs"] + np.asarray(pre.target_offset)
    example = {f"x.{name}": x for name, x in inputs.items()}
    return example | {f"y.{name}": y for name, y in outputs.items()}


def _write_tokenizer(folder: pathlib.Path, trained: TrainedModel) -> None:
    """Writes the tokenizer of data of texts, where it can be read."""
    stored = trained.directory / TOKENIZER
    tokenizer = getattr(trained.data, "tokenizer", None)
    if stored.is_file():
        shutil.copyfile(stored, folder / TOKENIZER)
    elif tokenizer is not None:  # of runs that do not store it
        with contextlib.suppress(UserError):
            (folder / TOKENIZER).write_text(as_tokenizer(tokenizer).to_json())


def _check_target(out: pathlib.Path, overwrite: bool) -> None:
    """Raises UserError unless the folder is free, or an export to be replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; an export needs a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / bundle.METADATA).exists():
        raise UserError(
            f"{out} holds files but no {bundle.METADATA}, so it is no export folder "
            "and is never overwritten: choose another folder."
        )
    if not overwrite:
        raise UserError(
            f"{out} holds an export already: choose another folder, or pass "
            "--overwrite (overwrite=True)."
        )


def _metadata(
    trained: TrainedModel,
    exported: ExportedProgram,
    licence: str | None,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """The content of export.json, for the files that are in the folder by now."""
    meta = trained.meta
    specs = input_specs(meta, 1)
    files = [bundle.PROGRAM, bundle.WEIGHTS, bundle.EXAMPLE]
    main = "outputs" if "outputs" in exported.outputs else "logits"
    if (folder / TOKENIZER).exists():
        files.append(TOKENIZER)
    return {
        "format": bundle.FORMAT,
        "task": meta["task"],
        # A head may have more outputs than the data have classes.
        "class_names": meta["class_names"] and list(stored_names(meta)["output_names"]),
        "thresholds": _thresholds(trained),
        "outputs": list(exported.outputs[main].shape[1:]),
        "inputs": {
            name: {"shape": list(spec.shape[1:]), "dtype": str(spec.dtype)}
            for name, spec in specs.items()
        },
        "id_sizes": getattr(trained.config, "id_sizes", dict)(),
        **_table(trained),
        **({"answers": meta["answers"]} if meta.get("answers") else {}),
        **_text_columns(trained),
        "preprocess": preprocess.to_json(trained.preprocess),
        "tolerance": TOLERANCE_HALF if _is_half_precision(trained) else TOLERANCE,
        "licence": (licence or "").strip() or "unknown",
        "platforms": list(exported.program.platforms),
        "calling_convention": exported.program.calling_convention_version,
        "device": environment()["device"],
        "versions": versions(),
        "files": {name: bundle.digest(folder / name) for name in files},
    }


def _thresholds(trained: TrainedModel) -> list[float] | None:
    """Thresholds of the probabilities of the second class or of each label.

    Of questions the lead of the score of no answer.
    """
    if trained.thresholds is None:
        return None
    if trained.task == QUESTION_ANSWERING:
        return trained.thresholds.tolist()
    return special.expit(trained.thresholds).tolist()


def _is_half_precision(trained: TrainedModel) -> bool:
    """Whether the model computes, or stores weights, in 16 bits."""
    dtypes = [trained.dtype, getattr(trained.config, "dtype", None)]
    dtypes += [leaf.dtype for leaf in jax.tree.leaves(trained.weights())]
    return any(str(dtype) in _HALF_PRECISION for dtype in dtypes)


def _table(trained: TrainedModel) -> dict[str, Any]:
    """ "columns" of a table, None for other data, and "cells", how they are read."""
    encoding = trained.meta.get("encoding")
    if encoding is None and trained.dataset is not None and trained.dataset.encoding:
        encoding = trained.dataset.encoding.to_json()  # of runs that do not store it
    if encoding is None:
        return {"columns": None}
    reading = {name: value for name, value in encoding.items() if name != "columns"}
    return {"columns": encoding["columns"], "cells": reading}


def _text_columns(trained: TrainedModel) -> dict[str, list[str | int]]:
    """The columns of texts, by name or by number from 0; {} for other data."""
    names = [getattr(trained.data, field, None) for field in ("text", "pair")]
    named = [name for name in names if isinstance(name, str | int)]
    return {COLUMNS: named} if named and isinstance(trained.data, TextData) else {}


def _history(trained: TrainedModel, origin: str) -> dict[str, Any]:
    """How the model was trained, for `model_card.markdown`."""
    directory, meta = trained.directory, trained.meta

    def read(name: str, kind: type = dict) -> Any:
        path = directory / name
        return read_json(path, kind) if path.exists() else kind()

    result, best = read("result.json"), meta["best"]
    metrics = {split: result[split] for split in ("val", "test") if split in result}
    if not metrics and best is not None:
        metrics = {"val": best["metrics"]}
    counts = {}
    if (directory / "splits.npz").exists():
        stored = numpy_files.read_npz(directory / "splits.npz")
        counts = {n[5:]: len(rows) for n, rows in stored.items() if n[:5] == "rows_"}
    return {
        "experiment": read_mark(directory)["experiment"],
        "loaded": read("loaded.json", list),
        "result": result,
        "metrics": metrics,
        "examples": result.get("examples", counts),
        "step": best["step"] if best else meta["step"],
        "chosen": best is not None,
        "parameters": trees.size(trained.params),
        "example": origin,
    }
