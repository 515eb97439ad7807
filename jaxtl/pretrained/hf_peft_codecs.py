"""Conversions between each method's δ and PEFT's tensors: one codec per method."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import selection as selections
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.peft import base
from jaxtl.peft.ia3 import IA3
from jaxtl.peft.lora import LoRA
from jaxtl.peft.vera import VeRA
from jaxtl.pretrained.hf_peft_layout import AdaptedModule

Delta = Mapping[str, np.ndarray]
Config = Mapping[str, Any]
Adapted = Mapping[str, tuple[AdaptedModule, Delta]]


class AdapterCodec(NamedTuple):
    """Conversions of one method, in which "δ" is that of one module.

    Attributes:
      kind: PEFT's `peft_type`.
      fields: fields of the method that a file fixes.
      write: (δ, module, shape of the kernel) -> {part: array}.
      config: (method, {name: (module, δ)}) -> entries of adapter_config.json.
      read: ({part: array}, configuration) -> δ.
      build: (configuration, {path: δ}, all paths) -> the method.
      shared: constants -> {name: array}, tensors that all modules share.
      constants: the inverse of `shared`.
    """

    kind: str
    fields: tuple[str, ...]
    write: Callable[..., dict]
    config: Callable[..., dict]
    read: Callable[..., dict]
    build: Callable[..., base.Reparametrization]
    shared: Callable[[PyTree], dict] = lambda constants: {}
    constants: Callable[[Mapping], PyTree] = lambda shared: {}


def codec_of(peft: base.Reparametrization) -> AdapterCodec:
    """The codec of a method.

    Raises:
      UserError: PEFT has no such method.
    """
    if type(peft) not in _CODECS:
        supported = ", ".join(cls.__name__ for cls in _CODECS)
        raise UserError(
            f"peft: PEFT's folders can't hold {type(peft).__name__} (they can hold "
            f"{supported}); such a run is stored in its checkpoint alone."
        )
    return _CODECS[type(peft)]


def codec_of_kind(kind: Any) -> AdapterCodec:
    """The codec of a `peft_type`.

    Raises:
      UserError: jaxtl has no such method.
    """
    kinds = {codec.kind: codec for codec in _CODECS.values()}
    if kind not in kinds:
        raise UserError(
            f"adapter_config.json: peft_type {kind!r} is unknown"
            f"{nearest(kind, kinds)} (known: {', '.join(kinds)})."
        )
    return kinds[kind]


def _pattern_of(paths: Iterable[str], all_paths: Iterable[str]) -> str:
    """A pattern of exactly these paths, which covers all layers at once if possible."""
    paths = list(paths)
    exact = [re.escape(p) for p in paths]
    layers = dict.fromkeys(re.sub(r"\blayer_\d+", r"layer_\\d+", p) for p in exact)
    short = "|".join(layers)
    covered = {p for p in all_paths if selections.matches(short, p)}
    return short if covered == set(paths) else "|".join(exact)


# --- LoRA -----------------------------------------------------------------------------


def _write_lora(
    delta: Delta, module: AdaptedModule, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    a, b = delta["a"].T, delta["b"].T
    tensors = {}
    if "magnitude" in delta:
        tensors["lora_magnitude_vector"] = delta["magnitude"]
    if module.kind == "table":
        return {"lora_embedding_A": a, "lora_embedding_B": b, **tensors}
    if module.kind == "conv":
        a = a.reshape(-1, *shape[:3]).transpose(0, 3, 1, 2)
        b = b[:, :, None, None]
        tensors = {k: m[None, :, None, None] for k, m in tensors.items()}
    return {"lora_A.weight": a, "lora_B.weight": b, **tensors}


def _read_lora(parts: Delta, config: Config) -> Delta:
    if "lora_embedding_A" in parts or "lora_embedding_B" in parts:
        a, b = parts["lora_embedding_A"], parts["lora_embedding_B"]
    else:
        a, b = parts["lora_A.weight"], parts["lora_B.weight"]
    if a.ndim == 4:
        a, b = a.transpose(0, 2, 3, 1).reshape(len(a), -1), b[:, :, 0, 0]
    delta = {"a": a.T, "b": b.T}
    if config.get("use_dora"):
        delta["magnitude"] = parts["lora_magnitude_vector"].reshape(-1)
    return delta


def _config_lora(peft: LoRA, adapted: Adapted) -> dict[str, Any]:
    return {
        "r": peft.rank,
        "lora_alpha": float(peft.alpha),
        "lora_dropout": 0.0,
        "use_rslora": peft.rslora,
        "use_dora": peft.dora,
        "bias": "none",
        "init_lora_weights": True,
    }


def _build_lora(
    config: Config, deltas: Mapping[str, Delta], all_paths: list[str]
) -> LoRA:
    return LoRA(
        select=_pattern_of(deltas, all_paths),
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora", False)),
        dora=bool(config.get("use_dora", False)),
    )


# --- (IA)³ ----------------------------------------------------------------------------


def _write_ia3(
    delta: Delta, module: AdaptedModule, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    _check_is_matrix("IA3", module)
    if "inputs" in delta:
        return {"ia3_l": delta["inputs"][None]}
    return {"ia3_l": delta["outputs"][:, None]}


def _read_ia3(parts: Delta, config: Config) -> Delta:
    factors = parts["ia3_l"]
    if factors.ndim != 2 or 1 not in factors.shape:
        raise UserError(
            f"adapter_model.safetensors: ia3_l of shape {factors.shape} is no column "
            "(outputs) or row (inputs) of factors."
        )
    side = "inputs" if factors.shape[0] == 1 else "outputs"
    return {side: factors.reshape(-1)}


def _config_ia3(peft: IA3, adapted: Adapted) -> dict[str, Any]:
    on_inputs = [module.name for module, delta in adapted.values() if "inputs" in delta]
    return {"feedforward_modules": on_inputs, "init_ia3_weights": True}


def _build_ia3(
    config: Config, deltas: Mapping[str, Delta], all_paths: list[str]
) -> IA3:
    on_inputs = [path for path, delta in deltas.items() if "inputs" in delta]
    return IA3(
        select=_pattern_of(deltas, all_paths), inputs=_pattern_of(on_inputs, all_paths)
    )


# --- VeRA -----------------------------------------------------------------------------


def _write_vera(
    delta: Delta, module: AdaptedModule, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    _check_is_matrix("VeRA", module)
    return {"vera_lambda_d": delta["inner"], "vera_lambda_b": delta["outer"]}


def _read_vera(parts: Delta, config: Config) -> Delta:
    return {"inner": parts["vera_lambda_d"], "outer": parts["vera_lambda_b"]}


def _config_vera(peft: VeRA, adapted: Adapted) -> dict[str, Any]:
    # PEFT would draw other matrices from a seed, so the file contains jaxtl's.
    return {
        "r": peft.rank,
        "d_initial": float(peft.inner),
        "save_projection": True,
        "projection_prng_key": 0,
        "vera_dropout": 0.0,
        "bias": "none",
    }


def _build_vera(
    config: Config, deltas: Mapping[str, Delta], all_paths: list[str]
) -> VeRA:
    inner = float(config.get("d_initial", 0.1))
    select = _pattern_of(deltas, all_paths)
    return VeRA(select=select, rank=config["r"], inner=inner)


def _check_is_matrix(method: str, module: AdaptedModule) -> None:
    """Raises UserError for a convolution, of which PEFT has no such adapter."""
    if module.kind == "conv":
        raise UserError(
            f"peft: PEFT's folders can't hold {method} of a convolution "
            f"({module.path!r})."
        )


_CODECS = {
    LoRA: AdapterCodec(
        "LORA",
        ("rank", "alpha", "rslora", "dora"),
        _write_lora,
        _config_lora,
        _read_lora,
        _build_lora,
    ),
    IA3: AdapterCodec("IA3", (), _write_ia3, _config_ia3, _read_ia3, _build_ia3),
    VeRA: AdapterCodec(
        "VERA",
        ("rank",),
        _write_vera,
        _config_vera,
        _read_vera,
        _build_vera,
        lambda shared: {
            "vera_A": np.asarray(shared["a"]).T,
            "vera_B": np.asarray(shared["b"]).T,
        },
        lambda shared: {"a": shared["vera_A"].T, "b": shared["vera_B"].T},
    ),
}
