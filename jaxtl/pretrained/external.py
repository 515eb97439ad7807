"""Initial weights of other libraries: a tensor file, a Hugging Face directory."""

import dataclasses
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.data import paths
from jaxtl.models.bi_encoder import DENSE, BiEncoder
from jaxtl.models.staged import Staged, check_option
from jaxtl.models.weight_layout import WeightLayout
from jaxtl.pretrained import convert, hub, hub_repository, registry, tensor_files
from jaxtl.pretrained.match import LoadRow, Weights

SIMILARITY = "similarity"  # `predict` of a bi-encoder


@dataclasses.dataclass(frozen=True)
class FromFile:
    """Weights of a safetensors, torch or npz file in one of a family's layouts.

    Attributes:
      path: the file (or a directory with one), absolute, relative to the working
        directory or to $JAXTL_DATA_DIR.
      reset: patterns of leaves to re-initialize, "head" for a new head.
      ignore: patterns of tensors of the file to leave out.
      layout: its layout by name, None to recognize it by the tensors' names.
      channels: 1 converts an RGB stem to one channel.
      output_names: names of the head's outputs in order, where the file has none or
        spells them otherwise than the data; None takes those of the file's header, or
        of a config.json beside it.
    """

    path: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    layout: str | None = None
    channels: int | None = None
    output_names: tuple[str, ...] | None = None

    def model(self, **fields: Any) -> Staged:
        """Builds the model that the file belongs to, recognized by its tensors.

        Args:
          **fields: fields to override (`outputs=None` lets the data decide).

        Returns:
          The model with the widths and depth of the tensors.

        Raises:
          UserError: the file is of no family that is recognized.
        """
        path = paths.find(self.path, "pretrained.FromFile")
        file = tensor_files.read(path)
        said = {k: v for k, v in fields.items() if k == "padding"}
        meta = {**file.meta, **hub.timm_settings(path), **said}
        model = registry.recognize_model(file.tensors, meta)
        if model is None:
            examples = ", ".join(sorted(file.tensors)[:8])
            raise UserError(
                f"{self.path!r} is of no family that is recognized by its tensors' "
                f"names ({examples}, …): name the model, or read a directory with "
                "config.json through pretrained.FromHub."
            )
        return model.clone(**fields)

    def read(self) -> Weights:
        """Reads the weights for the model that the file belongs to."""
        return self.read_for(self.model())

    def read_for(self, model: Staged) -> Weights:
        """Reads the weights for a model.

        Args:
          model: decides the names and shapes of the tensors.

        Returns:
          The weights in the model's layout, with what the file has beyond it.

        Raises:
          UserError: no such file, a damaged one, one of another family.
        """
        path = paths.find(self.path, "pretrained.FromFile")
        return _read_weights(path, model, self.layout, self.channels)


