"""Writing of adapters as folders of Hugging Face PEFT."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.core import atomic
from jaxtl.core.errors import UserError, nearest
from jaxtl.core.types import PyTree
from jaxtl.models.staged import Staged
from jaxtl.models.weight_layout import TRANSFORMS, WeightLayout
from jaxtl.peft import adapted_leaves, base
from jaxtl.pretrained import hf_peft_codecs, hf_peft_layout, tensor_files, write
from jaxtl.pretrained.hf_peft_layout import (
    CONFIG,
    INNER,
    OUTER,
    WEIGHTS,
    AdaptedModule,
)


def save_adapter(
    folder: str | pathlib.Path,
    peft: base.Reparametrization,
    delta: PyTree,
    constants: PyTree,
    params: PyTree,
    model: Staged,
    saved: tuple[str, ...] = ("head",),
    *,
    of: str | None = None,
    output_names: tuple[str, ...] = (),
) -> pathlib.Path:
    """Writes a folder that `peft.PeftModel.from_pretrained(base, folder)` opens.

    Args:
      folder: where to; created if missing.
      peft: the method.
      delta, constants: its δ and constants.
      params: base or merged parameters, of which the saved stages are written.
      model: the model that they are of; it needs a layout "hf".
      saved: stages that were trained whole, written beside the adapters.
      of: name or folder of the base, for PEFT's configuration.
      output_names: names of the head's outputs, for the header of the tensors.

    Raises:
      UserError: the folder is not empty; PEFT has no such method, or no module for a
        leaf; a stage is saved and adapted at once.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten.")
    layout = hf_peft_layout.hf_layout(model)
    codec = hf_peft_codecs.codec_of(peft)
    modules = {m.path: m for m in hf_peft_layout.adaptable_modules(layout)}
    targets = peft.targets(params)
    _check_targets(targets, modules, saved, model)
    hf_peft_layout.check_tied_tables(targets, layout, "peft")
    tensors = {OUTER + name: x for name, x in codec.shared(constants).items()}
    adapted = {}
    for path, leaf in targets.items():
        module = modules[path]
        leaf_delta = jax.tree.map(np.asarray, adapted_leaves.subtree(delta, path))
        parts = codec.write(leaf_delta, module, tuple(leaf.shape))
        for name in hf_peft_layout.names_in_models(module.name, layout):
            tensors |= {f"{INNER}{name}.{n}": x for n, x in parts.items()}
            adapted[name] = module._replace(name=name), leaf_delta
    whole = _whole_tensors(params, layout, saved)
    tensors |= {f"{INNER}{name}": x for name, x in whole.items()}
    config = _adapter_config(peft, codec, adapted, whole, of)
    header = {"format": "pt", **write.header_names({"output_names": output_names})}
    with atomic.folder(folder) as draft:
        tensor_files.write(draft / WEIGHTS, tensors, header)
        (draft / CONFIG).write_text(json.dumps(config, indent=2))
    return folder


def _adapter_config(
    peft: base.Reparametrization,
    codec: hf_peft_codecs.AdapterCodec,
    adapted: Mapping[str, tuple[AdaptedModule, Any]],
    whole: Iterable[str],
    of: str | None,
) -> dict[str, Any]:
    """The content of adapter_config.json.

    Args:
      peft, codec: the method and its codec.
      adapted: {name: (module, δ)}.
      whole: names of the tensors that are saved whole.
      of: name or folder of the base.
    """
    whole_modules = dict.fromkeys(name.rpartition(".")[0] for name in whole)
    return {
        "peft_type": codec.kind,
        "task_type": None,
        "base_model_name_or_path": of,
        "inference_mode": True,
        "target_modules": [module.name for module, _ in adapted.values()],
        "modules_to_save": list(whole_modules) or None,
        "fan_in_fan_out": any(m.kind == "conv1d" for m, _ in adapted.values()),
        **codec.config(peft, adapted),
    }


def _check_targets(
    targets: Iterable[str],
    modules: Mapping[str, AdaptedModule],
    saved: tuple[str, ...],
    model: Staged,
) -> None:
    """Raises UserError where PEFT can't hold a leaf."""
    for path in targets:
        if path not in modules:
            raise UserError(
                f"peft: transformers' layout of {type(model).__name__} has no module "
                f"for {path!r}{nearest(path, modules)}."
            )
        stage = path.split("/")[0]
        if stage in saved:
            raise UserError(
                f"peft: the stage {stage!r} is adapted ({path!r}) and to be saved "
                "whole, but in PEFT a module can be only one of both."
            )


def _whole_tensors(
    params: PyTree, layout: WeightLayout, saved: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The tensors of the stages that are saved whole, by their names in the file."""
    stages = {rule.path.split("/")[0] for rule in layout.rules}
    for stage in saved:
        if stage not in stages | {"head"}:
            raise UserError(
                f"saved={stage!r} is no stage with a layout{nearest(stage, stages)}."
            )
    tensors = {}
    for rule in layout.rules:
        leaf = adapted_leaves.subtree(params, rule.path)
        if rule.path.split("/")[0] not in saved or leaf is None:
            continue
        hf_peft_layout.check_tied_tables([rule.path], layout, "saved=")
        if not rule.source.endswith((".weight", ".bias")):
            raise UserError(
                f"saved: {rule.source!r} is no module's weight or bias, and PEFT saves "
                "modules."
            )
        module = rule.source.rpartition(".")[0]
        if any(name.startswith(f"{module}.") for name in layout.copies):
            raise UserError(
                f"saved={rule.path.split('/')[0]!r}: the module {module!r} has the "
                "table of the embeddings as its own weight, and PEFT would look for it "
                "in the folder; train adapters alone (freeze the head)."
            )
        tensor = TRANSFORMS[rule.transform][1](np.asarray(leaf))
        names = hf_peft_layout.names_in_models(rule.source, layout)
        tensors |= dict.fromkeys(names, tensor)
    return tensors
