"""How PEFT names and stores what each method trains; a row of `CODECS` per method."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxtl.core import selection as selections
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.models.weight_layout import WeightLayout
from jaxtl.peft import base
from jaxtl.peft.ia3 import IA3
from jaxtl.peft.lora import LoRA
from jaxtl.peft.vera import VeRA

# Names of an adapter's tensors, behind the module's own.
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
SHARED = ("vera_A", "vera_B")


class AdaptedModule(NamedTuple):
    """A module of transformers that an adapter may stand beside.

    Attributes:
      name: there.
      path: of its kernel or table in our tree.
      kind: "linear", "conv1d" (GPT-2's, whose kernel is (in, out)), "conv" or "table".
    """

    name: str
    path: str
    kind: str


def adaptable_modules(layout: WeightLayout) -> list[AdaptedModule]:
    """Returns the modules of a layout that have a kernel or are a table."""
    kinds = {"linear": "linear", "same": "conv1d", "conv": "conv"}
    found = []
    for rule in layout.rules:
        name, leaf = rule.source.removesuffix(".weight"), rule.path.rpartition("/")[2]
        if leaf == "embedding":
            found.append(AdaptedModule(name, rule.path, "table"))
        elif leaf == "kernel" and rule.transform in kinds:
            found.append(AdaptedModule(name, rule.path, kinds[rule.transform]))
    return found


class AdapterCodec(NamedTuple):
    """How one method is written and read.

    Attributes:
      kind: PEFT's `peft_type`.
      fields: fields of the method that a file fixes.
      write: (own, module, shape of the kernel) -> {part: array}.
      config: (method, {path: (module, own)}) -> entries of adapter_config.json.
      shared: constants -> {name: array} beside the modules'.
      read: ({part: array}, configuration) -> own.
      build: (configuration, {path: own}, all paths) -> the method.
      constants: what `shared` wrote -> constants.
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
    """Returns how a method is written.

    Raises:
      UserError: PEFT's layout has no place for it.
    """
    if type(peft) not in CODECS:
        known = ", ".join(cls.__name__ for cls in CODECS)
        raise UserError(
            f"peft: {type(peft).__name__} is not PEFT's, and its folders have no place "
            f"for it (they have for {known}); such a run is kept in its checkpoint."
        )
    return CODECS[type(peft)]


def codec_of_kind(kind: Any) -> AdapterCodec:
    """Returns how a `peft_type` is read."""
    kinds = {c.kind: c for c in CODECS.values()}
    if kind not in kinds:
        raise UserError(
            f"adapter_config.json: peft_type {kind!r} is unknown"
            f"{nearest(kind, kinds)} (known: {', '.join(kinds)})."
        )
    return kinds[kind]


def single(x: Any) -> np.ndarray:
    """Returns an array in single precision at least, as δ is trained."""
    x = np.asarray(x)
    return (
        x.astype(np.promote_types(x.dtype, np.float32)) if x.dtype.itemsize < 4 else x
    )


def _pattern_of(paths: Iterable[str], known: Iterable[str]) -> str:
    """Returns a pattern of exactly these paths, for all layers at once if it can be."""
    paths, known = list(paths), list(known)
    exact = [re.escape(p) for p in paths]
    layers = dict.fromkeys(re.sub(r"\blayer_\d+", r"layer_\\d+", p) for p in exact)
    short = "|".join(layers)
    covered = {p for p in known if selections.matches(short, p)}
    return short if covered == set(paths) else "|".join(exact)


# --- LoRA -----------------------------------------------------------------------------


def _write_lora(own, module: AdaptedModule, shape) -> dict[str, np.ndarray]:
    a, b = own["a"].T, own["b"].T
    more = {"lora_magnitude_vector": own["magnitude"]} if "magnitude" in own else {}
    if module.kind == "table":
        return {"lora_embedding_A": a, "lora_embedding_B": b, **more}
    if module.kind == "conv":
        a = a.reshape(-1, *shape[:3]).transpose(0, 3, 1, 2)
        b = b[:, :, None, None]
        more = {k: m[None, :, None, None] for k, m in more.items()}
    return {"lora_A.weight": a, "lora_B.weight": b, **more}


def _read_lora(parts, config) -> dict[str, np.ndarray]:
    if "lora_embedding_A" in parts or "lora_embedding_B" in parts:
        a, b = parts["lora_embedding_A"], parts["lora_embedding_B"]
    else:
        a, b = parts["lora_A.weight"], parts["lora_B.weight"]
    if a.ndim == 4:
        a, b = a.transpose(0, 2, 3, 1).reshape(len(a), -1), b[:, :, 0, 0]
    own = {"a": a.T, "b": b.T}
    if config.get("use_dora"):
        own["magnitude"] = parts["lora_magnitude_vector"].reshape(-1)
    return own


def _config_lora(peft: LoRA, used) -> dict[str, Any]:
    return {
        "r": peft.rank,
        "lora_alpha": float(peft.alpha),
        "lora_dropout": 0.0,
        "use_rslora": peft.rslora,
        "use_dora": peft.dora,
        "bias": "none",
        "init_lora_weights": True,
    }


def _build_lora(config, own, known) -> LoRA:
    return LoRA(
        select=_pattern_of(own, known),
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora", False)),
        dora=bool(config.get("use_dora", False)),
    )


# --- (IA)³ ----------------------------------------------------------------------------


def _write_ia3(own, module: AdaptedModule, shape) -> dict[str, np.ndarray]:
    _only_matrices("IA3", module)
    if "inputs" in own:
        return {"ia3_l": own["inputs"][None]}
    return {"ia3_l": own["outputs"][:, None]}


def _read_ia3(parts, config) -> dict[str, np.ndarray]:
    factors = parts["ia3_l"]
    if factors.ndim != 2 or 1 not in factors.shape:
        raise UserError(
            f"adapter_model.safetensors: ia3_l of shape {factors.shape} is no column "
            "(outputs) or row (inputs) of factors."
        )
    side = "inputs" if factors.shape[0] == 1 else "outputs"
    return {side: factors.reshape(-1)}


def _config_ia3(peft: IA3, used) -> dict[str, Any]:
    inward = [module.name for module, own in used.values() if "inputs" in own]
    return {"feedforward_modules": inward, "init_ia3_weights": True}


def _build_ia3(config, own, known) -> IA3:
    inward = [path for path, factors in own.items() if "inputs" in factors]
    return IA3(select=_pattern_of(own, known), inputs=_pattern_of(inward, known))


# --- VeRA -----------------------------------------------------------------------------


def _write_vera(own, module: AdaptedModule, shape) -> dict[str, np.ndarray]:
    _only_matrices("VeRA", module)
    return {"vera_lambda_d": own["inner"], "vera_lambda_b": own["outer"]}


def _read_vera(parts, config) -> dict[str, np.ndarray]:
    return {"inner": parts["vera_lambda_d"], "outer": parts["vera_lambda_b"]}


def _config_vera(peft: VeRA, used) -> dict[str, Any]:
    # PEFT would draw other matrices from a seed, so ours go with the file.
    return {
        "r": peft.rank,
        "d_initial": float(peft.inner),
        "save_projection": True,
        "projection_prng_key": 0,
        "vera_dropout": 0.0,
        "bias": "none",
    }


def _build_vera(config, own, known) -> VeRA:
    inner = float(config.get("d_initial", 0.1))
    return VeRA(select=_pattern_of(own, known), rank=config["r"], inner=inner)


def _only_matrices(method: str, module: AdaptedModule) -> None:
    if module.kind == "conv":
        raise UserError(
            f"peft: {method} of a convolution ({module.path!r}) has no place in PEFT's "
            "layout."
        )


CODECS = {
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
