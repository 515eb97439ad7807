"""The model card of an exported model: its origin, data, metrics and usage.

References:
  Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.core import serialization
from jaxtl.data.dataset import MULTITASK
from jaxtl.export import bundle
from jaxtl.export.predictor import SINGLE_INPUT


def markdown(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    """Writes the card as Markdown.

    Args:
      metadata: content of export.json.
      history: how the model was trained: "experiment" (as in experiment.json),
        "loaded" (rows of loaded.json), "result" (result.json, {} for an unfinished
        run), "metrics" ({split: metrics}), "examples" ({split: count}), "step",
        "chosen" (whether by a metric on val), "parameters" (count), "example" (the
        origin of the stored example).
    """
    parts = [
        _title(metadata, history),
        _model(metadata, history),
        _data(metadata, history),
        _metrics(history),
        _usage(metadata),
        _files(metadata, history),
        _versions(metadata, history),
    ]
    return "\n\n".join(parts) + "\n"


def _as_call(value: Any) -> str:
    """A stored configuration as a Python call, `CNN(widths=(8, 16), units=32)`.

    Empty fields are left out, and the folders of absolute paths.
    """
    if isinstance(value, Mapping):
        if value.get("type") == "map":
            items = (f"{k}: {_as_call(v)}" for k, v in serialization.map_items(value))
            return "{" + ", ".join(items) + "}"
        if value.get("type") in ("object", "named", "array"):
            return str(value.get("name", f"array of shape {value.get('shape')}"))
        fields = {k: v for k, v in value.items() if k != "type" and not _is_empty(v)}
        name = str(value.get("type")).rpartition(":")[2]
        arguments = ", ".join(f"{k}={_as_call(v)}" for k, v in fields.items())
        return name if name == "FROZEN" else f"{name}({arguments})"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_as_call, value)) + ")"
    if isinstance(value, str) and pathlib.PurePath(value).is_absolute():
        value = pathlib.PurePath(value).name
    return repr(value)


def _is_empty(value: Any) -> bool:
    is_empty_map = isinstance(value, Mapping) and value.get("items") == []
    return value is None or value == "" or value == [] or is_empty_map


def _class_name(value: Any) -> str:
    """Name of the class or function of a stored configuration."""
    path = value.get("name", value.get("type", "")) if isinstance(value, dict) else ""
    return str(path).rpartition(":")[2] or "model"


def _title(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    experiment, licence = history["experiment"], metadata["licence"]
    model, data = _class_name(experiment["model"]), _class_name(experiment["data"])
    # Any JSON string is a YAML string, whatever characters the license has.
    front_matter = f"---\nlicense: {json.dumps(licence)}\nlibrary_name: jaxtl\n---"
    return f"{front_matter}\n\n# {model} on {data}\n\nLicense: {licence}."


def _model(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    experiment, result = history["experiment"], history["result"]
    counts = Counter(row["status"] for row in history["loaded"])
    origin = "random initial weights (no pre-training)"
    if experiment["init"] is not None:
        tensors = ", ".join(f"{n} {status}" for status, n in counts.items())
        origin = f"`{_as_call(experiment['init'])}`; tensors: {tensors or 'unknown'}"
    lines = [
        f"- Task: {metadata['task']}, {metadata['outputs'][-1]} outputs.",
        f"- Model: `{_as_call(experiment['model'])}`, {history['parameters']:,} "
        f"parameters, computed in {experiment['dtype']}.",
        f"- Source of the weights: {origin}.",
        f"- Loss: `{_as_call(experiment['terms'])}`"
        if not _is_empty(experiment["terms"])
        else "- Loss: the task's own.",
        f"- Optimizer: `{_as_call(experiment['optim'])}`.",
        f"- Checkpoint: step {history['step']}, seed {experiment['seed']}"
        + (f", best {result['monitor']} on val." if result.get("monitor") else "."),
    ]
    return "## Model\n\n" + "\n".join(lines)


def _data(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {n:,}" for name, n in history["examples"].items())
    names = metadata["class_names"]
    shown = ", ".join(names[:50]) + (f", … ({len(names)} in all)" * (len(names) > 50))
    inputs = "; ".join(
        f"`{name}` {tuple(spec['shape'])} {spec['dtype']}"
        for name, spec in metadata["inputs"].items()
    )
    lines = [
        f"- Data: `{_as_call(history['experiment']['data'])}`.",
        f"- Examples: {sizes or 'unknown'}.",
        f"- Classes: {shown}." if names else f"- Targets: {_targets(metadata)}.",
        f"- One example, as stored: {inputs}.",
        f"- Preprocessing, inside the program: `{json.dumps(metadata['preprocess'])}`.",
    ]
    return "## Data\n\n" + "\n".join(lines)


def _targets(metadata: Mapping[str, Any]) -> str:
    """What a model without classes predicts."""
    if "answers" not in metadata:
        return "numbers"
    settings = metadata["answers"]
    lacking = "questions may lack an answer" * settings["may_lack_answers"]
    return (
        f"spans of a context, at most {settings['max_answer_length']} tokens long"
        f"{'; ' * bool(lacking)}{lacking}. Windows of long contexts share "
        f"{settings['stride']} tokens"
    )


def _metrics(history: Mapping[str, Any]) -> str:
    metrics_of = history["metrics"]
    if not metrics_of:
        return "## Metrics\n\nNone were measured."
    names = list(dict.fromkeys(name for m in metrics_of.values() for name in m))
    lines = [
        "| split | n | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for split, metrics in metrics_of.items():
        cells = [f"{metrics[n]:.4f}" if n in metrics else "–" for n in names]
        count = history["examples"].get(split, "unknown")
        lines.append(f"| {split} | {count} | " + " | ".join(cells) + " |")
    if "val" in metrics_of and history["chosen"]:
        note = "The checkpoint was chosen on val, so its metrics on val are optimistic."
        lines += ["", note]
    if not history["result"]:
        lines += ["", "The run had not finished when it was exported."]
    return "## Metrics\n\n" + "\n".join(lines)


def _usage(metadata: Mapping[str, Any]) -> str:
    arrays = ", ".join(f'"{name}": {name}' for name in metadata["inputs"])
    is_single = list(metadata["inputs"]) == [SINGLE_INPUT]
    argument = SINGLE_INPUT if is_single else f"{{{arrays}}}"
    has_outputs = metadata["task"] in ("regression", MULTITASK)
    output = "outputs" if has_outputs else "probabilities"
    of_files = ""
    if "answers" in metadata:
        of_files = """

