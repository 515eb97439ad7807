"""Names in Hugging Face PEFT's folders: files, tensors, and modules with adapters."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core.errors import UserError
from jaxtl.models.staged import Staged
from jaxtl.models.weight_layout import WeightLayout

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OLDER_WEIGHTS = "adapter_model.bin"
# PEFT wraps the model twice; VeRA's shared matrices belong to the outer module.
INNER, OUTER = "base_model.model.", "base_model."

# Names of an adapter's tensors, behind the name of its module.
PARTS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "ia3_l",
    "vera_lambda_d",
    "vera_lambda_b",
)
# Tensors that all adapters share.
SHARED = ("vera_A", "vera_B")


def weights_file(folder: pathlib.Path) -> pathlib.Path:
    """The file of a folder's tensors, a pickle in folders of 2023 and before."""
    file, older = folder / WEIGHTS, folder / _OLDER_WEIGHTS
    return older if older.is_file() and not file.is_file() else file


class AdaptedModule(NamedTuple):
    """A module of transformers that can have an adapter.

    Attributes:
      name: in transformers.
      path: of its kernel or table in jaxtl's tree.
      kind: "linear", "conv1d" (GPT-2's, whose kernel is (in, out)), "conv" or "table".
    """

    name: str
    path: str
    kind: str


def hf_layout(model: Staged) -> WeightLayout:
    """The layout of transformers, whose names PEFT's files use.

    Raises:
      UserError: the model has none.
    """
    layouts = getattr(model, "layouts", dict)()
    if "hf" not in layouts:
        raise UserError(
            f"{type(model).__name__} has no layout of transformers, whose names PEFT's "
            "files use."
        )
    return layouts["hf"]


def adaptable_modules(layout: WeightLayout) -> list[AdaptedModule]:
    """The modules of a layout that have a kernel or are a table."""
    kinds = {"linear": "linear", "same": "conv1d", "conv": "conv"}
    modules = []
    for rule in layout.rules:
        name, leaf = rule.source.removesuffix(".weight"), rule.path.rpartition("/")[2]
        if name.endswith("]"):  # a part of a module that joins several kernels
            continue
        if leaf == "embedding":
            modules.append(AdaptedModule(name, rule.path, "table"))
        elif leaf == "kernel" and rule.transform in kinds:
            modules.append(AdaptedModule(name, rule.path, kinds[rule.transform]))
    return modules


def names_in_models(name: str, layout: WeightLayout) -> tuple[str, ...]:
    """The names of a module or a tensor in the models of transformers' versions.

    PEFT finds modules by these, and passes over names that a model does not have.

    Args:
      name: in files, which all versions read.
      layout: of the model.

    Returns:
      One name, or an older and a newer one.
    """
    newer = name
    for pattern, replacement in layout.modules:
        newer = re.sub(pattern, replacement, newer)
    return tuple(dict.fromkeys((name, newer)))


def check_tied_tables(paths: Iterable[str], layout: WeightLayout, what: str) -> None:
    """Checks that no table of a tied head is adapted or replaced.

    Args:
      paths: of leaves that have an adapter, or are stored whole.
      layout: of the model.
      what: what has them, for the message.

    Raises:
      UserError: such a table. In PEFT the head keeps that of the base.
    """
    tied = [path for path in layout.copies.values() if path.endswith("/embedding")]
    for path in paths:
        if path in tied:
            raise UserError(
                f"{what} changes {path!r}, the table of a tied head; with one table "
                "for both the head would change as well, which it does not in PEFT: "
                "adapt other modules, or predict something else than tokens."
            )


def delta_array(tensor: Any) -> np.ndarray:
    """A tensor as a numpy array, half precision as float32, in which δ is trained."""
    array = np.asarray(tensor)
    if array.dtype.itemsize >= 4:
        return array
    return array.astype(np.promote_types(array.dtype, np.float32))
