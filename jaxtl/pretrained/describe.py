"""What there is to load: families and sizes, the tensors of a file, conversion."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import paths
from jaxtl.models import GPT2, VGG, Bert, Llama, MobileNet, ResNet, ResNetImageNet, ViT
from jaxtl.pretrained import convert, hub, registry, tensor_files

_IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
_LARGE = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
_TEXT = {"input_ids": jax.ShapeDtypeStruct((1, 8), "int32")}


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """One line of `jaxtl models`.

    Attributes:
      name: as in the papers.
      model: how to write it in an experiment.
      parameters: their number, with the head of its usual training (1000 classes of
        ImageNet, 10 of CIFAR-10, 2 for text, the vocabulary for language models).
      layouts: names of the file layouts that it reads and writes.
    """

    name: str
    model: str
    parameters: int
    layouts: tuple[str, ...]


# name -> (how to write it, width of its usual head, one input).
SIZES: dict[str, tuple[Any, Any]] = {
    **{f"ResNet-{d} (CIFAR)": (ResNet(depth=d), 10) for d in (20, 32, 44, 56, 110)},
    **{f"ResNet-{d}": (ResNetImageNet(depth=d), 1000) for d in (18, 34, 50, 101, 152)},
    **{f"VGG-{d}": (VGG(depth=d), 1000) for d in (11, 13, 16, 19)},
    **{f"VGG-{d} (BatchNorm)": (VGG(depth=d, norm=True), 1000) for d in (11, 16, 19)},
    **{
        f"MobileNet v1 ×{a}": (MobileNet(alpha=a), 1000) for a in (0.25, 0.5, 0.75, 1.0)
    },
    "ViT-B/16": (ViT(), 1000),
    "ViT-L/16": (ViT(width=1024, layers=24, heads=16, hidden=4096), 1000),
    "BERT base": (Bert(), 2),
    "BERT large": (Bert(width=1024, layers=24, heads=16, hidden=4096), 2),
    "MiniLM-L6": (Bert(width=384, layers=6, hidden=1536, pooling="mean"), 2),
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
    ),
    "GPT-2": (GPT2(), None),
    "GPT-2 medium": (GPT2(width=1024, layers=24, heads=16), None),
    "GPT-2 large": (GPT2(width=1280, layers=36, heads=20), None),
    "GPT-2 XL": (GPT2(width=1600, layers=48, heads=25), None),
    "Llama 2 7B": (Llama(context=4096), None),
}


def model_sizes() -> list[ModelSize]:
    """Returns every family in its published sizes; nothing is allocated."""
    return [
        ModelSize(
            name,
            model_expression(model),
            _count_parameters(model.clone(outputs=outputs)),
            tuple(model.layouts()),
        )
        for name, (model, outputs) in SIZES.items()
    ]


def _count_parameters(model) -> int:
    """Returns a model's number of parameters, without statistics."""
    x = _TEXT
    if isinstance(model, ResNet):
        x = _IMAGE
    elif isinstance(model, ResNetImageNet | VGG | MobileNet | ViT):
        x = _LARGE
    params, _ = jax.eval_shape(model.pure().init, jax.random.key(0), x)
    return trees.size(params)


def model_expression(model) -> str:
    """Returns how an experiment file writes the model: what is not a default."""
    skipped = ("parent", "name")
    changed = [
        f"{f.name}={getattr(model, f.name)!r}"
        for f in dataclasses.fields(model)
        if f.name not in skipped and getattr(model, f.name) != f.default
    ]
    return f"tl.models.{type(model).__name__}({', '.join(changed)})"


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """One tensor of `jaxtl inspect`.

    Attributes:
      name, shape, dtype, nbytes: of the tensor in the file.
      path: the leaf that it would become, "" where the model has no use for it or is
        not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    path: str = ""


@dataclasses.dataclass(frozen=True)
class FileSummary:
    """What a file or directory holds.

    Attributes:
      file: the tensor file that was read.
      model: how to write the model that it is of, "" where that is not known.
      layout: the layout's name, "" likewise.
      meta: what the file says beside its tensors.
      tensors: one per tensor, in the file's order.
    """

    file: pathlib.Path
    model: str
    layout: str
    meta: dict[str, Any]
    tensors: tuple[TensorSummary, ...]


def inspect_file(path: str) -> FileSummary:
    """Lists a file's tensors and what they would be loaded into.

    Args:
      path: a tensor file, or a directory with one (and config.json).

    Raises:
      UserError: no such file, a damaged one.
    """
    found = paths.find(str(path), "inspect")
    file = tensor_files.read(found)
    model = _model(found, file)
    path_of, layout = {}, ""
    if model is not None:
        layouts = model.layouts()
        layout = convert.choose_layout(file.tensors, layouts)
        table = layouts[layout]
        path_of = {
            convert.without_prefix(rule.source, table): rule.path
            for rule in table.rules
        }
        bare = {name: convert.without_prefix(name, table) for name in file.tensors}
    lines = tuple(
        TensorSummary(
            name,
            tuple(x.shape),
            str(np.dtype(x.dtype)),
            int(x.nbytes),
            path_of.get(bare[name], "") if path_of else "",
        )
        for name, x in file.tensors.items()
    )
    meta = {k: v for k, v in file.meta.items() if isinstance(v, str | int | float)}
    return FileSummary(
        file.path, model_expression(model) if model else "", layout, meta, lines
    )


def _model(path: pathlib.Path, file: tensor_files.TensorFile):
    """Returns the model of a directory's config.json or of the tensors' names."""
    if path.is_dir() and (path / "config.json").is_file():
        config = hub.model_config(path)
        outputs = registry.head_outputs(config)
        fields = {"pooling": "mean"} if hub.pools_by_mean(path) else {}
        return registry.model_from_config(config, outputs=outputs, **fields)
    return registry.recognize_model(file.tensors, file.meta)


def convert_file(source: str, target: str) -> FileSummary:
    """Writes a file's tensors into another kind of file, values and names unchanged.

    Args:
      source: what `files.read` opens: safetensors (also sharded), torch, npz.
      target: ends in .safetensors or .npz.

    Returns:
      The report on the new file.

    Raises:
      UserError: an unknown ending, tensors that npz can't hold.
    """
    file = tensor_files.read(paths.find(str(source), "convert"))
    out = pathlib.Path(target)
    if out.exists():
        raise UserError(f"convert: {str(target)!r} exists already; remove it first.")
    if not out.parent.is_dir():
        raise UserError(f"convert: there is no directory {str(out.parent)!r}.")
    if out.suffix == ".safetensors":
        tensor_files.write(out, file.tensors, file.meta)
    elif out.suffix == ".npz":
        arrays = {name: np.asarray(x) for name, x in file.tensors.items()}
        odd = [n for n, x in arrays.items() if x.dtype.kind not in "biuf"]
        if odd:
            raise UserError(
                f"convert: npz has no {arrays[odd[0]].dtype} ({odd[0]!r}); choose "
                ".safetensors."
            )
        np.savez(out, **arrays)
    else:
        raise UserError(
            f"convert: {str(target)!r} should end in .safetensors or .npz (torch's "
            "pickles are read, not written)."
        )
    return inspect_file(str(out))