Answers to the questions of a file, with text and score:

    from jaxtl.export.predict import predict
    answers = predict("THIS_FOLDER", "questions.json")"""
    offsets = [k for k in ("offset", "target_offset") if k in metadata["preprocess"]]
    note = (
        "\n\nThe program itself takes values from which the preprocessing's `offset` "
        "is subtracted in 64 bits; its `target_offset` is to be added to the outputs."
    )
    return f"""## How to predict

On the command line, with files that are images, arrays, tables, texts or questions:

    jaxtl predict THIS_FOLDER FILE…

In Python (the stored example is checked first):

    from jaxtl.export.bundle import load
    predictor = load("THIS_FOLDER")
    {output} = predictor({argument}){of_files}

With jax and safetensors alone:

    import jax.export
    from safetensors.numpy import load_file
    program = jax.export.deserialize(open("{bundle.PROGRAM}", "rb").read())
    weights = load_file("{bundle.WEIGHTS}")
    {output} = program.call(weights, {{{arrays}}})["{output}"]

Inputs have a leading batch axis of any length and the stored dtype and units; do not
scale them.{note if offsets else ""}"""


def _files(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    platforms = ", ".join(metadata["platforms"])
    return f"""## Files

- `{bundle.PROGRAM}`: the program, for {platforms}.
- `{bundle.WEIGHTS}`: its weights.
- `{bundle.EXAMPLE}`: an input ({history["example"]}) and the outputs it must give.
- `{bundle.METADATA}`: task, classes, inputs and checksums, for programs."""


def _versions(metadata: Mapping[str, Any], history: Mapping[str, Any]) -> str:
    exported, trained = metadata["versions"], history["result"].get("versions")
    lines = [f"- Exported with {_listed(exported)}, on {metadata['device']}."]
    if trained and trained != exported:
        lines.append(f"- Trained with {_listed(trained)}.")
    commit = history["result"].get("git_commit")
    if commit:
        changes = ", with changes" if commit.endswith("+") else ""
        lines.append(f"- Trained at git commit {commit.rstrip('+')}{changes}.")
    return "## Versions\n\n" + "\n".join(lines)


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
