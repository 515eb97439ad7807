"""The model card of a repository of the hub: task, metrics with intervals, usage."""

from collections.abc import Mapping
from typing import Any

import jaxtl
from jaxtl.evaluation.metrics import Interval

_TASKS = {
    ("images", "classification"): "image-classification",
    ("texts", "classification"): "text-classification",
    ("texts", "regression"): "text-classification",
    ("", "classification"): "tabular-classification",
    ("", "regression"): "tabular-regression",
    ("texts", "entities"): "token-classification",
    ("texts", "tags"): "token-classification",
    ("texts", "question_answering"): "question-answering",
    ("texts", "language"): "text-generation",
}


def markdown(
    repository: str,
    *,
    model: Any,
    meta: Mapping[str, Any],
    result: Mapping[str, Any],
    intervals: Mapping[str, Interval],
    data: str,
    licence: str | None,
    library: str,
) -> str:
    """Writes the card as Markdown, its metadata in front.

    Args:
      repository: "owner/name".
      model: the configured model.
      meta: of the checkpoint.
      result: content of result.json.
      intervals: 95 % intervals of the metrics of the last split that was measured, {}
        where the data can't be read.
      data: name of the data set.
      licence: of the model; None leaves it out.
      library: that opens the directory, "jaxtl" or "transformers".
    """
    from huggingface_hub import EvalResult, ModelCardData

    split = "test" if "test" in result else "val"
    values = result.get(split) or {}
    pipeline = _TASKS.get((getattr(model, "READS", ""), meta["task"]))
    results = [
        EvalResult(
            task_type=pipeline or meta["task"],
            dataset_type=data.lower(),
            dataset_name=data,
            dataset_split=split,
            metric_type=name,
            metric_name=name,
            metric_value=value,
        )
        for name, value in values.items()
    ]
    header = ModelCardData(
        library_name=library,
        pipeline_tag=pipeline,
        license=licence,
        tags=["jaxtl", "transfer-learning"],
        model_name=repository.rpartition("/")[2],
        eval_results=results or None,
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {repository.rpartition('/')[2]}",
        f"A `{type(model).__name__}` trained with jaxtl {jaxtl.__version__}. Task: "
        f"{meta['task']}.",
        _labels(meta),
        _metrics(split, values, intervals, result),
        _usage(repository, model, library),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _labels(meta: Mapping[str, Any]) -> str:
    names = meta.get("output_names") or meta.get("class_names") or ()
    shown = ", ".join(map(str, names[:100]))
    more = f", … ({len(names)} in all)" if len(names) > 100 else ""
    return f"Labels: {shown}{more}." if names else ""


def _metrics(
    split: str,
    values: Mapping[str, float],
    intervals: Mapping[str, Interval],
    result: Mapping[str, Any],
) -> str:
    """A table of the metrics, with their intervals where these are known."""
    if not values:
        return "## Metrics\n\nNone were measured."
    count = (result.get("examples") or {}).get(split)
    on = f"{split}, {count:,} examples" if isinstance(count, int) else split
    lines = ["| metric | value | 95 % interval |", "| --- | --- | --- |"]
    for name, value in values.items():
        known = intervals.get(name)
        text = f"[{known.low:.4f}, {known.high:.4f}]" if known else "–"
        lines.append(f"| {name} | {value:.4f} | {text} |")
    note = "Intervals: bootstrap over examples." if intervals else ""
    if split == "val":
        note += " The checkpoint was chosen on val, so these values are optimistic."
    return "\n".join([f"## Metrics on {on}", "", *lines, "", note]).rstrip()


def _usage(repository: str, model: Any, library: str) -> str:
    lines = [
        "## How to use it",
        "",
        "```python",
        "import jaxtl as tl",
        "",
        f'weights = tl.pretrained.FromHub("{repository}")  # reset="head": new head',
        "model = weights.model()",
        "exp = tl.Experiment(model=model, init=weights, data=…)  # steps=0 evaluates",
        "```",
    ]
    if library == "transformers":
        name = "AutoModel" if getattr(model, "READS", "") == "images" else "pipeline"
        lines += ["", f"It is in the form of transformers, too (`{name}`)."]
    return "\n".join(lines)
