"""Hugging Face PEFT's folders: adapter_config.json beside adapter_model.safetensors.

What a method's numbers are called there, and how they turn, is in `adapters_layout`.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.data import paths
from jaxtl.models.weight_layout import TRANSFORMS, Rule, WeightLayout
from jaxtl.peft import base
from jaxtl.pretrained import convert, hf_peft_config, hf_peft_layout, tensor_files
from jaxtl.pretrained.hf_peft_layout import AdaptedModule

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# PEFT wraps the model twice; VeRA's shared matrices hang on the outer one.
ROOT, OUTER = "base_model.model.", "base_model."


def save_adapter(
    folder,
    peft: base.Reparametrization,
    delta: PyTree,
    constants: PyTree,
    params: PyTree,
    model,
    saved: tuple[str, ...] = ("head",),
    *,
    of: str | None = None,
) -> pathlib.Path:
    """Writes a folder that `peft.PeftModel.from_pretrained(base, folder)` opens.

    Args:
      folder: where to; made if missing.
      peft: the method.
      delta, constants: its numbers.
      params: base or merged parameters, which the saved stages are taken from.
      model: the module that they are of; it needs a layout "hf".
      saved: stages that were trained whole, written beside the adapters.
      of: name or folder of the base, for PEFT's configuration.

    Raises:
      UserError: the folder holds something, a method or a leaf that PEFT's layout has
        no place for, a stage that is saved and adapted at once.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten.")
    layout = _layout(model)
    codec = hf_peft_layout.codec_of(peft)
    found = {m.path: m for m in hf_peft_layout.adaptable_modules(layout)}
    targets = peft.targets(params)
    _writable(peft, targets, found, saved, model)
    tensors, used = codec.shared(constants), {}
    tensors = {OUTER + name: x for name, x in tensors.items()}
    for path, leaf in targets.items():
        used[path] = module = found[path]
        own = jax.tree.map(np.asarray, base.subtree(delta, path))
        parts = codec.write(own, module, tuple(leaf.shape))
        tensors |= {f"{ROOT}{module.name}.{n}": x for n, x in parts.items()}
    whole = _whole(params, layout, saved)
    tensors |= {f"{ROOT}{name}": x for name, x in whole.items()}
    names = dict.fromkeys(name.rpartition(".")[0] for name in whole)
    config = {
        "peft_type": codec.kind,
        "task_type": None,
        "base_model_name_or_path": of,
        "inference_mode": True,
        "target_modules": [m.name for m in used.values()],
        "modules_to_save": list(names) or None,
        "fan_in_fan_out": any(m.kind == "conv1d" for m in used.values()),
        **codec.config(peft, {p: (m, base.subtree(delta, p)) for p, m in used.items()}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensor_files.write(folder / WEIGHTS, tensors, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    return folder


def _layout(model) -> WeightLayout:
    layouts = getattr(model, "layouts", dict)()
    if "hf" not in layouts:
        raise UserError(
            f"{type(model).__name__} has no layout of transformers, in whose names "
            "PEFT's files are written."
        )
    return layouts["hf"]


def _writable(peft, targets, found, saved, model) -> None:
    """Raises where a leaf has no place in PEFT's layout, or another meaning."""
    for path in targets:
        if path not in found:
            raise UserError(
                f"peft: transformers' layout of {type(model).__name__} has no module "
                f"for {path!r}{nearest(path, found)}."
            )
        stage = path.split("/")[0]
        if stage in saved:
            raise UserError(
                f"peft: the stage {stage!r} is adapted ({path!r}) and to be saved "
                "whole; PEFT knows a module as one or the other."
            )
        tied = getattr(model, "predict", None) == "next" and getattr(
            model, "tied", False
        )
        if tied and path == "embeddings/token/embedding":
            raise UserError(
                f"peft: {path!r} is the table of a tied head; merged, it changes the "
                "head as well, which PEFT's adapters of embeddings don't."
            )


def _whole(params: PyTree, layout: WeightLayout, saved) -> dict[str, np.ndarray]:
    """Returns {name in the file: tensor} of the stages that are saved whole."""
    stages = {rule.path.split("/")[0] for rule in layout.rules}
    found = {}
    for stage in saved:
        if stage not in stages | {"head"}:
            raise UserError(
                f"saved={stage!r} is no stage with a layout{nearest(stage, stages)}."
            )
    for rule in layout.rules:
        leaf = base.subtree(params, rule.path)
        if rule.path.split("/")[0] not in saved or leaf is None:
            continue
        if not rule.source.endswith((".weight", ".bias")):
            raise UserError(
                f"saved: {rule.source!r} is no module's weight or bias, and PEFT saves "
                "modules."
            )
        found[rule.source] = TRANSFORMS[rule.transform][1](np.asarray(leaf))
    return found


def read_adapter(
    folder, model
) -> tuple[base.Reparametrization, PyTree, PyTree, dict[str, np.ndarray]]:
    """Reads a folder that PEFT, or `save`, wrote.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors.
      model: the module that the adapters are for; it needs a layout "hf".

    Returns:
      The method, its δ, its constants, and {path: array} of leaves saved whole.

    Raises:
      UserError: no such folder, a kind or an option that is unknown here, tensors that
        are missing or that the model has no place for.
    """
    folder, layout = pathlib.Path(folder), _layout(model)
    config = hf_peft_config.read_config(folder / CONFIG)
    codec = hf_peft_layout.codec_of_kind(config.get("peft_type"))
    shared, parts, rest = _sorted(tensor_files.read(folder / WEIGHTS).tensors, layout)
    known = {
        convert.without_prefix(m.name, layout): m
        for m in hf_peft_layout.adaptable_modules(layout)
    }
    lost = [name for name in parts if name not in known]
    rules = {convert.without_prefix(r.source, layout): r for r in layout.rules}
    lost += [name for name in rest if name not in rules]
    if lost:
        hint = nearest(lost[0], [*known, *rules])
        raise UserError(
            f"{str(folder)!r}: {type(model).__name__} has no place for "
            f"{', '.join(map(repr, lost[:6]))}{hint}."
        )
    _complete(folder, config, known, parts, rest)
    own = {}
    for name, tensors in parts.items():
        try:
            own[known[name].path] = codec.read(tensors, config)
        except KeyError as error:
            raise UserError(
                f"{str(folder)!r}: the tensor {error.args[0]!r} of {name!r} is missing."
            ) from None
    try:
        peft = codec.build(config, own, [rule.path for rule in layout.rules])
        constants = codec.constants(shared)
    except KeyError as error:
        raise UserError(f"{str(folder)!r} lacks {error.args[0]!r}.") from None
    whole = {rules[name].path: _turned(x, rules[name]) for name, x in rest.items()}
    return peft, trees.nested(own), constants, whole


def _turned(x, rule: Rule) -> np.ndarray:
    return TRANSFORMS[rule.transform][0](hf_peft_layout.single(x))


def _sorted(tensors: Mapping[str, Any], layout: WeightLayout):
    """Parts a file: shared matrices, {module: {part: array}}, tensors saved whole."""
    shared, parts, rest = {}, {}, {}
    for name, x in tensors.items():
        inner = name.removeprefix(ROOT).removeprefix(OUTER)
        module, _, part = _split(inner)
        if inner in hf_peft_layout.SHARED:
            shared[inner] = hf_peft_layout.single(x)
        elif part:
            bare = convert.without_prefix(module, layout)
            parts.setdefault(bare, {})[part] = hf_peft_layout.single(x)
        else:
            # PEFT may keep a table whole beside its adapter.
            rest[convert.without_prefix(inner.replace(".base_layer.", "."), layout)] = x
    return shared, parts, rest


def _split(name: str) -> tuple[str, str, str]:
    """Returns (module, ".", part) of an adapter's tensor, part "" for other tensors."""
    for part in hf_peft_layout.PARTS:
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), ".", part
    return name, "", ""


def _complete(
    folder, config: Mapping, known: Mapping[str, AdaptedModule], parts, rest
) -> None:
    """Raises where the file lacks a module that its configuration targets."""
    if not parts:
        raise UserError(f"{str(folder)!r}: {WEIGHTS} holds no adapter.")
    targets = config.get("target_modules") or ()
    narrowed = config.get("layers_to_transform") or config.get("exclude_modules")
    if narrowed or targets == "all-linear":
        return

    def meant(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(name == t or name.endswith(f".{t}") for t in targets)

    for bare, module in known.items():
        if meant(module.name) and bare not in parts and f"{bare}.weight" not in rest:
            raise UserError(
                f"{str(folder)!r}: {CONFIG} targets {module.name!r}, and {WEIGHTS} "
                "has no tensors of it."
            )


def read_start(
    peft: base.Reparametrization, model, params: PyTree
) -> tuple[PyTree, PyTree, dict[str, np.ndarray]]:
    """Reads what `peft.start` names, for this method on this model.

    Args:
      peft: the method, with `start` set.
      model: the module.
      params: the base.

    Returns:
      δ, constants and {path: array} of leaves saved whole, as `read`.

    Raises:
      UserError: the folder is of another method, rank, scale, or other leaves.
    """
    folder = paths.find(peft.start, "peft.start")
    found, delta, constants, whole = read_adapter(folder, model)
    where = f"peft.start={peft.start!r}"
    if type(found) is not type(peft):
        raise UserError(
            f"{where} holds {type(found).__name__}; peft is {type(peft).__name__}."
        )
    for field in hf_peft_layout.codec_of(peft).fields:
        theirs, ours = getattr(found, field), getattr(peft, field)
        if theirs != ours:
            raise UserError(f"{where} has {field}={theirs!r}; peft.{field}={ours!r}.")
    ours = jax.eval_shape(lambda: peft.init(jax.random.key(0), params))
    ours = {p: tuple(x.shape) for p, x in trees.flatten(ours).items()}
    theirs = {p: tuple(x.shape) for p, x in trees.flatten(delta).items()}
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise UserError(
                f"{where} has {theirs.get(path, 'nothing')} for {path!r}; peft.select="
                f"{peft.select!r} gives {ours.get(path, 'nothing')}."
            )
    return delta, constants, whole