@dataclasses.dataclass(frozen=True)
class FromHub:
    """Weights of a directory in the form of transformers, local or from the hub.

    Attributes:
      where: a directory, or "hf:owner/name" (or "owner/name", where there is no such
        directory): in the form of transformers, or as `jaxtl push` writes it. The
        hub's cache and its offline mode (HF_HUB_OFFLINE=1) are huggingface_hub's.
      reset, ignore, channels: as in `FromFile`.
      revision: branch, tag or commit of a model of the hub.
      output_names: as in `FromFile`; None takes id2label of config.json.

    The settings of the directory's image processor are applied: mean and standard
    deviation, and for data without a `size` also size and center crop.
    """

    where: str
    reset: tuple[str, ...] | str = ()
    ignore: tuple[str, ...] | str = ()
    channels: int | None = None
    revision: str | None = None
    output_names: tuple[str, ...] | None = None

    def folder(self) -> pathlib.Path:
        """The local directory, downloaded first if it is on the hub."""
        return hub.model_directory(self.where, self.revision)

    def model(self, **fields: Any) -> Staged:
        """Builds the model of config.json.

        Args:
          **fields: fields to override (`outputs`, `predict`, `pooling`, `dtype`);
            predict="similarity" makes the encoder one of pairs, `models.BiEncoder`,
            with mean pooling where its modules name none.
            `outputs` is None by default, so that the data decide; a sentence encoder
            has the pooling and the normalization of its modules, and a DINOv2 the size
            of the images that preprocessor_config.json makes; texts of SigLIP are
            filled up by the padding of the directory's tokenizer, which
            transformers takes whatever config.json says. A language model whose file
            has a head that differs from the embeddings keeps it (`tied=False`),
            whatever config.json says, as in transformers.

        Returns:
          The model, without weights; `read_for` reads them.
        """
        folder = self.folder()
        if hub_repository.is_repository(folder):
            return hub_repository.model(folder, **{"outputs": None, **fields})
        if fields.get("predict") == SIMILARITY:
            return self._bi_encoder(folder, fields)
        fields = {**hub.pooling(folder), **fields}
        model = registry.model_from_config(hub.model_config(folder), **fields)
        if "size" not in fields and getattr(model, "FOLLOWS_IMAGES", False):
            sides = hub.image_resizing(folder).get("size") or (model.size,) * 2
            model = model.clone(size=sides[0]) if len({*sides}) == 1 else model
        if not {"fill", "text"} & fields.keys():
            model = _filled(model, folder)
        return model if "tied" in fields else _untied(model, folder)

    def _bi_encoder(self, folder: pathlib.Path, fields: Mapping[str, Any]) -> BiEncoder:
        """The encoder of config.json with the modules of sentence-transformers."""
        names = [f.name for f in dataclasses.fields(BiEncoder) if f.name != "encoder"]
        own = {k: v for k, v in fields.items() if k in names}
        others = {k: v for k, v in fields.items() if k not in (*names, "predict")}
        config = hub.model_config(folder)
        kind = config.get("model_type")
        is_known = kind in registry.model_types()
        if is_known and "token" in registry.config_table(kind).predicts:
            others["predict"] = "token"
        encoder = registry.model_from_config(config, **others)
        reads = getattr(encoder, "READS", "images with texts")
        if reads != "texts":
            raise UserError(
                f"predict={SIMILARITY!r} compares two texts, but the model of "
                f"{self.where!r} reads {reads or 'arrays'}."
            )
        return BiEncoder(**{"encoder": encoder, **hub.bi_encoder(folder), **own})

    def image_resizing(self, model: Staged, is_sized: bool = False) -> dict[str, Any]:
        """Size, cut and resampling of images for this model: fields of `Preprocess`.

        Args:
          model: if it has a field `size` (a ViT), that decides, and `shortest` is
            scaled with it.
          is_sized: whether the data have a size, so that only "resample" counts.

        Returns:
          Those of the fields "size", "shortest" and "resample" that are known; {} where
          the directory says nothing.
        """
        if hub_repository.is_repository(self.folder()):
            stored = hub_repository.meta(self.folder()).get("preprocess") or {}
            names = ("resample",) if is_sized else ("size", "shortest", "resample")
            framing = {name: stored[name] for name in names if stored.get(name)}
            return {
                k: tuple(v) if isinstance(v, list) else v for k, v in framing.items()
            }
        resizing = hub.image_resizing(self.folder(), is_sized)
        side = getattr(model, "size", None)
        if not resizing.get("size") or not side or resizing["size"] == (side, side):
            return resizing
        shortest, scale = resizing["shortest"], side / max(resizing["size"])
        if isinstance(shortest, tuple):
            shortest = tuple(max(side, round(v * scale)) for v in shortest)
        else:
            shortest = shortest and max(side, round(shortest * scale))
        return {**resizing, "size": (side, side), "shortest": shortest}

    def read(self) -> Weights:
        """Reads the weights for the model of config.json."""
        if hub_repository.is_repository(self.folder()):
            return hub_repository.read(self.folder())
        config = hub.model_config(self.folder())
        return self.read_for(self.model(outputs=registry.head_outputs(config)))

    def read_for(self, model: Staged) -> Weights:
        """Reads the weights for a model.

        Args:
          model: as `model()` builds it, or another of the family; its head may differ.

        Returns:
          The weights in the model's layout; of a file for another kind of output (next
          token, class) without its head.

        Raises:
          UserError: no such model, no network, a damaged file, another family.
        """
        folder = self.folder()
        if hub_repository.is_repository(folder):
            return hub_repository.read(folder)
        weights = _read_weights(
            folder, model, None, self.channels, _dense(folder, model)
        )
        if hub.has_image_settings(folder):  # even to say that nothing is normalized
            normalization = hub.image_normalization(folder)
            weights.meta["preprocess"] = _preprocess(normalization, self.channels)
        config = weights.meta["config"] = hub.model_config(folder)
        predicts = registry.head_predicts(config)
        same = predicts in (None, getattr(model, "predict", predicts))
        return weights if same else _without_head(weights, model.layouts()["hf"])


