"""Writing of models in the layouts of other libraries, for them to load."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.core import atomic, text_files
from jaxtl.core import tree as trees
from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.data.preprocess import Preprocess
from jaxtl.data.tokenizer import TOKENIZER_FILES, Tokenizer
from jaxtl.models.bi_encoder import POOLING, BiEncoder
from jaxtl.models.staged import Staged, check_option
from jaxtl.pretrained import (
    convert,
    hf_config,
    hf_inputs,
    hub,
    sentence_encoder,
    tensor_files,
)

_HEAD_BIASES = ("head/dense/bias", "head/distilled/bias")  # of maps that are averaged


def write_file(
    path: str | pathlib.Path,
    model: Staged,
    params: PyTree,
    stats: PyTree = None,
    layout: str | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> pathlib.Path:
    """Writes a safetensors file in a layout of the model's family.

    `layouts()` of the family documents the names and shapes.

    Args:
      path: ends in ".safetensors".
      model: the model.
      params, stats: its parameters and statistics.
      layout: by name; None takes the family's usual one.
      names: "output_names" and "feature_names", for the header, so that `FromFile`
        can match them.

    Returns:
      `path` as a path.

    Raises:
      UserError: the family has no layout, or none of that name; a leaf that the layout
        has no tensor for, or the reverse.
    """
    layouts = model.layouts()
    if not layouts:
        raise UserError(
            f"no names of tensors are laid down for {type(model).__name__}: define its "
            "layouts(), as the models of tl.models do."
        )
    layout = layout or next(iter(layouts))
    check_option("layout", layout, tuple(layouts))
    tensors = convert.to_tensors(params, stats or {}, layouts[layout])
    # transformers loads only files that name the framework of their layout.
    tensor_files.write(path, tensors, {"format": "pt", **header_names(names or {})})
    return pathlib.Path(path)


def header_names(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The entries of a tensor file's header that `TensorFile.names` reads."""
    return {key: json.dumps(list(value)) for key, value in names.items() if value}


def write_directory(
    folder: str | pathlib.Path,
    model: Staged,
    params: PyTree,
    stats: PyTree = None,
    *,
    like: str | pathlib.Path,
    class_names: tuple[str, ...] | None = None,
    task: str | None = None,
    preprocess: Preprocess | None = None,
    tokenizer: Tokenizer | None = None,
    card: str = "",
) -> pathlib.Path:
    """Writes a directory that transformers opens and computes the same with.

    That of a bi-encoder has the modules of sentence-transformers as well.

    Args:
      folder: the directory, created if it is missing.
      model, params, stats: as in `write_file`.
      like: the Hugging Face directory of the pre-trained model. Its config.json is
        taken with what the model, its parameters and the task say otherwise.
      class_names: of the head's outputs; None numbers them.
      task: of the data; None leaves it to the number of outputs.
      preprocess: of the run; None takes the image processor of `like`.
      tokenizer: of texts; None copies the files of `like`.
      card: text of README.md; "" writes none.

    Returns:
      `folder` as a path.

    Raises:
      UserError: a model that config.json can't describe, so that transformers would
        compute something else.
    """
    folder, like = pathlib.Path(folder), pathlib.Path(like)
    base = text_files.read_json(like / "config.json")
    params = _with_target_offset(params, preprocess)
    compared = model if isinstance(model, BiEncoder) else None
    if compared is None:
        config = hf_config.write_config(base, model, params, task, class_names or ())
    else:
        config = sentence_encoder.config(base, compared, params)
        model = compared.clone(dense_width=None)  # its map is a module of its own
    files: dict[str, dict[str, Any]] = {"config.json": config}
    copied: tuple[str, ...] = ()
    is_image = bool(model.layouts()["hf"].stem)
    if is_image and preprocess is not None:
        files["preprocessor_config.json"] = hf_inputs.image_processor(preprocess)
    elif is_image and (settings := hub.image_file(like)[1]):
        files["preprocessor_config.json"] = settings
    reads_texts = not is_image or getattr(model, "predict", None) == "pair"
    if reads_texts and tokenizer is None:
        copied += TOKENIZER_FILES
    elif reads_texts:
        segments = config.get("type_vocab_size", 1) > 1
        files |= hf_inputs.tokenizer_files(tokenizer, like, segments)
    if getattr(model, "predict", None) == "next":
        files["generation_config.json"] = hf_inputs.generation(config)
    folder.mkdir(parents=True, exist_ok=True)
    if compared is not None:
        length = None if tokenizer is None else tokenizer.max_length
        sentence_encoder.write_modules(folder, compared, params, length)
        params = {stage: x for stage, x in params.items() if stage != POOLING}
    write_file(folder / "model.safetensors", model, params, stats, "hf")
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        atomic.write_text(folder / name, text + "\n")
    for name in copied:
        if (like / name).is_file():
            atomic.write_bytes(folder / name, (like / name).read_bytes())
    if card:
        atomic.write_text(folder / "README.md", card)
    return folder


def _with_target_offset(params: PyTree, preprocess: Preprocess | None) -> PyTree:
    """Parameters whose head adds what regression targets were stored without.

    Raises:
      UserError: a head without a bias.
    """
    offset = getattr(preprocess, "target_offset", None)
    if offset is None:
        return params
    leaves = trees.flatten(params)
    biases = [path for path in _HEAD_BIASES if path in leaves]
    if not biases:
        raise UserError(
            f"the targets were stored less {list(offset)}, which a head "
            "without a bias can't add; write a .safetensors file."
        )
    for path in biases:
        bias = np.asarray(leaves[path])
        leaves[path] = (bias + np.asarray(offset)).astype(bias.dtype)
    return trees.nested(leaves)
