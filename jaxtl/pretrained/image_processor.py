"""What image processors of transformers do, by preprocessor_config.json."""

import math
from collections.abc import Mapping
from typing import Any

from jaxtl.core import key_table
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.key_table import KeyTable
from jaxtl.data import images

FILE = "preprocessor_config.json"
TABLE = KeyTable(
    FILE,
    honored=(
        "image_processor_type",
        "feature_extractor_type",
        "do_resize",
        "size",
        "resample",
        "crop_pct",
        "do_center_crop",
        "crop_size",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "rescale_offset",
        "include_top",
    ),
    harmless={
        "images are decoded to the channels of the model": ("do_convert_rgb",),
        "a note on classes to load": ("processor_class", "use_fast", "backend"),
        "the form of the arrays that transformers returns": (
            "return_tensors",
            "data_format",
            "input_data_format",
            "device",
            "disable_grouping",
        ),
        "a default of sizes given as one number, which have one meaning per class": (
            "default_to_square",
        ),
        "pads only with do_pad": ("pad_size",),
        "names of arguments, which versions of 2024 wrote": ("_valid_processor_keys",),
    },
    only={
        "do_pad": (False,),
        "do_reduce_labels": (False,),
        "reduce_labels": (False,),  # its older name
        "do_flip_channel_order": (False,),
        "do_thumbnail": (False,),
        "do_align_long_axis": (False,),
        "use_square_size": (False,),
    },
)
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_SQUARE = {"height": 224, "width": 224}
_COMMON = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "rescale_offset": False,
    "include_top": False,
}
# Class of transformers without "ImageProcessor" -> its settings where the file has
# none.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_COMMON, **_HALF, "size": _SQUARE, "resample": 2},
    "ConvNext": {
        **_COMMON,
        **_HALF,
        "size": {"shortest_edge": 384},
        "resample": 3,
        "crop_pct": 224 / 256,
    },
    "CLIP": {
        **_COMMON,
        "size": {"shortest_edge": 224},
        "crop_size": _SQUARE,
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "DeiT": {
        **_COMMON,
        **_HALF,
        "size": {"height": 256, "width": 256},
        "crop_size": _SQUARE,
        "do_center_crop": True,
        "resample": 3,
    },
    "Beit": {
        **_COMMON,
        **_HALF,
        "size": _SQUARE,
        "crop_size": _SQUARE,
        "resample": 3,
    },
    "MobileNetV2": {
        **_COMMON,
        **_HALF,
        "size": {"shortest_edge": 256},
        "crop_size": _SQUARE,
        "do_center_crop": True,
        "resample": 2,
    },
    "EfficientNet": {
        **_COMMON,
        **_HALF,
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "resample": 3,
        "include_top": True,
    },
}
DEFAULTS |= {
    "Bit": DEFAULTS["CLIP"],
    "Siglip": DEFAULTS["ViT"] | {"resample": 3},
}
_CLASS_OF_MODEL = {
    "vit": "ViT",
    **dict.fromkeys(("resnet", "regnet", "convnext", "convnextv2"), "ConvNext"),
    "efficientnet": "EfficientNet",
    "mobilenet_v2": "MobileNetV2",
    "deit": "DeiT",
    "beit": "Beit",
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), "Bit"),
    **dict.fromkeys(("swin", "swinv2"), "ViT"),
    **dict.fromkeys(("siglip", "siglip_vision_model"), "Siglip"),
    **dict.fromkeys(("clip", "clip_vision_model"), "CLIP"),
}
_FILTERS = {code: name for name, code in images.RESAMPLING.items()}


def settings(
    config: Mapping[str, Any], model_type: str | None = None, path: object = FILE
) -> dict[str, Any]:
    """The settings of a file, with its class's where they are missing.

    Args:
      config: content of the file.
      model_type: of config.json, which decides for a file without a class.
      path: of the file, for messages.

    Raises:
      UserError: an unknown key or class, or a value that is not supported.
    """
    TABLE.check(config, path)
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    kind = str(name or "")
    for ending in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if not name:
        kind = "ConvNext" if "crop_pct" in config else ""
        kind = _CLASS_OF_MODEL.get(model_type or "", kind) or "ViT"
    if kind not in DEFAULTS:
        known = [f"{option}ImageProcessor" for option in DEFAULTS]
        raise UserError(
            f"{path}: the image processor {name!r} is not supported"
            f"{nearest(name, known)} (supported: {', '.join(known)})."
        )
    values = {k: v for k, v in config.items() if v is not None}
    values = {**DEFAULTS[kind], **values, "kind": kind, "path": path}
    # A null mean or a missing size of a file without a class leaves that step out.
    for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        values[key] = bool(key_table.flag(values, key, path))
    for key in ("rescale_offset", "include_top"):
        values[key] = bool(key_table.flag(values, key, path))
        if values[key] and kind != "EfficientNet":
            raise UserError(
                f"{path}: {key} true is not supported for {name or kind}; expected "
                "false (only EfficientNetImageProcessor has it)."
            )
    return values


