"""Descriptions of model families and of tensor files, and conversion of files."""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.core import atomic
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, first_line
from jaxtl.data import paths
from jaxtl.models import (
    GPT2,
    VGG,
    Bert,
    ConvNeXt,
    EfficientNet,
    Llama,
    MobileNet,
    MobileNetV2,
    RegNet,
    ResNet,
    ResNetImageNet,
    ViT,
)
from jaxtl.models.staged import Staged
from jaxtl.pretrained import any_tensors, convert, hub, registry, tensor_files

_SMALL_IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
_LARGE_IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
_TEXT = {"input_ids": jax.ShapeDtypeStruct((1, 8), "int32")}


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """One published size of a model family, a row of `jaxtl models`.

    Attributes:
      name: as in the papers.
      model: the expression that builds it in an experiment file.
      parameters: their number, with the head of its usual training (1000 classes of
        ImageNet, 10 of CIFAR-10, 2 for text, the vocabulary for language models).
      layouts: names of the file layouts that it reads and writes.
    """

    name: str
    model: str
    parameters: int
    layouts: tuple[str, ...]


# name -> (model, width of its usual head, number of parameters with that head)
_SIZES: dict[str, tuple[Staged, int | None, int]] = {
    "ResNet-20 (CIFAR)": (ResNet(depth=20), 10, 269_722),
    "ResNet-32 (CIFAR)": (ResNet(depth=32), 10, 464_154),
    "ResNet-44 (CIFAR)": (ResNet(depth=44), 10, 658_586),
    "ResNet-56 (CIFAR)": (ResNet(depth=56), 10, 853_018),
    "ResNet-110 (CIFAR)": (ResNet(depth=110), 10, 1_727_962),
    "ResNet-18": (ResNetImageNet(depth=18), 1000, 11_689_512),
    "ResNet-34": (ResNetImageNet(depth=34), 1000, 21_797_672),
    "ResNet-50": (ResNetImageNet(depth=50), 1000, 25_557_032),
    "ResNet-101": (ResNetImageNet(depth=101), 1000, 44_549_160),
    "ResNet-152": (ResNetImageNet(depth=152), 1000, 60_192_808),
    "VGG-11": (VGG(depth=11), 1000, 132_863_336),
    "VGG-13": (VGG(depth=13), 1000, 133_047_848),
    "VGG-16": (VGG(depth=16), 1000, 138_357_544),
    "VGG-19": (VGG(depth=19), 1000, 143_667_240),
    "VGG-11 (BatchNorm)": (VGG(depth=11, norm=True), 1000, 132_868_840),
    "VGG-16 (BatchNorm)": (VGG(depth=16, norm=True), 1000, 138_365_992),
    "VGG-19 (BatchNorm)": (VGG(depth=19, norm=True), 1000, 143_678_248),
    "MobileNet v1 ×0.25": (MobileNet(alpha=0.25), 1000, 470_072),
    "MobileNet v1 ×0.5": (MobileNet(alpha=0.5), 1000, 1_331_592),
    "MobileNet v1 ×0.75": (MobileNet(alpha=0.75), 1000, 2_585_560),
    "MobileNet v1 ×1.0": (MobileNet(alpha=1.0), 1000, 4_231_976),
    "MobileNet v2": (MobileNetV2(), 1000, 3_504_872),
    "EfficientNet-B0": (EfficientNet(), 1000, 5_288_548),
    "RegNetY-4GF": (RegNet(), 1000, 20_646_656),
    "ConvNeXt-T": (ConvNeXt(), 1000, 28_589_128),
    "ViT-B/16": (ViT(), 1000, 86_567_656),
    "ViT-L/16": (
        ViT(width=1024, layers=24, heads=16, hidden=4096),
        1000,
        304_326_632,
    ),
    "BERT base": (Bert(), 2, 109_483_778),
    "BERT large": (Bert(width=1024, layers=24, heads=16, hidden=4096), 2, 335_143_938),
    "MiniLM-L6": (
        Bert(width=384, layers=6, hidden=1536, pooling="mean"),
        2,
        22_566_146,
    ),
    "RoBERTa base": (
        Bert(
            vocab=50_265,
            segments=1,
            offset=2,
            pooling="first",
            inner=True,
            epsilon=1e-5,
        ),
        2,
        124_647_170,
    ),
    "GPT-2": (GPT2(), None, 124_439_808),
    "GPT-2 medium": (GPT2(width=1024, layers=24, heads=16), None, 354_823_168),
    "GPT-2 large": (GPT2(width=1280, layers=36, heads=20), None, 774_030_080),
    "GPT-2 XL": (GPT2(width=1600, layers=48, heads=25), None, 1_557_611_200),
    "Llama 2 7B": (Llama(context=4096), None, 6_738_415_616),
}


