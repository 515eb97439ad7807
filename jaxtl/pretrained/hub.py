"""Model directories in Hugging Face's form, local or downloaded from the hub."""

import json
import pathlib
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.data import paths

_PREFIX = "hf:"
# Weights of other frameworks are not downloaded, and pickles only in the absence of
# safetensors.
_PATTERNS = ["*.json", "*.txt", "*.safetensors", "1_Pooling/*"]
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def model_directory(where: str, revision: str | None = None) -> pathlib.Path:
    """The directory of a model, downloaded first if it is "hf:owner/name".

    Args:
      where: a local directory, or "hf:owner/name".
      revision: branch, tag or commit of a model of the hub.

    Raises:
      UserError: no such directory or model, no network, no huggingface_hub.
    """
    if where.startswith(_PREFIX):
        return _download(where.removeprefix(_PREFIX), revision)
    path = paths.find(where, "pretrained.FromHub")
    if not path.is_dir():
        raise UserError(
            f"pretrained.FromHub: {where!r} is a file; give the directory with its "
            "config.json, or read the file with pretrained.FromFile."
        )
    return path


def _download(name: str, revision: str | None) -> pathlib.Path:
    """Downloads a model of the hub into its cache, or finds it there."""
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"pretrained.FromHub: {name!r} should be 'hf:owner/name'.")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UserError(
            f"'hf:{name}' needs huggingface_hub (pip install 'jaxtl[hub]')."
        ) from None

    def snapshot(patterns: list[str]) -> pathlib.Path:
        return pathlib.Path(
            hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        )

    try:
        path = snapshot(_PATTERNS)
        if not any(path.glob("*.safetensors")):
            path = snapshot(_PATTERNS + _PICKLES)
    except Exception as error:
        raise UserError(_reason(name, revision, error)) from None
    return path


def _reason(name: str, revision: str | None, error: Exception) -> str:
    """A sentence on why a model could not be downloaded."""
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return (
            f"'hf:{name}': the hub has no such model, or it is private or gated and "
            "needs `hf auth login`."
        )
    if kind == "RevisionNotFoundError":
        return f"'hf:{name}': it has no revision {revision!r}."
    return (
        f"'hf:{name}' is not in the local cache and can't be downloaded ({kind}: no "
        "network, or HF_HUB_OFFLINE is set): connect once, or give the path of a local "
        "copy."
    )


def model_config(path: pathlib.Path) -> dict[str, Any]:
    """The content of the directory's config.json."""
    return _read_json(path, "config.json", required=True)


def pools_by_mean(path: pathlib.Path) -> bool:
    """Whether the directory is of a sentence encoder that averages its tokens."""
    pooling = _read_json(path, "1_Pooling/config.json")
    return bool(pooling.get("pooling_mode_mean_tokens"))


def image_normalization(path: pathlib.Path) -> dict[str, Any]:
    """{"mean", "std"} of preprocessor_config.json, {} if it has none."""
    config = _read_json(path, "preprocessor_config.json")
    if not config.get("do_normalize", "image_mean" in config):
        return {}
    return {"mean": config["image_mean"], "std": config["image_std"]}


def image_resizing(path: pathlib.Path) -> dict[str, Any]:
    """{"size", "shortest"} of preprocessor_config.json, {} if it has none.

    The fields are those of `data.Preprocess`. Where transformers stretches an image to
    a square before the center crop (DeiT), the proportions are preserved instead;
    resampling is bilinear whatever the file says.
    """
    config = _read_json(path, "preprocessor_config.json")
    size = _sides(config.get("size"))
    if not size or not config.get("do_resize", True):
        return {}
    if "crop_pct" in config:  # ConvNeXt and ResNet crop below 384
        share = config["crop_pct"] if size[0] < 384 else None
        return {"size": size, "shortest": int(size[0] / share) if share else None}
    crop = _sides(config.get("crop_size"))
    if config.get("do_center_crop") and crop:
        return {"size": crop, "shortest": max(min(size), *crop)}
    if isinstance(config["size"], dict) and "shortest_edge" in config["size"]:
        return {}  # the images would have different sizes, which a batch can't hold
    return {"size": size, "shortest": None}


def _sides(size: Any) -> tuple[int, int] | None:
    """(height, width) from any of the forms that preprocessor_config.json may have."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    edge = size.get("shortest_edge")
    sides = size.get("height", edge), size.get("width", edge)
    return sides if None not in sides else None


def _read_json(path: pathlib.Path, name: str, required: bool = False) -> dict[str, Any]:
    """The content of a file of the directory, {} if it is missing and not required."""
    file = path / name
    if not file.is_file():
        if required:
            raise UserError(
                f"the directory {str(path)!r} has no {name}, which describes the model."
            )
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{str(file)!r} is no JSON: {error}.") from None
    return content if isinstance(content, dict) else {}
