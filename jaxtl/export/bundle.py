"""Export folders: their files, and the checks before one is used.

export.json             metadata: task, classes, inputs, preprocessing, checksums
model.jaxexport         the program (StableHLO by `jax.export`), free batch size
parameters.safetensors  its weights, an argument of the program
example.npz             an input ("x.NAME") and the outputs it must give ("y.NAME")
tokenizer.json          of a model of texts
README.md               the model card

Nothing here imports a model, an experiment or flax: an exported model outlives them.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxtl.core import devices, numpy_files
from jaxtl.core.errors import UserError, describe_error
from jaxtl.data.preprocess import from_json
from jaxtl.export.predictor import Predictor
from jaxtl.pretrained import tensor_files

if TYPE_CHECKING:
    import jax.export

FORMAT = 1
METADATA, PROGRAM = "export.json", "model.jaxexport"
WEIGHTS, EXAMPLE = "parameters.safetensors", "example.npz"


def load(folder: str | pathlib.Path) -> Predictor:
    """Reads an export folder and runs its example before anything else.

    The folder holds a program: load only folders that you trust.

    Args:
      folder: as `jaxtl export` wrote it.

    Raises:
      UserError: no export folder, a damaged file, or outputs for the example that
        deviate from those stored (by more than the tolerance, 1e-4 absolute plus
        relative for a float32 model).
    """
    folder = pathlib.Path(folder)
    metadata = _read_metadata(folder)
    for name, stored in metadata["files"].items():
        _check_file(folder / name, stored)
    exported = _read_program(folder, metadata)
    tensors = tensor_files.read(folder / WEIGHTS).tensors
    weights = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    predictor = Predictor(
        folder=folder,
        name=str(folder),
        metadata=metadata,
        preprocess=from_json(metadata["preprocess"]),
        weights=jax.device_put(weights),
        program=jax.jit(exported.call),
    )
    _check_example(predictor)
    return predictor


def _read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / METADATA).read_text())
        version = metadata["format"]
    except (FileNotFoundError, NotADirectoryError):
        reason = f"no export folder: it holds no {METADATA}, nor the files of a run"
        if (folder / "experiment.json").exists():
            reason = f"a run's directory: first `jaxtl export {folder} OUT`"
        raise UserError(f"{folder} is {reason}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / METADATA} is damaged: {error}.") from None
    if version > FORMAT:
        raise UserError(
            f"{folder} has export format {version}; this jaxtl reads up to {FORMAT}: "
            f"use jaxtl {metadata['versions'].get('jaxtl', 'of a later version')}."
        )
    return metadata


def digest(path: pathlib.Path) -> dict[str, Any]:
    """Size and checksum of a file, {"bytes", "sha256"}."""
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha}


def _check_file(path: pathlib.Path, stored: Mapping[str, Any]) -> None:
    """Raises UserError where a file is missing or has another digest."""
    if not path.is_file():
        raise UserError(f"{path.parent} is damaged: {path.name} is missing.")
    current = digest(path)
    if current != stored:
        entry = "bytes" if current["bytes"] != stored["bytes"] else "sha256"
        raise UserError(
            f"{path.parent} is damaged: {path.name} has {entry} {current[entry]}, "
            f"but {stored[entry]} was written."
        )


def _read_program(
    folder: pathlib.Path, metadata: Mapping[str, Any]
) -> "jax.export.Exported":
    import jax.export

    try:
        return jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except Exception as error:
        raise UserError(
            f"{folder / PROGRAM} can't be read by jax {jax.__version__} (jax "
            f"{metadata['versions']['jax']} wrote it): {describe_error(error)}."
        ) from error


def _check_example(predictor: Predictor) -> None:
    """Raises UserError where the outputs of the stored example deviate."""
    folder, metadata = predictor.folder, predictor.metadata
    writer = f"jax {metadata['versions']['jax']} on {metadata['device']} wrote it"
    reader = f"jax {jax.__version__} on {devices.first().device_kind}"
    try:
        stored = numpy_files.read_npz(folder / EXAMPLE)
        outputs = predictor.outputs(
            {name[2:]: stored[name] for name in stored if name[:2] == "x."}
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder} does not run here ({reader}; {writer}): {describe_error(error)}."
        ) from error
    tolerance, differences = metadata["tolerance"], {}
    for name, values in outputs.items():
        expected = stored[f"y.{name}"]
        difference = np.abs(values - expected)
        # Written so that a NaN on either side counts as a deviation.
        if not (difference <= tolerance + tolerance * np.abs(expected)).all():
            differences[name] = float(difference.max())
    if differences:
        name = max(differences, key=differences.get)
        raise UserError(
            f"{folder} does not give the outputs stored for its example: {name} differ "
            f"by up to {differences[name]:.3g} (allowed: {tolerance:g}, absolute plus "
            f"relative); {writer}, this is {reader}."
        )
