"""A finished run as one self-contained folder; `artefact.py` says what lies in it."""

import contextlib
import functools
import os
import pathlib
import shutil

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxtl.core import checkpoint
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, describe_error
from jaxtl.data import lazy_array, preprocess, tokenizer
from jaxtl.data.sources import csv_table
from jaxtl.export import bundle, model_card
from jaxtl.export import load_run as reading
from jaxtl.export.load_run import TrainedModel
from jaxtl.pretrained import tensor_files
from jaxtl.training.experiment import Experiment
from jaxtl.training.result import environment, versions
from jaxtl.training.run_dir import MARK, read_json, write_json

PLATFORMS = ("cpu", "cuda", "tpu")
ROWS = 4  # of the stored example
# Of the example when it is loaded. Half precision keeps few bits, and which ones
# depends on how a platform fuses and orders the sums.
TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2


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
      out: folder to write; it appears whole or not at all.
      exp: the experiment, where it can't be rebuilt from the directory (a model made
        of functions in a notebook).
      licence: of the model, for its card; "unknown" if left out.
      overwrite: whether an export that lies there may be replaced.

    Returns:
      The folder.

    Raises:
      UserError: if there is no trained run, `out` holds anything (other than an export,
        with `overwrite`) or can't be written, or the model does not export with a free
        batch size.
    """
    out = pathlib.Path(out)
    _refuse(out, overwrite)
    trained = reading.read_trained_model(pathlib.Path(run_dir), exp)
    draft = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.part")
    try:
        draft.mkdir(parents=True)
        _write(draft, trained, licence)
        bundle.load(draft)  # what was written is what was trained
        _place(draft, out)
    except OSError as error:
        full = "no space left on the disk" if checkpoint.is_full(error) else str(error)
        raise UserError(f"the export {out} can't be written: {full}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


def _write(folder: pathlib.Path, trained: TrainedModel, licence: str | None) -> None:
    """Writes all files of an export into an empty folder."""
    exported, example, outputs, origin = _program(trained)
    (folder / bundle.PROGRAM).write_bytes(exported.serialize())
    tensor_files.write(folder / bundle.WEIGHTS, trained.weights)
    # safetensors writes for the owner alone; a folder that is deployed is shared.
    shutil.copymode(folder / bundle.PROGRAM, folder / bundle.WEIGHTS)
    _write_tokenizer(folder, trained.data)
    named = {f"x.{k}": v for k, v in example.items()}
    named |= {f"y.{k}": v for k, v in outputs.items()}
    np.savez_compressed(folder / bundle.EXAMPLE, **named)
    known = _facts(trained, outputs, exported, licence, folder)
    write_json(folder / bundle.FACTS, known)
    (folder / "README.md").write_text(model_card.text(known, _story(trained, origin)))


def _write_tokenizer(folder: pathlib.Path, data) -> None:
    """Writes the tokenizer of texts, where it can be read."""
    given = getattr(data, "tokenizer", None)
    if given is not None:
        with contextlib.suppress(UserError):
            text = tokenizer.as_tokenizer(given).to_json()
            (folder / bundle.TOKENIZER).write_text(text)


def _refuse(out: pathlib.Path, overwrite: bool) -> None:
    """Raises UserError unless the folder is free, or an export to be replaced."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; an export needs a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / bundle.FACTS).exists():
        raise UserError(
            f"{out} holds files but no {bundle.FACTS}, so it is no export folder and "
            "is never overwritten: choose another."
        )
    if not overwrite:
        raise UserError(
            f"{out} holds an export already: choose another folder, or pass "
            "--overwrite (overwrite=True)."
        )