def normalization(values: Mapping[str, Any]) -> dict[str, list[float]]:
    """Mean and standard deviation of values that are 1 for white, {} for none.

    transformers computes (255 u · factor − mean)/std of u in [0, 1], which is
    (u − mean/(255 factor)) / (std/(255 factor)). EfficientNet's images are lowered by
    1 before (`rescale_offset`) and divided by std once more (`include_top`).

    Args:
      values: as `settings` returns them.

    Raises:
      UserError: a mean or a deviation that is no list of numbers.
    """
    white = 255 * float(values["rescale_factor"]) if values["do_rescale"] else 255.0
    white = 1.0 if math.isclose(white, 1, rel_tol=1e-6) else white
    lowered = 1.0 if values["do_rescale"] and values["rescale_offset"] else 0.0
    divisions = values["do_normalize"] + values["include_top"]
    if not divisions:
        has_effect = white != 1 or lowered
        return {"mean": [lowered / white], "std": [1 / white]} if has_effect else {}
    mean = _numbers(values, "mean") if values["do_normalize"] else [0.0]
    std = _numbers(values, "std")
    return {
        "mean": [(v + lowered) / white for v in mean],
        "std": [v**divisions / white for v in std],
    }


def _numbers(values: Mapping[str, Any], name: str) -> list[float]:
    """The entry `image_mean` or `image_std` as a list."""
    numbers = values[f"image_{name}"]
    numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
    if not all(_is_number(v) and (name == "mean" or v > 0) for v in numbers):
        raise UserError(
            f"{values['path']}: image_{name} is {key_table.shown(numbers)}; "
            f"expected one number for each channel{' above 0' * (name == 'std')}."
        )
    return list(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def resizing(values: Mapping[str, Any], is_sized: bool = False) -> dict[str, Any]:
    """{"size", "shortest", "resample"} of `data.Preprocess`, {} without resizing.

    Args:
      values: as `settings` returns them.
      is_sized: whether only "resample" is wanted.

    Raises:
      UserError: sizes that are not understood, images of different sizes, a cut larger
        than the image.
    """
    path = values["path"]
    if not values["do_resize"]:
        if values["do_center_crop"] and not is_sized:
            raise UserError(
                f"{path}: do_center_crop without do_resize is not supported; bring the "
                "images to one size, or give data size=."
            )
        return {}
    code = values["resample"]
    if code not in _FILTERS:
        raise UserError(
            f"{path}: resample is {key_table.shown(code)}; expected a code of PIL from "
            "0 (nearest) to 5 (hamming)."
        )
    frame = {} if is_sized else _frame(values)
    return {**frame, "resample": None if code == 2 else _FILTERS[code]}


def _frame(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"size", "shortest"}: the window, and the image that it is cut out of."""
    path = values["path"]
    is_edge_default = values["kind"] in ("ConvNext", "CLIP", "Bit", "MobileNetV2")
    height, width, is_edge = _sides(values["size"], "size", path, is_edge_default)
    if values["kind"] == "ConvNext":  # it cuts out of a larger image below 384
        share = values["crop_pct"] if height < 384 else None
        shortest = int(height / share) if share else None
        return {"size": (height, height), "shortest": shortest}
    if not values["do_center_crop"]:
        if is_edge:
            raise UserError(
                f"{path}: size {key_table.shown(values['size'])} without "
                "do_center_crop gives images of different sizes, which a batch can't "
                "hold: give data size=."
            )
        return {"size": (height, width), "shortest": None}
    crop = _sides(values.get("crop_size", values["size"]), "crop_size", path, False)[:2]
    if crop[0] > height or crop[1] > width:
        raise UserError(
            f"{path}: crop_size {list(crop)} is larger than size {[height, width]}, "
            "which would add black borders; expected at most the size."
        )
    return {"size": crop, "shortest": height if is_edge else (height, width)}


def _sides(
    size: Any, key: str, path: object, is_edge_default: bool
) -> tuple[int, int, bool]:
    """(height, width, whether they are the shorter side's) of any form of a size."""
    if isinstance(size, list | tuple) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if isinstance(size, int) and not isinstance(size, bool):
        name = "shortest_edge" if is_edge_default else None
        size = {name: size} if name else {"height": size, "width": size}
    names = set(size) if isinstance(size, dict) else set()
    is_edge = names == {"shortest_edge"}
    sides = [size[n] for n in sorted(names)] * (2 if is_edge else 1) if names else []
    if not (is_edge or names == {"height", "width"}) or not all(
        isinstance(v, int) and v > 0 for v in sides
    ):
        raise UserError(
            f"{path}: {key} is {key_table.shown(size)}; expected a number of pixels, "
            '{"height", "width"} or {"shortest_edge"}.'
        )
    return sides[0], sides[1], is_edge