def model_sizes() -> list[ModelSize]:
    """Every family in its published sizes; no network is built."""
    return [
        ModelSize(name, model_expression(model), parameters, tuple(model.layouts()))
        for name, (model, _, parameters) in _SIZES.items()
    ]


def count_parameters(name: str) -> int:
    """Number of parameters of the network of a published size, which is traced."""
    model, outputs, _ = _SIZES[name]
    model = model.clone(outputs=outputs)
    params, _ = jax.eval_shape(model.pure().init, jax.random.key(0), _inputs_of(model))
    return trees.size(params)


def _inputs_of(model: Staged) -> Any:
    """Inputs of the usual shape for a family."""
    if isinstance(model, ResNet):
        return _SMALL_IMAGE
    if model.READS == "images":
        return _LARGE_IMAGE
    return _TEXT


def model_expression(model: Staged) -> str:
    """The expression that builds a model in an experiment file, without defaults."""
    linen_fields = ("parent", "name")
    changed = [
        f"{f.name}={_expression(getattr(model, f.name))}"
        for f in dataclasses.fields(model)
        if f.name not in linen_fields and getattr(model, f.name) != f.default
    ]
    return f"tl.models.{type(model).__name__}({', '.join(changed)})"


def _expression(value: Any) -> str:
    """A field's value as Python, a model within the model among them."""
    return model_expression(value) if isinstance(value, Staged) else repr(value)


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """One tensor of a file, a row of `jaxtl inspect`.

    Attributes:
      name, shape, dtype, nbytes: of the tensor in the file.
      path: the leaf that it would become, "" where the model does not use it or was not
        recognized.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    path: str = ""


@dataclasses.dataclass(frozen=True)
class FileSummary:
    """The content of a tensor file.

    Attributes:
      file: the file.
      model: expression of the model that it belongs to, "" if not recognized.
      layout: the layout's name, "" likewise.
      meta: further entries of the file.
      tensors: one per tensor, in the file's order.
      note: why no model is named, "" where one is.
    """

    file: pathlib.Path
    model: str
    layout: str
    meta: dict[str, Any]
    tensors: tuple[TensorSummary, ...]
    note: str = ""


def inspect_file(path: str) -> FileSummary:
    """Lists a file's tensors and the leaves that they would be loaded into.

    Args:
      path: any file of tensors, or a directory of them (and config.json).

    Raises:
      UserError: no such file, a damaged one.
    """
    source = paths.find(str(path), "inspect")
    file = any_tensors.read(source)
    model, note = _recognize(source, file)
    layout, leaves = _leaves_of(model, file) if model else ("", {})
    tensors = tuple(
        TensorSummary(
            name,
            tuple(tensor.shape),
            str(np.dtype(tensor.dtype)),
            int(tensor.nbytes),
            leaves.get(name, ""),
        )
        for name, tensor in file.tensors.items()
    )
    meta = {k: v for k, v in file.meta.items() if isinstance(v, str | int | float)}
    expression = model_expression(model) if model else ""
    return FileSummary(file.path, expression, layout, meta, tensors, note)


@dataclasses.dataclass(frozen=True)
class TensorGroup:
    """The tensors whose names begin alike.

    Attributes:
      name: the common beginning, "" for the whole file.
      tensors, numbers, nbytes: how many tensors and numbers, and their bytes.
    """

    name: str
    tensors: int
    numbers: int
    nbytes: int


def grouped(tensors: Sequence[TensorSummary]) -> list[TensorGroup]:
    """Tensors by the shortest beginning of their names that tells some apart."""
    parts = [re.split(r"[./]", tensor.name) for tensor in tensors]
    depth = next(
        (
            depth
            for depth in range(1, max(map(len, parts), default=1))
            if len({tuple(names[:depth]) for names in parts}) > 1
        ),
        1,
    )
    groups: dict[str, list[TensorSummary]] = {}
    for names, tensor in zip(parts, tensors):
        # Every separator is one character long.
        length = len(".".join(names[:depth]))
        groups.setdefault(tensor.name[:length], []).append(tensor)
    return [
        TensorGroup(
            name,
            len(group),
            sum(math.prod(tensor.shape) for tensor in group),
            sum(tensor.nbytes for tensor in group),
        )
        for name, group in groups.items()
    ]


def _leaves_of(
    model: Staged, file: tensor_files.TensorFile
) -> tuple[str, dict[str, str]]:
    """(name of the file's layout, {name of a tensor: path of its leaf})."""
    layouts = model.layouts()
    name = convert.choose_layout(file.tensors, layouts)
    layout = layouts[name]
    path_of = {
        convert.without_prefix(rule.source, layout): rule.path for rule in layout.rules
    }
    leaves = {
        tensor: path_of.get(convert.without_prefix(tensor, layout), "")
        for tensor in file.tensors
    }
    return name, leaves


def _recognize(
    path: pathlib.Path, file: tensor_files.TensorFile
) -> tuple[Staged | None, str]:
    """(The model that a file is of or None, why none is named).

    A directory's config.json says it; else the tensors do, all of which must fit.
    """
    kind = any_tensors.model_type(path) if path.is_dir() else None
    if kind is not None and kind not in registry.model_types():
        return None, f"config.json says {kind!r}, of which jaxtl builds no model"
    if kind is not None:
        config = hub.model_config(path)
        outputs = registry.head_outputs(config)
        fields = hub.pooling(path)
        try:
            model = registry.model_from_config(config, outputs=outputs, **fields)
        except UserError as error:
            return None, first_line(error)
        return model, ""
    meta = {**file.meta, **hub.timm_settings(path)}
    try:
        model = registry.recognize_model(file.tensors, meta)
    except UserError as error:  # of one of several models with the same tensors
        return None, first_line(error)
    if model is None or not _fits(model, file):
        return None, "of no family that is known by its tensors' names and shapes"
    return model, ""


def _fits(model: Staged, file: tensor_files.TensorFile) -> bool:
    """Whether a file has every tensor of a model, of its size, and no other."""
    layouts = model.layouts()
    layout = layouts[convert.choose_layout(file.tensors, layouts)]
    try:
        weights = convert.to_weights(file.tensors, layout)
        sizes = _sizes_of_leaves(model)
    except (UserError, TypeError, ValueError):
        return False
    stored = trees.flatten((weights.params, weights.stats))
    return sizes == {path: math.prod(leaf.shape) for path, leaf in stored.items()}


@functools.lru_cache(maxsize=32)
def _sizes_of_leaves(model: Staged) -> dict[str, int]:
    init = model.pure().init
    trees_of_shapes = jax.eval_shape(init, jax.random.key(0), _inputs_of(model))
    return {path: leaf.size for path, leaf in trees.flatten(trees_of_shapes).items()}


def convert_file(source: str, target: str) -> FileSummary:
    """Writes a file's tensors as another kind of file, values and names unchanged.

    Args:
      source: any file of `tensor_files.read`: safetensors (also sharded), torch, npz.
      target: ends in .safetensors or .npz.

    Returns:
      The summary of the new file.

    Raises:
      UserError: an unknown ending, tensors that npz can't hold.
    """
    file = tensor_files.read(paths.find(str(source), "convert"))
    out = pathlib.Path(target)
    if out.exists():
        raise UserError(f"{str(target)!r} exists already; remove it first.")
    if not out.parent.is_dir():
        raise UserError(f"there is no directory {str(out.parent)!r}.")
    if out.suffix == ".safetensors":
        tensor_files.write(out, file.tensors, file.meta)
    elif out.suffix == ".npz":
        arrays = {name: np.asarray(x) for name, x in file.tensors.items()}
        unsupported = [n for n, x in arrays.items() if x.dtype.kind not in "biuf"]
        if unsupported:
            name = unsupported[0]
            raise UserError(
                f"npz has no {arrays[name].dtype} ({name!r}); choose .safetensors."
            )
        with atomic.file(out) as draft:
            np.savez(draft, **arrays)
    else:
        raise UserError(
            f"{str(target)!r} should end in .safetensors or .npz (torch's "
            "pickles are read, not written)."
        )
    return inspect_file(str(out))
