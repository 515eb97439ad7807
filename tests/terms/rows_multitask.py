"""The contract's rows of several tasks: one per balancer."""

from rows import row

import jaxtl as tl

_SMOOTH = [
    {"kind": tl.losses.CrossEntropy(weight=w, label_smoothing=s)}
    for w, s in ((0.5, 0.1), (2.0, 0.2))
]
_FIXED = [{"kind": 0.5, "size": 1.0}, {"kind": 0.7, "size": 2.0}]


def _balanced(first, second=None, **fields):
    balancers = [{"balancer": b} for b in (first, second or first)]
    return row(tl.multitask.MultiTask, *balancers, task="multitask", **fields)


ROWS = [
    row(
        tl.multitask.MultiTask,
        *({"losses": losses} for losses in _SMOOTH),
        task="multitask",
        report_conflicts=True,
    ),
    _balanced(
        *(tl.multitask.FixedWeights(weights=weights) for weights in _FIXED),
        wrt="parameters",
        report_conflicts=True,
    ),
]
