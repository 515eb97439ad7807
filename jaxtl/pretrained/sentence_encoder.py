"""The modules of sentence-transformers behind an encoder, as files of its directory."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxtl.core import atomic
from jaxtl.core.types import PyTree
from jaxtl.models import weight_layout
from jaxtl.models.bi_encoder import POOLING, BiEncoder
from jaxtl.pretrained import convert, hf_config, hub, registry, tensor_files

_MODULES = "sentence_transformers.models"


def config(base: Mapping[str, Any], model: BiEncoder, params: PyTree) -> dict[str, Any]:
    """The content of config.json of the encoder without a head.

    Args:
      base: of the pre-trained model's directory.
      model: whose encoder it is.
      params: its parameters.
    """
    content = hf_config.write_config(base, model.body, params, None)
    kind = registry.config_table(content["model_type"])
    heads = ("id2label", "label2id", "problem_type")
    encoder = {name: value for name, value in content.items() if name not in heads}
    return {**encoder, "architectures": [f"{kind.stem}Model"]}


def write_modules(
    folder: pathlib.Path, model: BiEncoder, params: PyTree, max_length: int | None
) -> None:
    """Writes modules.json and the modules behind the encoder.

    Args:
      folder: of the encoder.
      model: its pooling, map and normalization.
      params: its parameters.
      max_length: most tokens of a text; None leaves it to the tokenizer.
    """
    kinds = ["Transformer", "Pooling"]
    kinds += ["Dense"] * (model.dense_width is not None)
    kinds += ["Normalize"] * model.normalize
    places = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": f"{_MODULES}.{kind}"}
        for i, (kind, place) in enumerate(zip(kinds, places))
    ]
    _write(folder / "modules.json", modules)
    encoding = {"prompts": {}, "default_prompt_name": None}
    _write(folder / hub.SIMILARITY, {**encoding, "similarity_fn_name": "cosine"})
    if max_length is not None:
        lengths = {"max_seq_length": max_length, "do_lower_case": False}
        _write(folder / "sentence_bert_config.json", lengths)
    modes = {key: mode == model.pooling for key, mode in hub.POOLING_MODES.items()}
    width = model.body.width
    pooling = {"word_embedding_dimension": width, **modes, "include_prompt": True}
    _write(folder / places[1] / "config.json", pooling)
    if model.dense_width is None:
        return
    rules = weight_layout.linear("linear", f"{POOLING}/dense", model.dense_bias)
    layout = weight_layout.WeightLayout(tuple(rules))
    tensors = convert.to_tensors({POOLING: params[POOLING]}, {}, layout)
    place = folder / places[2]
    settings = {
        "in_features": width,
        "out_features": model.dense_width,
        "bias": model.dense_bias,
        "activation_function": hub.torch_activation(model.dense_activation),
    }
    _write(place / "config.json", settings)
    tensor_files.write(place / "model.safetensors", tensors, {"format": "pt"})


def _write(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(content, indent=2) + "\n")
