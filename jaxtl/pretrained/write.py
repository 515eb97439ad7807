"""Writing of models in the layouts of other libraries, for them to load."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence

from jaxtl.core.errors import UserError
from jaxtl.core.types import PyTree
from jaxtl.models.staged import Staged, check_option
from jaxtl.pretrained import convert, tensor_files

# Files of a Hugging Face directory beside its weights and its configuration.
_COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "generation_config.json",
)


def write_file(
    path: str | pathlib.Path,
    model: Staged,
    params: PyTree,
    stats: PyTree = None,
    layout: str | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> pathlib.Path:
    """Writes a safetensors file in a layout of the model's family.

    Args:
      path: ends in ".safetensors".
      model: the model.
      params, stats: its parameters and statistics.
      layout: by name; None takes the family's usual one.
      names: "output_names" and "feature_names", for the header, so that `FromFile`
        can match them.

    Raises:
      UserError: the family has no layout, or none of that name; a leaf that the layout
        has no tensor for, or the reverse.
    """
    layouts = model.layouts()
    if not layouts:
        raise UserError(f"{type(model).__name__} has no layout of another library.")
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
    architecture: str | None = None,
    class_names: tuple[str, ...] | None = None,
) -> pathlib.Path:
    """Writes a directory that transformers opens.

    Args:
      folder: the directory, created if it is missing.
      model, params, stats: as in `write_file`.
      like: the Hugging Face directory of the pre-trained model; its configuration and
        tokenizer are copied.
      architecture: name of the class in transformers ("BertForSequenceClassification")
        if the head is of another kind than in `like`.
      class_names: of the head's outputs; None numbers them.
    """
    folder, like = pathlib.Path(folder), pathlib.Path(like)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "model.safetensors", model, params, stats, "hf")
    config = json.loads((like / "config.json").read_text())
    if architecture is not None:
        config["architectures"] = [architecture]
    names = class_names or tuple(f"LABEL_{i}" for i in range(model.outputs or 0))
    if names:
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in _COPIED_FILES:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    return folder
