"""Reading of adapters from folders of Hugging Face PEFT."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.names import listing
from jaxtl.core.types import PyTree
from jaxtl.data import paths
from jaxtl.models.staged import Staged
from jaxtl.models.weight_layout import TRANSFORMS, WeightLayout
from jaxtl.peft import base
from jaxtl.pretrained import (
    convert,
    hf_peft_codecs,
    hf_peft_config,
    hf_peft_layout,
    reorder,
    tensor_files,
)
from jaxtl.pretrained.hf_peft_layout import (
    CONFIG,
    INNER,
    OUTER,
    SHARED,
    WEIGHTS,
    AdaptedModule,
)
from jaxtl.pretrained.match import Weights


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
    """Reads a folder that PEFT, or `hf_peft_write`, wrote.

    Args:
      folder: with adapter_config.json and adapter_model.safetensors (or .bin).
      model: the model that the adapters are for; it needs a layout "hf".

    Raises:
      UserError: no such folder, a method or an option that is not supported, tensors
        that are missing or that the model has no leaf for.
    """
    folder, layout = pathlib.Path(folder), hf_peft_layout.hf_layout(model)
    config = hf_peft_config.read_config(folder / CONFIG)
    codec = hf_peft_codecs.codec_of_kind(config.get("peft_type"))
    tensors = _grouped(
        tensor_files.read(hf_peft_layout.weights_file(folder)).tensors, layout
    )
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
    _check_complete(folder, config, modules, tensors, layout)
    changed = [modules[name].path for name in tensors.parts]
    changed += [rules[name].path for name in tensors.whole]
    hf_peft_layout.check_tied_tables(changed, layout, repr(str(folder)))
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
        name = full_name.removeprefix(INNER).removeprefix(OUTER)
        part = _adapter_part(name)
        if name in SHARED:
            groups.shared[name] = hf_peft_layout.delta_array(tensor)
        elif part:
            # with its last dot, which names of older and newer versions are told by
            module = convert.without_prefix(name.removesuffix(part), layout)
            module = module.removesuffix(".")
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
    layout: WeightLayout,
) -> None:
    """Raises UserError where the file lacks a module that its configuration targets."""
    if not tensors.parts:
        raise UserError(f"{str(folder)!r}: {WEIGHTS} holds no adapter.")
    targets = config.get("target_modules") or ()
    layers = config.get("layers_to_transform")  # a number, which may be 0, or a list
    narrowed = layers not in (None, []) or config.get("exclude_modules")
    if narrowed or targets == "all-linear":
        return

    def is_target(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(name == t or name.endswith(f".{t}") for t in targets)

    for name, module in modules.items():
        stored = name in tensors.parts or f"{name}.weight" in tensors.whole
        names = hf_peft_layout.names_in_models(module.name, layout)
        if any(map(is_target, names)) and not stored:
            raise UserError(
                f"{str(folder)!r}: {CONFIG} targets {module.name!r}, and {WEIGHTS} "
                "has no tensors of it."
            )


def read_start(
    peft: base.Reparametrization,
    model: Staged,
    params: PyTree,
    x: PyTree,
    names: tuple[str, ...] = (),
) -> tuple[Adapter, str]:
    """Reads the folder `peft.start` for this method on this model.

    Args:
      peft: the method, with `start` set.
      model: the model.
      params: the base.
      x: a batch of the model's inputs.
      names: of the model's outputs, () for none.

    Returns:
      The adapter, whose head is in the order of the names, and a sentence on that ("").

    Raises:
      UserError: the folder is of another method, rank, scale, other leaves, or its head
        has other names.
    """
    folder, start = paths.find(peft.start, "peft.start"), f"peft.start={peft.start!r}"
    adapter = read_adapter(folder, model)
    _check_fits(adapter, peft, params, start)
    stored = tensor_files.read(hf_peft_layout.weights_file(folder)).names(
        "output_names"
    )
    weights = Weights(trees.nested(adapter.whole), output_names=stored)
    if model.stages[-1] in adapter.delta:
        # What is adapted counts as loaded, though it can't be reordered.
        head = {**weights.params.get(model.stages[-1], {}), "adapted": np.zeros(0)}
        weights = dataclasses.replace(
            weights, params={**weights.params, model.stages[-1]: head}
        )
    loading = reorder.Loading(model, x, weights, (), start)
    ordered, _, note = reorder.order_head(loading, names)
    if model.stages[-1] in adapter.delta and ordered is not weights:
        raise UserError(
            f"{start} adapts a head of {listing(stored)}, the data have "
            f"{listing(names)}: give the data that order with classes=."
        )
    leaves = trees.flatten(ordered.params)
    return adapter._replace(whole={p: leaves[p] for p in adapter.whole}), note


def _check_fits(
    adapter: Adapter, peft: base.Reparametrization, params: PyTree, start: str
) -> None:
    """Raises UserError for an adapter of another method, rank, scale or shape."""
    if type(adapter.method) is not type(peft):
        raise UserError(
            f"{start} holds {type(adapter.method).__name__}; peft is "
            f"{type(peft).__name__}."
        )
    for field in hf_peft_codecs.codec_of(peft).fields:
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
    in_model = _shapes(params)
    for path, leaf in adapter.whole.items():
        if path in in_model and tuple(leaf.shape) != in_model[path]:
            raise UserError(
                f"{start} has {path!r} of shape {tuple(leaf.shape)}, the model "
                f"{in_model[path]}."
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}
