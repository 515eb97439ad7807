"""Model directories in Hugging Face's form, local or downloaded from the hub."""

import json
import pathlib
import re
from typing import Any

from jaxtl.core import text_files
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.key_table import KeyTable, flag
from jaxtl.data import paths, tokenizer_settings
from jaxtl.data.tokenizer import VOCABULARIES, Tokenizer
from jaxtl.pretrained import image_processor

_PREFIX = "hf:"
_REPOSITORY = re.compile(r"\w[\w.\-]*/\w[\w.\-]*")
# Weights of other frameworks are not downloaded, and pickles only in the absence of
# safetensors.
_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*_Pooling/*", "*_Dense/*"]
# Keys of 1_Pooling/config.json -> the pooling of `models.Bert`.
POOLING_MODES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
POOLING = KeyTable(
    "1_Pooling/config.json",
    honored=(*POOLING_MODES, "pooling_mode"),
    harmless={
        "the model's width decides": ("word_embedding_dimension", "embedding_dimension")
    },
    only={"include_prompt": (True,)},
)
_MODULES = ("Transformer", "Pooling", "Normalize")
# Keys of 2_Dense/config.json, whose map follows the pooling.
DENSE = KeyTable(
    "2_Dense/config.json",
    honored=("in_features", "out_features", "bias", "activation_function"),
    harmless={"initial values, which the file replaces": ("init_weight", "init_bias")},
    only={
        "module_input_name": ("sentence_embedding",),
        "module_output_name": ("sentence_embedding",),
    },
)
# The classes of torch of its activation -> their names here.
_DENSE_ACTIVATIONS = {
    "Tanh": "tanh",
    "Identity": "identity",
    "ReLU": "relu",
    "GELU": "gelu_exact",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "ELU": "elu",
}
_TORCH_MODULES = {"identity": "linear"}  # of activations; others are in "activation"
SIMILARITY = "config_sentence_transformers.json"
PROCESSOR = "processor_config.json"
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def model_directory(where: str, revision: str | None = None) -> pathlib.Path:
    """The directory of a model, downloaded first if it is "hf:owner/name".

    Args:
      where: a local directory, or "hf:owner/name"; "owner/name" is of the hub where
        there is no such directory.
      revision: branch, tag or commit of a model of the hub.

    Raises:
      UserError: no such directory or model, no network, no huggingface_hub.
    """
    if where.startswith(_PREFIX):
        return _download(where.removeprefix(_PREFIX), revision)
    is_local = any(place.exists() for place in paths.candidates(where))
    if not is_local and _REPOSITORY.fullmatch(where):
        return _download(where, revision)
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


def pooling(path: pathlib.Path) -> dict[str, Any]:
    """{"pooling"} and {"normalize"} of a sentence encoder's modules, {} of others.

    Raises:
      UserError: a module or a kind of pooling that is not supported.
    """
    return _pooling(path, _modules(path), _MODULES)


def bi_encoder(path: pathlib.Path) -> dict[str, Any]:
    """The fields of `models.BiEncoder` that a sentence encoder's modules say.

    Raises:
      UserError: a module, an order of modules or a setting that is not supported.
    """
    modules = _modules(path)
    fields = _pooling(path, modules, (*_MODULES, "Dense"))
    kinds = [kind for kind, _ in modules]
    order = sorted(kinds, key=("Transformer", "Pooling", "Dense", "Normalize").index)
    if kinds != order or len(set(kinds)) < len(kinds):
        raise UserError(
            f"{path / 'modules.json'}: the modules {', '.join(kinds)} are not "
            "supported; expected one Transformer, Pooling, Dense and Normalize each, "
            "in this order, of which the last two may be missing."
        )
    named = _read_json(path, SIMILARITY).get("similarity_fn_name")
    if named not in (None, "cosine"):
        raise UserError(
            f"{path / SIMILARITY}: similarity_fn_name {named!r} is not supported; a "
            "bi-encoder compares texts by their 'cosine'."
        )
    folder = _dense_folder(path, modules)
    return {**fields, **(_dense(folder) if folder is not None else {})}


def dense_folder(path: pathlib.Path) -> pathlib.Path | None:
    """The folder of the map behind a sentence encoder's pooling, None without one."""
    return _dense_folder(path, _modules(path))


def _dense_folder(
    path: pathlib.Path, modules: list[tuple[str, str]]
) -> pathlib.Path | None:
    places = [place for kind, place in modules if kind == "Dense"]
    return path / places[0] if places else None


def _dense(folder: pathlib.Path) -> dict[str, Any]:
    """The fields of `models.BiEncoder` of a Dense module."""
    content, file = _read_json(folder, "config.json", True), folder / "config.json"
    DENSE.check(content, file)
    width, named = content.get("out_features"), content.get("activation_function")
    name = "Tanh" if named is None else str(named).rpartition(".")[2].rstrip("()")
    has_bias = flag(content, "bias", file)
    if not isinstance(width, int) or width < 1:
        raise UserError(f"{file}: out_features is {width!r}; expected a width.")
    if name not in _DENSE_ACTIVATIONS:
        raise UserError(
            f"{file}: activation_function is {named!r}; expected "
            f"{', '.join(_DENSE_ACTIVATIONS)}{nearest(name, _DENSE_ACTIVATIONS)}."
        )
    return {
        "dense_width": width,
        "dense_activation": _DENSE_ACTIVATIONS[name],
        "dense_bias": has_bias is not False,
    }


def torch_activation(name: str) -> str:
    """The class of torch of a Dense module's activation.

    Raises:
      UserError: an activation that such a module does not have.
    """
    classes = {ours: theirs for theirs, ours in _DENSE_ACTIVATIONS.items()}
    if name not in classes:
        raise UserError(
            f"dense_activation={name!r} is none that a directory of "
            f"sentence-transformers names{nearest(name, classes)} (these are "
            f"{', '.join(classes)}); write a .safetensors file."
        )
    module = _TORCH_MODULES.get(name, "activation")
    return f"torch.nn.modules.{module}.{classes[name]}"


def _modules(path: pathlib.Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module of a sentence encoder, [] of others."""
    return [
        (str(module.get("type", "")).rpartition(".")[2], str(module.get("path") or ""))
        for module in _read_list(path, "modules.json")
    ]


def _pooling(
    path: pathlib.Path, modules: list[tuple[str, str]], supported: tuple[str, ...]
) -> dict[str, Any]:
    """`pooling` of these modules, where such kinds are supported."""
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in supported:
            raise UserError(
                f"{path / 'modules.json'}: the module {kind!r} of the sentence encoder "
                f"is not supported{nearest(kind, supported)} (supported: "
                f"{', '.join(supported)})."
            )
    fields = {"normalize": True} if "Normalize" in kinds else {}
    places = [place for kind, place in modules if kind == "Pooling"]
    name = f"{places[0] or '1_Pooling'}/config.json" if places else POOLING.file
    content, file = _read_json(path, name, required=bool(places)), path / name
    POOLING.check(content, file)
    modes = [mode for key, mode in POOLING_MODES.items() if content.get(key)]
    if content.get("pooling_mode") is not None:  # the form of newer versions
        named = content["pooling_mode"]
        named = [named] if isinstance(named, str) else list(named)
        modes = [POOLING_MODES.get(f"pooling_mode_{m}", m) for m in named]
        modes = [{"cls": "first", "lasttoken": "last"}.get(m, m) for m in modes]
    if len(modes) > 1 or not set(modes) <= set(POOLING_MODES.values()):
        raise UserError(
            f"{file}: the pooling {', '.join(modes)} is not supported; expected one of "
            f"{', '.join(POOLING_MODES.values())}."
        )
    return {**fields, **({"pooling": modes[0]} if modes else {})}


def padding(path: pathlib.Path) -> int | None:
    """The id of padding of the directory's tokenizer, None where that names none."""
    if not any((path / name).is_file() for name in VOCABULARIES):
        return None
    try:
        named = tokenizer_settings.read_settings(path).special.get("pad_token")
        return None if named is None else Tokenizer(str(path)).pad_id
    except UserError:  # said where texts are read by it
        return None


def image_file(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """The file of a directory's image processor, and its content, {} for none.

    transformers 5 writes it into processor_config.json, where a tokenizer belongs to
    it; that counts where there is a preprocessor_config.json as well.
    """
    inner = _read_json(path, PROCESSOR).get("image_processor")
    if isinstance(inner, dict):
        return path / PROCESSOR, inner
    return path / image_processor.FILE, _read_json(path, image_processor.FILE)


def has_image_settings(path: pathlib.Path) -> bool:
    """Whether the directory has the settings of an image processor."""
    return bool(_image_settings(path))


def image_normalization(path: pathlib.Path) -> dict[str, Any]:
    """{"mean", "std"} of the directory's image processor, {} if it has none."""
    values = _image_settings(path)
    return image_processor.normalization(values) if values else {}


def image_resizing(path: pathlib.Path, is_sized: bool = False) -> dict[str, Any]:
    """{"size", "shortest", "resample"} of the image processor, {} if it has none.

    The fields are those of `data.Preprocess`.

    Args:
      path: the directory.
      is_sized: whether the data have a size of their own, so that only "resample"
        counts.
    """
    values = _image_settings(path)
    return image_processor.resizing(values, is_sized) if values else {}


def timm_settings(path: pathlib.Path) -> dict[str, Any]:
    """{"architecture", "normalization"} of the config.json that timm writes, else {}.

    Args:
      path: of the directory, or of a file in it.

    Raises:
      UserError: a mean or a deviation that is no list of numbers.
    """
    folder = path if path.is_dir() else path.parent
    content = _read_json(folder, "config.json")
    if not isinstance(content.get("architecture"), str) or "model_type" in content:
        return {}
    normalization = {}
    for name, value in (content.get("pretrained_cfg") or {}).items():
        if name in ("mean", "std"):
            is_list = isinstance(value, list) and all(
                isinstance(v, int | float) for v in value
            )
            if not is_list:
                raise UserError(
                    f"{folder / 'config.json'}: {name} is {value!r}; expected one "
                    "number for each channel."
                )
            normalization[name] = tuple(value)
    return {"architecture": content["architecture"], "normalization": normalization}


def _image_settings(path: pathlib.Path) -> dict[str, Any]:
    """The settings of the directory's image processor, {} where there is none."""
    file, content = image_file(path)
    if not content:
        return {}
    kind = _read_json(path, "config.json").get("model_type")
    return image_processor.settings(content, kind, file)


def _read_list(path: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """The list of objects in a file of the directory, [] where there is none."""
    content = _json(path / name) if (path / name).is_file() else []
    return [entry for entry in content if isinstance(entry, dict)]


def _read_json(path: pathlib.Path, name: str, required: bool = False) -> dict[str, Any]:
    """The content of a file of the directory, {} if it is missing and not required."""
    file = path / name
    if not file.is_file():
        if required:
            raise UserError(
                f"the directory {str(path)!r} has no {name}, which describes the model."
            )
        return {}
    content = _json(file)
    return content if isinstance(content, dict) else {}


def _json(file: pathlib.Path) -> Any:
    try:
        return json.loads(text_files.read_text(file, owner="pretrained.FromHub"))
    except json.JSONDecodeError as error:
        raise UserError(f"{str(file)!r} is no JSON: {error}.") from None
