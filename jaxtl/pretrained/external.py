"""Initial weights from what others wrote: a tensor file, a Hugging Face directory."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError, nearest
from jaxtl.data import paths
from jaxtl.pretrained import convert, hub, registry, tensor_files
from jaxtl.pretrained.match import Weights


@dataclasses.dataclass(frozen=True)
class FromFile:
    """Weights of a safetensors, torch or npz file in one of a family's layouts.

    Attributes:
      path: the file (or a directory with one), absolute, relative to the working
        directory or to $JAXTL_DATA_DIR.
      reset: patterns of what is re-initialized, "head" for a new head.
      ignore: patterns of tensors of the file to leave out.
      layout: its layout by name, None to recognise it by the tensors' names.
      channels: 1 makes an RGB stem read one channel.
    """

    path: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    layout: str | None = None
    channels: int | None = None

    def model(self, **fields):
        """Builds the model that the file is recognised to be of.

        Args:
          fields: fields to set otherwise (`outputs=None` lets the data decide).
        """
        path = paths.find(self.path, "pretrained.FromFile")
        file = tensor_files.read(path)
        found = registry.recognize_model(file.tensors, file.meta)
        if found is None:
            shown = ", ".join(sorted(file.tensors)[:8])
            raise UserError(
                f"{self.path!r} is of no family that is known by its tensors' names "
                f"({shown}, …): name the model, or read a directory with config.json "
                "through pretrained.FromHub."
            )
        return found.clone(**fields)

    def read(self) -> Weights:
        """Reads the weights for the model that the file is recognised to be of."""
        return self.read_for(self.model())

    def read_for(self, model) -> Weights:
        """Reads the weights for a model.

        Raises:
          UserError: no such file, a damaged one, one of another family.
        """
        path = paths.find(self.path, "pretrained.FromFile")
        return _read_weights(path, model, self.layout, self.channels)


@dataclasses.dataclass(frozen=True)
class FromHub:
    """Weights of a directory as transformers writes it, local or from the hub.

    Attributes:
      where: a directory, or "hf:owner/name". The hub's cache and its offline mode
        (HF_HUB_OFFLINE=1) are huggingface_hub's.
      reset, ignore, channels: as in `FromFile`.
      revision: branch, tag or commit of a model of the hub.

    What preprocessor_config.json says of images is applied: mean and standard
    deviation, and size and middle cut wherever the data leave `size` open.
    """

    where: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    channels: int | None = None
    revision: str | None = None

    def folder(self):
        """Returns the local directory, fetched first where it is on the hub."""
        return hub.model_directory(self.where, self.revision)

    def model(self, **fields):
        """Builds the model of config.json.

        Args:
          fields: fields to set otherwise (`outputs`, `predict`, `pooling`, `dtype`).
            `outputs` is None unless given, so that the data decide; a sentence encoder
            that averages its tokens has `pooling="mean"`.
        """
        folder = self.folder()
        if hub.pools_by_mean(folder):
            fields = {"pooling": "mean", **fields}
        return registry.model_from_config(hub.model_config(folder), **fields)

    def image_resizing(self, model) -> dict[str, Any]:
        """Returns the {"size", "shortest"} that images of data should come in.

        Args:
          model: where it has a `size` of its own (a ViT's), that decides.
        """
        found, side = hub.image_resizing(self.folder()), getattr(model, "size", None)
        if found and side and found["size"] != (side, side):
            part = side / max(found["size"])
            longer = found["shortest"] and max(side, round(found["shortest"] * part))
            found = {"size": (side, side), "shortest": longer}
        return found

    def read(self) -> Weights:
        """Reads the weights for the model of config.json."""
        config = hub.model_config(self.folder())
        return self.read_for(self.model(outputs=registry.head_outputs(config)))

    def read_for(self, model) -> Weights:
        """Reads the weights for a model.

        Raises:
          UserError: no such model, no network, a damaged file, another family.
        """
        folder = self.folder()
        weights = _read_weights(folder, model, None, self.channels)
        normalised = hub.image_normalization(folder)
        if normalised:
            pre = _preprocess(normalised, self.channels)
            weights.meta.update(preprocess=pre)
        weights.meta["config"] = hub.model_config(folder)
        return weights


def _read_weights(path, model, layout: str | None, channels: int | None) -> Weights:
    """Reads a file into a model's layout; see `FromFile`."""
    file = tensor_files.read(path)
    layouts: Mapping[str, Any] = getattr(model, "layouts", dict)()
    if not layouts:
        raise UserError(
            f"the model {type(model).__name__} has no file layout of another library; "
            "load it from a run of jaxtl (pretrained.FromRun)."
        )
    if layout is not None and layout not in layouts:
        raise UserError(
            f"layout={layout!r} is unknown{nearest(layout, layouts)} "
            f"(known: {', '.join(layouts)})."
        )
    name = layout or convert.choose_layout(file.tensors, layouts)
    table = layouts[name]
    weights = convert.to_weights(file.tensors, table, {**file.meta, "layout": name})
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels!r}: expected 1 or 3.")
    if channels == 1:
        if not table.stem:
            raise UserError(f"channels=1: a {type(model).__name__} reads no images.")
        weights = convert.to_one_channel(weights, table.stem)
    if table.mean:
        pre = _preprocess({"mean": table.mean, "std": table.std}, channels)
        weights.meta.update(preprocess=pre)
    adapted = trees.map_with_path(model.adapt, weights.params)
    return dataclasses.replace(weights, params=adapted)


def _preprocess(normalised: Mapping[str, Any], channels: int | None) -> dict[str, Any]:
    """Returns mean and std as data/preprocess.py stores them."""
    if channels == 1:  # the colours' own differ by hundredths
        normalised = {k: [float(np.mean(v))] for k, v in normalised.items()}
    return {k: list(v) for k, v in normalised.items()}
