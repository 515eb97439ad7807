"""The model card of an exported model: what it is, made from what, how good, how used.

References:
  Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxtl.export import bundle


def text(facts: Mapping[str, Any], story: Mapping[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
      facts: what export.json holds.
      story: how the model came to be: "experiment" (as experiment.json pictures it),
        "loaded" (rows of loaded.json), "result" (result.json, {} for an unfinished
        run), "metrics" ({split: metrics}), "examples" ({split: count}), "step",
        "chosen" (whether by a metric on val), "parameters" (count), "example" (where
        the stored example is from).
    """
    parts = [
        _head(facts, story),
        _model(facts, story),
        _data(facts, story),
        _metrics(story),
        _usage(facts),
        _files(facts, story),
        _made(facts, story),
    ]
    return "\n\n".join(parts) + "\n"


def picture(value: Any) -> str:
    """Returns a pictured configuration as a call, `CNN(widths=(8, 16), units=32)`.

    Fields that are empty are left out, and of absolute paths the folders.
    """
    if isinstance(value, Mapping):
        if value.get("type") == "map":
            inner = (f"{k}: {picture(v)}" for k, v in value["items"])
            return "{" + ", ".join(inner) + "}"
        if value.get("type") in ("object", "named", "array"):
            return str(value.get("name", f"array of shape {value.get('shape')}"))
        fields = {k: v for k, v in value.items() if k != "type" and not _empty(v)}
        name = str(value.get("type")).rpartition(":")[2]
        inner = ", ".join(f"{k}={picture(v)}" for k, v in fields.items())
        return name if name == "FROZEN" else f"{name}({inner})"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(picture, value)) + ")"
    if isinstance(value, str) and pathlib.PurePath(value).is_absolute():
        value = pathlib.PurePath(value).name
    return repr(value)


def _empty(value: Any) -> bool:
    nothing = isinstance(value, Mapping) and value.get("items") == []
    return value is None or value == "" or value == [] or nothing


def _name(value: Any) -> str:
    kind = value.get("name", value.get("type", "")) if isinstance(value, dict) else ""
    return str(kind).rpartition(":")[2] or "model"


def _head(facts, story) -> str:
    experiment = story["experiment"]
    title = f"{_name(experiment['model'])} on {_name(experiment['data'])}"
    # A JSON string is a YAML string, whatever the licence is called.
    front = f"---\nlicense: {json.dumps(facts['licence'])}\nlibrary_name: jaxtl\n---"
    return f"{front}\n\n# {title}\n\nLicence: {facts['licence']}."


def _model(facts, story) -> str:
    experiment, result = story["experiment"], story["result"]
    counts = Counter(row["status"] for row in story["loaded"])
    start = "random initial weights (no pre-training)"
    if experiment["init"] is not None:
        tensors = ", ".join(f"{n} {status}" for status, n in counts.items())
        start = f"`{picture(experiment['init'])}`; tensors: {tensors or 'unknown'}"
    lines = [
        f"- Task: {facts['task']}, {facts['outputs'][-1]} outputs.",
        f"- Model: `{picture(experiment['model'])}`, {story['parameters']:,} "
        f"parameters, computed in {experiment['dtype']}.",
        f"- Source of the weights: {start}.",
        f"- Loss: `{picture(experiment['terms'])}`"
        if not _empty(experiment["terms"])
        else "- Loss: the task's own.",
        f"- Optimizer: `{picture(experiment['optim'])}`.",
        f"- Checkpoint: step {story['step']}, seed {experiment['seed']}"
        + (f", best {result['monitor']} on val." if result.get("monitor") else "."),
    ]
    return "## Model\n\n" + "\n".join(lines)


def _data(facts, story) -> str:
    sizes = ", ".join(f"{name} {n:,}" for name, n in story["examples"].items())
    names = facts["class_names"]
    shown = ", ".join(names[:50]) + (f", … ({len(names)} in all)" * (len(names) > 50))
    inputs = "; ".join(
        f"`{name}` {tuple(spec['shape'])} {spec['dtype']}"
        for name, spec in facts["inputs"].items()
    )
    lines = [
        f"- Data: `{picture(story['experiment']['data'])}`.",
        f"- Examples: {sizes or 'unknown'}.",
        f"- Classes: {shown}." if names else "- Targets: numbers.",
        f"- One example, as stored: {inputs}.",
        f"- Preprocessing, inside the program: `{json.dumps(facts['preprocess'])}`.",
    ]
    return "## Data\n\n" + "\n".join(lines)


def _metrics(story) -> str:
    found = story["metrics"]
    if not found:
        return "## Metrics\n\nNone were measured."
    names = list(dict.fromkeys(name for m in found.values() for name in m))
    lines = [
        "| split | n | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for split, metrics in found.items():
        cells = [f"{metrics[n]:.4f}" if n in metrics else "–" for n in names]
        count = story["examples"].get(split, "unknown")
        lines.append(f"| {split} | {count} | " + " | ".join(cells) + " |")
    if "val" in found and story["chosen"]:
        lines += ["", "The checkpoint was chosen on val, so val flatters it."]
    if not story["result"]:
        lines += ["", "The run had not finished when it was exported."]
    return "## Metrics\n\n" + "\n".join(lines)


def _usage(facts) -> str:
    call = ", ".join(f'"{n}": {n}' for n in facts["inputs"])
    answer = "outputs" if facts["task"] == "regression" else "probabilities"
    return f"""## How to predict

On the command line, with files that are images, arrays, tables or texts:

    jaxtl predict THIS_FOLDER FILE…

In Python (the stored example is checked first):

    from jaxtl.export.bundle import load
    predictor = load("THIS_FOLDER")
    {answer} = predictor({"x" if list(facts["inputs"]) == ["x"] else "{" + call + "}"})

With jax and safetensors alone:

    import jax.export
    from safetensors.numpy import load_file
    program = jax.export.deserialize(open("{bundle.PROGRAM}", "rb").read())
    weights = load_file("{bundle.WEIGHTS}")
    {answer} = program.call(weights, {{{call}}})["{answer}"]

Inputs have a leading batch axis of any length and the stored dtype and units; do not
scale them."""


def _files(facts, story) -> str:
    platforms = ", ".join(facts["platforms"])
    return f"""## Files

- `{bundle.PROGRAM}`: the program, for {platforms}.
- `{bundle.WEIGHTS}`: its weights.
- `{bundle.EXAMPLE}`: an input ({story["example"]}) and the outputs it must give.
- `{bundle.FACTS}`: facts for programs, and checksums."""


def _made(facts, story) -> str:
    versions = ", ".join(f"{n} {v}" for n, v in facts["versions"].items())
    trained = story["result"].get("versions")
    lines = [f"- Exported with {versions}, on {facts['device']}."]
    if trained and trained != facts["versions"]:
        known = ", ".join(f"{n} {v}" for n, v in trained.items())
        lines.append(f"- Trained with {known}.")
    commit = story["result"].get("git_commit")
    if commit:
        changed = ", with changes" * commit.endswith("+")
        lines.append(f"- Trained at git commit {commit.rstrip('+')}{changed}.")
    return "## Versions\n\n" + "\n".join(lines)
