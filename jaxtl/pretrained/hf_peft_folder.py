"""Hugging Face PEFT's folders: adapter_config.json and adapter_model.safetensors.

The names and shapes of each method's tensors are in `hf_peft_layout`.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import paths
from jaxtl.models.staged import Staged
from jaxtl.models.weight_layout import TRANSFORMS, WeightLayout
from jaxtl.peft import base
from jaxtl.pretrained import convert, hf_peft_config, hf_peft_layout, tensor_files
from jaxtl.pretrained.hf_peft_layout import AdaptedModule

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# PEFT wraps the model twice; VeRA's shared matrices belong to the outer module.
_INNER, _OUTER = "base_model.model.", "base_model."


class Adapter(NamedTuple):
    """The content of a folder.

    Attributes:
      method: the reparametrization.
      delta: its δ.
      constants: its constants.
      whole: {path: array} of leaves that were stored whole.
    """

    method: base.Reparametrization
    delta: PyTree
    constants: PyTree
    whole: dict[str, np.ndarray]


# --- writing --------------------------------------------------------------------------


def save_adapter(
    folder: str | pathlib.Path,
    peft: base.Reparametrization,
    delta: PyTree,
    constants: PyTree,
    params: PyTree,
    model: Staged,
    saved: tuple[str, ...] = ("head",),
    *,
    of: str | None = None,
) -> pathlib.Path:
    """Writes a folder that `peft.PeftModel.from_pretrained(base, folder)` opens.

    Args:
      folder: where to; created if missing.
      peft: the method.
      delta, constants: its δ and constants.
      params: base or merged parameters, of which the saved stages are written.
      model: the model that they are of; it needs a layout "hf".
      saved: stages that were trained whole, written beside the adapters.
      of: name or folder of the base, for PEFT's configuration.

    Raises:
      UserError: the folder is not empty; PEFT has no such method, or no module for a
        leaf; a stage is saved and adapted at once.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten.")
    layout = _hf_layout(model)
    codec = hf_peft_layout.codec_of(peft)
    modules = {m.path: m for m in hf_peft_layout.adaptable_modules(layout)}
    targets = peft.targets(params)
    _check_targets(targets, modules, saved, model)
    tensors = {_OUTER + name: x for name, x in codec.shared(constants).items()}
    adapted = {}
    for path, leaf in targets.items():
        module = modules[path]
        leaf_delta = jax.tree.map(np.asarray, base.subtree(delta, path))
        parts = codec.write(leaf_delta, module, tuple(leaf.shape))
        tensors |= {f"{_INNER}{module.name}.{n}": x for n, x in parts.items()}
        adapted[path] = module, leaf_delta
    whole = _whole_tensors(params, layout, saved)
    tensors |= {f"{_INNER}{name}": x for name, x in whole.items()}
    whole_modules = dict.fromkeys(name.rpartition(".")[0] for name in whole)
    config = {
        "peft_type": codec.kind,
        "task_type": None,
        "base_model_name_or_path": of,
        "inference_mode": True,
        "target_modules": [module.name for module, _ in adapted.values()],
        "modules_to_save": list(whole_modules) or None,
        "fan_in_fan_out": any(m.kind == "conv1d" for m, _ in adapted.values()),
        **codec.config(peft, adapted),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensor_files.write(folder / WEIGHTS, tensors, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    return folder


def _hf_layout(model: Staged) -> WeightLayout:
    layouts = getattr(model, "layouts", dict)()
    if "hf" not in layouts:
        raise UserError(
            f"{type(model).__name__} has no layout of transformers, whose names PEFT's "
            "files use."
        )
    return layouts["hf"]


def _check_targets(
    targets: Iterable[str],
    modules: Mapping[str, AdaptedModule],
    saved: tuple[str, ...],
    model: Staged,
) -> None:
    """Raises UserError where PEFT can't hold a leaf, or would read it otherwise."""
    is_tied = getattr(model, "predict", None) == "next" and getattr(
        model, "tied", False
    )
    for path in targets:
        if path not in modules:
            raise UserError(
                f"peft: transformers' layout of {type(model).__name__} has no module "
                f"for {path!r}{nearest(path, modules)}."
            )
        stage = path.split("/")[0]
        if stage in saved:
            raise UserError(
                f"peft: the stage {stage!r} is adapted ({path!r}) and to be saved "
                "whole, but in PEFT a module can be only one of both."
            )
        if is_tied and path == "embeddings/token/embedding":
            raise UserError(
                f"peft: {path!r} is the table of a tied head; merged, it changes the "
                "head as well, which PEFT's adapters of embeddings don't."
            )


def _whole_tensors(
    params: PyTree, layout: WeightLayout, saved: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The tensors of the stages that are saved whole, by their names in the file."""
    stages = {rule.path.split("/")[0] for rule in layout.rules}
    for stage in saved:
        if stage not in stages | {"head"}:
            raise UserError(
                f"saved={stage!r} is no stage with a layout{nearest(stage, stages)}."
            )
    tensors = {}
    for rule in layout.rules:
        leaf = base.subtree(params, rule.path)
        if rule.path.split("/")[0] not in saved or leaf is None:
            continue
        if not rule.source.endswith((".weight", ".bias")):
            raise UserError(
                f"saved: {rule.source!r} is no module's weight or bias, and PEFT saves "
                "modules."
            )
        tensors[rule.source] = TRANSFORMS[rule.transform][1](np.asarray(leaf))
    return tensors


# --- reading --------------------------------------------------------------------------


class _Tensors(NamedTuple):
    """The tensors of a file, with names without PEFT's and the layout's prefixes.

    Attributes:
      shared: {name: matrix} that all adapters share.
      parts: {module: {part: array}} of the adapters.
      whole: {name: tensor} of leaves that were stored whole.
    """

    shared: dict[str, np.ndarray]
    parts: dict[str, dict[str, np.ndarray]]
    whole: dict[str, Any]


def read_adapter(folder: str | pathlib.Path, model: Staged) -> Adapter:
    """Reads a folder that PEFT, or `save_adapter`, wrote.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: the model that the adapters are for; it needs a layout "hf".

    Raises:
      UserError: no such folder, a method or an option that is not supported, tensors
        that are missing or that the model has no leaf for.
    """
    folder, layout = pathlib.Path(folder), _hf_layout(model)
    config = hf_peft_config.read_config(folder / CONFIG)
    codec = hf_peft_layout.codec_of_kind(config.get("peft_type"))
    tensors = _grouped(tensor_files.read(folder / WEIGHTS).tensors, layout)
    modules = {
        convert.without_prefix(module.name, layout): module
        for module in hf_peft_layout.adaptable_modules(layout)
    }
    rules = {convert.without_prefix(r.source, layout): r for r in layout.rules}
    unknown = [name for name in tensors.parts if name not in modules]
    unknown += [name for name in tensors.whole if name not in rules]
    if unknown:
        hint = nearest(unknown[0], [*modules, *rules])
        raise UserError(
            f"{str(folder)!r}: {type(model).__name__} has no place for "
            f"{', '.join(map(repr, unknown[:6]))}{hint}."
        )
    _check_complete(folder, config, modules, tensors)
    deltas = {}
    for name, parts in tensors.parts.items():
        try:
            deltas[modules[name].path] = codec.read(parts, config)
        except KeyError as error:
            raise UserError(
                f"{str(folder)!r}: the tensor {error.args[0]!r} of {name!r} is missing."
            ) from None
    try:
        method = codec.build(config, deltas, [rule.path for rule in layout.rules])
        constants = codec.constants(tensors.shared)
    except KeyError as error:
        raise UserError(f"{str(folder)!r} lacks {error.args[0]!r}.") from None
    whole = {}
    for name, tensor in tensors.whole.items():
        to_leaf = TRANSFORMS[rules[name].transform][0]
        whole[rules[name].path] = to_leaf(hf_peft_layout.delta_array(tensor))
    return Adapter(method, trees.nested(deltas), constants, whole)


def _grouped(tensors: Mapping[str, Any], layout: WeightLayout) -> _Tensors:
    groups = _Tensors({}, {}, {})
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(_INNER).removeprefix(_OUTER)
        part = _adapter_part(name)
        if name in hf_peft_layout.SHARED:
            groups.shared[name] = hf_peft_layout.delta_array(tensor)
        elif part:
            module = convert.without_prefix(name.removesuffix(f".{part}"), layout)
            parts = groups.parts.setdefault(module, {})
            parts[part] = hf_peft_layout.delta_array(tensor)
        else:
            # PEFT may store a table whole beside its adapter.
            name = name.replace(".base_layer.", ".")
            groups.whole[convert.without_prefix(name, layout)] = tensor
    return groups


def _adapter_part(name: str) -> str | None:
    """The part of an adapter that ends the name, None for other tensors."""
    for part in hf_peft_layout.PARTS:
        if name.endswith(f".{part}"):
            return part
    return None


def _check_complete(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    modules: Mapping[str, AdaptedModule],
    tensors: _Tensors,
) -> None:
    """Raises UserError where the file lacks a module that its configuration targets."""
    if not tensors.parts:
        raise UserError(f"{str(folder)!r}: {WEIGHTS} holds no adapter.")
    targets = config.get("target_modules") or ()
    narrowed = config.get("layers_to_transform") or config.get("exclude_modules")
    if narrowed or targets == "all-linear":
        return

    def is_target(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(name == t or name.endswith(f".{t}") for t in targets)

    for name, module in modules.items():
        stored = name in tensors.parts or f"{name}.weight" in tensors.whole
        if is_target(module.name) and not stored:
            raise UserError(
                f"{str(folder)!r}: {CONFIG} targets {module.name!r}, and {WEIGHTS} "
                "has no tensors of it."
            )


def read_start(
    peft: base.Reparametrization, model: Staged, params: PyTree
) -> tuple[PyTree, PyTree, dict[str, np.ndarray]]:
    """Reads the folder `peft.start` for this method on this model.

    Args:
      peft: the method, with `start` set.
      model: the model.
      params: the base.

    Returns:
      δ, constants and {path: array} of leaves stored whole, as in `Adapter`.

    Raises:
      UserError: the folder is of another method, rank, scale, or other leaves.
    """
    adapter = read_adapter(paths.find(peft.start, "peft.start"), model)
    start = f"peft.start={peft.start!r}"
    if type(adapter.method) is not type(peft):
        raise UserError(
            f"{start} holds {type(adapter.method).__name__}; peft is "
            f"{type(peft).__name__}."
        )
    for field in hf_peft_layout.codec_of(peft).fields:
        stored, value = getattr(adapter.method, field), getattr(peft, field)
        if stored != value:
            raise UserError(f"{start} has {field}={stored!r}; peft.{field}={value!r}.")
    initial = jax.eval_shape(lambda: peft.init(jax.random.key(0), params))
    expected_shapes, shapes = _shapes(initial), _shapes(adapter.delta)
    for path in sorted(expected_shapes.keys() | shapes.keys()):
        if expected_shapes.get(path) != shapes.get(path):
            raise UserError(
                f"{start} has {shapes.get(path, 'nothing')} for {path!r}; peft.select="
                f"{peft.select!r} gives {expected_shapes.get(path, 'nothing')}."
            )
    return adapter.delta, adapter.constants, adapter.whole


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}
