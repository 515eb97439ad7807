"""Reading of torch's pickles: tensors alone, no code."""

import pathlib
import pickle
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxtl.core.errors import UserError, first_line


def read(
    path: pathlib.Path, any_depth: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the tensors of a torch file, and the numbers and texts beside them.

    Args:
      path: the file.
      any_depth: where the file has no state_dict at its top or one level below, take
        every tensor in its dicts and lists, named by the keys that lead to it.

    Raises:
      UserError: torch is not installed; a damaged file, or one without tensors; other
        objects in it, which are never executed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{str(path)!r} is a torch file: reading it needs torch "
            "(pip install 'jaxtl[torch]')."
        ) from None
    try:
        # weights_only: a pickle could run any code; this reader only builds tensors.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch would advise to run the code of the file.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f" ({foreign[1]})" if foreign else ""
        raise UserError(
            f"{str(path)!r} holds other objects than tensors{reason}, or is damaged; "
            "it was not executed. Save the state_dict alone, or as .safetensors."
        ) from None
    except Exception as error:  # a damaged pickle raises errors of any type
        reason = first_line(error) if str(error) else "it ends early"
        if "weights_only" in reason or "eights only" in reason:
            reason = "it is damaged"
        raise UserError(f"{str(path)!r} is no complete torch file: {reason}.") from None
    state, meta = _state_dict(path, loaded, torch, any_depth)
    return {name: _numpy(tensor, torch) for name, tensor in state.items()}, meta


def _state_dict(
    path: pathlib.Path, loaded: Any, torch: types.ModuleType, any_depth: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors at the top of a pickle or one level below, and other entries."""

    def is_state_dict(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(v, torch.Tensor) for v in value.values())
        )

    if is_state_dict(loaded):
        return dict(loaded), {}
    entries = loaded if isinstance(loaded, Mapping) else {}
    keys = [key for key, value in entries.items() if is_state_dict(value)]
    usual = [k for k in ("state_dict", "model_state_dict", "model") if k in keys]
    if not usual and len(keys) != 1:
        tensors = dict(_tensors(loaded, torch)) if any_depth else {}
        if tensors:
            return tensors, {}
        raise UserError(
            f"{str(path)!r} holds no state_dict of tensors: its content is "
            f"{type(loaded).__name__} with keys {list(entries)[:10]}."
        )
    key = (usual or keys)[0]
    meta = {k: v for k, v in entries.items() if isinstance(v, (int, float, str))}
    return dict(entries[key]), meta


def _tensors(
    value: Any, torch: types.ModuleType, path: str = ""
) -> Iterator[tuple[str, Any]]:
    """(keys joined by "/", tensor) of every tensor in dicts and lists."""
    if isinstance(value, torch.Tensor):
        yield path or "tensor", value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        yield from _tensors(inner, torch, f"{path}/{key}" if path else str(key))


def _numpy(tensor: Any, torch: types.ModuleType) -> np.ndarray:
    """A torch tensor as a numpy array."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
