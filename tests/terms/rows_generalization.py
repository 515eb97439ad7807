"""The contract's rows of domain generalization."""

from rows import row

from jaxtl.terms import generalization

_DOMAINS = {"streams": ("source", "target")}
ROWS = [
    row(
        generalization.PooledERM,
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2},
        **_DOMAINS,
    ),
    row(generalization.IRM, **_DOMAINS),
    row(generalization.IRM, halves=True, **_DOMAINS),
    row(generalization.VREx, **_DOMAINS),
    row(
        generalization.GroupDRO,
        {"eta": 0.1, "adjustment": 0.0},
        {"eta": 0.2, "adjustment": 1.0},
        **_DOMAINS,
    ),
    row(generalization.InterDomainMixup, {"alpha": 0.2}, {"alpha": 1.0}, **_DOMAINS),
    row(
        generalization.MixStyle,
        {"alpha": 0.1, "probability": 1.0},
        {"alpha": 1.0, "probability": 0.9},
        **_DOMAINS,
    ),
    row(
        generalization.MLDG,
        {"rate": 0.1, "beta": 1.0},
        {"rate": 0.2, "beta": 0.5},
        **_DOMAINS,
    ),
    row(
        generalization.MLDG,
        {"rate": 0.1, "beta": 1.0},
        {"rate": 0.2, "beta": 0.5},
        second_order=False,
        **_DOMAINS,
    ),
]
