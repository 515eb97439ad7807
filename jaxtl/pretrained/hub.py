"""Directories of the Hugging Face hub: a local one, or one fetched into its cache."""

import json
import pathlib
from typing import Any

from jaxtl.core.errors import UserError
from jaxtl.data import paths

PREFIX = "hf:"
# Weights of other frameworks and pickles stay away unless nothing else is there.
WANTED = ["*.json", "*.txt", "*.safetensors", "1_Pooling/*"]
PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def model_directory(where: str, revision: str | None = None) -> pathlib.Path:
    """Returns a model's directory, fetched first where it is "hf:owner/name".

    Raises:
      UserError: no such directory or model, no network, no huggingface_hub.
    """
    if where.startswith(PREFIX):
        return _fetch(where.removeprefix(PREFIX), revision)
    path = paths.find(where, "pretrained.FromHub")
    if not path.is_dir():
        raise UserError(
            f"pretrained.FromHub: {where!r} is a file; give the directory with its "
            "config.json, or read the file with pretrained.FromFile."
        )
    return path


def _fetch(name: str, revision: str | None) -> pathlib.Path:
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"pretrained.FromHub: {name!r} should be 'hf:owner/name'.")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UserError(
            f"'hf:{name}' needs huggingface_hub (pip install 'jaxtl[hub]')."
        ) from None

    def get(patterns: list[str]) -> pathlib.Path:
        return pathlib.Path(
            hub.snapshot_download(name, revision=revision, allow_patterns=patterns)
        )

    try:
        path = get(WANTED)
        if not any(path.glob("*.safetensors")):
            path = get(WANTED + PICKLES)
    except Exception as error:
        raise UserError(_reason(name, revision, error)) from None
    return path


def _reason(name: str, revision: str | None, error: Exception) -> str:
    """Says in a sentence why a model could not be fetched."""
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return (
            f"'hf:{name}': the hub has no such model, or it is private or gated and "
            "needs `hf auth login`."
        )
    if kind == "RevisionNotFoundError":
        return f"'hf:{name}': it has no revision {revision!r}."
    return (
        f"'hf:{name}' is not in the local cache and can't be fetched now ({kind}: no "
        "network, or HF_HUB_OFFLINE is set): connect once, or give the path of a local "
        "copy."
    )


def model_config(path: pathlib.Path) -> dict[str, Any]:
    """Returns the directory's config.json."""
    return _json(path, "config.json", needed=True)


def pools_by_mean(path: pathlib.Path) -> bool:
    """Returns whether a sentence encoder of this directory averages its tokens."""
    found = _json(path, "1_Pooling/config.json")
    return bool(found.get("pooling_mode_mean_tokens"))


def image_normalization(path: pathlib.Path) -> dict[str, Any]:
    """Returns {"mean", "std"} of preprocessor_config.json, {} where there is none."""
    found = _json(path, "preprocessor_config.json")
    if not found.get("do_normalize", "image_mean" in found):
        return {}
    return {"mean": found["image_mean"], "std": found["image_std"]}


def image_resizing(path: pathlib.Path) -> dict[str, Any]:
    """Returns {"size", "shortest"} of preprocessor_config.json, {} where it has none.

    As in `data.Preprocess`. Where transformers stretches to a square before it cuts
    the middle out (DeiT), the proportions are kept instead; resampling is bilinear
    whatever the file says.
    """
    found = _json(path, "preprocessor_config.json")
    size = _sides(found.get("size"))
    if not size or not found.get("do_resize", True):
        return {}
    if "crop_pct" in found:  # ConvNeXt and ResNet: below 384 a part is cut off
        cut = found["crop_pct"] if size[0] < 384 else None
        return {"size": size, "shortest": int(size[0] / cut) if cut else None}
    cut = _sides(found.get("crop_size"))
    if found.get("do_center_crop") and cut:
        return {"size": cut, "shortest": max(min(size), *cut)}
    if isinstance(found["size"], dict) and "shortest_edge" in found["size"]:
        return {}  # images of many sizes come out: nothing that a batch could hold
    return {"size": size, "shortest": None}


def _sides(size) -> tuple[int, int] | None:
    """Returns (height, width) of any form that preprocessor_config.json gives it."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    edge = size.get("shortest_edge")
    sides = size.get("height", edge), size.get("width", edge)
    return sides if None not in sides else None


def _json(path: pathlib.Path, name: str, needed: bool = False) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        if needed:
            raise UserError(
                f"the directory {str(path)!r} has no {name}, which says what model it "
                "is."
            )
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{str(file)!r} is no JSON: {error}.") from None
    return found if isinstance(found, dict) else {}
