"""An export folder, read without the model's program: check it, then call it.

export.json             facts: task, classes, inputs, preprocessing, versions, checksums
model.jaxexport         the program (StableHLO by `jax.export`), free batch size
parameters.safetensors  its weights, handed to the program as an argument
example.npz             an input ("x.NAME") and the outputs it must give ("y.NAME")
tokenizer.json          of a model of texts
README.md               the model card

Nothing here imports a model, an experiment or flax: an exported model outlives them.
"""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core.errors import UserError, describe_error, nearest
from jaxtl.data.preprocess import Preprocess, from_json
from jaxtl.data.tokenizer import Tokenizer
from jaxtl.pretrained import tensor_files

FORMAT = 1
FACTS, PROGRAM = "export.json", "model.jaxexport"
WEIGHTS, EXAMPLE = "parameters.safetensors", "example.npz"
TOKENIZER = "tokenizer.json"
BATCH = 256  # rows per call of the program; more are cut into several calls
SINGLE = "x"  # the name of the only input, where a model takes one array


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """An exported model; call it on a batch in stored units (uint8 pixels, say).

    Attributes:
      folder: where it was read from.
      facts: what export.json says.
      preprocess: how image files are brought to the model's size; the rest of it is
        applied inside the program.
      weights: name -> array, on the device.
      program: (weights, {name: batch}) -> {name: outputs}, compiled per batch size.
    """

    folder: pathlib.Path
    facts: Mapping[str, Any]
    preprocess: Preprocess
    weights: Mapping[str, jax.Array]
    program: Callable

    @property
    def task(self) -> str:
        """Returns "classification", "multilabel" or "regression"."""
        return self.facts["task"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the names in the order of the outputs; () for regression."""
        return tuple(self.facts["class_names"])

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Returns {input name: (shape of one example, stored dtype)}."""
        return {
            name: (tuple(spec["shape"]), np.dtype(spec["dtype"]))
            for name, spec in self.facts["inputs"].items()
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Returns the shape of one example's outputs, (outputs,) for most models."""
        return tuple(self.facts["outputs"])

    def __call__(self, x: Any) -> np.ndarray:
        """Returns probabilities (n, classes), or outputs (n, targets) for regression.

        Softmax for classification; for multilabel a sigmoid for each label.

        Args:
          x: (n, …) array in stored units, or {name: array} for a model of several; a
            list of n texts, or of pairs of texts, for a model of texts.

        Raises:
          UserError: for inputs of another shape, kind or range.
        """
        found = self.outputs(x)
        return found["outputs" if self.task == "regression" else "probabilities"]

    def outputs(self, x: Any) -> dict[str, np.ndarray]:
        """Returns all outputs: "logits" and "probabilities", or "outputs".

        The same as the call in all else.
        """
        arrays = self.checked(x)
        n = len(next(iter(arrays.values())))
        parts = [self._chunk(arrays, at) for at in range(0, n, BATCH)]
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

    def _chunk(self, arrays, at: int) -> dict[str, np.ndarray]:
        """Runs up to BATCH rows, padded to a power of two so that few sizes compile."""
        chunk = {k: v[at : at + BATCH] for k, v in arrays.items()}
        n = len(next(iter(chunk.values())))
        rows = np.minimum(np.arange(1 << (n - 1).bit_length()), n - 1)
        found = self.program(self.weights, {k: v[rows] for k, v in chunk.items()})
        return {k: np.asarray(v)[:n] for k, v in found.items()}

    def checked(self, x: Any, where: str = "x") -> dict[str, np.ndarray]:
        """Returns {input name: batch} in stored dtypes.

        Args:
          x: as in the call.
          where: what to call it in a message.

        Raises:
          UserError: a missing or unknown input, or one of another shape or range.
        """
        if isinstance(x, list | tuple) and x and _is_text(x[0]):
            x = self.tokenized(x, where)
        if not isinstance(x, Mapping):
            if set(self.inputs) != {SINGLE}:
                raise UserError(
                    f"{where} is one array, but {self.folder} takes the inputs "
                    f"{', '.join(self.inputs)}: pass a dict (or a .npz) of them."
                )
            x = {SINGLE: x}
        for name in sorted(set(x) ^ set(self.inputs)):
            what = "unknown" if name in x else "missing"
            raise UserError(
                f"{where}: the input {name!r} is {what}"
                f"{nearest(name, self.inputs) if name in x else ''} "
                f"({self.folder} takes {', '.join(self.inputs)})."
            )
        several = len(self.inputs) > 1
        arrays = {
            name: _fit(x[name], *spec, f"{where}[{name!r}]" if several else where)
            for name, spec in self.inputs.items()
        }
        lengths = {name: len(v) for name, v in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{where}: the inputs differ in length: {lengths}.")
        return arrays

    def tokenized(self, texts, where: str = "x") -> dict[str, np.ndarray]:
        """Returns the inputs that texts, or pairs of texts, become.

        Longer texts are truncated to the length of the model's training batches.

        Raises:
          UserError: an export without a tokenizer, texts where pairs are needed or the
            reverse, or the library tokenizers is missing.
        """
        path = self.folder / TOKENIZER
        if not path.is_file():
            raise UserError(
                f"{where} is text, but {self.folder} holds no {TOKENIZER}: the model "
                f"takes {', '.join(self.inputs)} as arrays."
            )
        [length], _ = self.inputs["input_ids"]
        tokenizer = Tokenizer(str(path), max_length=length, buckets=(length,))
        paired = "token_type_ids" in self.inputs
        for number, text in enumerate(texts):
            if isinstance(text, str) is paired or not _is_text(text):
                wanted = "a pair of texts" if paired else "one text"
                raise UserError(f"{where}, row {number}: {text!r} is not {wanted}.")
        return tokenizer(*zip(*texts)) if paired else tokenizer(texts)


def _is_text(x) -> bool:
    pair = isinstance(x, list | tuple) and len(x) == 2
    return isinstance(x, str) or (pair and all(isinstance(part, str) for part in x))


def _fit(x, shape, dtype, where: str) -> np.ndarray:
    """Returns one input as a batch of the stored dtype, which keeps its values."""
    x = np.asarray(x)
    wanted = f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        raise UserError(
            f"{where} has the shape {x.shape}; the exported model takes {wanted}, "
            f"{dtype}."
        )
    if len(x) == 0:
        raise UserError(f"{where} holds no examples: its shape is {x.shape}.")
    if x.dtype == dtype:
        return x
    if x.dtype.kind not in "buif":
        raise UserError(f"{where} is of dtype {x.dtype}; expected numbers ({dtype}).")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = x.astype(dtype)
    if dtype.kind in "bui" and not np.array_equal(cast, x):
        raise UserError(
            f"{where} is {x.dtype} with values from {x.min():g} to {x.max():g}; the "
            f"exported model takes stored values of {dtype}, not scaled ones."
        )
    return cast


def load(folder: str | pathlib.Path) -> Predictor:
    """Reads an export folder and runs its example before anything else.

    The folder holds a program: load what you trust.

    Args:
      folder: what `jaxtl export` wrote.

    Raises:
      UserError: no export folder, a damaged file, or outputs for the example that
        deviate from those stored (by more than the tolerance, 1e-4 absolute plus
        relative for a float32 model).
    """
    folder = pathlib.Path(folder)
    facts = _facts(folder)
    for name, stored in facts["files"].items():
        _intact(folder / name, stored)
    exported = _program(folder, facts)
    weights = {
        n: np.asarray(t) for n, t in tensor_files.read(folder / WEIGHTS).tensors.items()
    }
    predictor = Predictor(
        folder=folder,
        facts=facts,
        preprocess=from_json(facts["preprocess"]),
        weights=jax.device_put(weights),
        program=jax.jit(exported.call),
    )
    _check_example(predictor)
    return predictor


def _facts(folder: pathlib.Path) -> dict:
    try:
        facts = json.loads((folder / FACTS).read_text())
        version = facts["format"]
    except (FileNotFoundError, NotADirectoryError):
        what = f"no export folder: it holds no {FACTS}"
        if (folder / "experiment.json").exists():
            what = f"a run's directory: first `jaxtl export {folder} OUT`"
        raise UserError(f"{folder} is {what}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / FACTS} is damaged: {error}.") from None
    if version > FORMAT:
        raise UserError(
            f"{folder} has export format {version}; this jaxtl reads up to {FORMAT}: "
            f"use jaxtl {facts['versions'].get('jaxtl', 'of a later version')}."
        )
    return facts


def digest(path: pathlib.Path) -> dict:
    """Returns {"bytes", "sha256"} of a file."""
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha}


def _intact(path: pathlib.Path, stored: dict) -> None:
    if not path.is_file():
        raise UserError(f"{path.parent} is damaged: {path.name} is missing.")
    found = digest(path)
    if found != stored:
        kind = "bytes" if found["bytes"] != stored["bytes"] else "sha256"
        raise UserError(
            f"{path.parent} is damaged: {path.name} has {kind} {found[kind]}, "
            f"but {stored[kind]} was written."
        )


def _program(folder: pathlib.Path, facts: dict):
    import jax.export

    try:
        return jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except Exception as error:
        raise UserError(
            f"{folder / PROGRAM} can't be read by jax {jax.__version__} (jax "
            f"{facts['versions']['jax']} wrote it): {describe_error(error)}."
        ) from error


def _check_example(predictor: Predictor) -> None:
    """Raises UserError where the outputs of the stored example deviate."""
    folder, facts = predictor.folder, predictor.facts
    written = f"jax {facts['versions']['jax']} on {facts['device']} wrote it"
    here = f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    try:
        with np.load(folder / EXAMPLE, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        found = predictor.outputs({k[2:]: stored[k] for k in stored if k[:2] == "x."})
    except UserError:
        raise
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{folder / EXAMPLE} is damaged: {describe_error(error)}."
        ) from None
    except Exception as error:
        raise UserError(
            f"{folder} does not run here ({here}; {written}): {describe_error(error)}."
        ) from error
    tolerance, gaps = facts["tolerance"], {}
    for name, value in found.items():
        wanted = stored[f"y.{name}"]
        gap = np.abs(value - wanted)
        # Written so that a NaN on either side counts as a deviation.
        if not (gap <= tolerance + tolerance * np.abs(wanted)).all():
            gaps[name] = float(gap.max())
    if gaps:
        name = max(gaps, key=gaps.get)
        raise UserError(
            f"{folder} does not give the outputs stored for its example: {name} "
            f"differ by up to {gaps[name]:.3g} (allowed: {tolerance:g}, absolute plus "
            f"relative); {written}, this is {here}."
        )
