"""Cost of a step of each method, from what `benchmarks/method_costs.py` counted."""

import functools
import json
from typing import Any

from docs.builder.public_names import ROOT

_FILE = ROOT / "docs/builder/method_costs.json"
_BASE = "a base class"
_SCHEDULE = "one number, computed from that of the step"
_PLAIN = "that of the plain step, which other methods are compared with"
# Family, or path below `jaxtl` -> why its classes have no figure.
REASONS = {
    "alignment": "none: it is fitted to stored features, outside of training",
    "merging": "none: it is computed from the weights of finished runs",
    "metrics": "none: it is computed at evaluations",
    "generalization.PooledERM": _PLAIN,
    "imbalance.EffectiveNumber": "none: the weights are computed once, before training",
    "losses.CrossEntropy": _PLAIN,
    "losses.NextToken": "that of the plain step of a language model",
    "multitask.Balance": "none: what a balancer returns",
    "multitask.Balancer": _BASE,
    "multitask.EqualWeights": _PLAIN,
    "multitask.MultiTask": "that of its balancer",
    "multitask.TaskValues": "none: what a balancer reads",
    "optim.AdamW": _PLAIN,
    "optim.Averaging": _BASE,
    "optim.GradualUnfreezing": "that of what its phase trains, as of `FreezeUpTo`",
    "optim.Group": "that of the group's optimizer; less where it is frozen",
    "optim.LPFT": "first that of `HeadOnly`, then that of the plain step",
    "optim.Optimizer": _BASE,
    "optim.Phase": "that of what it trains, as of `FreezeUpTo`",
    "optim.Phases": _BASE,
    "peft.Reparametrization": _BASE,
    "semi.pseudo_targets.UnlabelledTerm": _BASE,
    **{
        f"optim.{name}": _SCHEDULE
        for name in (
            "Cosine",
            "GaussianRamp",
            "InverseDecay",
            "Linear",
            "LinearRamp",
            "OneCycle",
            "Ramp",
            "Scaled",
            "Schedule",
            "SlantedTriangular",
            "StepDecay",
        )
    },
}
_NOTE = """## Cost of a step

Below each method: the floating-point operations and the temporary memory of its
compiled training step, as multiples of those of the plain step that is named beside
them, on a batch of {batch} from each stream. Outputs of teachers and of frozen stages
are cached before, which is not counted; a pass of θ₀ in each step is. {counted}
counted both; `python benchmarks/method_costs.py {family}` prints
them. The [benchmarks](../results/benchmarks.md) say how loops and conditions count, and
measure times."""


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(_FILE.read_text())


def counted() -> dict[str, dict[str, Any]]:
    """Path below `jaxtl` -> what was counted for it."""
    return _content()["methods"]


def reason(path: str) -> str:
    """Why a class has no figure, "" where it has one or needs one.

    Args:
      path: below `jaxtl`, as "optim.Cosine".
    """
    return REASONS.get(path, REASONS.get(path.partition(".")[0], ""))


def note(family: str) -> str:
    """The text on a family's page that says what the figures are, "" without any.

    Args:
      family: name of the namespace.
    """
    if not any(path.startswith(f"{family}.") for path in counted()):
        return ""
    content = _content()
    return _NOTE.format(
        batch=content["batch"], counted=content["counted"], family=family
    )


def line(path: str) -> str:
    """The line of a method with its cost, "" where nothing is known of it.

    Args:
      path: below `jaxtl`, as "domain.DANN".
    """
    row = counted().get(path)
    if row is None:
        text = reason(path)
        return f"- Cost of a step: {text}" if text else ""
    least = "at least " if row["loops"] else ""
    return (
        f"- Cost of a step: {least}{_factor(row['flops'])} × the operations and "
        f"{_factor(row['temporary'])} × the temporary memory of {row['plain']} "
        f"({row['network']})"
    )


def _factor(value: float) -> str:
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