def _dense(folder: pathlib.Path, model: Staged) -> dict[str, Any]:
    """The tensors of the map behind a sentence encoder's pooling, as its layout has."""
    place = hub.dense_folder(folder) if isinstance(model, BiEncoder) else None
    if place is None or model.dense_width is None:
        return {}
    tensors = tensor_files.read(place).tensors
    return {f"{DENSE.partition('.')[0]}.{name}": x for name, x in tensors.items()}


def _without_head(weights: Weights, layout: WeightLayout) -> Weights:
    """The weights without a head that predicts something else than the model's."""
    params = {stage: x for stage, x in weights.params.items() if stage != "head"}
    rows = [
        LoadRow("skipped", f"head/{path}", None, tuple(x.shape), weights.names[name])
        for path, x in trees.flatten(weights.params.get("head", {})).items()
        if (name := f"head/{path}") in weights.names
    ]
    return dataclasses.replace(
        weights,
        params=params,
        rows=(*weights.rows, *rows),
        output_names=(),
        left_out=(*weights.left_out, *(row.source for row in rows)),
        absent=tuple(stage for stage in layout.optional if stage not in params),
    )


def _filled(model: Staged, folder: pathlib.Path) -> Staged:
    """The model, or its text tower, with the padding of the directory's tokenizer."""
    text = getattr(model, "text", model)
    fill = hub.padding(folder) if hasattr(text, "fill") else None
    if fill is None or fill == text.fill:
        return model
    if text is model:
        return model.clone(fill=fill)
    return dataclasses.replace(model, text=text.clone(fill=fill))


def _untied(model: Staged, folder: pathlib.Path) -> Staged:
    """The model, untied where the directory's file has a head of its own."""
    if not getattr(model, "tied", False) or not tensor_files.in_directory(folder):
        return model
    tensors = tensor_files.read(folder).tensors
    differ = convert.repeats_differ(tensors, model.layouts()["hf"])
    return model.clone(tied=False) if differ else model


def _read_weights(
    path: pathlib.Path,
    model: Staged,
    layout_name: str | None,
    channels: int | None,
    further: Mapping[str, Any] = types.MappingProxyType({}),
) -> Weights:
    """Reads a file, and `further` tensors, into a model's layout; see `FromFile`."""
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels!r}: expected 1 or 3.")
    file = tensor_files.read(path)
    layouts: Mapping[str, WeightLayout] = getattr(model, "layouts", dict)()
    if not layouts:
        raise UserError(
            f"the model {type(model).__name__} has no file layout of another library; "
            "load it from a run of jaxtl (pretrained.FromRun)."
        )
    if layout_name is None:
        layout_name = convert.choose_layout(file.tensors, layouts)
    check_option("layout", layout_name, tuple(layouts))
    layout = layouts[layout_name]
    meta = {**file.meta, "layout": layout_name}
    weights = convert.to_weights({**file.tensors, **further}, layout, meta)
    if channels == 1:
        if not layout.stem:
            raise UserError(f"channels=1: a {type(model).__name__} reads no images.")
        weights = convert.to_one_channel(weights, layout.stem)
    if layout.mean:
        normalization = {"mean": layout.mean, "std": layout.std}
        normalization |= hub.timm_settings(path).get("normalization", {})
        weights.meta["preprocess"] = _preprocess(normalization, channels)
    return dataclasses.replace(
        weights,
        params=trees.map_with_path(model.adapt, weights.params),
        output_names=file.names("output_names") or _names_beside(file.path),
        feature_names=file.names("feature_names"),
    )


def _names_beside(path: pathlib.Path) -> tuple[str, ...]:
    """Names of a classifier's outputs in the config.json beside a file, () for none."""
    if not (path.parent / "config.json").is_file():
        return ()
    return registry.head_names(hub.model_config(path.parent))


def _preprocess(
    normalization: Mapping[str, Any], channels: int | None
) -> dict[str, Any]:
    """Mean and standard deviation per channel, in the form of `data.Preprocess`."""
    if channels == 1:  # those of the three colors differ only by hundredths
        normalization = {k: [float(np.mean(v))] for k, v in normalization.items()}
    return {k: list(v) for k, v in normalization.items()}
