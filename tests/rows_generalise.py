"""The contract's rows of domain generalisation."""

from rows import row

from jaxtl import generalise

_DOMAINS = {"streams": ("source", "target")}
ROWS = [
    row(
        generalise.PooledERM,
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.2},
        **_DOMAINS,
    ),
    row(generalise.IRM, **_DOMAINS),
    row(generalise.IRM, halves=True, **_DOMAINS),
    row(generalise.VREx, **_DOMAINS),
    row(
        generalise.GroupDRO,
        {"eta": 0.1, "adjustment": 0.0},
        {"eta": 0.2, "adjustment": 1.0},
        **_DOMAINS,
    ),
    row(generalise.InterDomainMixup, {"alpha": 0.2}, {"alpha": 1.0}, **_DOMAINS),
    row(
        generalise.MixStyle,
        {"alpha": 0.1, "probability": 1.0},
        {"alpha": 1.0, "probability": 0.9},
        **_DOMAINS,
    ),
    row(
        generalise.MLDG,
        {"rate": 0.1, "beta": 1.0},
        {"rate": 0.2, "beta": 0.5},
        **_DOMAINS,
    ),
    row(
        generalise.MLDG,
        {"rate": 0.1, "beta": 1.0},
        {"rate": 0.2, "beta": 0.5},
        second_order=False,
        **_DOMAINS,
    ),
]
