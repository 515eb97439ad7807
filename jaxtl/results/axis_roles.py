"""The roles of a sweep's axes in its report: compared, tuned on val, or fixed."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtl.core.errors import UserError, nearest
from jaxtl.results.labels import spellings

SEED = "seed"
METHODS = ("method", "run", "variant")  # axes whose values are ways to train
TUNED = ("optim", "terms", "peft", "average")  # sections of an experiment to tune


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRoles:
    """The role of each axis of a sweep.

    Attributes:
      compared: the main table has a row for each combination of their values.
      tuned: within such a row their values are chosen on validation data.
      fixed: axis -> its only value.
      method: the compared axis whose values are ways to train, None without one.
    """

    compared: tuple[str, ...]
    tuned: tuple[str, ...]
    fixed: Mapping[str, Any]
    method: str | None


def assign_roles(
    axes: Mapping[str, Sequence], compare: Sequence[str] | None = None
) -> AxisRoles:
    """Divides axes into compared, tuned and fixed ones.

    Numbers below optim, terms, peft and average are tuned and every other axis is
    compared, unless `compare` names the compared axes; then the others are tuned.

    Args:
      axes: axis -> values; an axis of one value is fixed.
      compare: names, in full or from any dot on ("weight" for "terms.l2sp.weight").

    Raises:
      UserError: there is no such axis.
    """
    axes = {name: values for name, values in axes.items() if name != SEED}
    varied = [name for name, values in axes.items() if len(values) > 1]
    if compare is None:
        tuned = [name for name in varied if _is_tuned(name, axes[name])]
    else:
        selected = [_full_name(name, axes) for name in compare]
        tuned = [name for name in varied if name not in selected]
    compared = [name for name in varied if name not in tuned]
    fixed = {name: values[0] for name, values in axes.items() if name not in varied}
    if not compared:  # a fixed method names the only row
        compared = [name for name in METHODS if name in fixed][:1]
    methods = [name for name in METHODS if name in compared]
    texts = [n for n in compared if any(isinstance(v, str) for v in axes[n])]
    return AxisRoles(
        compared=tuple(compared),
        tuned=tuple(tuned),
        fixed={n: v for n, v in fixed.items() if n not in compared},
        method=next(iter([*methods, *texts]), None),
    )


def _is_tuned(name: str, values: Iterable[Any]) -> bool:
    """Whether an axis is a numeric hyperparameter."""
    numeric = all(
        value is None
        or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in values
    )
    return numeric and any(part in TUNED for part in name.split("."))


def _full_name(name: str, axes: Iterable[str]) -> str:
    """Finds an axis by its name, or by its name from some dot on.

    Raises:
      UserError: there is no such axis, or there are several.
    """
    axes = list(axes)
    if name in axes:
        return name
    candidates = [axis for axis in axes if axis.endswith(f".{name}")]
    if not candidates:
        raise UserError(
            f"there is no axis {name!r}{nearest(name, axes)} "
            f"(axes: {', '.join(axes) or 'none'})."
        )
    if len(candidates) > 1:
        raise UserError(
            f"the axis name {name!r} is ambiguous: it stands for "
            f"{', '.join(candidates)}; write the full name."
        )
    return candidates[0]


def parse_selector(
    texts: Iterable[str], roles: AxisRoles, axes: Mapping[str, Sequence]
) -> dict[str, str]:
    """Parses "method=full" (or "full", of the method axis) into axis -> text.

    Raises:
      UserError: there is no such axis or value, or the axis is tuned.
    """
    selector = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            name, value = roles.method or "", text
        name = _full_name(name.strip(), roles.compared + roles.tuned)
        if name in roles.tuned:
            raise UserError(
                f"{text!r} names an axis that is tuned on val; compare it instead: "
                f"--compare {' '.join((*roles.compared, name))}"
            )
        selector[name] = _checked_value(name, value.strip(), axes[name])
    return selector


def _checked_value(axis: str, text: str, values: Sequence[Any]) -> str:
    accepted = [spellings(value) for value in values]
    if not any(text in texts for texts in accepted):
        names = [texts[0] for texts in accepted]
        raise UserError(
            f"{axis} has no value {text!r}{nearest(text, names)} "
            f"(values: {', '.join(names[:20])})."
        )
    return text


def matches(labels: Mapping[str, Any], selector: Mapping[str, str]) -> bool:
    """Whether labels have the values of a selector, in any of their spellings.

    "full" matches the value "full" and, of runs named by folders, "mnist/full".
    """
    return all(
        name in labels and text in spellings(labels[name])
        for name, text in selector.items()
    )
