"""Writes a model back in the layout it came in, for torch and transformers to load."""

import json
import pathlib
import shutil

from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.pretrained import convert, tensor_files

# What a Hugging Face directory holds beside its weights and its configuration.
BESIDE = (
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
    path, model, params: PyTree, stats: PyTree = None, layout: str | None = None
) -> pathlib.Path:
    """Writes a safetensors file in a layout of the model's family.

    Args:
      path: ends in ".safetensors".
      model: the module that the trees are of.
      params, stats: its parameters and statistics.
      layout: by name; None takes the family's usual one.
    """
    layouts = model.layouts()
    if not layouts:
        raise UserError(f"{type(model).__name__} has no layout of another library.")
    layout = layout or next(iter(layouts))
    if layout not in layouts:
        raise UserError(
            f"layout={layout!r} is unknown{nearest(layout, layouts)} "
            f"(known: {', '.join(layouts)})."
        )
    tensors = convert.to_tensors(params, stats or {}, layouts[layout])
    # transformers loads only files that say which framework's layout they have.
    tensor_files.write(path, tensors, {"format": "pt"})
    return pathlib.Path(path)


def write_directory(
    folder,
    model,
    params: PyTree,
    stats: PyTree = None,
    *,
    like,
    architecture: str | None = None,
    class_names: tuple[str, ...] | None = None,
) -> pathlib.Path:
    """Writes a directory that transformers opens.

    Args:
      folder: where to; made if missing.
      model, params, stats: as in `write_file`.
      like: the Hugging Face directory that the model came from; its configuration and
        tokenizer are taken over.
      architecture: class of transformers that the head is of, where that changed
        ("BertForSequenceClassification").
      class_names: of the head's outputs, None for the number alone.
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
    for name in BESIDE:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    return folder
