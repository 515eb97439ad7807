"""The text of a new experiment file."""

import pathlib
import re
from collections.abc import Sequence

from jaxtl.cli.new_data import NewData
from jaxtl.cli.new_model import NewModel

_PASSES = 10  # over the train examples
_STEPS = (100, 2000)  # at least, at most
# On tables: 100 steps leave val accuracy at 96.5 ± 2.0 where 500 come to 98.5 ± 1.0, on
# breast cancer of scikit-learn as a CSV: `jaxtl new bc.csv`, then `jaxtl sweep bc.py
# steps=100,500,1000 seed=…` with 10 seeds, on 2 cores.
_STEPS_TABULAR = (500, 2000)
_WIDTH = 88  # of a line


def source(data: NewData, model: NewModel, out: pathlib.Path) -> str:
    """The experiment file's text.

    Args:
      data: the source to write.
      model: the model to write.
      out: the file, whose name the commands in its docstring use.
    """
    steps = _steps(data, model)
    weights = []
    if model.weights:
        weights = _wrapped(f"    weights = {model.weights}")
    parts = [
        *_docstring(data, out),
        "import jaxtl as tl",
        "",
        "# SEEDS = range(5)  # a run for each: mean ± 95 % interval over them",
        "",
        "",
        "def experiment():",
        f"    data = tl.data.{data.source}(",
        *_lines([*data.arguments, *_framing(model)], 8),
        "    )",
        *weights,
        f"    rate = tl.optim.Cosine(peak={model.lr:g}, warmup={max(1, steps // 10)})",
        "    return tl.Experiment(",
        *_lines(_fields(data, model, steps), 8),
        *_options(data, model),
        "    )",
    ]
    return "\n".join(parts) + "\n"


def _docstring(data: NewData, out: pathlib.Path) -> list[str]:
    return [
        f'"""{data.task.capitalize()} on {data.path}, written by `jaxtl new`.',
        "",
        f"    jaxtl data {out}                    # what is read, without training",
        f"    jaxtl run {out} --out runs/{out.stem}   # train, choose, test once",
        f"    jaxtl report runs/{out.stem}",
        f"    jaxtl predict runs/{out.stem} FILES",
        '"""',
        "",
    ]


def _framing(model: NewModel) -> list[tuple[str, str]]:
    if model.size is None:
        return []
    return [(f"size={model.size}", "height and width that images are brought to")]


def _fields(data: NewData, model: NewModel, steps: int) -> list[tuple[str, str]]:
    """The fields of the experiment that are set."""
    init, groups = [], ""
    if model.weights:
        init = [("init=weights", "None begins from random weights")]
        groups = ', groups={"head": 1.0, ".*": 0.1}'
    passes = ""
    if data.examples:
        count = steps * model.batch / data.examples
        passes = f"about {count:.0f} passes over {data.examples:,} examples"
    return [
        (f"model={model.model}", ""),
        *init,
        ("data=data", ""),
        (f"optim=tl.optim.AdamW(lr=rate, weight_decay=0.01{groups})", ""),
        (f"steps={steps}", passes),
        (f"batch={model.batch}", ""),
        ("seed=0", ""),
    ]


def _options(data: NewData, model: NewModel) -> list[str]:
    """Further fields as comments, each of which may be taken in."""
    options = [("patience=3", "ends after evaluations without a better one")]
    if data.reads == "image":
        augment = "augment=(tl.data.Flip(), tl.data.Crop(pad=4))"
        options.append((augment, "of training images"))
    if data.task.endswith("-classification") and data.task != "token-classification":
        options += [
            ('monitor="nll"', "chooses by it: accuracies of few val examples tie"),
            ('metrics={"mcc": tl.metrics.MatthewsCorrelation()}', "further metrics"),
        ]
    if model.weights:
        options += [
            ("phases=tl.optim.LPFT()", "the head alone first"),
            ("average=tl.optim.EMA()", "of the weights over steps"),
        ]
    return ["        # Further fields, each at work once it is no comment:"] + [
        line.replace("        ", "        # ", 1) for line in _lines(options, 8)
    ]


def _lines(entries: Sequence[tuple[str, str]], indent: int) -> list[str]:
    """Lines of arguments, each with its comment behind it or, if long, above it."""
    lines = []
    for text, comment in entries:
        line = f"{' ' * indent}{text},"
        if comment and len(line) + len(comment) + 4 > _WIDTH:
            lines += [f"{' ' * indent}# {comment}", line]
        else:
            lines.append(f"{line}  # {comment}" if comment else line)
    return lines


def _wrapped(line: str) -> list[str]:
    """A call whose arguments have lines of their own where one line is too short."""
    if len(line) <= _WIDTH:
        return [line]
    call, _, arguments = line.partition("(")
    arguments = arguments.removesuffix(")")
    lines = [f"        {arguments}"]
    if len(lines[0]) > _WIDTH:
        lines = [f"        {part}," for part in re.split(r", (?=reset=)", arguments)]
    return [f"{call}(", *lines, "    )"]


def _steps(data: NewData, model: NewModel) -> int:
    """Steps of some passes over the examples, within limits."""
    least, most = _STEPS_TABULAR if data.reads == "tabular" else _STEPS
    passes = _PASSES * (data.examples or most * model.batch) / model.batch
    return int(min(max(round(passes, -1), least), most))
