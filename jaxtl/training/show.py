"""Tables of an experiment, of its parameters and of the loaded weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl.core import config
from jaxtl.core import tree as trees
from jaxtl.core.console import console, table
from jaxtl.core.types import FROZEN
from jaxtl.optim import optimizer as optim_optimizer
from jaxtl.optim.schedules import Schedule
from jaxtl.training import result


def show(run: Any) -> None:
    """Prints a run's parameters: path, shape, group, learning rate, frozen or not.

    Args:
      run: from `tl.setup`.
    """
    program = run.program
    optimizer = run.parts.phases[run.phase].optimizer
    labels = trees.flatten(_labels(run, optimizer))
    mask = trees.flatten(program.trainable_mask)
    flat = trees.flatten(run.params)
    order = {s: i for i, s in enumerate(run.network.stages)}
    rows = []
    for path in sorted(flat, key=lambda p: order[p.split("/")[0]]):
        shape = "×".join(map(str, flat[path].shape)) or "scalar"
        label = labels.get(path, optim_optimizer.PEFT)
        rate = _rate(optimizer, label) if mask[path] else "0"
        rows.append((path, shape, label, rate, "" if mask[path] else "frozen"))
    rows += _term_rows(run, optimizer)
    out = console()
    out.print(
        table("parameters", ("path", "shape", "group", "lr", ""), rows, left=3),
        markup=False,
    )
    train = result.trainable(run)
    out.print(
        f"{trees.size(run.params):,} parameters, {train:,} trainable; optimizer state "
        f"{trees.nbytes(run.state.opt):,} bytes; stages in training mode: "
        f"{', '.join(program.train_stages) or 'none'}"
    )
    for name, note in run.notes.items():
        out.print(f"{name}: {note}", markup=False)


def _term_rows(run: Any, optimizer: Any) -> list[tuple[str, str, str, str, str]]:
    """Rows of the parameters that terms have of their own."""
    kind = optim_optimizer.TERMS
    labels = trees.flatten(run.program.labels[kind])
    return [
        (
            f"{kind}/{path}",
            "×".join(map(str, leaf.shape)) or "scalar",
            labels[path],
            _rate(optimizer, labels[path]),
            "",
        )
        for path, leaf in trees.flatten(run.state.trainable[kind]).items()
    ]


def _labels(run: Any, optimizer: Any):
    """The tree of groups; "peft" where a reparametrization moves what they
    freeze."""
    base = trees.merge(run.state.trainable["model"], run.fixed.frozen)
    moving = trees.flatten(run.program.trainable_mask)
    mask = trees.flatten(run.program.base_mask)
    return trees.map_with_path(
        lambda p, label: optim_optimizer.PEFT if moving[p] and not mask[p] else label,
        optim_optimizer.labels(optimizer, base),
    )


def _rate(optimizer: Any, label: str) -> str:
    if optimizer.groups.get(label) is FROZEN:
        return "0"
    factor = optim_optimizer.group(optimizer, label).lr
    if isinstance(optimizer.lr, Schedule):
        inner = dataclasses.asdict(optimizer.lr)
        text = ", ".join(
            f"{k}={v:g}" if isinstance(v, int | float) else f"{k}={v}"
            for k, v in inner.items()
            if v is not None
        )
        return f"{factor:g} × {type(optimizer.lr).__name__}({text})"
    return f"{factor * optimizer.lr:g}"


def loaded(rows: list[dict]):
    """The table of loaded, re-initialized and skipped leaves, by stage."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        shape = row["shape"] or row["source_shape"] or ()
        size = 1
        for n in shape:
            size *= n
        cell = counts.setdefault((row["path"].split("/")[0], row["status"]), [0, 0])
        cell[0] += 1
        cell[1] += size
    body = [(s, status, n, f"{size:,}") for (s, status), (n, size) in counts.items()]
    return table("initial weights", ("stage", "", "leaves", "numbers"), body, left=2)


def describe(exp: Any) -> str:
    """An experiment as indented text, settings at their default left out."""
    return _described(exp, "")


def _described(value: Any, indent: str) -> str:
    inner = indent + "  "
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        lines = []
        for name, field in config.fields(value).items():
            child = getattr(value, name)
            if not _is_default(field, child):
                lines.append(f"{inner}{name}: {_described(child, inner)}")
        return "\n".join([type(value).__name__, *lines])
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{k}: {_described(v, inner)}" for k, v in value.items()]
        return "\n" + "\n".join(lines)
    return repr(value)


def _is_default(field: Any, value: Any) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    try:
        return bool(value == default)
    except ValueError:  # arrays
        return False
