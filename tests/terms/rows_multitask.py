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
    _balanced(tl.multitask.UncertaintyWeights()),
    _balanced(tl.multitask.DWA(temperature=1.0, every=3), tl.multitask.DWA(every=3)),
    _balanced(tl.multitask.GradNorm(alpha=0.5), tl.multitask.GradNorm()),
    _balanced(tl.multitask.MGDA()),
    _balanced(tl.multitask.PCGrad(), wrt="parameters"),
    _balanced(tl.multitask.GradVac(beta=0.1), tl.multitask.GradVac()),
    _balanced(tl.multitask.CAGrad(c=0.2), tl.multitask.CAGrad()),
    _balanced(tl.multitask.NashMTL(max_norm=2.0), tl.multitask.NashMTL()),
    _balanced(tl.multitask.IMTLG(), wrt="parameters"),
    _balanced(tl.multitask.AlignedMTL()),
    _balanced(tl.multitask.FAMO(rate=0.1, decay=0.1), tl.multitask.FAMO()),
    _balanced(tl.multitask.UPGrad(), wrt="layer1"),
]