def _place(draft: pathlib.Path, out: pathlib.Path) -> None:
    """Puts the finished folder in its place, in the old one's if there is one."""
    old = draft.with_suffix(".old")
    if out.is_dir():
        os.replace(out, old)
    try:
        os.replace(draft, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def forward(trained: TrainedModel, weights, inputs) -> dict[str, jax.Array]:
    """Returns the outputs for a batch in stored units; what is exported.

    Args:
      trained: compiled in, but for its weights.
      weights: path -> array.
      inputs: {name: (batch, …)}.

    Returns:
      "logits" and "probabilities", softmax for classification and sigmoid for
      multilabel; "outputs" for regression. (batch, outputs) each, float32.
    """
    tree = trees.map_with_path(lambda path, _: weights[path], trained.like)
    x = inputs[bundle.SINGLE] if trained.meta["single"] else inputs
    x = preprocess.apply(trained.preprocess, x)
    logits = trained.network.apply(tree["params"], tree["stats"], x).logits
    task = trained.meta["task"]
    if task == "regression":
        return {"outputs": logits}
    squash = jax.nn.sigmoid if task == "multilabel" else jax.nn.softmax
    return {"logits": logits, "probabilities": squash(logits)}


def _program(trained: TrainedModel):
    """Returns (exported program, example, its outputs, where the example is from)."""
    example, origin = _example(trained)
    weights = jax.device_put(trained.weights)
    call = functools.partial(forward, trained)
    # Platforms differ in what they take for float32 (TF32, three bfloat16): the
    # highest precision is the one that all can keep to.
    with jax.default_matmul_precision("highest"), _without_paths():
        outputs = jax.device_get(jax.jit(call)(weights, example))
        spec = reading.input_specs(trained.meta, jax.export.symbolic_shape("batch")[0])
        # A partial has no name, and a lambda of its own shares no cached trace.
        named = jax.jit(lambda weights, inputs: call(weights, inputs))
        try:
            exported = jax.export.export(named, platforms=PLATFORMS)(weights, spec)
        except Exception as error:
            raise UserError(
                f"the model of {trained.directory} can't be exported with a free batch "
                f"size for {', '.join(PLATFORMS)}: {describe_error(error)}."
            ) from error
    return exported, example, outputs, origin


@contextlib.contextmanager
def _without_paths():
    """Keeps the source paths of this machine out of the exported program."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _example(trained: TrainedModel) -> tuple[dict[str, np.ndarray], str]:
    """Returns a few inputs in stored units, real ones if there are data."""
    specs = reading.input_specs(trained.meta, ROWS)
    if trained.dataset is not None:
        rows = trained.dataset.rows
        split = next(s for s in ("val", "test", "train") if len(rows.get(s, ())))
        x = lazy_array.gather(trained.dataset.x, rows[split][:ROWS])
        x = x if isinstance(x, dict) else {bundle.SINGLE: x}
        found = {name: np.asarray(v, specs[name].dtype) for name, v in x.items()}
        return found, f"the first {len(rows[split][:ROWS])} rows of {split}"
    rng, found = np.random.default_rng(0), {}
    for name, spec in specs.items():
        x = rng.uniform(0, trained.preprocess.scale, spec.shape)
        # Whole numbers in a dict are tokens and masks, of which 0 and 1 always exist.
        high = 2 if not trained.meta["single"] else trained.preprocess.scale + 1
        if not jnp.issubdtype(spec.dtype, jnp.floating):
            x = rng.integers(0, int(min(high, 256)), spec.shape)
        found[name] = x.astype(spec.dtype)
    return found, "random, since the data could not be read"


def _facts(trained: TrainedModel, outputs, exported, licence, draft) -> dict:
    """Returns what export.json holds."""
    meta = trained.meta
    specs = reading.input_specs(meta, 1)
    written = [bundle.PROGRAM, bundle.WEIGHTS, bundle.EXAMPLE]
    written += [bundle.TOKENIZER] * (draft / bundle.TOKENIZER).exists()
    return {
        "format": bundle.FORMAT,
        "task": meta["task"],
        "class_names": meta["class_names"],
        "outputs": list(next(iter(outputs.values())).shape[1:]),
        "inputs": {
            n: {"shape": list(s.shape[1:]), "dtype": str(s.dtype)}
            for n, s in specs.items()
        },
        "columns": _columns(trained),
        "preprocess": preprocess.to_json(trained.preprocess),
        "tolerance": TOLERANCE_HALF if trained.half else TOLERANCE,
        "licence": (licence or "").strip() or "unknown",
        "platforms": list(exported.platforms),
        "calling_convention": exported.calling_convention_version,
        "device": environment()["device"],
        "versions": versions(),
        "files": {name: bundle.digest(draft / name) for name in written},
    }


def _columns(trained: TrainedModel) -> list[dict] | None:
    """Returns how a table's columns become features, None for other data."""
    data = trained.data
    if not isinstance(data, csv_table.CSV):
        return None
    try:
        columns = data.encoding()
    except (UserError, OSError):
        return None
    width = sum(len(c["categories"] or [0]) for c in columns)
    return columns if [width] == trained.meta["inputs"]["x"]["shape"] else None


def _story(trained: TrainedModel, origin: str) -> dict:
    """Returns what the card tells of how the model came to be."""
    directory, meta = trained.directory, trained.meta

    def stored(name):
        path = directory / name
        return read_json(path) if path.exists() else {}

    result, best = stored("result.json"), meta["best"]
    measured = {k: result[k] for k in ("val", "test") if k in result}
    if not measured and best is not None:
        measured = {"val": best["metrics"]}
    counts = {}
    if (directory / "splits.npz").exists():
        with np.load(directory / "splits.npz", allow_pickle=False) as file:
            counts = {n[5:]: len(file[n]) for n in file.files if n[:5] == "rows_"}
    return {
        "experiment": stored(MARK)["experiment"],
        "loaded": stored("loaded.json") or [],
        "result": result,
        "metrics": measured,
        "examples": result.get("examples", counts),
        "step": best["step"] if best else meta["step"],
        "chosen": best is not None,
        "parameters": sum(x.size for p, x in trained.weights.items() if p[0] == "p"),
        "example": origin,
    }
